"""Purging by name, age and count (azure.md section 4), and what it must never touch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.cleaning import (
    ask,
    begin,
    finish,
    manifests,
    outcomes,
    purge,
    retag,
    tags,
    wait_days,
)
from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.fixtures import Installation
from tests.support.planting import plant_image
from tests.support.registry import ALICE, push_image, push_index, settle
from ullage.authorization import WITHOUT_ACCOUNTS, Action, Grant, Principal
from ullage.cleanup.guardrails import Caps
from ullage.cleanup.job.batch import CHANGED, GONE, MORE, NEEDED
from ullage.cleanup.job.claims import CLAIM, release_jobs
from ullage.cleanup.job.execution import MAX_FAILURES, expire_jobs, note_failure, work
from ullage.cleanup.job.jobs import (
    KEPT,
    LISTED,
    MAX_ACCOUNT_OPEN,
    MAX_OPEN,
    cancel_job,
    get_job,
    list_jobs,
)
from ullage.cleanup.purge import purge_request, start_purge
from ullage.deletion.delete import delete_repository, delete_tag
from ullage.failpoints import configure
from ullage.oci.digest import Digest
from ullage.oci.errors import JobUnknown, TooManyRequests, ValueInvalid
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.attributes import update_manifest, update_repository, update_tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.queries.attributes import AttributeChanges
from ullage.registry.queries.audit import entries
from ullage.usage.usage import registry_totals
from ullage.worker import CHOOSERS

APP = parse_repository_name("app")
LOCKED = AttributeChanges(delete_enabled=False)


def image(registry: Registry, tag: str | None = None, name: str = "app", **more: Any) -> Digest:
    """An image unlike all others, which nobody is about to push again."""
    image.count += 1  # type: ignore[attr-defined]
    return plant_image(registry, name, tag, [b"layer %d" % image.count], **more)  # type: ignore[attr-defined]


image.count = 0  # type: ignore[attr-defined]


# --- tags -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "gone"),
    [
        (["app:^v1$"], {"app:v1"}),
        # The tag's part is found anywhere in a tag, the repository's has to be all of it.
        (["app:1"], {"app:v1", "app:v10"}),
        (["ap:v1"], set()),
        (["app.*:v1$"], {"app:v1", "app-two:v1"}),
        (["(?i:APP):^V?(?i:V1)$"], {"app:v1"}),
        (["[[:alpha:]]+:latest"], {"app:latest"}),
        # Several filters: any of them.
        (["app:^v1$", "app:latest", "app-two:latest"], {"app:v1", "app:latest", "app-two:latest"}),
    ],
)
def test_filters(registry: Registry, filters: list[str], gone: set[str]) -> None:
    """azure.md section 4.1: repository anchored, tag not, several or-ed, colons in groups."""
    there = set()
    for name in ("app", "app-two"):
        for tag in ("v1", "v10", "latest"):
            image(registry, tag, name)
            there.add(f"{name}:{tag}")
    allow = ("only-tag", "most-of-repository")
    job = purge(registry, *filters, allow=allow)
    left = {f"{name}:{tag}" for name in ("app", "app-two") for tag in tags(registry, name)}
    assert left == there - gone
    assert (job.state, job.tags_deleted, job.manifests_deleted) == ("done", len(gone), 0)


def test_a_purge_of_tags_untags_and_frees_nothing(registry: Registry) -> None:
    """azure.md section 4.2 step 3."""
    digest = image(registry, "v1")
    image(registry, "v2")
    assert purge(registry, "app:v1").freed_bytes == 0
    assert digest in manifests(registry)


def test_only_what_is_older_goes_and_the_newest_of_that_stay(registry: Registry) -> None:
    """azure.md section 4.2: strictly before now - ago; --keep counts what would be deleted."""
    for day in range(6):
        image(registry, f"day{day}")
        wait_days(registry, 1)
    job = purge(registry, "app:.*", ago="3d", keep=2)
    # Days 0, 1, 2 and 3 are older than three days and a second.
    assert tags(registry) == ["day2", "day3", "day4", "day5"]
    assert [part.tags for part in job.repositories] == [2]


def test_a_duration_beyond_all_reason_deletes_nothing(registry: Registry) -> None:
    """acr-cli#83: `--ago 999999d` deleted everything."""
    image(registry, "v1")
    job = purge(registry, "app:.*", ago="999999d", untagged=True)
    assert (job.tag_count, job.manifest_count) == (0, 0)
    assert job.notes == ["999999d is longer than 150 years, and counts as 150 years"]
    assert tags(registry) == ["v1"]


@pytest.mark.parametrize(
    "more",
    [
        {"filters": ["app"]},
        {"filters": ["app:("]},
        {"filters": ["app:(a{999}){999}"]},
        {"filters": ["app:(?=x)"]},
        {"filters": ["app:" + "x" * 1001]},
        {"filters": []},
        {"filters": ["app:.*"], "ago": None},
        {"filters": ["app:.*"], "untagged": True, "untagged_only": True},
        {"filters": ["app:.*"], "ago": "-1d"},
        {"filters": ["app:.*"], "allow": ["everything"]},
    ],
)
def test_what_is_not_understood_is_refused(registry: Registry, more: dict[str, Any]) -> None:
    options = {name: value for name, value in more.items() if name != "filters"}
    with pytest.raises(ValueInvalid):
        ask(registry, *more["filters"], **options)


# --- what nothing leads to ------------------------------------------------------------------------


def test_untagged_means_that_nothing_leads_there(registry: Registry) -> None:
    """acr-cli#131, acr#666: children of tagged indexes and signed images were deleted."""
    child, signed = image(registry), image(registry, "signed")
    push_index(registry, "app", "multi", [push_index(registry, "app", None, [child])])
    signature = image(registry, subject=signed)
    of_signature = image(registry, subject=signature)
    orphan = image(registry)
    job = purge(registry, untagged_only=True, ago=None)
    assert outcomes(registry, job.id) == {orphan: "deleted"}
    assert {child, signed, signature, of_signature} < manifests(registry)


def test_the_children_of_a_locked_untagged_index_are_no_candidates(registry: Registry) -> None:
    """azure.md section 4.2: acr purge skips the locked index, and deletes what it lists."""
    child = image(registry)
    index = push_index(registry, "app", None, [child])
    update_manifest(registry, APP, index, LOCKED, ALICE)
    job = purge(registry, untagged_only=True, ago=None, allow=["empty-repository"])
    assert job.manifest_count == 0
    assert manifests(registry) == {child, index}


def test_a_lock_on_a_child_keeps_the_whole_image(registry: Registry) -> None:
    child = image(registry)
    index = push_index(registry, "app", None, [child])
    image(registry, "other")
    update_manifest(registry, APP, child, LOCKED, ALICE)
    assert purge(registry, untagged_only=True, ago=None).manifest_count == 0
    assert {child, index} < manifests(registry)


def test_an_index_that_is_a_referrer_lives_with_its_subject(registry: Registry) -> None:
    """azure.md section 4.2: acr purge deletes an index with a subject, and keeps its children."""
    from tests.support.registry import INDEX, descriptor, push_manifest
    from ullage.registry.pull.read import get_manifest

    subject, child = image(registry, "v1"), image(registry)
    raw = get_manifest(registry, APP, child)
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [descriptor(raw.media_type, raw.raw)],
        "subject": {"mediaType": raw.media_type, "digest": subject, "size": 1},
    }
    referrer = push_manifest(registry, "app", None, index)
    assert purge(registry, untagged_only=True, ago=None).manifest_count == 0
    purge(registry, "app:v1", untagged=True)
    assert not {subject, child, referrer} & manifests(registry)


def test_orphans_go_with_what_they_hold(registry: Registry) -> None:
    """harbor#18014: signed and untagged images were never collected, nor their signatures."""
    shared, own = image(registry), image(registry)
    push_index(registry, "app", "keeps", [shared])
    index = push_index(registry, "app", None, [shared, own])
    signature = image(registry, subject=index)
    job = purge(registry, untagged_only=True, ago=None)
    assert outcomes(registry, job.id) == dict.fromkeys([index, own, signature], "deleted")
    assert job.manifests_deleted == job.manifest_count == 3
    assert shared in manifests(registry)


def test_orphan_signatures_go(registry: Registry) -> None:
    """cosign#507: the subject is not there, so nothing needs them."""
    image(registry, "v1")
    stray = image(registry, subject=Digest("sha256:" + "0" * 64))
    purge(registry, untagged_only=True, ago=None)
    assert stray not in manifests(registry)


def test_a_signature_in_a_tag_lives_as_long_as_its_image(registry: Registry) -> None:
    """azure.md section 5.3: purge by age deletes `sha256-….sig` before the image it signs."""
    digest = image(registry, "v1")
    mark = digest.replace(":", "-")
    image(registry, f"{mark}.sig")
    image(registry, "old")
    purge(registry, "app:sig|old")
    assert tags(registry) == [f"{mark}.sig", "v1"]
    purge(registry, "app:v1", untagged=True, allow=["most-of-repository"])
    purge(registry, "app:.*", untagged=True)
    assert tags(registry) == []


def test_what_loses_its_last_tag_goes_as_well(registry: Registry) -> None:
    """azure.md section 4.2 step 4: `--untagged` comes after the tags."""
    old, kept = image(registry, "old"), image(registry, "old-too")
    retag(registry, "kept", kept)
    child = image(registry)
    multi = push_index(registry, "app", "old-multi", [child])
    job = purge(registry, "app:^old", untagged=True)
    assert (job.tags_deleted, job.manifests_deleted) == (3, 3)
    assert manifests(registry) == {kept}
    assert not {old, child, multi} & manifests(registry)


def test_the_newest_orphans_stay_and_are_counted_apart(registry: Registry) -> None:
    """azure.md section 4.1: `--keep` counts tags, and again, separately, untagged manifests."""
    orphans = []
    for day in range(4):
        orphans.append(image(registry))
        image(registry, f"day{day}")
        wait_days(registry, 1)
    job = purge(registry, "app:.*", untagged=True, keep=2)
    assert tags(registry) == ["day2", "day3"]
    # The images of day0 and day1 are orphans of the same ages now: the newest two are of day 3, 2.
    assert set(orphans[2:]) < manifests(registry)
    assert job.manifests_deleted == 4


# --- predicted = done -----------------------------------------------------------------------------


def test_a_dry_run_says_what_the_purge_does_and_does_nothing(registry: Registry) -> None:
    """sourcefrog/conserve#158: the dry run counted only what was unreferenced already."""
    child = image(registry)
    push_index(registry, "app", "multi", [child])
    image(registry, "v1")
    image(registry)
    image(registry, "stays", "other")
    before = manifests(registry), tags(registry)
    dry = purge(registry, "app:.*", untagged=True, dry_run=True)
    assert (manifests(registry), tags(registry)) == before
    assert dry.state == "done"
    assert dry.freed_bytes == dry.tags_deleted == 0
    done = purge(registry, "app:.*", untagged=True)
    for planned, did in (("tag_count", "tags_deleted"), ("manifest_count", "manifests_deleted")):
        assert getattr(dry, planned) == getattr(done, planned) == getattr(done, did) > 0
    assert given(dry.planned_bytes) + given(dry.planned_later_bytes) == (
        done.freed_bytes + done.freed_later_bytes
    )
    assert done.freed_bytes > 0
    assert dry.warnings == done.warnings
    assert outcomes(registry, dry.id).keys() == outcomes(registry, done.id).keys()


def test_bytes_come_back(registry: Registry, clock: FakeClock) -> None:
    """peers.md B13: six hours of purging, and the storage unchanged."""
    image(registry, "v1")
    for _ in range(5):
        image(registry)
    before = registry_totals(registry).disk_bytes
    job = purge(registry, untagged_only=True, ago=None)
    clock.advance(10)
    settle(registry)
    assert before - registry_totals(registry).disk_bytes == job.freed_bytes > 0


# --- what happens meanwhile -----------------------------------------------------------------------


def test_tagging_a_queued_manifest_saves_it(registry: Registry) -> None:
    """acr#520: untagged, tagged again the next day, and deleted all the same."""
    image(registry, "other")
    saved, lost = image(registry), image(registry)
    job_id = begin(registry, untagged_only=True, ago=None)
    retag(registry, "v1", saved)
    job = finish(registry, job_id)
    assert outcomes(registry, job_id) == {saved: CHANGED, lost: "deleted"}
    assert (job.manifest_count, job.manifests_deleted) == (2, 1)


def test_pushing_a_queued_tag_again_saves_it(registry: Registry) -> None:
    """deletion.md R29: the tag is another one, also if it points to the same manifest."""
    same, moved = image(registry, "same"), image(registry, "moved")
    locked, gone = image(registry, "locked"), image(registry, "gone")
    job_id = begin(registry, "app:.*", untagged=True, allow=["most-of-repository", "only-tag"])
    retag(registry, "same", same)
    retag(registry, "moved", image(registry, "another"))
    update_tag(registry, APP, parse_tag("locked"), LOCKED, ALICE)
    delete_tag(registry, APP, parse_tag("gone"), ALICE)
    finish(registry, job_id)
    assert tags(registry) == ["another", "locked", "moved", "same"]
    found = outcomes(registry, job_id)
    assert {found["same"], found["moved"], found["locked"]} == {CHANGED}
    assert found["gone"] == GONE
    # Who lost a tag by somebody else's hand has changed.
    assert {same, moved, locked, gone} < manifests(registry)


def test_an_index_that_lists_a_queued_manifest_saves_it(registry: Registry) -> None:
    image(registry, "other")
    child = image(registry)
    job_id = begin(registry, untagged_only=True, ago=None)
    push_index(registry, "app", "multi", [child])
    finish(registry, job_id)
    assert outcomes(registry, job_id) == {child: NEEDED}


def test_a_signature_that_came_since_saves_the_image(registry: Registry) -> None:
    """Nothing goes that was not chosen."""
    image(registry, "other")
    orphan = image(registry)
    job_id = begin(registry, untagged_only=True, ago=None)
    signature = image(registry, subject=orphan)
    finish(registry, job_id)
    assert outcomes(registry, job_id) == {orphan: MORE}
    assert {orphan, signature} < manifests(registry)


def test_a_child_that_is_pushed_again_saves_the_index(registry: Registry) -> None:
    """Somebody is about to push another index with it."""
    image(registry, "other")
    child = push_image(registry, "app", None, [b"child"])
    index = push_index(registry, "app", None, [child])
    job_id = begin(registry, untagged_only=True, ago=None)
    assert isinstance(registry.now, FakeClock)
    registry.now.advance(1)
    push_image(registry, "app", None, [b"child"])
    finish(registry, job_id)
    assert outcomes(registry, job_id)[index] == CHANGED
    push_index(registry, "app", "new", [child])


def test_a_repository_that_is_deleted_meanwhile_is_done(registry: Registry) -> None:
    """acr-cli#459 aborts on a 404."""
    image(registry, "v1", "zoo")
    image(registry, "v1")
    job_id = begin(registry, "app:.*", "zoo:.*", untagged=True)
    delete_repository(registry, APP, ALICE)
    image(registry, "v1")
    job = finish(registry, job_id)
    assert job.state == "done"
    assert (tags(registry), tags(registry, "zoo")) == (["v1"], [])


# --- locks ----------------------------------------------------------------------------------------


def test_locked_tags_and_manifests_stay(registry: Registry) -> None:
    image(registry, "v1")
    orphan = image(registry)
    update_tag(registry, APP, parse_tag("v1"), LOCKED, ALICE)
    update_manifest(registry, APP, orphan, LOCKED, ALICE)
    job = purge(registry, "app:.*", untagged=True)
    assert (job.tag_count, job.manifest_count) == (0, 0)
    job = purge(registry, "app:.*", untagged=True, include_locked=True)
    assert (job.tags_deleted, job.manifests_deleted) == (1, 2)


def test_a_locked_repository_stays_whatever_is_asked(registry: Registry) -> None:
    digest = image(registry, "v1")
    changes = AttributeChanges(write_enabled=False)
    update_repository(registry, APP, changes, ALICE)
    job = purge(registry, "app:.*", untagged=True, include_locked=True)
    assert (job.tag_count, job.manifest_count) == (0, 0)
    assert manifests(registry) == {digest}


def test_a_repository_locked_meanwhile_stays(registry: Registry) -> None:
    image(registry, "v1")
    job_id = begin(registry, "app:.*", untagged=True)
    update_repository(registry, APP, AttributeChanges(write_enabled=False), ALICE)
    job = finish(registry, job_id)
    assert (job.tags_deleted, job.manifests_deleted) == (0, 0)
    assert "writeEnabled is false" in str(outcomes(registry, job_id)["v1"])


# --- rails ----------------------------------------------------------------------------------------


def test_an_expression_does_not_empty_repositories(registry: Registry) -> None:
    """gitlab#325429: a cleanup policy wiped all images of two repositories."""
    image(registry, "v1")
    job = purge(registry, ".*:.*", untagged=True)
    assert job.state == "refused"
    assert {warning.rail for warning in job.warnings if warning.refuses} == {
        "empty-repository",
        "only-tag",
        "most-of-repository",
    }
    assert tags(registry) == ["v1"]
    # Whoever names it means it.
    assert purge(registry, "app:.*", untagged=True).state == "done"


def test_rails_are_allowed_by_name(registry: Registry) -> None:
    image(registry, "v1")
    allow = ["empty-repository", "only-tag", "most-of-repository"]
    job = purge(registry, ".*:.*", untagged=True, allow=allow)
    assert (job.state, job.manifests_deleted) == ("done", 1)


def test_orphans_are_what_a_purge_is_for(registry: Registry) -> None:
    """70 to 85 % of a registry are orphans: no rail says that they are many."""
    image(registry, "v1")
    for _ in range(9):
        image(registry)
    job = purge(registry, untagged_only=True, ago=None)
    assert (job.state, job.manifests_deleted, job.warnings) == ("done", 9, [])


def test_caps_hold_whatever_is_named(registry: Registry) -> None:
    for _ in range(3):
        image(registry)
    image(registry, "v1")
    for caps in (Caps(max_manifests=2), Caps(max_bytes=5)):
        assert purge(registry, "app:x", untagged=True, caps=caps).state == "refused"


# --- jobs -----------------------------------------------------------------------------------------


def test_a_job_goes_on_where_a_process_died(installation: Installation) -> None:
    """harbor#19991: all or nothing, and from zero after a restart."""
    image(installation.registry, "v1")
    orphans = {image(installation.registry) for _ in range(5)}
    job_id = begin(installation.registry, untagged_only=True, ago=None)
    configure("job.in_transaction=raise:EIO@2")
    try:
        assert work(installation.registry, CHOOSERS, "worker", 1) == 1
        with pytest.raises(OSError, match="failpoint"):
            work(installation.registry, CHOOSERS, "worker", 1)
    finally:
        configure("")
    installation.crash()
    installation.start()
    registry = installation.registry
    assert isinstance(registry.now, FakeClock)
    registry.now.advance(CLAIM.total_seconds() + 1)
    job = finish(registry, job_id, token="second")
    assert job.manifests_deleted == 5
    assert outcomes(registry, job_id) == dict.fromkeys(orphans, "deleted")
    assert not orphans & manifests(registry)


def test_planning_that_was_cut_short_begins_anew(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ullage.cleanup.job.planning.WRITTEN_TOGETHER", 2)
    image(installation.registry, "v1")
    orphans = {image(installation.registry) for _ in range(5)}
    job_id = ask(installation.registry, untagged_only=True, ago=None)

    def dies(registry: Registry, job: Any, add: Any) -> Any:
        CHOOSERS["purge"](registry, job, add)
        raise OSError("the process is gone")

    with pytest.raises(OSError, match="gone"):
        work(installation.registry, {"purge": dies}, "worker", 1)
    release_jobs(installation.registry)
    job = finish(installation.registry, job_id)
    assert outcomes(installation.registry, job_id) == dict.fromkeys(orphans, "deleted")
    assert job.manifest_count == 5


def test_one_worker_at_a_time_has_a_job_in_hand(registry: Registry, clock: FakeClock) -> None:
    """deletion.md R24: claims with expiry; who comes back from a pause finds it taken."""
    image(registry, "v1")
    image(registry)
    image(registry)
    job_id = begin(registry, untagged_only=True, ago=None)
    assert work(registry, CHOOSERS, "other", 1) is None
    clock.advance(CLAIM.total_seconds() + 1)
    assert work(registry, CHOOSERS, "other", 1) == 1
    assert work(registry, CHOOSERS, "worker", 1) is None
    release_jobs(registry, "other")
    assert finish(registry, job_id).manifests_deleted == 2


def test_a_job_is_cancelled_between_two_batches(registry: Registry) -> None:
    image(registry, "v1")
    for _ in range(3):
        image(registry)
    job_id = begin(registry, untagged_only=True, ago=None)
    assert work(registry, CHOOSERS, "worker", 1) == 1
    assert cancel_job(registry, job_id, WITHOUT_ACCOUNTS, ALICE).cancelled
    job = finish(registry, job_id)
    assert (job.state, job.manifests_deleted) == ("cancelled", 1)
    assert len(manifests(registry)) == 3


def test_a_job_that_keeps_failing_is_given_up(registry: Registry) -> None:
    image(registry, "v1")
    image(registry)
    job_id = begin(registry, untagged_only=True, ago=None)
    for _ in range(MAX_FAILURES):
        note_failure(registry, "worker", "OSError: no luck")
    job = finish(registry, job_id)
    assert (job.state, job.notes) == ("failed", ["OSError: no luck"])


def test_jobs_are_forgotten_a_week_after_they_ended(registry: Registry, clock: FakeClock) -> None:
    image(registry, "v1")
    image(registry)
    job = purge(registry, untagged_only=True, ago=None)
    assert expire_jobs(registry) == 0
    clock.advance(KEPT.total_seconds() + 1)
    while expire_jobs(registry):
        pass
    with pytest.raises(JobUnknown):
        get_job(registry, job.id, WITHOUT_ACCOUNTS)


def test_there_are_only_so_many_jobs(registry: Registry) -> None:
    for number in range(MAX_OPEN):
        tenant = Caller(f"tenant-{number % 10}", "192.0.2.1", "test")
        ask(registry, "app:.*", caller=tenant)
    with pytest.raises(TooManyRequests) as refused:
        ask(registry, "app:.*")
    assert refused.value.retry_after is None


def test_one_account_cannot_have_all_jobs(registry: Registry) -> None:
    """B10: a tenant that asks for one job after the other leaves room for the others'."""
    jobs = [ask(registry, "app:.*") for _ in range(MAX_ACCOUNT_OPEN)]
    with pytest.raises(TooManyRequests, match=f"{MAX_ACCOUNT_OPEN} jobs of this account"):
        ask(registry, "app:.*")
    ask(registry, "app:.*", caller=Caller("another", "192.0.2.1", "test"))
    cancel_job(registry, jobs[0], WITHOUT_ACCOUNTS, ALICE)
    finish(registry, jobs[0])
    ask(registry, "app:.*")


def test_without_accounts_all_jobs_are_one_clients(registry: Registry) -> None:
    for _ in range(MAX_ACCOUNT_OPEN + 1):
        ask(registry, "app:.*", caller=Caller("", "192.0.2.1", "test"))


def test_a_purge_reaches_no_further_than_the_rights_of_who_asks(registry: Registry) -> None:
    for name in ("team/app", "rival/app"):
        image(registry, "v1", name)
    grants = (Grant("team/*", frozenset({Action.METADATA_READ, Action.DELETE})),)
    somebody = Principal("somebody", grants)
    assert isinstance(registry.now, FakeClock)
    registry.now.advance(1)
    purge = purge_request(
        filters=[".*:.*"],
        ago="0d",
        keep=0,
        untagged=True,
        untagged_only=False,
        include_locked=False,
        dry_run=False,
        caps=Caps(),
        allow=["empty-repository", "only-tag", "most-of-repository"],
    )
    job_id = start_purge(registry, purge, somebody, ALICE).id
    finish(registry, job_id)
    assert (tags(registry, "team/app"), tags(registry, "rival/app")) == ([], ["v1"])
    stranger = Principal("stranger", (Grant("rival/*", frozenset(Action)),))
    with pytest.raises(JobUnknown):
        get_job(registry, job_id, stranger)
    assert list_jobs(registry, stranger) == []
    assert [job.id for job in list_jobs(registry, somebody)] == [job_id]


def test_jobs_of_others_keep_none_out_of_the_list(registry: Registry) -> None:
    """S17: the last hundred of those that a caller may know of, however many others ask for."""
    assert isinstance(registry.now, FakeClock)
    for name in ("team/app", "rival/app"):
        image(registry, "v1", name)
    mine = ask(registry, "team/app:.*", dry_run=True)
    finish(registry, mine)
    # More than two pages of them, several in the same moment.
    for number in range(2 * LISTED + 1):
        registry.now.advance(number % 2)
        finish(registry, ask(registry, "rival/app:.*", dry_run=True))
    tenant = Principal("tenant", (Grant("team/*", frozenset({Action.METADATA_READ})),))
    assert [job.id for job in list_jobs(registry, tenant)] == [mine]
    rival = Principal("rival", (Grant("rival/*", frozenset({Action.METADATA_READ})),))
    theirs = [job.id for job in list_jobs(registry, rival)]
    assert (len(theirs), len(set(theirs)), mine in theirs) == (LISTED, LISTED, False)


def test_what_a_job_deletes_is_in_the_audit_log(registry: Registry) -> None:
    """A receipt: who, what, when, bytes, digests."""
    image(registry, "other")
    digest = image(registry, "v1")
    job = purge(registry, "app:v1", untagged=True)
    said = [
        (entry.action, entry.subject, entry.target, entry.detail.get("manifests"))
        for entry in registry.read(lambda tx: entries(tx, limit=100))
        if entry.target == job.id
    ]
    assert ("purge.delete", "alice", job.id, [digest]) in said
    assert {action for action, *_ in said} == {"purge.start", "purge.delete"}

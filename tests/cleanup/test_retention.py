"""Retention rules run as jobs (docs/design/policies.md), on both engines."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from tests.support.cleaning import finish, manifests, outcomes, retag, retention, tags, wait_days
from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.fixtures import Installation
from tests.support.planting import plant_image
from tests.support.registry import ALICE, push_index
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.job.batch import CHANGED, PULLED
from ullage.cleanup.job.claims import release_jobs
from ullage.cleanup.job.documents import Job
from ullage.cleanup.job.execution import work
from ullage.cleanup.job.jobs import get_job, list_jobs
from ullage.cleanup.retention.documents import UntaggedPolicy
from ullage.cleanup.retention.explain import explain_retention
from ullage.cleanup.retention.policy import get_retention, get_untagged, set_retention, set_untagged
from ullage.cleanup.retention.run import start_if_due, start_run
from ullage.deletion.delete import delete_tag
from ullage.failpoints import configure
from ullage.oci.digest import Digest
from ullage.oci.errors import ManifestUnknown, NameUnknown, ValueInvalid
from ullage.oci.reference import parse_reference, parse_repository_name, parse_tag
from ullage.registry.attributes import update_tag
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import note_pull, write_pulls
from ullage.registry.pull.read import get_manifest
from ullage.registry.queries.attributes import AttributeChanges
from ullage.registry.queries.audit import entries
from ullage.worker import CHOOSERS

APP = parse_repository_name("app")
NODE, SCANNER = "containerd/2.0.0", "trivy/0.50.0"
ORPHANS: dict[str, Any] = {"name": "orphans", "untagged": True, "older_than": "7d"}
OLD: dict[str, Any] = {"name": "old", "tags": "^old", "older_than": "30d"}


def image(registry: Registry, tag: str | None = None, name: str = "app", **more: Any) -> Digest:
    """An image unlike all others."""
    image.count += 1  # type: ignore[attr-defined]
    layer = b"retention %d" % image.count  # type: ignore[attr-defined]
    return plant_image(registry, name, tag, [layer], **more)


image.count = 0  # type: ignore[attr-defined]


def rules(registry: Registry, *those: dict[str, Any], **more: Any) -> None:
    set_retention(registry, retention({"rules": list(those), **more}), ALICE)


def queue(registry: Registry, *, dry_run: bool = False) -> str:
    return str(start_run(registry, ALICE, dry_run=dry_run).id)


def run(registry: Registry, *, dry_run: bool = False) -> Job:
    return finish(registry, queue(registry, dry_run=dry_run))


def begin(registry: Registry) -> str:
    """A run that has chosen, so that the next piece of work deletes."""
    job_id = queue(registry)
    work(registry, CHOOSERS, "worker", 1)
    assert get_job(registry, job_id, WITHOUT_ACCOUNTS).state == "running"
    return job_id


def pull(registry: Registry, reference: str, agent: str = NODE) -> None:
    wanted = parse_reference(reference)
    note_pull(registry, get_manifest(registry, APP, wanted).id, wanted, agent)


# --- what goes ------------------------------------------------------------------------------------


def test_rules_take_tags_with_their_images_and_orphans_and_nothing_else(
    registry: Registry,
) -> None:
    """Age, tag pattern, untagged for N days, always-keep patterns; first match wins."""
    image(registry, "old-1")
    both = image(registry, "old-2")
    retag(registry, "release", both)
    image(registry, "old-keep")
    orphan = image(registry)
    wait_days(registry, 31)
    young = image(registry, "old-3")
    new_orphan = image(registry)
    image(registry, "unrelated")
    rules(registry, {"name": "keep", "tags": "-keep$", "keep": True}, OLD, ORPHANS)
    asked = run(registry, dry_run=True)
    assert tags(registry) == ["old-1", "old-2", "old-3", "old-keep", "release", "unrelated"]
    job = run(registry)
    for name in ("tag_count", "manifest_count", "planned_bytes"):
        assert getattr(asked, name) == getattr(job, name)
    assert (job.kind, job.state, job.tags_deleted, job.manifests_deleted) == (
        *("retention", "done", 2, 2),
    )
    assert job.freed_bytes == given(job.planned_bytes) > 0
    assert tags(registry) == ["old-3", "old-keep", "release", "unrelated"]
    assert {both, young, new_orphan} <= manifests(registry)
    assert orphan not in manifests(registry)


def test_rules_are_for_the_repositories_that_they_name(registry: Registry) -> None:
    for name in ("ci/app", "prod/app"):
        image(registry, "old-1", name)
        image(registry, "new", name)
    wait_days(registry, 31)
    rules(registry, OLD | {"repositories": "ci/.*"})
    run(registry)
    assert (tags(registry, "ci/app"), tags(registry, "prod/app")) == (["new"], ["new", "old-1"])


def test_the_newest_stay(registry: Registry) -> None:
    for day in range(6):
        image(registry, f"d{day}")
        wait_days(registry, 1)
    rules(registry, {"tags": ".*", "keep_newest": 4})
    run(registry)
    assert tags(registry) == ["d2", "d3", "d4", "d5"]


def test_an_index_goes_with_its_platforms_and_what_is_held_is_no_orphan(
    registry: Registry,
) -> None:
    """acr#666, acr-cli#131."""
    gone = [image(registry), image(registry)]
    gone.append(push_index(registry, "app", "old-index", gone))
    kept = image(registry)
    push_index(registry, "app", "new", [kept])
    signature = image(registry, subject=kept)
    wait_days(registry, 40)
    rules(registry, OLD, ORPHANS)
    assert run(registry).manifests_deleted == 3
    assert not manifests(registry) & set(gone)
    assert {kept, signature} <= manifests(registry)


# --- pulls ----------------------------------------------------------------------------------------


def test_what_is_not_pulled_goes_and_newborns_age_from_their_push(registry: Registry) -> None:
    """harbor#15810, #20084: scanners' pulls do not count; harbor#18479: newborns stay."""
    for tag in ("pulled", "scanned", "idle"):
        image(registry, tag)
    wait_days(registry, 20)
    pull(registry, "pulled")
    image(registry, "newborn")
    wait_days(registry, 20)
    pull(registry, "scanned", SCANNER)
    rules(registry, {"tags": ".*", "not_pulled_for": "30d"})
    run(registry)
    assert tags(registry) == ["newborn", "pulled"]


def test_a_pull_between_choosing_and_deleting_saves_it(registry: Registry) -> None:
    """A scheduled delete is re-validated in its transaction."""
    tagged, orphan, other = image(registry, "old-1"), image(registry), image(registry)
    image(registry, "new")
    image(registry, "newer")
    wait_days(registry, 40)
    rules(registry, OLD, ORPHANS)
    job_id = begin(registry)
    pull(registry, "old-1")
    pull(registry, orphan)
    pull(registry, other, SCANNER)
    finish(registry, job_id)
    assert {tagged, orphan} <= manifests(registry)
    assert other not in manifests(registry)
    assert tags(registry) == ["new", "newer", "old-1"]
    said = outcomes(registry, job_id)
    assert said["old-1"] == said[orphan] == PULLED


# --- what comes between ---------------------------------------------------------------------------


def test_tagging_a_queued_manifest_again_saves_it(registry: Registry) -> None:
    """acr#520: untagged, tagged again the next day, and deleted all the same a week later."""
    digest, other = image(registry, "v1"), image(registry, "v2")
    image(registry, "v3")
    rules(registry, ORPHANS)
    for tag in ("v1", "v2"):
        delete_tag(registry, APP, parse_tag(tag), ALICE)
    wait_days(registry, 1)
    retag(registry, "v1", digest)
    wait_days(registry, 7)
    job_id = begin(registry)
    # And at the last moment, when it is chosen already.
    retag(registry, "v2", other)
    finish(registry, job_id)
    assert {digest, other} <= manifests(registry)
    assert outcomes(registry, job_id) == {other: CHANGED}


def test_setting_rules_stops_what_older_ones_have_chosen(registry: Registry) -> None:
    image(registry, "old-1")
    image(registry, "new")
    image(registry, "newer")
    wait_days(registry, 40)
    rules(registry, OLD)
    job_id = begin(registry)
    rules(registry, ORPHANS)
    assert finish(registry, job_id).state == "cancelled"
    assert "old-1" in tags(registry)


def test_a_locked_tag_stays(registry: Registry) -> None:
    for tag in ("old-1", "old-2", "new", "newer"):
        image(registry, tag)
    update_tag(registry, APP, parse_tag("old-1"), AttributeChanges(delete_enabled=False), ALICE)
    wait_days(registry, 40)
    rules(registry, OLD)
    run(registry)
    assert tags(registry) == ["new", "newer", "old-1"]


# --- rails ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "allow"),
    [
        ([], ["empty-repository", "only-tag", "most-of-repository"]),
        (["new"], ["most-of-repository"]),
    ],
)
def test_rules_do_not_take_too_much_unless_they_say_so(
    registry: Registry, left: list[str], allow: list[str]
) -> None:
    """gitlab#325429: a cleanup policy wiped all images of two repositories."""
    for tag in ("old-1", "old-2"):
        image(registry, tag)
        image(registry, tag, "other")
    for tag in ("one", "two", "three"):
        image(registry, tag, "other")
    wait_days(registry, 40)
    for tag in left:
        image(registry, tag)
    there = sorted(["old-1", "old-2", *left])
    rules(registry, OLD)
    job = run(registry)
    # Other repositories are not held up by it.
    assert tags(registry, "other") == ["one", "three", "two"]
    assert tags(registry) == there
    (warning,) = job.warnings
    assert (warning.rail, warning.repository, warning.refuses) == (allow[0], "app", False)
    rules(registry, OLD | {"allow": allow})
    run(registry)
    assert tags(registry) == left


@pytest.mark.parametrize("cap", [{"max_manifests": 1}, {"max_bytes": "10B"}])
def test_a_run_that_would_go_beyond_a_cap_deletes_nothing(
    registry: Registry, cap: dict[str, Any]
) -> None:
    """peers.md B23: absolute caps for each run."""
    for tag in ("old-1", "old-2", "a", "b", "c"):
        image(registry, tag)
    wait_days(registry, 40)
    rules(registry, OLD, **cap)
    job = run(registry)
    assert (job.state, job.tags_deleted) == ("refused", 0)
    assert [each.rail for each in job.warnings] == [next(iter(cap)).replace("_", "-")]
    rules(registry, OLD, max_manifests=2, max_bytes="1GB")
    assert run(registry).manifests_deleted == 2


def test_one_rule_does_not_allow_what_another_one_takes(registry: Registry) -> None:
    for tag in ("a-1", "b-1", "c"):
        image(registry, tag)
    wait_days(registry, 40)
    a = {"name": "a", "tags": "^a", "older_than": "1d", "allow": ["most-of-repository"]}
    b = {"name": "b", "tags": "^b", "older_than": "1d"}
    rules(registry, a, b)
    run(registry)
    assert tags(registry) == ["a-1", "b-1", "c"]


# --- when -----------------------------------------------------------------------------------------


def test_rules_run_once_a_day_by_the_registrys_clock(registry: Registry, clock: FakeClock) -> None:
    image(registry, "v1")
    assert not start_if_due(registry)
    rules(registry, ORPHANS)
    # Whoever sets rules has a day to look at what they would do; they have not run (faults B41).
    assert not start_if_due(registry)
    assert get_retention(registry).last_run is None
    assert get_retention(registry).next_run == (clock() + timedelta(days=1)).isoformat()
    clock.advance(24 * 3600)
    assert start_if_due(registry)
    # Another process looks at the same moment, or later while the job goes on.
    assert not start_if_due(registry)
    clock.advance(24 * 3600)
    assert not start_if_due(registry)
    while work(registry, CHOOSERS, "worker", 100) is not None:
        pass
    assert start_if_due(registry)
    shown = get_retention(registry)
    assert shown.last_run == clock().isoformat()
    assert shown.next_run == (clock() + timedelta(days=1)).isoformat()
    assert {job.by for job in list_jobs(registry, WITHOUT_ACCOUNTS)} == {"retention"}


def test_one_process_starts_a_run_that_is_due(registry: Registry, clock: FakeClock) -> None:
    rules(registry, ORPHANS)
    clock.advance(24 * 3600)
    together = threading.Barrier(4)
    started: list[bool] = []

    def look() -> None:
        together.wait()
        started.append(start_if_due(registry))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started) == [False, False, False, True]


def test_disabled_rules_do_not_run(registry: Registry, clock: FakeClock) -> None:
    rules(registry, ORPHANS, enabled=False)
    clock.advance(48 * 3600)
    assert not start_if_due(registry)
    assert get_retention(registry).next_run is None
    rules(registry, ORPHANS, every="1h")
    assert start_if_due(registry)


def test_a_run_goes_on_where_a_process_died(installation: Installation) -> None:
    """kill -9 in the middle of a batch: nothing is done twice, nothing is left out."""
    for n in range(4):
        image(installation.registry, f"old-{n}")
        image(installation.registry, f"new-{n}")
    wait_days(installation.registry, 40)
    rules(installation.registry, OLD)
    job_id = begin(installation.registry)
    configure("job.in_transaction=raise:EIO@2")
    try:
        work(installation.registry, CHOOSERS, "worker", 1)
        with pytest.raises(OSError, match="failpoint"):
            work(installation.registry, CHOOSERS, "worker", 1)
    finally:
        configure("")
    installation.crash()
    installation.start()
    release_jobs(installation.registry)
    job = finish(installation.registry, job_id, token="another")
    assert (job.state, job.tags_deleted, job.manifests_deleted) == ("done", 4, 4)
    assert tags(installation.registry) == [f"new-{n}" for n in range(4)]


# --- az's policy ----------------------------------------------------------------------------------


def test_azs_policy_deletes_what_becomes_untagged_after_it_was_enabled(
    registry: Registry,
) -> None:
    """azure.md sections 3.5 and 5.5."""
    before, after = image(registry), image(registry, "v1")
    image(registry, "v2")
    wait_days(registry, 30)
    assert get_untagged(registry) == UntaggedPolicy(7, None, "disabled")
    shown = set_untagged(registry, "enabled", 3, ALICE)
    assert (shown.days, shown.status) == (3, "enabled")
    wait_days(registry, 1)
    delete_tag(registry, APP, parse_tag("v1"), ALICE)
    wait_days(registry, 2.9)
    run(registry)
    assert {before, after} <= manifests(registry)
    # Changing the days does not begin anew.
    set_untagged(registry, None, 2, ALICE)
    run(registry)
    assert before in manifests(registry)
    assert after not in manifests(registry)
    # Rules of one's own come first, and az's policy stays when they are set.
    rules(registry, {"name": "mine", "repositories": "other", **ORPHANS})
    assert get_untagged(registry).status == "enabled"
    with pytest.raises(ValueInvalid, match="should be from 0 to 365"):
        set_untagged(registry, "enabled", 366, ALICE)


# --- why ------------------------------------------------------------------------------------------


def test_explain_says_which_rule_decides_and_why(registry: Registry) -> None:
    old, orphan = image(registry, "old-1"), image(registry)
    image(registry, "release")
    child = image(registry)
    push_index(registry, "app", "new", [child])
    wait_days(registry, 40)
    pull(registry, "release")
    rules(registry, OLD, {"name": "rest", "tags": "^rel", "older_than": "1d"}, ORPHANS)

    def said(reference: str) -> tuple[bool, str | None, str]:
        found = explain_retention(registry, APP, parse_reference(reference))
        return found.goes, found.rule, found.because

    assert said("old-1") == (True, "old", "updated at 2026-01-01T00:00:00+00:00, pulled: never")
    assert said("release") == (
        False,
        "rest",
        "it was pulled at 2026-02-10T00:00:00+00:00, so somebody may be running it",
    )
    assert said("new") == (False, None, "no rule is about it")
    assert said(orphan) == (True, "orphans", "updated at 2026-01-01T00:00:00+00:00, pulled: never")
    assert said(child) == (False, None, "an index holds it, and goes with it or keeps it")
    assert said(old) == (True, None, "all of its tags go")
    with pytest.raises(ManifestUnknown):
        said("nothing")
    with pytest.raises(NameUnknown):
        explain_retention(registry, parse_repository_name("none"), parse_tag("v1"))


def test_what_rules_delete_is_in_the_audit_log(registry: Registry, clock: FakeClock) -> None:
    digest = image(registry, "old-1")
    image(registry, "new")
    rules(registry, OLD)
    wait_days(registry, 40)
    assert start_if_due(registry)
    while work(registry, CHOOSERS, "worker", 100) is not None:
        pass
    found = registry.read(lambda tx: entries(tx, limit=10, action="retention.delete"))
    assert [(each.subject, each.repository) for each in found] == [("retention", "app")] * 2
    assert found[0].detail["manifests"] == [digest]
    assert write_pulls(registry)

"""Plans that a job carries out: large ones, and those of filters (deletion.md section 4)."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.cleaning import finish, job_of, manifests, outcomes, purge, retag, tags
from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.fixtures import Assemble, Installation
from tests.support.registry import ALICE, push_image, push_index, settle
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.cleanup import purge as purging
from ullage.cleanup.guardrails import Caps
from ullage.cleanup.job.execution import work
from ullage.cleanup.job.jobs import cancel_job, get_job
from ullage.cleanup.plan import plan as plan_module
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.documents import PlanDocument
from ullage.cleanup.plan.from_filter import plan_filter
from ullage.cleanup.plan.plan import PLAN_LIFETIME, expire_plans, get_plan, make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.cleanup.queries import plans
from ullage.database.transaction import Transaction
from ullage.deletion.delete import delete_manifest
from ullage.documents import UNSET, changed, packed
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import PlanRefused, PlanUnknown
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Limits, Registry
from ullage.registry.push.links import mount_blob
from ullage.usage.usage import registry_totals
from ullage.worker import CHOOSERS

APP = parse_repository_name("app")
OTHER = parse_repository_name("other")


@pytest.fixture
def few(assemble: Assemble, store: MemoryBlobStore) -> Registry:
    """A registry where a plan of three manifests is a large one."""
    return assemble(store, Limits(max_plan_at_once=2))


def tick(registry: Registry) -> None:
    """Whatever happens next happens later."""
    assert isinstance(registry.now, FakeClock)
    registry.now.advance(1)


def disk_bytes(registry: Registry) -> int:
    """What is on the disk once all that is deleted has left it."""
    for _ in range(3):
        tick(registry)
    settle(registry)
    return registry_totals(registry).disk_bytes


def plan_of(registry: Registry, *digests: Digest, tags: tuple[str, ...] = ()) -> PlanDocument:
    wanted = PlanRequest(repository=APP, digests=digests, tags=tuple(map(parse_tag, tags)))
    made = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    tick(registry)
    return made


def filtered(
    registry: Registry, *filters: str, ago: str | None = "0d", **more: Any
) -> PlanDocument:
    """A plan of a filter, for whatever there is by now."""
    tick(registry)
    usual: dict[str, Any] = {
        "keep": 0,
        "untagged": False,
        "untagged_only": False,
        "include_locked": False,
        "dry_run": False,
    }
    wanted = purging.purge_request(
        filters=filters, ago=ago, caps=Caps(), allow=(), **(usual | more)
    )
    return plan_filter(registry, wanted, WITHOUT_ACCOUNTS, ALICE)


def images(registry: Registry, count: int = 5) -> list[Digest]:
    """So many images of a shared layer and one of their own, in `app`, v0 and so on."""
    return [push_image(registry, "app", f"v{n}", [b"base", b"own %d" % n]) for n in range(count)]


@pytest.mark.parametrize("missing", [0, 100])
def test_what_a_plan_promised_and_did_not_free_is_counted(few: Registry, missing: int) -> None:
    """observability.md section 3: it must stay 0, and is seen where it does not."""
    going = images(few)
    made = plan_of(few, *going)
    job_id = job_of(apply_plan(few, made.id, ALICE))
    for _ in range(2):
        work(few, CHOOSERS, "token", 2)
    less = sa.text(f"UPDATE jobs SET freed_bytes = freed_bytes - {missing}")
    few.write(lambda tx: tx.execute_directly(less))
    finish(few, job_id, n=2, token="token")
    assert few.tallies.counts("planned_bytes") == {(): made.freed_bytes}
    assert few.tallies.counts("shortfall_bytes") == {(): missing}
    assert few.tallies.counts("job_items") == {("plan", "deleted"): 5, ("plan", "kept"): 0}


def test_a_large_plan_is_a_job_and_its_receipt_is_whole_at_the_end(few: Registry) -> None:
    """Predicted = freed, and nobody waits for the whole of it."""
    going = images(few)
    push_image(few, "app", "stays", [b"base"])
    disk = disk_bytes(few)
    made = plan_of(few, *going)
    begun = apply_plan(few, made.id, ALICE)
    assert (begun.applied, begun.manifest_count, begun.freed_bytes) == (None, 0, 0)
    assert manifests(few) >= set(going)
    # Asked twice, it is the same job.
    assert apply_plan(few, made.id, ALICE).job == begun.job
    job = finish(few, job_of(begun), n=2)
    assert (job.kind, job.state, job.planned_bytes) == (*("plan", "done", made.freed_bytes),)
    receipt = given(get_plan(few, made.id, WITHOUT_ACCOUNTS).receipt)
    assert receipt == apply_plan(few, made.id, ALICE)
    for name in ("freed_bytes", "freed_later_bytes", "manifest_count", "tag_count"):
        assert getattr(receipt, name) == getattr(made, name)
    assert receipt.applied is not None
    assert manifests(few).isdisjoint(going)
    assert tags(few) == ["stays"]
    assert disk - disk_bytes(few) == receipt.freed_bytes > 0


def test_an_image_goes_whole_or_not_at_all(few: Registry) -> None:
    """R14, R15: its platforms and signatures with it, each in the transaction that takes it."""
    amd = push_image(few, "app", None, [b"amd"])
    arm = push_image(few, "app", "arm", [b"arm"])
    index = push_index(few, "app", "v1", [amd, arm])
    signature = push_image(few, "app", None, [b"signature"], subject=index)
    push_image(few, "app", "stays", [b"other"])
    # The index, its platform with a tag of its own, and what refers to it, all asked for.
    made = plan_of(few, index, arm, amd)
    job = finish(few, job_of(apply_plan(few, made.id, ALICE)), n=1)
    assert (job.manifests_deleted, job.tags_deleted) == (4, 2)
    assert manifests(few).isdisjoint({amd, arm, index, signature})


@pytest.mark.parametrize("allow_smaller", [False, True])
def test_what_changed_before_the_first_batch_refuses_the_whole_or_is_told(
    few: Registry, allow_smaller: bool
) -> None:
    """All of it is looked at before anything goes."""
    going = images(few)
    push_image(few, "app", "stays", [b"base"])
    made = plan_of(few, *going)
    delete_manifest(few, APP, going[0], ALICE)
    receipt = apply_plan(few, made.id, ALICE, allow_smaller=allow_smaller)
    job = finish(few, job_of(receipt))
    assert given(job.difference).gone == [f"app@{going[0]}"]
    if allow_smaller:
        assert (job.state, job.manifests_deleted) == ("done", 4)
        receipt = given(get_plan(few, made.id, WITHOUT_ACCOUNTS).receipt)
        assert given(receipt.difference).counts.gone == 1
        return
    assert (job.state, job.manifests_deleted) == ("refused", 0)
    assert manifests(few) > set(going[1:])
    # It may be applied after all.
    assert get_plan(few, made.id, WITHOUT_ACCOUNTS).receipt is UNSET
    again = apply_plan(few, made.id, ALICE, allow_smaller=True)
    assert finish(few, job_of(again)).manifests_deleted == 4


def test_what_changes_while_it_goes_on_stays(few: Registry) -> None:
    """acr#520, R12: a tag that comes in the last moment saves the image."""
    going = images(few)
    push_image(few, "app", "stays", [b"base"])
    made = plan_of(few, *going)
    job_id = job_of(apply_plan(few, made.id, ALICE))
    work(few, CHOOSERS, "worker", 1)
    retag(few, "saved", going[4])
    job = finish(few, job_id, n=2)
    assert (job.state, job.manifests_deleted) == ("done", 4)
    assert going[4] in manifests(few)
    assert "changed" in str(outcomes(few, job_id)[going[4]])


def test_a_kill_forgets_nothing(installation: Installation) -> None:
    """harbor#19991: what was done is not done again, what was not is."""
    installation.restart(Limits(max_plan_at_once=2))
    going = images(installation.registry)
    push_image(installation.registry, "app", "stays", [b"base"])
    tick(installation.registry)
    made = plan_of(installation.registry, *going)
    job_id = job_of(apply_plan(installation.registry, made.id, ALICE))
    for _ in range(3):
        work(installation.registry, CHOOSERS, "first", 1)
    left = len(manifests(installation.registry))
    assert 1 < left < 6
    installation.end_process()
    installation.start(Limits(max_plan_at_once=2))
    tick(installation.registry)
    assert isinstance(installation.registry.now, FakeClock)
    installation.registry.now.advance(120)
    job = finish(installation.registry, job_id, token="second")
    assert (job.state, job.manifests_deleted) == ("done", 5)


def test_a_cancelled_plan_may_be_applied_again(few: Registry) -> None:
    going = images(few)
    push_image(few, "app", "stays", [b"base"])
    made = plan_of(few, *going)
    job_id = job_of(apply_plan(few, made.id, ALICE))
    work(few, CHOOSERS, "worker", 1)
    work(few, CHOOSERS, "worker", 2)
    cancel_job(few, job_id, WITHOUT_ACCOUNTS, ALICE)
    job = finish(few, job_id)
    assert (job.state, job.manifests_deleted) == ("cancelled", 2)
    again = apply_plan(few, made.id, ALICE, allow_smaller=True)
    assert finish(few, job_of(again)).manifests_deleted == 3


def test_its_receipt_is_kept_as_long_as_its_job(few: Registry) -> None:
    going = images(few)
    made, forgotten = plan_of(few, *going), plan_of(few, *going)
    job_id = job_of(apply_plan(few, made.id, ALICE, allow=()))
    assert isinstance(few.now, FakeClock)
    few.now.advance(PLAN_LIFETIME.total_seconds() + 1)
    expire_plans(few)
    assert finish(few, job_id).state == "done"
    assert job_of(get_plan(few, made.id, WITHOUT_ACCOUNTS).receipt) == job_id
    with pytest.raises(PlanUnknown):
        get_plan(few, forgotten.id, WITHOUT_ACCOUNTS)


def test_large_repositories_go_at_once_after_a_look_that_holds_nobody_up(few: Registry) -> None:
    images(few)
    push_image(few, "other", "v1", [b"base"])
    made = make_plan(few, PlanRequest(repositories=(APP,)), WITHOUT_ACCOUNTS, ALICE)
    receipt = apply_plan(few, made.id, ALICE)
    assert (receipt.freed_bytes, receipt.manifest_count) == (*(made.freed_bytes, 5),)
    assert apply_plan(few, made.id, ALICE) == receipt
    assert manifests(few) == set()


# --- filters --------------------------------------------------------------------------------------


def old_and_new(registry: Registry) -> None:
    """Tags that match and do not, orphans with a platform, a signature, a shared layer."""
    for n in range(3):
        push_image(registry, "app", f"pr-{n}", [b"base", b"pr %d" % n])
    push_image(registry, "app", "keep", [b"base"])
    orphan = push_index(registry, "app", None, [push_image(registry, "app", None, [b"platform"])])
    push_image(registry, "app", None, [b"signature"], subject=orphan)
    push_image(registry, "other", "v1", [b"base", b"pr 1"])


@pytest.mark.parametrize(
    "more",
    [{"untagged": True}, {}, {"keep": 1, "untagged": True}],
    ids=["untagged", "tags", "keep"],
)
def test_a_plan_a_dry_run_and_the_purge_itself_say_the_same(
    registry: Registry, more: dict[str, Any]
) -> None:
    """conserve#158: a preview that counts otherwise than the deletion is worse than none."""
    old_and_new(registry)
    plan = filtered(registry, "app:^pr-", **more)
    dry = purge(registry, "app:^pr-", dry_run=True, **more)
    say = {(item.digest, *item.tags) for item in plan.items}
    done = purge(registry, "app:^pr-", **more)
    document = plan
    assert (document.tag_count, document.manifest_count) == (*(dry.tag_count, dry.manifest_count),)
    assert (document.tag_count, document.manifest_count) == (
        *(done.tags_deleted, done.manifests_deleted),
    )
    assert document.freed_bytes == dry.planned_bytes == done.freed_bytes
    assert [*document.warnings] == [*dry.warnings]
    assert sum(len(tags) for _, *tags in say) == document.tag_count


def test_a_plan_of_a_filter_is_carried_out_as_it_was_shown(registry: Registry) -> None:
    old_and_new(registry)
    plan = filtered(registry, "app:^pr-", untagged=True)
    why = sorted(item.why for item in plan.items)
    assert why == ["asked"] * 4 + ["child", "referrer"]
    disk = disk_bytes(registry)
    job = finish(registry, job_of(apply_plan(registry, plan.id, ALICE)), n=2)
    receipt = given(get_plan(registry, plan.id, WITHOUT_ACCOUNTS).receipt)
    for name in ("freed_bytes", "manifest_count", "tag_count"):
        assert getattr(receipt, name) == getattr(plan, name), name
    assert (job.state, receipt.difference, tags(registry)) == ("done", None, ["keep"])
    assert disk - disk_bytes(registry) == receipt.freed_bytes > 0


def test_tags_whose_image_stays_are_shown_as_such(registry: Registry) -> None:
    image = push_image(registry, "app", "pr-1", [b"own"])
    retag(registry, "keep", image)
    plan = filtered(registry, "app:^pr-", untagged=True)
    assert [(item.digest, item.tags, item.why) for item in plan.items] == [
        (image, ["pr-1"], "untagged")
    ]
    assert plan.manifest_count == 0


def _push(registry: Registry) -> None:
    push_image(registry, "app", "pr-1", [b"new"])


def _tag(registry: Registry) -> None:
    (orphan,) = [each for each in manifests(registry) if each in _ORPHANS]
    retag(registry, "saved", orphan)


def _mount(registry: Registry) -> None:
    """The same manifests would free less."""
    assert mount_blob(registry, OTHER, APP, digest_of(b"pr 0"), ALICE)


_ORPHANS: set[Digest] = set()


@pytest.mark.parametrize("change", [_push, _tag, _mount], ids=["push", "tag", "mount"])
def test_a_filter_is_refused_or_does_less_when_the_world_changes(
    registry: Registry, change: Callable[[Registry], None]
) -> None:
    for n in range(3):
        push_image(registry, "app", f"pr-{n}", [b"base", b"pr %d" % n])
    push_image(registry, "app", "keep", [b"base"])
    _ORPHANS.add(push_image(registry, "app", None, [b"orphan"]))
    plan = filtered(registry, "app:^pr-", untagged=True)
    before = manifests(registry)
    tick(registry)
    change(registry)
    job = finish(registry, job_of(apply_plan(registry, plan.id, ALICE)))
    assert (job.state, manifests(registry) >= before) == ("refused", True)
    assert given(job.difference).smaller is True
    again = apply_plan(registry, plan.id, ALICE, allow_smaller=True)
    assert finish(registry, job_of(again)).state == "done"
    receipt = given(get_plan(registry, plan.id, WITHOUT_ACCOUNTS).receipt)
    assert receipt.freed_bytes < plan.freed_bytes


def test_rails_stop_a_filter_before_any_job(registry: Registry) -> None:
    """gitlab#325429: a repository that was not named is not emptied."""
    push_image(registry, "app", "v1", [b"x"])
    plan = filtered(registry, "a.*:.*", untagged=True)
    with pytest.raises(PlanRefused):
        apply_plan(registry, plan.id, ALICE)
    allow = ("empty-repository", "only-tag", "most-of-repository")
    job = finish(registry, job_of(apply_plan(registry, plan.id, ALICE, allow=allow)))
    assert (job.state, manifests(registry)) == ("done", set())


def test_nothing_that_is_held_by_now_goes(registry: Registry) -> None:
    """R14: an index that came since the plan was checked holds its platforms."""
    orphan = push_image(registry, "app", None, [b"orphan"])
    push_image(registry, "app", "keep", [b"base"])
    plan = filtered(registry, "app:^pr-", untagged=True)
    job_id = job_of(apply_plan(registry, plan.id, ALICE))
    work(registry, CHOOSERS, "worker", 1)
    push_index(registry, "app", "v1", [orphan])
    job = finish(registry, job_id)
    assert (job.state, job.manifests_deleted) == ("done", 0)
    assert get_job(registry, job_id, WITHOUT_ACCOUNTS).freed_bytes == 0
    assert orphan in manifests(registry)


# --- reading --------------------------------------------------------------------------------------


def test_a_page_of_a_plan_is_read_alone(few: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a large plan cost the same each (faults B38): no other page is read for one."""
    monkeypatch.setattr(plan_module, "PAGE", 2)
    named = plan_of(few, *images(few, 5))
    found = filtered(few, "app:.*", untagged=True)
    read: list[int] = []

    def pages(tx: Transaction, plan_id: str, first: int = 0, end: int = 99) -> list[bytes]:
        some = stored_pages(tx, plan_id, first, end)
        read.append(len(some))
        return some

    stored_pages = plans.pages
    monkeypatch.setattr(plans, "pages", pages)
    for made in (named, found):
        assert made.item_count == len(made.items) == 5
        for start in range(7):
            for n in range(7):
                page = get_plan(few, made.id, WITHOUT_ACCOUNTS, start, n)
                assert packed(page.items) == packed(made.items[start : start + n])
                assert packed(changed(page, items=())) == packed(changed(made, items=()))
        read.clear()
        get_plan(few, made.id, WITHOUT_ACCOUNTS, 2, 2)
        get_plan(few, made.id, WITHOUT_ACCOUNTS, 0, 0)
        assert read == [1]
        assert packed(get_plan(few, made.id, WITHOUT_ACCOUNTS)) == packed(made)


def test_a_plan_says_what_comes_back_with_each_repository_and_how_old_it_is(
    few: Registry,
) -> None:
    """What several give up counts in equal parts, so that the lines sum to the whole."""
    clock = few.now
    assert isinstance(clock, FakeClock)
    first = clock()
    for name in ("app", "other", "third"):
        push_image(few, name, "v1", [b"shared by three", name.encode()])
        clock.advance(86_400)
    push_image(few, "app", "v2", [b"2"])
    whole = make_plan(few, PlanRequest(repositories=(APP, OTHER)), WITHOUT_ACCOUNTS, ALICE)
    by_filter = filtered(few, ".*:^v1$", untagged=True)
    named = plan_of(few, tags=("v1", "v2"))
    for made in (whole, by_filter, named):
        count = made.freed_bytes + made.freed_later_bytes
        assert sum(given(part.bytes) for part in made.repositories) == count > 0
    parts = {part.repository: part for part in by_filter.repositories}
    # Fifteen bytes that all three give up, five each, and what is of one alone; the config is kept.
    assert [given(part.bytes) for part in parts.values()] == [5 + 3, 5 + 5, 5 + 5]
    assert given(parts["app"].oldest) == given(parts["app"].newest) == first.isoformat()
    (app,) = named.repositories
    assert given(app.oldest) == first.isoformat() < given(app.newest)


def test_what_a_filter_chose_says_what_for(few: Registry) -> None:
    push_image(few, "app", "v1", [b"1"])
    push_image(few, "app", "v2", [b"2"])
    push_image(few, "app", None, [b"3"])
    found = filtered(few, "app:^v1$", untagged=True)
    assert {tuple(item.tags): item.because for item in found.items} == {
        ("v1",): "its last tag goes",
        (): "nothing leads to it",
    }

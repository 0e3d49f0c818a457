"""Plans: what a deletion would take and free, said before (deletion.md section 4)."""

from typing import Any

import pytest

from tests.support.clock import FakeClock
from tests.support.planting import plant_blobs
from tests.support.registry import ALICE, push_blob, push_image, push_index
from ullage.authorization import WITHOUT_ACCOUNTS, Principal
from ullage.cleanup.plan import plan as plans
from ullage.cleanup.plan.documents import PlanDocument
from ullage.cleanup.plan.plan import PLAN_LIFETIME, expire_plans, make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.deletion.closure import KeepReason, KeptBy
from ullage.oci.digest import Digest
from ullage.oci.errors import ManifestUnknown, NameUnknown, TooManyRequests
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry

APP = parse_repository_name("app")
OTHER = parse_repository_name("other")


def plan(
    registry: Registry,
    *digests: Digest,
    tags: tuple[str, ...] = (),
    principal: Principal = WITHOUT_ACCOUNTS,
    caller: Caller = ALICE,
) -> PlanDocument:
    wanted = PlanRequest(repository=APP, digests=digests, tags=tuple(map(parse_tag, tags)))
    return make_plan(registry, wanted, principal, caller)


def going(made: PlanDocument) -> dict[str, tuple[Any, ...]]:
    return {item.digest: (item.why, item.of or None, tuple(item.tags)) for item in made.items}


def test_a_plan_names_everything_that_goes_and_why(registry: Registry) -> None:
    amd, arm = (push_image(registry, "app", None, [layer]) for layer in (b"amd", b"arm64"))
    index = push_index(registry, "app", "v1", [amd, arm])
    signature = push_image(registry, "app", "sig", [b"signature"], subject=index)
    made = plan(registry, tags=("v1",))
    assert going(made) == {
        index: ("asked", None, ("v1",)),
        amd: ("child", index, ()),
        arm: ("child", index, ()),
        signature: ("referrer", index, ("sig",)),
    }
    assert made.freed_bytes == len(b"{}" + b"amd" + b"arm64" + b"signature")
    assert made.freed_later_bytes == 0
    assert (made.manifest_count, made.tag_count) == (4, 2)


def test_a_child_of_a_living_index_stays_and_the_plan_says_so(registry: Registry) -> None:
    """acr-cli#131, acr#666: "This broke ALL our images"."""
    child = push_image(registry, "app", None, [b"amd"])
    index = push_index(registry, "app", "v1", [child])
    made = plan(registry, child)
    assert made.items == ()
    assert made.freed_bytes == 0
    (stays,) = made.stays
    assert (stays.digest, [*stays.held_by]) == (child, [KeptBy(KeepReason.INDEX, index)])


def test_an_index_and_its_child_may_be_named_together_in_any_order(registry: Registry) -> None:
    child = push_image(registry, "app", "amd64", [b"amd"])
    index = push_index(registry, "app", "v1", [child])
    assert going(plan(registry, child, index)).keys() == {child, index}


def test_shared_layers_stay_and_the_plan_names_who_holds_them(registry: Registry) -> None:
    mine = push_image(registry, "app", "v1", [b"shared", b"mine"])
    push_image(registry, "other", "v1", [b"shared"])
    push_image(registry, "app", "v2", [b"yours"])
    made = plan(registry, mine)
    assert made.freed_bytes == len(b"mine")
    held = {blob.bytes: blob.held_by for blob in made.kept}
    assert held == {len(b"shared"): ["other"], len(b"{}"): ["app", "other"]}


def test_a_layer_that_another_image_of_the_repository_needs_stays(registry: Registry) -> None:
    """Unique means: referenced by nothing else, in this repository or any other."""
    mine = push_image(registry, "app", "v1", [b"base", b"mine"])
    push_image(registry, "app", "v2", [b"base", b"yours"])
    made = plan(registry, mine)
    assert made.freed_bytes == len(b"mine")
    assert made.kept_bytes == len(b"base" + b"{}")
    assert [blob.held_by for blob in made.kept] == [["app"], ["app"]]


def test_who_may_not_read_a_repository_is_not_told_that_it_holds_a_layer(
    registry: Registry,
) -> None:
    mine = push_image(registry, "app", "v1", [b"shared"])
    push_image(registry, "other", "v1", [b"shared"])
    made = plan(registry, mine, principal=Principal("nobody"))
    assert [blob.held_by for blob in made.kept] == [[], []]


def test_leased_bytes_come_back_later_and_the_plan_says_when(
    registry: Registry, clock: FakeClock
) -> None:
    """A pusher was told it need not upload this: its manifest may still come."""
    mine = push_image(registry, "app", "v1", [b"promised", b"mine"])
    push_blob(registry, "app", b"promised")
    made = plan(registry, mine)
    assert made.freed_bytes == len(b"mine" + b"{}")
    assert made.freed_later_bytes == len(b"promised")
    (later,) = made.later
    until = clock() + registry.limits.lease
    assert (later.because, later.until) == ("leased", until.isoformat())


def test_a_layer_that_only_a_lease_elsewhere_keeps_comes_back_later(registry: Registry) -> None:
    mine = push_image(registry, "app", "v1", [b"promised"])
    push_blob(registry, "other", b"promised")
    made = plan(registry, mine)
    assert made.freed_later_bytes == len(b"promised")


def test_a_repository_is_planned_as_a_whole(registry: Registry) -> None:
    push_image(registry, "app", "v1", [b"shared", b"mine"])
    push_image(registry, "app", "v2", [b"mine"])
    plant_blobs(registry, "app", [b"loose"])
    push_image(registry, "other", "v1", [b"shared"])
    made = make_plan(registry, PlanRequest(repositories=(APP,)), WITHOUT_ACCOUNTS, ALICE)
    assert made.freed_bytes == len(b"mine" + b"loose")
    assert made.manifest_count == 2
    both = make_plan(registry, PlanRequest(repositories=(OTHER, APP)), WITHOUT_ACCOUNTS, ALICE)
    assert both.freed_bytes == len(b"{}" + b"shared" + b"mine" + b"loose")


def test_what_does_not_exist_cannot_be_planned(registry: Registry) -> None:
    with pytest.raises(NameUnknown):
        plan(registry, tags=("v1",))
    known = push_image(registry, "app", "v1", [b"layer"])
    with pytest.raises(ManifestUnknown):
        plan(registry, tags=("v2",))
    made = plan(registry, known, tags=("v2",))
    assert set(going(made)) == {known}
    assert made.absent == ["v2"]


def test_one_account_cannot_have_all_plans(
    registry: Registry, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B10: and is told when the first of its own is forgotten."""
    monkeypatch.setattr(plans, "MAX_ACCOUNT_PLANS", 3)
    monkeypatch.setattr(plans, "MAX_PLANS", 5)
    image = push_image(registry, "app", "v1", [b"a layer"])
    for _ in range(3):
        plan(registry, image)
        clock.advance(10)
    with pytest.raises(TooManyRequests, match="3 plans of this account") as refused:
        plan(registry, image)
    assert refused.value.retry_after == PLAN_LIFETIME.total_seconds() - 30
    for number in range(2):
        plan(registry, image, caller=Caller(f"tenant-{number}", "192.0.2.1", "test"))
    with pytest.raises(TooManyRequests, match="5 plans are kept"):
        plan(registry, image, caller=Caller("another", "192.0.2.1", "test"))
    # Also before the worker has swept.
    clock.advance(refused.value.retry_after)
    plan(registry, image)
    clock.advance(10)
    expire_plans(registry)
    plan(registry, image, caller=Caller("another", "192.0.2.1", "test"))

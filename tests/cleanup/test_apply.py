"""Carrying out plans: what was shown, or nothing (deletion.md section 4)."""

import json

import pytest

from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.registry import (
    ALICE,
    push_blob,
    push_image,
    push_index,
    put_manifest,
    settle,
)
from ullage.authorization import WITHOUT_ACCOUNTS, Principal
from ullage.cleanup.guardrails import Caps
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.documents import PlanDocument
from ullage.cleanup.plan.plan import PLAN_LIFETIME, expire_plans, get_plan, make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.database.transaction import Transaction
from ullage.deletion.delete import delete_manifest, delete_repository, delete_tag
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import NameUnknown, PlanChanged, PlanRefused, PlanUnknown
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.pull.read import get_manifest
from ullage.registry.push.links import mount_blob
from ullage.registry.queries import attributes
from ullage.registry.queries.attributes import AttributeChanges
from ullage.registry.queries.audit import entries
from ullage.registry.queries.content.manifests import find_manifests
from ullage.registry.queries.content.repositories import find_repository

APP = parse_repository_name("app")
OTHER = parse_repository_name("other")


def plan(registry: Registry, *digests: Digest, tags: tuple[str, ...] = ()) -> PlanDocument:
    wanted = PlanRequest(repository=APP, digests=digests, tags=tuple(map(parse_tag, tags)))
    return make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)


def retag(registry: Registry, tag: str, digest: Digest) -> None:
    stored = get_manifest(registry, APP, digest)
    put_manifest(registry, APP, parse_tag(tag), stored.raw, stored.media_type, ALICE)


def exists(registry: Registry, digest: Digest) -> bool:
    repository_id = registry.read(lambda tx: find_repository(tx, APP))
    if repository_id is None:
        return False
    return bool(registry.read(lambda tx: find_manifests(tx, repository_id, [digest])))


def lock(registry: Registry, digest: Digest) -> None:
    def change(tx: Transaction) -> None:
        repository_id = find_repository(tx, APP)
        assert repository_id is not None
        changes = AttributeChanges(delete_enabled=False)
        attributes.set_of_manifest(tx, repository_id, digest, changes)

    registry.write(change)


def test_a_plan_is_carried_out_once_and_its_receipt_kept(registry: Registry) -> None:
    """A client that lost the answer asks again, and is told the same."""
    image = push_image(registry, "app", "v1", [b"layer"])
    push_image(registry, "app", "v2", [b"other"])
    made = plan(registry, image)
    receipt = apply_plan(registry, made.id, ALICE)
    assert (receipt.freed_bytes, receipt.manifest_count, receipt.tag_count) == (5, 1, 1)
    assert receipt.difference is None
    assert apply_plan(registry, made.id, ALICE) == receipt
    assert get_plan(registry, made.id, WITHOUT_ACCOUNTS).receipt == receipt
    (entry,) = registry.read(lambda tx: entries(tx, limit=1))
    assert (entry.action, entry.target, entry.detail["manifests"]) == (
        *("plan.apply", made.id, [image]),
    )


def test_a_repository_is_deleted_by_a_plan(registry: Registry) -> None:
    push_image(registry, "app", "v1", [b"layer", b"shared"])
    push_image(registry, "other", "v1", [b"shared"])
    wanted = PlanRequest(repositories=(APP,))
    made = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    assert apply_plan(registry, made.id, ALICE).freed_bytes == len(b"layer")
    settle(registry)
    with pytest.raises(NameUnknown):
        plan(registry, tags=("v1",))


def test_a_tag_that_moved_on_is_not_followed(registry: Registry) -> None:
    """acr#520, R12, R34: the plan was of another image than the tag names now."""
    old = push_image(registry, "app", "v1", [b"old"])
    made = plan(registry, tags=("v1",))
    new = push_image(registry, "app", "v1", [b"new"])
    with pytest.raises(PlanChanged) as refused:
        apply_plan(registry, made.id, ALICE)
    detail = json.loads(json.dumps(refused.value.detail))
    assert (detail["gone"], detail["smaller"]) == ([f"app@{old}"], True)
    apply_plan(registry, made.id, ALICE, allow_smaller=True)
    assert exists(registry, old)
    assert exists(registry, new)


def test_an_image_that_got_a_tag_since_is_refused_whatever_is_allowed(registry: Registry) -> None:
    """A push always wins: somebody tagged it after the plan was read."""
    image = push_image(registry, "app", None, [b"orphan"])
    made = plan(registry, image)
    retag(registry, "keep", image)
    for allow_smaller in (False, True):
        with pytest.raises(PlanChanged) as refused:
            apply_plan(registry, made.id, ALICE, allow_smaller=allow_smaller)
        assert json.loads(json.dumps(refused.value.detail))["tags_added"] == ["app:keep"]
    assert exists(registry, image)


def test_a_referrer_that_came_since_is_refused(registry: Registry) -> None:
    image = push_image(registry, "app", "v1", [b"layer"])
    made = plan(registry, image)
    signature = push_image(registry, "app", None, [b"signature"], subject=image)
    with pytest.raises(PlanChanged) as refused:
        apply_plan(registry, made.id, ALICE, allow_smaller=True)
    assert json.loads(json.dumps(refused.value.detail))["added"] == [f"app@{signature}"]


def test_a_layer_that_somebody_mounted_since_is_a_difference(registry: Registry) -> None:
    """Predicted = freed, or refused: the same manifests would free less."""
    image = push_image(registry, "app", "v1", [b"a layer"])
    push_image(registry, "app", "v2", [b"other"])
    made = plan(registry, image)
    layer = b"a layer"
    assert mount_blob(registry, OTHER, APP, digest_of(layer), ALICE)
    with pytest.raises(PlanChanged):
        apply_plan(registry, made.id, ALICE)
    receipt = apply_plan(registry, made.id, ALICE, allow_smaller=True)
    assert (receipt.freed_bytes, receipt.freed_later_bytes) == (0, len(layer))


def test_what_is_gone_already_may_be_left_out(registry: Registry) -> None:
    one = push_image(registry, "app", "one", [b"1"])
    two = push_image(registry, "app", "two", [b"22"])
    push_image(registry, "app", "three", [b"333"])
    made = plan(registry, one, two)
    delete_manifest(registry, APP, one, ALICE)
    with pytest.raises(PlanChanged):
        apply_plan(registry, made.id, ALICE)
    receipt = apply_plan(registry, made.id, ALICE, allow_smaller=True)
    assert (receipt.freed_bytes, given(receipt.difference).gone) == (2, [f"app@{one}"])


def test_a_tag_that_was_removed_since_may_be_left_out(registry: Registry) -> None:
    image = push_image(registry, "app", "v1", [b"layer"])
    made = plan(registry, image)
    delete_tag(registry, APP, parse_tag("v1"), ALICE)
    with pytest.raises(PlanChanged):
        apply_plan(registry, made.id, ALICE)
    assert apply_plan(registry, made.id, ALICE, allow_smaller=True).tag_count == 0


def test_an_index_that_came_since_keeps_its_child(registry: Registry) -> None:
    """R14: the same manifest is part of a live index now."""
    image = push_image(registry, "app", None, [b"amd64"])
    made = plan(registry, image)
    push_index(registry, "app", "v1", [image])
    with pytest.raises(PlanChanged):
        apply_plan(registry, made.id, ALICE)
    apply_plan(registry, made.id, ALICE, allow_smaller=True)
    assert exists(registry, image)


def test_a_repository_pushed_again_is_another_one(registry: Registry) -> None:
    """R16: the same name, the same digest, another generation."""
    image = push_image(registry, "app", "v1", [b"layer"])
    made = plan(registry, image)
    delete_repository(registry, APP, ALICE)
    assert push_image(registry, "app", "v1", [b"layer"]) == image
    with pytest.raises(PlanChanged):
        apply_plan(registry, made.id, ALICE)
    assert apply_plan(registry, made.id, ALICE, allow_smaller=True).manifest_count == 0
    assert exists(registry, image)


def test_a_lock_stays_and_the_plan_says_so(registry: Registry) -> None:
    """R28; quay PROJQUAY-10504: a delete by digest went past the lock."""
    child = push_image(registry, "app", None, [b"amd64"])
    index = push_index(registry, "app", "v1", [child])
    loose = push_image(registry, "app", "v2", [b"loose"])
    before = plan(registry, index, loose)
    lock(registry, child)
    made = plan(registry, index, loose)
    assert [item.digest for item in made.items] == [loose]
    (stays,) = made.stays
    assert (stays.digest, stays.held_by[0].kind) == (index, "lock")
    with pytest.raises(PlanChanged):
        apply_plan(registry, before.id, ALICE)
    apply_plan(registry, before.id, ALICE, allow_smaller=True)
    assert (exists(registry, index), exists(registry, loose)) == (True, False)


def test_a_locked_repository_stays_whole(registry: Registry) -> None:
    image = push_image(registry, "app", "v1", [b"layer"])
    lock(registry, image)
    made = make_plan(registry, PlanRequest(repositories=(APP,)), WITHOUT_ACCOUNTS, ALICE)
    (part,) = made.repositories
    assert "deleteEnabled is false" in given(part.locked)
    assert (made.freed_bytes, made.items) == (0, ())
    apply_plan(registry, made.id, ALICE)
    assert exists(registry, image)


def test_the_last_image_of_a_locked_repository_stays(registry: Registry) -> None:
    """azure.md section 5.4: the repository would go with it."""
    one, two = (push_image(registry, "app", tag, [tag.encode()]) for tag in ("one", "two"))

    def change(tx: Transaction) -> None:
        repository_id = find_repository(tx, APP)
        assert repository_id is not None
        attributes.set_of_repository(tx, repository_id, AttributeChanges(delete_enabled=False))

    registry.write(change)
    assert [item.digest for item in plan(registry, one).items] == [one]
    made = plan(registry, one, two)
    assert made.items == ()
    assert {stays.held_by[0].by for stays in made.stays} == {
        "deleteEnabled is false on repository 'app'"
    }


def test_a_lease_that_ended_since_frees_at_once_what_was_to_come_later(
    registry: Registry, clock: FakeClock
) -> None:
    image = push_image(registry, "app", "v1", [b"promised"])
    push_image(registry, "app", "v2", [b"other"])
    push_blob(registry, "app", b"promised")
    clock.advance(registry.limits.lease.total_seconds() / 2)
    made = plan(registry, image)
    assert made.freed_later_bytes == len(b"promised")
    clock.advance(registry.limits.lease.total_seconds() / 2)
    receipt = apply_plan(registry, made.id, ALICE)
    assert (receipt.freed_bytes, receipt.freed_later_bytes) == (len(b"promised"), 0)
    assert receipt.difference is None


def test_plans_are_forgotten_after_an_hour(registry: Registry, clock: FakeClock) -> None:
    image = push_image(registry, "app", "v1", [b"layer"])
    made = plan(registry, image)
    clock.advance(PLAN_LIFETIME.total_seconds())
    with pytest.raises(PlanUnknown):
        get_plan(registry, made.id, WITHOUT_ACCOUNTS)
    with pytest.raises(PlanUnknown):
        apply_plan(registry, made.id, ALICE)
    expire_plans(registry)
    assert exists(registry, image)


def test_a_plan_of_what_one_may_not_read_does_not_exist(registry: Registry) -> None:
    made = plan(registry, push_image(registry, "app", "v1", [b"layer"]))
    with pytest.raises(PlanUnknown):
        get_plan(registry, made.id, Principal("nobody"))


# --- rails ----------------------------------------------------------------------------------------


def test_a_list_that_nobody_read_does_not_empty_a_repository(registry: Registry) -> None:
    """gitlab#325429: a cleanup policy wiped all images of two repositories."""
    image = push_image(registry, "app", "v1", [b"layer"])
    wanted = PlanRequest(repository=APP, digests=(image,), computed=True)
    made = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    with pytest.raises(PlanRefused) as refused:
        apply_plan(registry, made.id, ALICE)
    words = json.loads(json.dumps(refused.value.detail))["allow"]
    assert words == ["empty-repository", "most-of-repository", "newest-image", "only-tag"]
    with pytest.raises(PlanRefused):
        apply_plan(registry, made.id, ALICE, allow=words[1:])
    assert apply_plan(registry, made.id, ALICE, allow=words).manifest_count == 1


def test_caps_hold_for_everybody(registry: Registry) -> None:
    images = [push_image(registry, "app", None, [b"layer %d" % n]) for n in range(3)]
    caps = Caps(max_manifests=1, max_bytes=10, max_percent=30)
    wanted = PlanRequest(repository=APP, digests=tuple(images[:2]), caps=caps)
    made = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    refusing = [each.rail for each in made.warnings if each.refuses]
    assert refusing == ["most-of-repository", "max-manifests", "max-bytes"]
    with pytest.raises(PlanRefused):
        apply_plan(registry, made.id, ALICE)


def test_what_a_person_named_is_pointed_out_and_done(registry: Registry) -> None:
    made = plan(registry, push_image(registry, "app", "v1", [b"layer"]))
    assert {each.rail for each in made.warnings} == {
        *("empty-repository", "most-of-repository", "only-tag", "newest-image"),
    }
    assert apply_plan(registry, made.id, ALICE).manifest_count == 1

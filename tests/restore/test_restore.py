"""Soft delete: a deletion is one operation, and restoring it brings everything back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cleaning import begin, finish, purge, retag, wait_days
from tests.support.documents import given
from tests.support.planting import plant_image
from tests.support.registry import ALICE, push_image, push_index, settle
from tests.support.undoing import (
    assert_explained,
    expire,
    hard,
    one_tag,
    operations,
    soft,
    stands,
    stored,
)
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.check.check import check
from ullage.check.findings import Mode
from ullage.cleanup.job.execution import work
from ullage.cleanup.job.jobs import get_job
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.deletion.delete import delete_manifest, delete_repository, delete_tag
from ullage.deletion.soft_delete import get_policy, set_policy
from ullage.failpoints import configure
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import (
    BlobUnknown,
    Locked,
    ManifestUnknown,
    NameUnknown,
    OperationDisallowed,
    OperationUnknown,
    PlanChanged,
    RestoreConflict,
    TagUnknown,
    ValueInvalid,
)
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.attributes import update_repository, update_tag
from ullage.registry.context import Registry
from ullage.registry.pull.read import get_manifest, list_referrers, stat_blob
from ullage.registry.queries.attributes import AttributeChanges
from ullage.registry.queries.audit import entries
from ullage.restore import restore
from ullage.restore.deleted import free_all, free_operation, get_operation
from ullage.restore.manifest import restore_manifest
from ullage.restore.restore import restore_operation
from ullage.usage import why
from ullage.usage.usage import registry_totals
from ullage.worker import CHOOSERS

APP = parse_repository_name("app")
GUARDRAILS = ("empty-repository", "most-of-repository", "only-tag", "newest-image")
V1, V2 = parse_tag("v1"), parse_tag("v2")


@pytest.fixture(autouse=True)
def sound(registry: Registry) -> Iterator[None]:
    """With soft delete on; when the test is over the check finds nothing, nor does the bill."""
    soft(registry)
    yield
    report = check(registry, Mode.DEEP)
    assert report.findings == ()
    assert_explained(registry)


def image(registry: Registry, tag: str | None, *layers: bytes, name: str = "app") -> Digest:
    return plant_image(registry, name, tag, layers)


def family(registry: Registry) -> tuple[Digest, Digest, Digest, Digest]:
    """An index with two children and a signature: (index, first, second, signature)."""
    first = push_image(registry, "app", None, [b"amd64"])
    second = push_image(registry, "app", None, [b"arm64"])
    index = push_index(registry, "app", "v1", [first, second])
    signature = push_image(registry, "app", None, [b"signed"], subject=index)
    retag(registry, "latest", index)
    return index, first, second, signature


def delete(registry: Registry, digest: Digest) -> str:
    """Delete an image; by which operation it can be taken back."""
    operation = delete_manifest(registry, APP, digest, ALICE).operation
    assert operation is not None
    return operation


# --- deleting and restoring -----------------------------------------------------------------------


def test_a_deleted_image_comes_back_with_tags_index_children_and_referrers(
    registry: Registry,
) -> None:
    """peers.md C4; Azure's restores one manifest and one tag."""
    index, *_ = family(registry)
    image(registry, "other", b"other")
    before, disk = stands(registry), stored(registry)
    operation = delete(registry, index)
    assert set(stands(registry)) == {one_tag(registry, "other")}
    assert stored(registry) == disk
    shown = get_operation(registry, operation, WITHOUT_ACCOUNTS)
    assert (shown.manifest_count, shown.tag_count) == (4, 2)
    restored = restore_operation(registry, operation, ALICE)
    assert (restored.manifest_count, restored.tag_count) == (4, 2)
    assert stands(registry) == before
    assert len(list_referrers(registry, APP, index, None, 10, None).descriptors) == 1
    assert operations(registry) == []
    with pytest.raises(OperationUnknown):
        restore_operation(registry, operation, ALICE)


def test_the_last_image_of_a_repository_comes_back_with_it(registry: Registry) -> None:
    before_index, *_ = family(registry)
    before = stands(registry)
    operation = delete(registry, before_index)
    assert stands(registry) == {}
    restore_operation(registry, operation, ALICE)
    assert stands(registry) == before


def test_a_repository_comes_back_whole(registry: Registry) -> None:
    family(registry)
    update_repository(registry, APP, AttributeChanges(list_enabled=False), ALICE)
    before = stands(registry)
    operation = delete_repository(registry, APP, ALICE).operation
    assert operation is not None
    with pytest.raises(NameUnknown):
        get_manifest(registry, APP, V1)
    restore_operation(registry, operation, ALICE)
    assert stands(registry) == before
    assert_explained(registry)


def test_a_repository_that_was_pushed_again_takes_back_what_was_deleted(registry: Registry) -> None:
    index, first, *_ = family(registry)
    before = stands(registry)
    operation = delete_repository(registry, APP, ALICE).operation
    assert operation is not None
    # The same platform, by the same digest, and something new.
    assert push_image(registry, "app", "again", [b"amd64"]) == first
    new = push_image(registry, "app", "new", [b"new"])
    restore_operation(registry, operation, ALICE)
    after = stands(registry)
    assert after.keys() == before.keys() | {new}
    assert after[index] == before[index]
    assert after[first][0] == ["again"]
    # The children are held again.
    with pytest.raises(OperationDisallowed):
        delete_manifest(registry, APP, first, ALICE)


def test_a_child_that_another_image_holds_stays_and_is_kept_too(registry: Registry) -> None:
    shared = push_image(registry, "app", None, [b"shared"])
    one = push_index(registry, "app", "v1", [shared])
    own = push_image(registry, "app", None, [b"own"])
    other = push_index(registry, "app", "v2", [own, shared])
    before = stands(registry)
    operation = delete(registry, one)
    assert stands(registry).keys() == {shared, own, other}
    # Even when all that held it goes for good.
    hard(registry)
    delete_manifest(registry, APP, other, ALICE)
    assert stands(registry) == {}
    stored(registry)
    restore_operation(registry, operation, ALICE)
    assert stands(registry) == {digest: before[digest] for digest in (shared, one)}


def test_an_untagged_image_gets_its_tag_back(registry: Registry) -> None:
    digest = image(registry, "v1", b"layer")
    before = stands(registry)
    untagged = delete_tag(registry, APP, V1, ALICE)
    assert untagged.digest == digest
    assert untagged.operation is not None
    assert one_tag(registry, "v1") is None
    restore_operation(registry, untagged.operation, ALICE)
    assert stands(registry) == before


def test_a_tag_whose_image_was_deleted_later_waits_for_it(registry: Registry) -> None:
    digest = image(registry, "v1", b"layer")
    untagged = delete_tag(registry, APP, V1, ALICE).operation
    assert untagged is not None
    operation = delete(registry, digest)
    with pytest.raises(ManifestUnknown, match="restore that first"):
        restore_operation(registry, untagged, ALICE)
    restore_operation(registry, operation, ALICE)
    restore_operation(registry, untagged, ALICE)
    assert one_tag(registry, "v1") == digest


def test_forced_a_restore_does_without_a_tag_whose_image_is_gone(registry: Registry) -> None:
    digest = image(registry, "v1", b"layer")
    untagged = delete_tag(registry, APP, V1, ALICE).operation
    assert untagged is not None
    hard(registry)
    delete_manifest(registry, APP, digest, ALICE)
    restored = restore_operation(registry, untagged, ALICE, force=True)
    assert restored.missing == [(APP, V1)]
    assert operations(registry) == []


@pytest.mark.parametrize("whole", [False, True])
def test_a_plan_is_one_operation_by_its_own_id(registry: Registry, whole: bool) -> None:
    index, *_ = family(registry)
    plant_image(registry, "web", "v1", [b"web"])
    names = (APP, parse_repository_name("web"))
    wanted = (
        PlanRequest(repositories=names) if whole else PlanRequest(repository=APP, digests=(index,))
    )
    before = stands(registry), stands(registry, "web")
    disk = stored(registry)
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    document = plan
    assert document.freed_bytes == 0
    assert {blob.because for blob in document.later} == {"soft-deleted"}
    assert document.restorable_until == document.later[0].until
    receipt = apply_plan(registry, plan.id, ALICE, allow=GUARDRAILS)
    assert receipt.operation == plan.id
    assert (receipt.freed_bytes, stored(registry)) == (0, disk)
    restore_operation(registry, plan.id, ALICE)
    assert (stands(registry), stands(registry, "web")) == before


def test_a_plan_that_could_be_taken_back_is_not_applied_for_good(registry: Registry) -> None:
    index, *_ = family(registry)
    other = image(registry, "other", b"other")
    plan = make_plan(
        registry, PlanRequest(repository=APP, digests=(index,)), WITHOUT_ACCOUNTS, ALICE
    )
    hard(registry)
    with pytest.raises(PlanChanged, match="soft delete is off by now"):
        apply_plan(registry, plan.id, ALICE, allow_smaller=True, allow=("most-of-repository",))
    soft(registry)
    apply_plan(registry, plan.id, ALICE, allow=("most-of-repository",))
    assert stands(registry).keys() == {other}


def test_a_purge_is_one_operation_in_however_many_batches(registry: Registry) -> None:
    for n in range(7):
        image(registry, f"old-{n}", b"layer %d" % n)
        plant_image(registry, "web", f"old-{n}", [b"web %d" % n])
    image(registry, "keep", b"keep")
    before = stands(registry), stands(registry, "web")
    disk = stored(registry)
    job_id = begin(registry, "(app|web):^old-", untagged=True, allow=GUARDRAILS)
    job = finish(registry, job_id, n=3)
    assert (job.state, job.manifests_deleted) == ("done", 14)
    assert job.planned_bytes == job.freed_bytes == 0
    assert job.freed_later_bytes == given(job.planned_later_bytes) > 0
    assert job.operation == job_id
    assert (len(operations(registry)), stored(registry)) == (1, disk)
    restored = restore_operation(registry, job_id, ALICE)
    assert (restored.manifest_count, restored.tag_count) == (14, 14)
    assert (stands(registry), stands(registry, "web")) == before


def test_a_purge_at_work_is_neither_restored_nor_freed(registry: Registry) -> None:
    for n in range(4):
        image(registry, f"old-{n}", b"layer %d" % n)
    image(registry, "keep", b"keep")
    before = stands(registry)
    job_id = begin(registry, "app:^old-", untagged=True)
    work(registry, CHOOSERS, "worker", 2)
    with pytest.raises(OperationDisallowed, match="still at work"):
        restore_operation(registry, job_id, ALICE)
    with pytest.raises(OperationDisallowed, match="still at work"):
        free_operation(registry, job_id, ALICE)
    assert finish(registry, job_id).state == "done"
    assert get_job(registry, job_id, WITHOUT_ACCOUNTS).operation == job_id
    restore_operation(registry, job_id, ALICE)
    assert stands(registry) == before


def test_restored_images_are_young_again_so_that_a_purge_that_chose_them_spares_them(
    registry: Registry,
) -> None:
    """Retention and soft delete work together: what somebody took back is not taken at once."""
    old = image(registry, None, b"old")
    image(registry, "keep", b"keep")
    wait_days(registry, 30)
    purge(registry, "app:.*", untagged_only=True, ago="7d")
    (operation,) = operations(registry)
    restore_operation(registry, operation.id, ALICE)
    purge(registry, "app:.*", untagged_only=True, ago="7d")
    assert old in stands(registry)
    wait_days(registry, 8)
    purge(registry, "app:.*", untagged_only=True, ago="7d")
    assert old not in stands(registry)


def several(registry: Registry) -> None:
    """Images that hang together in every way, beside some that do not."""
    family(registry)
    shared = push_image(registry, "app", None, [b"shared"])
    for n in range(3):
        own = push_image(registry, "app", f"own-{n}", [b"own %d" % n])
        push_index(registry, "app", f"index-{n}", [own, shared])
        push_image(registry, "app", None, [b"signed %d" % n], subject=own)
        image(registry, f"single-{n}", b"single %d" % n)


def signatures(registry: Registry, of: Digest) -> set[str]:
    """What refers to an image."""
    return {each.digest for each in list_referrers(registry, APP, of, None, 10, None).descriptors}


def test_what_is_large_comes_back_in_batches_of_whole_images(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(registry)
    before = stands(registry)
    signed = {digest: signatures(registry, Digest(digest)) for digest in before}
    assert sum(map(len, signed.values())) == 4
    operation = delete_repository(registry, APP, ALICE).operation
    assert operation is not None
    new = push_image(registry, "app", "new", [b"new"])
    monkeypatch.setattr(restore, "WHOLE", 1)
    monkeypatch.setattr(restore, "BATCH", 1)
    seen = [stands(registry)]
    write = registry.db.write

    def watched(work: Any, **more: Any) -> Any:
        result = write(work, **more)
        seen.append(stands(registry))
        return result

    monkeypatch.setattr(registry.db, "write", watched)
    restore_operation(registry, operation, ALICE)
    monkeypatch.undo()
    soft(registry)
    assert len(seen) > 3
    for state in seen:
        # At every moment whatever is there is whole.
        assert all(state[digest] == before[digest] for digest in state if digest != new)
        assert all(signed[digest] <= state.keys() for digest in state if digest != new)
    assert stands(registry) == before | {new: stands(registry)[new]}


def test_a_restore_that_was_killed_goes_on_where_it_was(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(registry)
    before = stands(registry)
    operation = delete_repository(registry, APP, ALICE).operation
    assert operation is not None
    push_image(registry, "app", "new", [b"new"])
    monkeypatch.setattr(restore, "WHOLE", 1)
    monkeypatch.setattr(restore, "BATCH", 1)
    for point in ("restore.in_transaction=raise:EIO@2", "restore.after_batch=raise:EIO@2"):
        configure(point)
        try:
            with pytest.raises(OSError, match="failpoint"):
                restore_operation(registry, operation, ALICE)
        finally:
            configure("")
        assert check(registry, Mode.DEEP).findings == ()
        assert before.keys() - stands(registry).keys()
    restore_operation(registry, operation, ALICE)
    assert {digest: stands(registry)[digest] for digest in before} == before


# --- tags that came back meanwhile ----------------------------------------------------------------


def test_a_tag_that_points_elsewhere_by_now_is_not_overwritten_unless_forced(
    registry: Registry,
) -> None:
    old = image(registry, "v1", b"old")
    image(registry, "keep", b"keep")
    operation = delete(registry, old)
    new = image(registry, "v1", b"new")
    with pytest.raises(RestoreConflict, match="app:v1 points to something else") as caught:
        restore_operation(registry, operation, ALICE)
    named = {"tag": "v1", "digest": new, "deleted": old}
    assert caught.value.detail == {"name": "app", "tags": [named]}
    assert one_tag(registry, "v1") == new
    restored = restore_operation(registry, operation, ALICE, force=True)
    assert (one_tag(registry, "v1"), restored.overwritten) == (old, [(APP, V1)])
    assert new in stands(registry)
    # The one that had to make room can be taken back as well.
    assert restored.overwritten_by is not None
    with pytest.raises(RestoreConflict):
        restore_operation(registry, restored.overwritten_by, ALICE)
    restore_operation(registry, restored.overwritten_by, ALICE, force=True)
    assert one_tag(registry, "v1") == new


def test_what_was_pushed_again_meanwhile_stays_as_it_is(registry: Registry) -> None:
    """Pushing a soft-deleted digest just works; Azure refuses it."""
    digest = push_image(registry, "app", "v1", [b"layer"])
    push_image(registry, "app", "keep", [b"keep"])
    operation = delete(registry, digest)
    # Nobody was promised it, so a client is told to upload it, and may.
    settle(registry)
    wait_days(registry, 1)
    settle(registry)
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest_of(b"layer"))
    assert push_image(registry, "app", "v1", [b"layer"]) == digest
    retag(registry, "v2", digest)
    restore_operation(registry, operation, ALICE)
    assert stands(registry)[digest][0] == ["v1", "v2"]


def test_a_lock_keeps_a_tag_from_being_overwritten_and_a_repository_from_being_written(
    registry: Registry,
) -> None:
    operation = delete(registry, image(registry, "v1", b"old"))
    new = image(registry, "v1", b"new")
    update_tag(registry, APP, V1, AttributeChanges(write_enabled=False), ALICE)
    with pytest.raises(Locked):
        restore_operation(registry, operation, ALICE, force=True)
    update_tag(registry, APP, V1, AttributeChanges(write_enabled=True), ALICE)
    update_repository(registry, APP, AttributeChanges(write_enabled=False), ALICE)
    with pytest.raises(Locked):
        restore_operation(registry, operation, ALICE, force=True)
    assert stands(registry).keys() == {new}
    update_repository(registry, APP, AttributeChanges(write_enabled=True), ALICE)


# --- one manifest (azure.md section 2.9) ----------------------------------------------------------


def test_one_manifest_comes_back_with_its_children_and_the_tag_that_was_named(
    registry: Registry,
) -> None:
    index, first, second, signature = family(registry)
    operation = delete_repository(registry, APP, ALICE).operation
    restored = restore_manifest(registry, APP, index, V1, ALICE)
    assert (restored.manifest_count, restored.tag_count) == (4, 1)
    assert stands(registry).keys() == {index, first, second, signature}
    assert stands(registry)[index][0] == ["v1"]
    # The other tag is still deleted, and comes back by itself.
    assert [each.id for each in operations(registry)] == [operation]
    restore_manifest(registry, APP, index, parse_tag("latest"), ALICE)
    assert stands(registry)[index][0] == ["latest", "v1"]
    assert operations(registry) == []


def test_one_manifest_by_digest_comes_back_with_all_its_tags(registry: Registry) -> None:
    one, other = image(registry, "v1", b"one"), image(registry, "other", b"other")
    retag(registry, "v2", one)
    delete_repository(registry, APP, ALICE)
    restore_manifest(registry, APP, one, None, ALICE)
    assert (one_tag(registry, "v1"), one_tag(registry, "v2")) == (one, one)
    assert other not in stands(registry)
    restore_manifest(registry, APP, other, None, ALICE)
    assert (one_tag(registry, "other"), operations(registry)) == (other, [])


def test_a_child_of_an_index_that_stays_deleted_is_copied(registry: Registry) -> None:
    _, first, *_ = family(registry)
    retag(registry, "amd64", first)
    before = stands(registry)
    operation = delete_repository(registry, APP, ALICE).operation
    assert operation is not None
    restore_manifest(registry, APP, first, parse_tag("amd64"), ALICE)
    assert stands(registry).keys() == {first}
    assert one_tag(registry, "amd64") == first
    restore_operation(registry, operation, ALICE)
    assert stands(registry) == before


def test_what_there_is_not_cannot_be_restored(registry: Registry) -> None:
    digest = image(registry, "v1", b"layer")
    with pytest.raises(NameUnknown):
        restore_manifest(registry, APP, digest, V1, ALICE)
    delete(registry, digest)
    with pytest.raises(TagUnknown):
        restore_manifest(registry, APP, digest, V2, ALICE)
    with pytest.raises(ManifestUnknown):
        restore_manifest(registry, APP, Digest("sha256:" + "0" * 64), None, ALICE)
    image(registry, "v1", b"new")
    for tag in (V1, None):
        with pytest.raises(RestoreConflict):
            restore_manifest(registry, APP, digest, tag, ALICE)
    restore_manifest(registry, APP, digest, V1, ALICE, force=True)
    assert one_tag(registry, "v1") == digest


# --- freeing --------------------------------------------------------------------------------------


def test_bytes_are_freed_when_the_days_are_over_by_the_policy_of_that_moment(
    registry: Registry,
) -> None:
    """azure.md section 5.5: the purge uses the current retention value, also when disabled."""
    image(registry, "keep", b"keep")
    gone, disk = image(registry, "v1", b"gone" * 100), stored(registry)
    delete(registry, gone)
    wait_days(registry, 6)
    assert (expire(registry), stored(registry)) == (0, disk)
    soft(registry, days=10)
    wait_days(registry, 3)
    assert expire(registry) == 0
    hard(registry)
    wait_days(registry, 1)
    assert expire(registry) == 1
    assert disk - stored(registry) == 400
    assert operations(registry) == []


def test_fewer_days_make_due_what_was_deleted_before(registry: Registry) -> None:
    delete(registry, image(registry, "v1", b"gone"))
    wait_days(registry, 2)
    assert expire(registry) == 0
    soft(registry, days=1)
    assert expire(registry) == 1


def test_freeing_an_operation_gives_back_what_it_says_to_the_byte(registry: Registry) -> None:
    base = b"base" * 50
    image(registry, "keep", base, b"keep")
    gone = image(registry, "v1", base, b"gone" * 100)
    other = delete(registry, image(registry, "v2", b"gone" * 100, b"other" * 7))
    operation, disk = delete(registry, gone), stored(registry)
    assert get_operation(registry, operation, WITHOUT_ACCOUNTS).exclusive_bytes == 0
    assert free_operation(registry, operation, ALICE).freed_bytes == 0
    assert stored(registry) == disk
    assert get_operation(registry, other, WITHOUT_ACCOUNTS).exclusive_bytes == 435
    assert free_operation(registry, other, ALICE).freed_bytes == 435
    assert disk - stored(registry) == 435
    with pytest.raises(OperationUnknown):
        free_operation(registry, other, ALICE)


def test_everything_deleted_is_freed_at_once(registry: Registry) -> None:
    image(registry, "keep", b"keep")
    shared = b"shared" * 10
    for tag in ("v1", "v2"):
        delete(registry, image(registry, tag, shared, tag.encode()))
    delete_tag(registry, APP, parse_tag("keep"), ALICE)
    disk = stored(registry)
    freed = free_all(registry, WITHOUT_ACCOUNTS, ALICE)
    assert (len(freed.operations), freed.freed_bytes) == (3, 64)
    assert disk - stored(registry) == 64
    assert operations(registry) == []


def test_without_soft_delete_bytes_that_something_kept_needs_stay(registry: Registry) -> None:
    """Predicted = freed, whichever way what shares them was deleted."""
    shared = b"shared" * 10
    image(registry, "keep", b"keep")
    one, two = image(registry, "v1", shared, b"one"), image(registry, "v2", shared, b"two" * 9)
    operation = delete(registry, one)
    hard(registry)
    plan = make_plan(registry, PlanRequest(repository=APP, digests=(two,)), WITHOUT_ACCOUNTS, ALICE)
    disk = stored(registry)
    receipt = apply_plan(registry, plan.id, ALICE, allow=("most-of-repository", "newest-image"))
    assert plan.freed_bytes == receipt.freed_bytes == 27
    assert (disk - stored(registry), receipt.operation) == (27, None)
    restore_operation(registry, operation, ALICE)
    assert one_tag(registry, "v1") == one


# --- what it says ---------------------------------------------------------------------------------


def test_soft_deleted_bytes_are_shown_as_such(registry: Registry) -> None:
    image(registry, "keep", b"keep")
    digest = push_image(registry, "app", "v1", [b"gone" * 100])
    wait_days(registry, 1)
    stored(registry)
    before = registry_totals(registry)
    operation = delete(registry, digest)
    bill = registry_totals(registry)
    assert bill.soft_deleted_bytes == 400
    assert bill.tagged_bytes == before.tagged_bytes - 400
    until = get_operation(registry, operation, WITHOUT_ACCOUNTS).until
    for each in (digest, digest_of(b"gone" * 100)):
        said = why.explain(registry, each, WITHOUT_ACCOUNTS).because
        assert said == f"nothing: soft-deleted until {until}"


def test_every_step_is_in_the_audit_log(registry: Registry) -> None:
    image(registry, "keep", b"keep")
    operation = delete(registry, image(registry, "v1", b"layer"))
    restore_operation(registry, operation, ALICE)
    other = delete(registry, image(registry, "v2", b"other"))
    free_operation(registry, other, ALICE)
    log = registry.read(lambda tx: entries(tx, limit=100))
    noted = {(each.action, each.target) for each in log}
    assert noted >= {("operation.restore", operation), ("operation.free", other)}
    deleted = [each for each in log if each.action == "manifest.delete"]
    assert {each.detail["operation"] for each in deleted} == {operation, other}


@pytest.mark.parametrize("days", [0, 91, -1, 10**12])
def test_days_are_from_one_to_ninety(registry: Registry, days: int) -> None:
    with pytest.raises(ValueInvalid):
        set_policy(registry, ALICE, days=days)
    assert get_policy(registry).days == 7


def test_switched_off_nothing_is_kept(registry: Registry) -> None:
    hard(registry)
    image(registry, "keep", b"keep")
    digest, disk = image(registry, "v1", b"gone"), stored(registry)
    deleted = delete_manifest(registry, APP, digest, ALICE)
    assert (deleted.operation, deleted.freed_bytes) == (None, 4)
    assert disk - stored(registry) == 4
    assert operations(registry) == []

"""Any history of pushes, deletions, restores and freeings, with soft delete on and off.

The model is what clients can see of each repository, remembered before each deletion. What a
restore brings back must be exactly what the deletion took; what freeing gives back must be what was
predicted, to the byte, by the store's own word; and the bill always adds up to it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
)

from tests.support.cleaning import retag
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.histories import run_histories
from tests.support.planting import image_manifest, plant_image
from tests.support.registry import ALICE, push_index, settle
from tests.support.soundness import assert_sound
from tests.support.undoing import assert_explained, hard, soft, stands
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.check import check
from ullage.check.findings import Mode
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.database.schema import base
from ullage.database.transaction import Database, Transaction
from ullage.deletion.delete import delete_manifest, delete_repository, delete_tag
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import ManifestUnknown, OperationDisallowed, RestoreConflict
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.restore.deleted import free_operation, get_operation
from ullage.restore.restore import restore_operation

NAMES = ("app", "web")
TAGS = ("v1", "v2", "v3")
# A few, so that images share them; of sizes that tell which of them a sum is of.
LAYERS = tuple(bytes([65 + n]) * 7**n for n in range(5))
GUARDRAILS = ("empty-repository", "most-of-repository", "only-tag", "newest-image")
State = dict[str, Any]


class UndoMachine(RuleBasedStateMachine):
    def __init__(self, db: Database) -> None:
        super().__init__()
        db.write(_empty)
        self.clock = FakeClock()
        self.registry = registry_on(db, MemoryBlobStore(), self.clock)
        self.on = True
        soft(self.registry)
        # Each operation that can be taken back: of which repository, and how that was before.
        self.operations: dict[str, tuple[str, State, State]] = {}

    # -- pushing

    @rule(
        name=st.sampled_from(NAMES),
        tag=st.none() | st.sampled_from(TAGS),
        layers=st.sets(st.sampled_from(LAYERS), min_size=1, max_size=2).map(sorted),
        data=st.data(),
    )
    def push(self, name: str, tag: str | None, layers: list[bytes], data: st.DataObject) -> None:
        there = sorted(stands(self.registry, name))
        drawn = data.draw(st.none() | st.sampled_from(there)) if there else None
        subject = Digest(drawn) if drawn is not None else None
        digest = digest_of(json.dumps(image_manifest(layers, b"{}", subject)).encode())
        if digest not in there:
            plant_image(self.registry, name, tag, layers, subject=subject)
        elif tag is not None:
            retag(self.registry, tag, digest, name)

    @rule(name=st.sampled_from(NAMES), tag=st.sampled_from(TAGS), data=st.data())
    def push_an_index(self, name: str, tag: str, data: st.DataObject) -> None:
        there = sorted(stands(self.registry, name))
        if there:
            chosen = data.draw(st.sets(st.sampled_from(there), min_size=1, max_size=2).map(sorted))
            push_index(self.registry, name, tag, [Digest(digest) for digest in chosen])

    # -- deleting

    @rule(name=st.sampled_from(NAMES), data=st.data(), planned=st.booleans())
    def delete_an_image(self, name: str, data: st.DataObject, planned: bool) -> None:
        before = stands(self.registry, name)
        if not before:
            return
        digest = Digest(data.draw(st.sampled_from(sorted(before))))
        repository = parse_repository_name(name)
        disk = self._disk()
        if planned:
            wanted = PlanRequest(repository=repository, digests=(digest,))
            plan = make_plan(self.registry, wanted, WITHOUT_ACCOUNTS, ALICE)
            receipt = apply_plan(self.registry, plan.id, ALICE, allow=GUARDRAILS)
            assert disk - self._disk() == plan.freed_bytes == receipt.freed_bytes
            operation = receipt.operation
        else:
            try:
                deleted = delete_manifest(self.registry, repository, digest, ALICE)
            except OperationDisallowed:
                assert stands(self.registry, name) == before
                return
            assert disk - self._disk() == deleted.freed_bytes
            operation = deleted.operation
        self._deleted(operation, name, before)

    @rule(name=st.sampled_from(NAMES))
    def delete_everything(self, name: str) -> None:
        before = stands(self.registry, name)
        if before:
            gone = delete_repository(self.registry, parse_repository_name(name), ALICE)
            self._deleted(gone.operation, name, before)

    @rule(name=st.sampled_from(NAMES), data=st.data())
    def untag(self, name: str, data: st.DataObject) -> None:
        before = stands(self.registry, name)
        tags = sorted(tag for value in before.values() for tag in value[0])
        if tags:
            tag = parse_tag(data.draw(st.sampled_from(tags)))
            gone = delete_tag(self.registry, parse_repository_name(name), tag, ALICE)
            self._deleted(gone.operation, name, before)

    def _deleted(self, operation: str | None, name: str, before: State) -> None:
        after = stands(self.registry, name)
        if after != before:
            assert (operation is not None) == self.on
        if operation is not None:
            self.operations[operation] = (name, before, after)
        self._look()

    # -- undoing

    @precondition(lambda self: self.operations)
    @rule(data=st.data(), force=st.booleans())
    def restore(self, data: st.DataObject, force: bool) -> None:
        operation = data.draw(st.sampled_from(sorted(self.operations)))
        name, before, after = self.operations[operation]
        now = stands(self.registry, name)
        try:
            restored = restore_operation(self.registry, operation, ALICE, force=force)
        except (RestoreConflict, ManifestUnknown):
            assert not force
            assert stands(self.registry, name) == now
            return
        del self.operations[operation]
        if restored.overwritten_by is not None:
            # That one is not followed any further.
            free_operation(self.registry, restored.overwritten_by, ALICE)
        found = stands(self.registry, name)
        missing = {tag for _, tag in restored.missing}
        for digest in before.keys() - after.keys():
            assert set(before[digest][0]) <= set(found[digest][0])
            assert found[digest][1:] == before[digest][1:]
        for digest in before.keys() & after.keys():
            taken = set(before[digest][0]) - set(after[digest][0]) - missing
            assert taken <= set(found.get(digest, [[]])[0])
        # Nothing else has changed, but for tags that had to make room.
        assert found.keys() == now.keys() | (before.keys() - after.keys()) | found.keys() & {
            child for digest in before.keys() - after.keys() for child in before[digest][1]
        }
        if now == after:
            assert found == before
        self._look()

    @precondition(lambda self: self.operations)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        operation = data.draw(st.sampled_from(sorted(self.operations)))
        disk = self._disk()
        shown = get_operation(self.registry, operation, WITHOUT_ACCOUNTS)
        freed = free_operation(self.registry, operation, ALICE)
        del self.operations[operation]
        assert disk - self._disk() == freed.freed_bytes == shown.exclusive_bytes
        self._look()

    @rule(on=st.booleans())
    def switch(self, on: bool) -> None:
        self.on = on
        (soft if on else hard)(self.registry)

    # -- looking

    def _disk(self) -> int:
        """Bytes in the store when the worker has done its work."""
        settle(self.registry)
        self.clock.advance(self.registry.limits.read_grace.total_seconds())
        settle(self.registry)
        return sum(found.size for found in self.registry.blobs.list())

    def _look(self) -> None:
        self._disk()
        assert_sound(self.registry)
        assert_explained(self.registry)

    def teardown(self) -> None:
        """Whatever is left can all be given up, and then only what is live takes room."""
        for operation in self.operations:
            free_operation(self.registry, operation, ALICE)
        for name in NAMES:
            if stands(self.registry, name):
                hard(self.registry)
                delete_repository(self.registry, parse_repository_name(name), ALICE)
        assert self._disk() == 0
        assert check(self.registry, Mode.DEEP).findings == ()


def _empty(tx: Transaction) -> None:
    for table in reversed(base.metadata.sorted_tables):
        if table.name != "registry_facts":
            tx.execute_directly(table.delete())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "examples"),
    [("sqlite_db", 12), pytest.param("postgres_db", 3, marks=pytest.mark.postgresql)],
)
def test_whatever_was_deleted_comes_back_as_it_was_or_frees_what_it_said(
    request: pytest.FixtureRequest, engine: str, examples: int
) -> None:
    db: Database = request.getfixturevalue(engine)
    run_histories(UndoMachine, db, examples, steps=20)

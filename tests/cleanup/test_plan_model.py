"""Predicted = freed, to the byte: every plan that is carried out, in any history, on real files.

The histories are those of test_model.py, with plans made, kept for a while and carried out in
between. What the model says goes must be what the plan says goes; what the files of the store lose
must be what the plan said they would; and a plan that is out of date changes nothing.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from tests.deletion.test_model import ALICE, SIZES, RegistryMachine
from tests.support.fixtures import registry_on
from tests.support.soundness import assert_sound
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.files.store import LABEL, FileBlobStore
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.documents import PlanDocument, Receipt
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.database.transaction import Database, Transaction
from ullage.deletion.reclaim import erase_deleted, reclaim_due
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import PlanChanged, PlanUnknown
from ullage.oci.reference import RepositoryName, Tag, parse_tag
from ullage.registry.queries import attributes
from ullage.registry.queries.attributes import AttributeChanges
from ullage.registry.queries.content.manifests import all_digests
from ullage.registry.queries.content.repositories import find_repository
from ullage.usage.usage import by_image, by_namespace, by_repository, registry_totals, unexplained


def du(folder: Path) -> int:
    """Bytes of all files, by the file system's own word."""
    # The label belongs to no image: it says which registry the folder is of.
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LABEL)
    return sum(path.stat().st_size for path in files)


class PlanMachine(RegistryMachine):
    """As its parent, with plans."""

    def __init__(self, db: Database, folder: Path) -> None:
        super().__init__(db)
        self.folder = folder
        self.store = FileBlobStore(folder)  # type: ignore[assignment]
        self.registry = registry_on(db, self.store, self.clock)
        self.kept: list[tuple[PlanDocument, PlanRequest]] = []

    # -- planning and carrying out at once

    @precondition(lambda self: self.repositories)
    @rule(data=st.data(), lock=st.booleans())
    def plan_images(self, data: st.DataObject, lock: bool) -> None:
        wanted = self._draw_images(data, most=1 if lock else 3)
        assert wanted.repository is not None
        model = self.repositories[wanted.repository]
        locked = data.draw(st.sampled_from(sorted(model.tags))) if lock and model.tags else None
        with self._locked(wanted.repository, locked):
            plan = make_plan(self.registry, wanted, WITHOUT_ACCOUNTS, ALICE)
            going = self._going(wanted)
            if locked is not None and model.tags[locked] in going:
                going = set()
            assert {item.digest for item in plan.items} == going
            before = self._needed()
            self._carry_out(plan)
        model.remove(going)
        self._forget_if_empty(wanted.repository)
        lost = sum(SIZES[digest] for digest in before - self._needed())
        promised = plan.freed_bytes + plan.freed_later_bytes
        assert promised == lost

    @precondition(lambda self: self.repositories)
    @rule(data=st.data())
    def plan_repositories(self, data: st.DataObject) -> None:
        known = st.sampled_from(sorted(self.repositories))
        chosen = data.draw(st.sets(known, min_size=1, max_size=2).map(sorted))
        wanted = PlanRequest(repositories=tuple(chosen))
        self._carry_out(make_plan(self.registry, wanted, WITHOUT_ACCOUNTS, ALICE))
        for name in chosen:
            del self.repositories[name]
        self.quiet = False

    # -- carrying out later

    @precondition(lambda self: self.repositories)
    @rule(data=st.data())
    def plan_for_later(self, data: st.DataObject) -> None:
        wanted = self._draw_images(data, most=3)
        self.kept.append((make_plan(self.registry, wanted, WITHOUT_ACCOUNTS, ALICE), wanted))

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), allow_smaller=st.booleans())
    def carry_out_an_old_plan(self, data: st.DataObject, allow_smaller: bool) -> None:
        plan, wanted = self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1)))
        assert wanted.repository is not None
        before = self._manifests(wanted.repository)
        try:
            self._carry_out(plan, allow_smaller=allow_smaller)
        except (PlanChanged, PlanUnknown):
            # The world has changed, or an hour has passed.
            assert self._manifests(wanted.repository) == before
            return
        gone = before - self._manifests(wanted.repository)
        planned = {item.digest for item in plan.items}
        assert gone <= planned if allow_smaller else gone == planned
        if wanted.repository in self.repositories:
            self.repositories[wanted.repository].remove(gone)
            self._forget_if_empty(wanted.repository)

    # -- the bill

    def _check_what_can_be_read(self) -> None:
        """Whenever the worker has done its work, the bill adds up, and agrees with plans."""
        super()._check_what_can_be_read()
        bill = registry_totals(self.registry)
        assert unexplained(self.registry) == (du(self.folder), 0)
        assert bill.disk_bytes == du(self.folder)
        held = self._held_by_tags()
        assert bill.tagged_bytes == sum(SIZES[digest] for digest in held)
        assert bill.untagged_bytes == sum(SIZES[digest] for digest in self._needed() - held)
        parts = (bill.tagged_bytes, bill.untagged_bytes, bill.leased_bytes)
        assert sum(parts) + bill.uploading_bytes + bill.pending_bytes == bill.disk_bytes
        for lines in (by_repository(self.registry, WITHOUT_ACCOUNTS), by_namespace(self.registry)):
            assert sum(line.fair_share_bytes for line in lines) == sum(parts)
        for name in sorted(self.repositories)[:1]:
            for line in by_image(self.registry, name, tags=False)[:2]:
                wanted = PlanRequest(repository=name, digests=(parse_digest(line.digest),))
                plan = make_plan(self.registry, wanted, WITHOUT_ACCOUNTS, ALICE)
                assert plan.freed_bytes + plan.freed_later_bytes == line.exclusive_bytes

    def _held_by_tags(self) -> set[Digest]:
        """The blobs of everything that a tag leads to: children and referrers too."""
        blobs: set[Digest] = set()
        for model in self.repositories.values():
            held = set(model.tags.values())
            while fresh := {
                each
                for each in model.manifests.keys() - held
                if model.parents(each) & held or model.manifests[each].subject in held
            }:
                held |= fresh
            blobs |= {blob for each in held for blob in model.manifests[each].blobs}
        return blobs

    # -- helpers

    def _draw_images(self, data: st.DataObject, most: int) -> PlanRequest:
        name = data.draw(st.sampled_from(sorted(self.repositories)))
        model = self.repositories[name]
        digests = data.draw(
            st.sets(st.sampled_from(sorted(model.manifests)), min_size=1, max_size=most)
        )
        tags: set[str] = set()
        if most > 1 and model.tags:
            tags = data.draw(st.sets(st.sampled_from(sorted(model.tags)), max_size=1))
        return PlanRequest(
            repository=name,
            digests=tuple(sorted(digests)),
            tags=tuple(map(parse_tag, sorted(tags))),
        )

    def _going(self, wanted: PlanRequest) -> set[Digest]:
        """deletion.md section 2, of several roots; one that a live index lists stays."""
        assert wanted.repository is not None
        model = self.repositories[wanted.repository]
        roots = {*wanted.digests, *(model.tags[tag] for tag in wanted.tags)}
        going: set[Digest] = set()
        while growing := {
            each
            for each in model.manifests.keys() - going
            if (each in roots and not model.parents(each) - going) or model.goes(each, going)
        }:
            going |= growing
        return going

    def _carry_out(self, plan: PlanDocument, *, allow_smaller: bool = False) -> Receipt:
        """Apply it, let what is due go, and compare the files."""
        self._reclaim_all()
        while erase_deleted(self.registry):
            pass
        self._reclaim_all()
        before = du(self.folder)
        receipt = apply_plan(self.registry, plan.id, ALICE, allow_smaller=allow_smaller)
        while erase_deleted(self.registry):
            pass
        self._reclaim_all()
        assert before - du(self.folder) == receipt.freed_bytes
        if not receipt.difference:
            planned = plan.freed_bytes + plan.freed_later_bytes
            assert receipt.freed_bytes + receipt.freed_later_bytes == planned
            assert receipt.freed_bytes >= plan.freed_bytes
        assert apply_plan(self.registry, plan.id, ALICE) == receipt
        assert_sound(self.registry)
        return receipt

    def _reclaim_all(self) -> None:
        """Every tombstone; but no review, so that what is leased stays for as long as it takes."""
        self.clock.advance(self.registry.limits.read_grace.total_seconds())
        while reclaim_due(self.registry):
            pass

    def _manifests(self, name: RepositoryName) -> set[Digest]:
        def read(tx: Transaction) -> set[Digest]:
            repository_id = find_repository(tx, name)
            return set() if repository_id is None else set(all_digests(tx, repository_id))

        return self.registry.read(read)

    @contextmanager
    def _locked(self, name: RepositoryName, tag: str | None) -> Iterator[None]:
        def switch(tx: Transaction, on: bool) -> None:
            repository_id = find_repository(tx, name)
            if repository_id is not None and tag is not None:
                changes = AttributeChanges(delete_enabled=on)
                attributes.set_of_tag(tx, repository_id, Tag(tag), changes)

        self.registry.write(lambda tx: switch(tx, False))
        yield
        self.registry.write(lambda tx: switch(tx, True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "examples"),
    [("sqlite_db", 10), pytest.param("postgres_db", 3, marks=pytest.mark.postgresql)],
)
def test_what_a_plan_predicts_is_what_the_disk_gives_back(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str, examples: int
) -> None:
    """deletion.md section 1, promise 3; sourcefrog/conserve#158 predicted 18 MB and freed 527."""
    db: Database = request.getfixturevalue(engine)
    many = os.environ.get("ULLAGE_EXAMPLES")

    class Machine(PlanMachine):
        def __init__(self) -> None:
            super().__init__(db, tmp_path / uuid.uuid4().hex)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(many or examples),
            stateful_step_count=50 if many else 25,
            deadline=None,
            derandomize=not many,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Taking a deletion back: tags, indexes, children and referrers together, to the exact tags.

Everything that an operation keeps goes back in batches of whole images, each in a transaction of
its own; what is small, which is nearly everything, in one. After a crash in between, another
restore brings the rest back. A repository whose name was not pushed to since comes back as a row,
however large it is.

The repository's row is locked first, then the hidden one, then the blobs: the order of every writer
(registry/queries/content).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from ullage.cleanup.queries import jobs
from ullage.database.transaction import Transaction
from ullage.deletion.queries.move_manifests import move_manifests
from ullage.deletion.queries.operations.move_manifests import Clash, drop_tags, rows_of, some_roots
from ullage.deletion.queries.operations.records import begin, end_if_empty, find
from ullage.deletion.queries.operations.repositories import (
    KeptRepository,
    kept_by,
    lock_kept,
    show_repository,
    unkeep,
)
from ullage.deletion.queries.operations.tags import (
    RememberedTag,
    forget_tags,
    put_remembered,
    remember_tags,
    remembered,
)
from ullage.deletion.succession import give_way
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest
from ullage.oci.errors import (
    OperationDisallowed,
    OperationUnknown,
)
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks, image_locks, immutable_tags
from ullage.registry.queries.content.blobs import lock_blobs
from ullage.registry.queries.content.manifests import ManifestRow, find_manifests, touch_manifest
from ullage.registry.queries.content.remove_manifests import blobs_of, parents_of, referrers_of
from ullage.registry.queries.content.repositories import (
    add_to_repository,
    count_manifests,
    drop_repository_if_empty,
    ensure_repository,
    lock_repository,
    touch_repository,
)
from ullage.registry.queries.reclaim.erase_repository import mark_deleted
from ullage.registry.queries.reclaim.release_links import release_links
from ullage.registry.queries.reclaim.reviews import cancel_reviews
from ullage.registry.queries.references.manifests import all_manifests, children, tagged, tags_on
from ullage.restore.conflicts import refuse, require_manifests, require_room

# Up to so many manifests come back in one transaction; of more, so many at a time, and a few more
# where they hang together.
WHOLE = 500
BATCH = 100


@dataclass(slots=True)
class Restored:
    """What came back, and what had to make room for it."""

    repositories: set[RepositoryName] = field(default_factory=set)
    manifest_count: int = 0
    tag_count: int = 0
    # Tags that made room, and by which operation they can be put back.
    overwritten: list[tuple[RepositoryName, Tag]] = field(default_factory=list)
    overwritten_by: str | None = None
    # Tags that could not come back because what they pointed to is gone.
    missing: list[tuple[RepositoryName, Tag]] = field(default_factory=list)

    def add(self, more: Restored) -> None:
        self.repositories |= more.repositories
        self.manifest_count += more.manifest_count
        self.tag_count += more.tag_count
        self.overwritten += more.overwritten
        self.overwritten_by = more.overwritten_by or self.overwritten_by
        self.missing += more.missing


# --- an operation ---------------------------------------------------------------------------------


def restore_operation(
    registry: Registry, operation_id: str, caller: Caller, *, force: bool = False
) -> Restored:
    """Undo a deletion; whole, unless this process is stopped: then the rest waits for another call.

    The caller has checked the rights. `force` overwrites tags that came back meanwhile, which is an
    operation of its own, and does without tags of manifests that are gone. Raises
    OperationUnknown, RestoreConflict with the tags, ManifestUnknown, Locked, OperationDisallowed
    while a job goes on deleting.
    """
    kept = registry.snapshot(lambda tx: _what_to_restore(tx, operation_id, force=force))
    work = Restoring(registry, caller, operation_id, force=force)
    done = Restored()
    for each in kept:
        more = True
        while more:
            more = registry.write(partial(work.some, kept=each))
            done.add(work.batch)
            failpoint("restore.after_batch")
    registry.write(work.finish)
    done.add(work.batch)
    registry.wake()
    return done


def _what_to_restore(tx: Transaction, operation_id: str, *, force: bool) -> list[KeptRepository]:
    """What it keeps. Nothing is restored halfway, so all that is in the way is found here."""
    if find(tx, operation_id) is None:
        raise OperationUnknown({"operation": operation_id})
    job = jobs.find(tx, operation_id)
    if job is not None and job.finished_at is None:
        raise OperationDisallowed(
            {"job": operation_id},
            f"the {job.kind} is still at work; cancel it, or wait for its end",
        )
    kept = kept_by(tx, [operation_id]).get(operation_id, [])
    if not force:
        require_room(tx, kept, remembered(tx, operation_id))
    return kept


@dataclass(slots=True)
class Restoring:
    """One restore, over several transactions. `batch` is what the last of them did."""

    registry: Registry
    caller: Caller
    operation_id: str
    force: bool
    batch: Restored = field(default_factory=Restored)
    # Of tags that have to make room; all in one.
    overwriting: str | None = None

    def some(self, tx: Transaction, kept: KeptRepository) -> bool:
        """Bring back some manifests of a repository; False when there is nothing left."""
        now, self.batch = self.registry.now(), Restored()
        live = ensure_repository(tx, kept.name, now)
        live_id = live.id
        hidden = lock_kept(tx, kept.repository_id)
        if hidden is None or hidden.operation_id != self.operation_id:
            drop_repository_if_empty(tx, live_id)
            return False
        attribute_locks.require_row_writable(live)
        dropped = drop_repository_if_empty(tx, live_id)
        if dropped or self._gives_way(tx, live_id, now):
            show_repository(tx, hidden)
            if not dropped:
                give_way(tx, self.registry, live_id, hidden.repository_id, now)
            self.came_back(tx, hidden.name, hidden.manifest_count, hidden.tag_count)
            end_if_empty(tx, self.operation_id)
            return False
        rows = self._next(tx, hidden)
        if rows:
            self._move(tx, hidden, live_id, rows, now)
        if len(rows) < hidden.manifest_count:
            return True
        drop_hidden(tx, hidden.repository_id, now)
        # With what it kept: nothing has to come after the last batch for it to be over.
        end_if_empty(tx, self.operation_id)
        return False

    def _gives_way(self, tx: Transaction, live_id: int, now: datetime) -> bool:
        """Take the live repository's name away if there is nothing but what pushers count on."""
        if count_manifests(tx, live_id) or image_locks.covered(tx, live_id, now).first():
            return False
        mark_deleted(tx, live_id, now)
        return True

    def _next(self, tx: Transaction, kept: KeptRepository) -> list[ManifestRow]:
        """Manifests that hang together with none that is not among them."""
        if kept.manifest_count <= WHOLE:
            return all_manifests(tx, kept.repository_id)
        return _connected(tx, kept.repository_id, some_roots(tx, kept.repository_id, BATCH))

    def _move(
        self,
        tx: Transaction,
        kept: KeptRepository,
        live_id: int,
        rows: Sequence[ManifestRow],
        now: datetime,
    ) -> None:
        tags = tags_on(tx, [row.id for row in rows])
        digests = {row.id: row.digest for row in rows}
        coming = {tag: digests[id_] for id_, some in tags.items() for tag in some}
        same = self.make_room(tx, kept.name, live_id, coming, now)
        if same:
            # They point there already, and are live.
            dropped = drop_tags(tx, kept.repository_id, same)
            add_to_repository(tx, kept.repository_id, tag_count=-dropped)
        move_back(tx, self.registry, kept.repository_id, live_id, rows, [], now)
        self.came_back(tx, kept.name, len(rows), len(coming) - len(same))

    def make_room(
        self,
        tx: Transaction,
        name: RepositoryName,
        live_id: int,
        coming: dict[Tag, Digest],
        now: datetime,
    ) -> list[Tag]:
        """Take tags away that are in the way, if that is allowed; those that are there as wanted.

        Raises RestoreConflict, Locked; OperationDisallowed if a rule makes one immutable.
        """
        there = tagged(tx, live_id, coming.keys())
        same = [tag for tag, row in there.items() if row.digest == coming[tag]]
        clashes = [
            Clash(tag, coming[tag], row.digest)
            for tag, row in sorted(there.items())
            if row.digest != coming[tag]
        ]
        if not clashes:
            return same
        if not self.force:
            refuse(name, clashes)
        names = [clash.name for clash in clashes]
        attribute_locks.require_tags_writable(tx, live_id, name, names)
        immutable_tags.require_tags_free(tx, name, names)
        self.overwriting = self.overwriting or self.registry.fresh_key()
        subject, target = self.caller.subject, self.operation_id
        begin(tx, self.overwriting, "restore.overwrite", subject, target, now)
        remember_tags(tx, self.overwriting, live_id, name, names)
        dropped = drop_tags(tx, live_id, names)
        add_to_repository(tx, live_id, tag_count=-dropped)
        for row in there.values():
            touch_manifest(tx, row.id, now)
        self.batch.overwritten += [(name, tag) for tag in names]
        self.batch.overwritten_by = self.overwriting
        return same

    def came_back(self, tx: Transaction, name: RepositoryName, manifests: int, tags: int) -> None:
        failpoint("restore.in_transaction")
        self.batch.repositories.add(name)
        self.batch.manifest_count += manifests
        self.batch.tag_count += tags
        self.registry.audit(
            tx,
            self.caller,
            "operation.restore",
            repository=name,
            target=self.operation_id,
            detail={"manifest_count": manifests, "tag_count": tags},
        )

    def finish(self, tx: Transaction) -> None:
        """Put tags back whose manifests stayed; what keeps nothing any more is forgotten."""
        now, self.batch = self.registry.now(), Restored()
        left = remembered(tx, self.operation_id)
        for name in sorted({tag.repository for tag in left}):
            self.put_tags_back(tx, name, [tag for tag in left if tag.repository == name], now)
        end_if_empty(tx, self.operation_id)

    def put_tags_back(
        self, tx: Transaction, name: RepositoryName, tags: Sequence[RememberedTag], now: datetime
    ) -> None:
        """Of one operation. Raises ManifestUnknown unless forced, RestoreConflict, Locked.

        Those that another restore has put back meanwhile are left alone: somebody may have taken
        them away again.
        """
        live_id = lock_repository(tx, name)
        # A statement after the lock, so that it sees what was done while the lock was waited for.
        left = set(remembered(tx, tags[0].operation_id))
        tags = [tag for tag in tags if tag in left]
        if not tags:
            return
        digests = [tag.digest for tag in tags]
        rows = find_manifests(tx, live_id, digests) if live_id is not None else {}
        if not self.force:
            require_manifests(tx, name, tags, [])
        # Of a name that was taken away twice, one of them.
        found = {tag.name: tag for tag in tags if tag.digest in rows}
        self.batch.missing += [(name, tag.name) for tag in tags if tag.name not in found]
        if live_id is not None and found:
            self._put(tx, name, live_id, list(found.values()), now)
            for tag in found.values():
                touch_manifest(tx, rows[tag.digest].id, now)
        forget_tags(tx, tags[0].operation_id, name, [tag.name for tag in tags])

    def _put(
        self,
        tx: Transaction,
        name: RepositoryName,
        live_id: int,
        tags: Sequence[RememberedTag],
        now: datetime,
    ) -> None:
        attribute_locks.require_writable(tx, live_id, name)
        coming = {tag.name: tag.digest for tag in tags}
        same = self.make_room(tx, name, live_id, coming, now)
        put = sum(put_remembered(tx, live_id, tag) for tag in tags if tag.name not in same)
        add_to_repository(tx, live_id, tag_count=put)
        touch_repository(tx, live_id, now)
        self.came_back(tx, name, 0, put)


def move_back(
    tx: Transaction,
    registry: Registry,
    hidden_id: int,
    live_id: int,
    rows: Sequence[ManifestRow],
    copies: Sequence[ManifestRow],
    now: datetime,
) -> None:
    """Move manifests out of a hidden repository, into one that has none of their tags."""
    references = blobs_of(tx, [row.id for row in (*rows, *copies)])
    lock_blobs(tx, references.keys(), to_drop=True)
    move_manifests(tx, hidden_id, live_id, rows, copies, now, touch=True)
    cancel_reviews(tx, live_id, references.keys())
    release_links(
        tx,
        registry.leases,
        hidden_id,
        references.keys(),
        now=now,
        due=registry.due(now),
    )
    touch_repository(tx, live_id, now)


def drop_hidden(tx: Transaction, hidden_id: int, now: datetime) -> None:
    """Take a hidden repository without manifests from its operation, and remove it."""
    unkeep(tx, hidden_id)
    if not drop_repository_if_empty(tx, hidden_id):
        # Links that no manifest needed, and uploads: their pushers have given them up.
        mark_deleted(tx, hidden_id, now)


def _connected(
    tx: Transaction, repository_id: int, roots: Sequence[ManifestRow]
) -> list[ManifestRow]:
    """These, and all that lists them, is listed by them, refers to them or is referred to."""
    found = {row.id: row for row in roots}
    fresh = dict(found)
    while fresh:
        reached = [row for _, row in children(tx, fresh.keys())]
        parents = parents_of(tx, fresh.keys())
        reached += rows_of(tx, {id_ for some in parents.values() for id_ in some})
        digests = {row.digest for row in fresh.values()}
        reached += referrers_of(tx, repository_id, digests)
        subjects = {row.subject for row in fresh.values() if row.subject is not None}
        reached += find_manifests(tx, repository_id, subjects).values()
        fresh = {row.id: row for row in reached if row.id not in found}
        found |= fresh
    return list(found.values())

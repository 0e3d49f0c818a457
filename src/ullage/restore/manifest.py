"""Taking back the deletion of one manifest, as Azure's API has it (azure.md section 2.9).

There it brings back one manifest and one tag. Here its children and referrers come along, so that
what was restored can be pulled.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.deletion.queries.operations.move_manifests import drop_tags
from ullage.deletion.queries.operations.records import end_if_empty
from ullage.deletion.queries.operations.repositories import KeptRepository, lock_kept
from ullage.deletion.queries.operations.tags import RememberedTag, remember_tags
from ullage.oci.digest import Digest
from ullage.oci.errors import ManifestUnknown, NameUnknown, TagUnknown
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks
from ullage.registry.queries.content.manifests import ManifestRow, find_manifests
from ullage.registry.queries.content.remove_manifests import parents_of, referrers_of
from ullage.registry.queries.content.repositories import (
    add_to_repository,
    count_manifests,
    ensure_repository,
)
from ullage.registry.queries.references import manifests
from ullage.registry.queries.references.manifests import tags_on
from ullage.restore.queries import deleted
from ullage.restore.queries.deleted import DeletedManifest, DeletedTag
from ullage.restore.restore import Restored, Restoring, drop_hidden, move_back


def restore_manifest(
    registry: Registry,
    name: RepositoryName,
    digest: Digest,
    tag: Tag | None,
    caller: Caller,
    *,
    force: bool = False,
) -> Restored:
    """Undo the deletion of one manifest, with its children and referrers (azure.md section 2.9).

    With `tag` it gets this one of the tags that it had, which may be all that was deleted; without,
    all of them. What else its operation keeps stays there. Raises NameUnknown, ManifestUnknown,
    TagUnknown, RestoreConflict, Locked.
    """

    def restore(tx: Transaction) -> Restored:
        now = registry.now()
        if not deleted.anything_of(tx, name):
            raise NameUnknown({"name": name})
        if tag is not None:
            found = deleted.tags(tx, name, 1000, only=(tag, digest))
            if not found:
                _require_deleted(tx, name, digest)
                raise TagUnknown(
                    {"name": name, "tag": tag}, f"the tag {tag} was not deleted from {digest}"
                )
            chosen = found[-1]
        else:
            chosen = None
        one = _One(registry, caller, name, digest, force)
        return one.restore(tx, tag, chosen, now)

    restored = registry.write(restore)
    registry.wake()
    return restored


def _require_deleted(tx: Transaction, name: RepositoryName, digest: Digest) -> DeletedManifest:
    found = deleted.manifest(tx, name, digest)
    if found is None:
        raise ManifestUnknown({"Name": name, "Revision": digest}, f"manifest {digest} is not found")
    return found


@dataclass(slots=True)
class _One:
    """Restoring one manifest."""

    registry: Registry
    caller: Caller
    name: RepositoryName
    digest: Digest
    force: bool

    def restore(
        self, tx: Transaction, tag: Tag | None, chosen: DeletedTag | None, now: datetime
    ) -> Restored:
        live = ensure_repository(tx, self.name, now)
        attribute_locks.require_row_writable(live)
        live_id = live.id
        hidden_id = chosen.repository_id if chosen is not None else None
        there = self.digest in find_manifests(tx, live_id, [self.digest])
        if hidden_id is None and (chosen is None or not there):
            hidden_id = _require_deleted(tx, self.name, self.digest).repository_id
        work = Restoring(self.registry, self.caller, "", force=self.force)
        if hidden_id is not None:
            hidden = lock_kept(tx, hidden_id)
            if hidden is None:
                raise ManifestUnknown({"Name": self.name, "Revision": self.digest})
            work.operation_id = hidden.operation_id
            self._from_hidden(tx, work, hidden, live_id, tag, now)
            end_if_empty(tx, hidden.operation_id)
        if chosen is not None and chosen.repository_id is None:
            work.operation_id = chosen.operation_id
            remembered = RememberedTag(chosen.operation_id, self.name, chosen.name, self.digest)
            work.put_tags_back(tx, self.name, [remembered], now)
            end_if_empty(tx, chosen.operation_id)
        return work.batch

    def _from_hidden(
        self,
        tx: Transaction,
        work: Restoring,
        kept: KeptRepository,
        live_id: int,
        tag: Tag | None,
        now: datetime,
    ) -> None:
        root = find_manifests(tx, kept.repository_id, [self.digest])[self.digest]
        family = _family(tx, kept.repository_id, root)
        shared = _shared(tx, family)
        tags = tags_on(tx, family.keys())
        own = tags.get(root.id, [])
        wanted = {each: self.digest for each in own if tag is None or each == tag}
        same = work.make_room(tx, self.name, live_id, wanted, now)
        coming = [each for each in wanted if each not in same]
        # The other tags stay deleted: what they pointed to is live again, so they are remembered.
        moving = family.keys() - shared.keys()
        aside = [each for id_ in moving for each in tags.get(id_, []) if each not in coming]
        remember_tags(
            tx,
            kept.operation_id,
            kept.repository_id,
            self.name,
            [each for each in aside if each not in same],
        )
        dropped = drop_tags(tx, kept.repository_id, aside)
        if root.id in shared:
            # An index that stays deleted lists it, so it stays there too, without these tags.
            remember_tags(tx, kept.operation_id, kept.repository_id, self.name, coming)
            dropped += drop_tags(tx, kept.repository_id, [*coming, *same])
        add_to_repository(tx, kept.repository_id, tag_count=-dropped)
        rows = [family[id_] for id_ in moving]
        move_back(tx, self.registry, kept.repository_id, live_id, rows, list(shared.values()), now)
        work.came_back(tx, self.name, len(family), len(coming))
        if root.id in shared and coming:
            work.batch.tag_count -= len(coming)
            again = [
                RememberedTag(kept.operation_id, self.name, each, self.digest) for each in coming
            ]
            work.put_tags_back(tx, self.name, again, now)
        if count_manifests(tx, kept.repository_id) == 0:
            drop_hidden(tx, kept.repository_id, now)


def _family(tx: Transaction, repository_id: int, root: ManifestRow) -> dict[int, ManifestRow]:
    """A manifest with all that it lists and that refers to it, and so on."""
    found = {root.id: root}
    fresh = dict(found)
    while fresh:
        reached = [row for _, row in manifests.children(tx, fresh.keys())]
        reached += referrers_of(tx, repository_id, {row.digest for row in fresh.values()})
        fresh = {row.id: row for row in reached if row.id not in found}
        found |= fresh
    return found


def _shared(tx: Transaction, family: dict[int, ManifestRow]) -> dict[int, ManifestRow]:
    """What of it an index lists that does not come back, with all that this lists."""
    parents = parents_of(tx, family.keys())
    shared = {id_: family[id_] for id_, some in parents.items() if some.keys() - family.keys()}
    fresh = dict(shared)
    while fresh:
        children = {row.id: row for _, row in manifests.children(tx, fresh.keys())}
        fresh = {id_: row for id_, row in children.items() if id_ not in shared}
        shared |= fresh
    return shared

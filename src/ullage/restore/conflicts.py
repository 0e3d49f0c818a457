"""What is in the way of taking a deletion back: tags that are taken, manifests that are gone."""

from __future__ import annotations

from collections.abc import Sequence

from ullage.database.transaction import Transaction
from ullage.deletion.queries.operations.move_manifests import Clash
from ullage.deletion.queries.operations.move_manifests import clashes as clashes_between
from ullage.deletion.queries.operations.repositories import KeptRepository
from ullage.deletion.queries.operations.tags import RememberedTag
from ullage.oci.errors import ManifestUnknown, RestoreConflict
from ullage.oci.reference import RepositoryName
from ullage.registry.queries.content.manifests import find_manifests
from ullage.registry.queries.content.repositories import find_repository
from ullage.registry.queries.references.manifests import tagged

# A conflict names so many tags.
NAMED = 100


def require_room(
    tx: Transaction, kept: Sequence[KeptRepository], tags: Sequence[RememberedTag]
) -> None:
    for each in kept:
        live_id = find_repository(tx, each.name)
        if live_id is not None:
            refuse(each.name, clashes_between(tx, each.repository_id, live_id, NAMED))
    for name in sorted({tag.repository for tag in tags}):
        own = [tag for tag in tags if tag.repository == name]
        refuse(name, _clashes_of_remembered(tx, name, own))
        hidden = [each.repository_id for each in kept if each.name == name]
        require_manifests(tx, name, own, hidden)


def require_manifests(
    tx: Transaction, name: RepositoryName, tags: Sequence[RememberedTag], hidden: Sequence[int]
) -> None:
    """Raises ManifestUnknown for a tag whose manifest is neither there nor comes back."""
    live_id = find_repository(tx, name)
    left = {tag.digest for tag in tags}
    for place in (*hidden, *([] if live_id is None else [live_id])):
        left -= find_manifests(tx, place, left).keys()
    for tag in tags:
        if tag.digest in left:
            raise ManifestUnknown(
                {"Name": name, "Revision": tag.digest},
                f"{name}:{tag.name} pointed to {tag.digest}, which was deleted later; restore that "
                "first, or force does without this tag",
            )


def _clashes_of_remembered(
    tx: Transaction, name: RepositoryName, tags: Sequence[RememberedTag]
) -> list[Clash]:
    live_id = find_repository(tx, name)
    if live_id is None:
        return []
    there = tagged(tx, live_id, [tag.name for tag in tags])
    return [
        Clash(tag.name, tag.digest, there[tag.name].digest)
        for tag in tags
        if tag.name in there and there[tag.name].digest != tag.digest
    ]


def refuse(name: RepositoryName, clashes: Sequence[Clash]) -> None:
    if clashes:
        first = clashes[0]
        more = f" and {len(clashes) - 1} more tags" if len(clashes) > 1 else ""
        raise RestoreConflict(
            {
                "name": name,
                "tags": [
                    {"tag": each.name, "digest": each.live_digest, "deleted": each.digest}
                    for each in clashes[:NAMED]
                ],
            },
            f"{name}:{first.name}{more} points to something else by now; "
            "force overwrites it, and can be taken back too",
        )

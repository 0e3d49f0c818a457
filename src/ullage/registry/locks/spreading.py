"""From manifests that something protects to all that belongs to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ullage.database.transaction import Transaction
from ullage.oci.attached import attached_tags
from ullage.oci.digest import Digest
from ullage.registry.queries.content.remove_manifests import referrers_of
from ullage.registry.queries.references.manifests import children, tagged

T = TypeVar("T")


def spread(
    tx: Transaction,
    repository_id: int,
    reached: Mapping[int, tuple[Digest, T]],
    covered: dict[int, T],
) -> None:
    """Cover these manifests, all that they list and all that refers to them, and so on.

    Each with what covers the one that it was reached from; what is covered already stays as it is.
    """
    while reached := {id_: each for id_, each in reached.items() if id_ not in covered}:
        covered.update((id_, by) for id_, (_, by) in reached.items())
        of = dict(reached.values())
        found: dict[int, tuple[Digest, T]] = {}
        for parent, row in children(tx, reached.keys()):
            found.setdefault(row.id, (row.digest, reached[parent][1]))
        for row in referrers_of(tx, repository_id, of.keys()):
            if row.subject is not None:
                found.setdefault(row.id, (row.digest, of[row.subject]))
        names = {tag: by for digest, by in of.items() for tag in attached_tags(digest)}
        for tag, row in tagged(tx, repository_id, names.keys()).items():
            found.setdefault(row.id, (row.digest, names[tag]))
        reached = found

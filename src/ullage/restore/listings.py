"""Azure's lists of what was deleted softly (azure.md section 2.9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ullage.authorization import Principal
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.soft_delete import SoftDelete
from ullage.oci.errors import NameUnknown
from ullage.oci.reference import RepositoryName
from ullage.registry.context import Registry
from ullage.registry.queries.content.repositories import repository_exists
from ullage.restore.queries import deleted
from ullage.restore.queries.deleted import DeletedManifest, DeletedRepository, DeletedTag

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """Some rows with the policy by whose days they expire; `next` is None at the end."""

    rows: list[T]
    policy: SoftDelete
    next: str | None


def list_repositories(
    registry: Registry, principal: Principal, n: int, last: str | None
) -> Listed[DeletedRepository]:
    """Repositories of which only soft-deleted things are left, by name."""
    patterns = principal.readable_deleted()

    def read(tx: Transaction) -> Listed[DeletedRepository]:
        rows = deleted.repositories(tx, n + 1, last, patterns)
        return _listed(tx, rows, n, lambda row: row.name)

    return registry.snapshot(read)


def list_manifests(
    registry: Registry, name: RepositoryName, n: int, last: str | None
) -> Listed[DeletedManifest]:
    """Manifests of a repository that are not there any more, the first deleted first.

    Raises NameUnknown if there never was such a repository, as far as is known.
    """

    def read(tx: Transaction) -> Listed[DeletedManifest]:
        _require_known(tx, name)
        place = _numbers(last, 2)
        after = (place[0], place[1]) if place else None
        rows = deleted.manifests(tx, name, n + 1, after)
        return _listed(tx, rows, n, lambda row: "~".join(map(str, row.place)))

    return registry.snapshot(read)


def list_tags(
    registry: Registry, name: RepositoryName, n: int, last: str | None
) -> Listed[DeletedTag]:
    """Deleted tags of a repository, the first deleted first. Raises NameUnknown."""

    def read(tx: Transaction) -> Listed[DeletedTag]:
        _require_known(tx, name)
        when, _, rest = (last or "").partition("~")
        number = _numbers(when, 1)
        tag, _, operation_id = rest.partition("~")
        after = (number[0], tag, operation_id) if number else None
        rows = deleted.tags(tx, name, n + 1, after)
        return _listed(tx, rows, n, lambda row: "~".join(map(str, row.place)))

    return registry.snapshot(read)


def _listed(tx: Transaction, rows: list[T], n: int, place: Callable[[T], str]) -> Listed[T]:
    more = len(rows) > n > 0
    return Listed(rows[:n], soft_delete.find_policy(tx), place(rows[n - 1]) if more else None)


def _numbers(text: str | None, count: int) -> list[int]:
    """A place in a list, as it was given out; [] for anything else: the beginning."""
    parts = (text or "").split("~")
    good = all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts)
    return [int(part) for part in parts] if good and len(parts) == count else []


def _require_known(tx: Transaction, name: RepositoryName) -> None:
    if not repository_exists(tx, name) and not deleted.anything_of(tx, name):
        raise NameUnknown({"name": name})

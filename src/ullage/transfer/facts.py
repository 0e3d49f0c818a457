"""What a copy of the store has to know of the database, whichever process has that open.

Where a server runs, SQLite's file is its own, so it is asked over the control socket; else the
command looks by itself. Both ways a question is a dictionary of JSON, and so is its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest, parse_digest
from ullage.registry.context import Registry
from ullage.registry.identity import begin_batch
from ullage.registry.quarantine import quarantine_blob
from ullage.registry.queries import identity
from ullage.registry.queries.counters import totals
from ullage.registry.queries.quarantine import StoredCopy
from ullage.transfer.queries import copies

# Rows that are looked up together.
PAGE = 500

Ask: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]


class Whose(NamedTuple):
    """Whose bytes are copied, where they are, and how many (sizes in bytes)."""

    registry: str
    # The key line that is open.
    line: str
    # The names of its store, and of those of before.
    store: str
    former: tuple[str, ...]
    blobs: int
    bytes: int


class Facts:
    """The questions, typed. Each raises RegistryError, or what `ask` raises."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def whose(self) -> Whose:
        found = self._ask({"ask": "whose"})
        return Whose(**{**found, "former": tuple(found["former"])})

    def blobs_after(self, after: str, before: str) -> list[StoredCopy]:
        """The next page of blobs between two storage keys, in their order."""
        rows = self._ask({"ask": "blobs", "after": after, "before": before})["blobs"]
        return [StoredCopy(Digest(digest), key, size) for digest, key, size in rows]

    def unused(self, keys: Sequence[str]) -> list[str]:
        """Those of keys that this registry gave out and that are of nothing any more."""
        unused: list[str] = self._ask({"ask": "unused", "keys": list(keys)})["keys"]
        return unused

    def damaged(self, blob: StoredCopy, problem: str) -> bool:
        """Quarantine a blob. False if it was deleted, or pushed anew, meanwhile."""
        request = {"ask": "damaged", "digest": blob.digest, "key": blob.storage_key}
        return bool(self._ask({**request, "problem": problem})["quarantined"])


def answer(registry: Registry, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one question of `Facts`. Raises RegistryError; ValueError for another question."""
    match dict(request):
        case {"ask": "whose"}:
            return _whose(registry)
        case {"ask": "blobs", "after": str(after), "before": str(before)}:
            rows = registry.read(lambda tx: copies.sound_blobs(tx, after, before, PAGE))
            return {"blobs": [list(row) for row in rows]}
        case {"ask": "unused", "keys": [*keys]}:
            unused = registry.snapshot(lambda tx: copies.unused_keys(tx, keys))
            return {"keys": sorted(unused)}
        case {"ask": "damaged", "digest": str(text), "key": str(key), "problem": str(problem)}:
            return {"quarantined": _quarantine(registry, parse_digest(text), key, problem)}
    raise ValueError("expected a question about what is to be copied")


def _whose(registry: Registry) -> dict[str, Any]:
    if not registry.read(identity.key_lines):
        # No server has written to this store yet: now it has a label.
        begin_batch(registry)

    def look(tx: Transaction) -> dict[str, Any]:
        own, counted = identity.own_store(tx), totals(tx)
        return {
            "registry": str(identity.find_registry_id(tx)),
            "line": identity.key_lines(tx)[-1].name,
            "store": own.name,
            "former": list(own.former),
            "blobs": counted["blob_count"],
            "bytes": counted["blob_bytes"],
        }

    return registry.snapshot(look)


class StaysDamaged(OSError):
    """A blob's bytes are wrong, and it could not be quarantined."""


def _quarantine(registry: Registry, digest: Digest, key: str, problem: str) -> bool:
    if quarantine_blob(registry, digest, key, problem):
        return True
    if registry.read(lambda tx: copies.is_sound(tx, digest, key)):
        raise StaysDamaged(f"blob {digest}: {problem}")
    return False

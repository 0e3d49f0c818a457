"""A store and a database that belong together: judged at a start, kept apart from all others.

A start compares the store's label (registry/identity.py) with what the database knows. So it sees
that one of the two was lost, exchanged or copied back from another day, before a request could be
answered or a byte erased. docs/design/damage.md section 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from ullage.blobs.protocol import BlobStore
from ullage.check.queries import adoption
from ullage.database.transaction import Database, Transaction
from ullage.registry.identity import ADOPTION_GRACE, Label, is_complete, label_of
from ullage.registry.queries import identity
from ullage.registry.queries.counters import totals
from ullage.registry.queries.identity import KeyLine, OwnStore
from ullage.registry.queries.reclaim.tombstones import known_keys
from ullage.registry.storage_keys import gave_out

log = logging.getLogger(__name__)

# Processes on one PostgreSQL database write the label one after the other, not in order.
_LATE_LABELS = 64
# Objects of a store without a label that are looked up in the database.
_SAMPLE = 1000
# Blobs of a database that are looked up in its store.
_LOOKED_UP = 100
_ON = "start once with --adopt-store"


class StoreForeign(Exception):
    """The database and the store do not belong together. One line: both, and the ways on."""


class Places(NamedTuple):
    """What an operator calls the two."""

    database: str
    storage: str


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the database knows of itself."""

    registry: str | None
    lines: list[KeyLine]
    blobs: int
    bytes: int
    store: OwnStore

    @property
    def used(self) -> bool:
        return bool(self.lines or self.blobs)


def _facts(tx: Transaction) -> _Facts:
    counted = totals(tx)
    return _Facts(
        identity.find_registry_id(tx),
        identity.key_lines(tx),
        counted["blob_count"],
        counted["blob_bytes"],
        identity.own_store(tx),
    )


def require_no_loss(store: BlobStore, places: Places, *, missing: bool) -> None:
    """Before a database is made where there is none. Raises StoreForeign if the store has objects.

    `missing`: there is no file; otherwise there is an empty one.
    """
    if not _holds_objects(store):
        return
    there = f"there is no database at {places.database}"
    what = there if missing else f"the database {places.database} is empty"
    raise StoreForeign(_without_database(what, label_of(store), places))


def require_same(db: Database, store: BlobStore, places: Places) -> None:
    """Raise StoreForeign unless the database is the one that writes to this store."""
    facts, label = db.read(_facts), label_of(store)
    problem = _problem(db, store, facts, label, places)
    if problem is not None:
        raise StoreForeign(problem)


def _problem(
    db: Database, store: BlobStore, facts: _Facts, label: Label | None, places: Places
) -> str | None:
    moved = _elsewhere(facts, label, places)
    if moved is not None:
        return moved
    if not _holds_objects(store):
        if facts.blobs and not _taken_over_empty(db):
            return _without_blobs(facts, f"{places.storage} is empty", "the empty one", places)
        return None
    if label is None:
        return None if _names_some(db, store) else _foreign(facts, label, places)
    if label.registry != facts.registry:
        return _foreign(facts, label, places)
    problem = _other_state(db, facts, label, places)
    if problem is None and _has_lost_all(db, store):
        there = f"{places.storage} has none of them"
        return _without_blobs(facts, there, "what is there", places)
    return problem


def _elsewhere(facts: _Facts, label: Label | None, places: Places) -> str | None:
    """Of a registry that moves or has moved, any of its stores but the one that is in use."""
    own = facts.store
    if label is None:
        # The label of the one in use may be lost.
        former = own.url not in ("", places.storage)
    elif label.registry != facts.registry or label.store == own.name:
        return None
    else:
        former = label.store in own.former
    if former:
        return (
            f"registry {facts.registry} has moved from {places.storage} to {own.url} - start it "
            f"with --storage {own.url}, or {_ON}, which goes back to what is here: blobs that "
            "are missing are taken from the next push"
        )
    if label is None:
        return None
    return (
        f"{places.storage} is a copy of registry {facts.registry} that is not finished, or the "
        f"database {places.database} is of a day before it was - finish it with `ullage store copy "
        f"--finish --to {places.storage}`, name the storage of before, or {_ON}, which goes on "
        "with the copy: blobs that are missing are taken from the next push"
    )


def _holds_objects(store: BlobStore) -> bool:
    return any(found.problem is None for found in store.list())


def _names_some(db: Database, store: BlobStore) -> bool:
    """Whether the database names any of the first objects of a store: nobody guesses a key."""
    sound = (found.key for found in store.list() if found.problem is None)
    sample = list(islice(sound, _SAMPLE))
    return bool(db.read(lambda tx: known_keys(tx, sample)))


def _taken_over_empty(db: Database) -> bool:
    """Whether all blobs are known to be missing: none was pushed since the store was taken over."""

    def look(tx: Transaction) -> bool:
        lines = identity.key_lines(tx)
        return identity.adopted_at(tx) is not None and not any(
            gave_out(lines, key) for key in adoption.blob_keys(tx)
        )

    return db.read(look)


def _has_lost_all(db: Database, store: BlobStore) -> bool:
    """Whether none of the first blobs is there: `blobs/` is gone, and unfinished uploads are not.

    Blobs that are known to be damaged do not count, nor, where the database took a store over,
    those of before. One look at the store if all is well.
    """

    def any_is_there(keys: Iterable[str]) -> bool | None:
        sample = list(islice(keys, _LOOKED_UP))
        return any(store.size(key) is not None for key in sample) if sample else None

    def look(tx: Transaction) -> bool:
        if any_is_there(adoption.sound_keys(tx)) is not False:
            return False
        if identity.adopted_at(tx) is None:
            return True
        lines = identity.key_lines(tx)
        own = (key for key in adoption.sound_keys(tx) if gave_out(lines, key))
        return any_is_there(own) is False

    return db.read(look)


def _foreign(facts: _Facts, label: Label | None, places: Places) -> str:
    if not facts.used:
        return _without_database(f"the database {places.database} is new", label, places)
    owner = f"registry {label.registry}" if label else "another registry: it names none of them"
    return (
        f"the database {places.database} is registry {facts.registry}, the blobs in "
        f"{places.storage} belong to {owner} - name the database and the storage that belong "
        f"together, or {_ON}, which takes over the storage and erases nothing in it"
    )


def _without_database(what: str, label: Label | None, places: Places) -> str:
    owner = f" of registry {label.registry}, written {label.written}" if label else ""
    return (
        f"{what}, but {places.storage} holds blobs{owner} - copy the right database back, or "
        f"{_ON}, which begins a new database beside these blobs and erases none of them"
    )


def _without_blobs(facts: _Facts, there: str, with_what: str, places: Places) -> str:
    return (
        f"the database {places.database} names {facts.blobs} blobs of registry {facts.registry}, "
        f"but {there} - mount or name the right storage, or {_ON}, which goes "
        f"on with {with_what}: blobs that are missing are taken from the next push"
    )


def _other_state(db: Database, facts: _Facts, label: Label, places: Places) -> str | None:
    """Of one registry, but of two moments."""
    by_name = {line.name: line for line in facts.lines}
    line = by_name.get(label.line)
    if line is None or label.batch > line.last:
        return (
            f"the database {places.database} is older than the blobs in {places.storage} (registry "
            f"{label.registry}, written {label.written}): what was pushed or deleted in between "
            "is not in it - copy the latest database back with its -wal file, or "
            f"{_ON}, which goes on with this one and erases nothing that it does not know"
        )
    late = _LATE_LABELS if db.dialect == "postgresql" else 0
    newest = facts.lines[-1]
    if label.batch + late < line.noted or (line is not newest and newest.noted):
        return (
            f"the database {places.database} is newer than the blobs in {places.storage} (registry "
            f"{label.registry}, written {label.written}): what was pushed in between is missing - "
            f"mount or name the latest storage, or {_ON}, which goes on with this one: blobs that "
            "are missing are taken from the next push"
        )
    return None


# --- taking over ----------------------------------------------------------------------------------


def adopt_store(db: Database, store: BlobStore, now: datetime, fresh: Callable[[], str]) -> None:
    """Let this database write to this store, whatever wrote there before; erases nothing.

    A new key line begins, and no object of before counts as the database's own any more, unless a
    row names it. For a day nothing is erased but what somebody deletes.
    """
    sessions = db.read(identity.session_keys)
    finished = [(id_, key) for id_, key in sessions if is_complete(store, key, store.size(key))]

    def adopt(tx: Transaction) -> None:
        identity.registry_id(tx, fresh())
        # Bytes that are complete became a blob, in the state that was lost.
        adoption.forget_sessions(tx, finished)
        adoption.disown_key_lines(tx)
        identity.open_key_line(tx, fresh(), fresh())
        adoption.note_adoption(tx, now, now + ADOPTION_GRACE)
        if identity.own_store(tx).name != name:
            identity.set_own_store(tx, OwnStore(name))

    before = label_of(store)
    name = before.store if before is not None else ""
    db.write(adopt)
    log.warning("the database took over the storage; it was labelled %s", before or "not at all")

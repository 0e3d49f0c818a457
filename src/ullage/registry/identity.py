"""A store and a database that belong together: judged at a start, kept apart from all others.

Beside its objects a store has a label: which registry writes here, and how many batches of storage
keys that has given out. The database knows the same. So a start sees that one of the two was lost,
exchanged or copied back from another day, before a request could be answered or a byte erased.
docs/design/damage.md section 1.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple

from ullage.blobs.protocol import BlobStore, KeyUnknown
from ullage.database.transaction import Database, Transaction
from ullage.registry.context import Registry
from ullage.registry.queries import identity
from ullage.registry.queries.counters import totals
from ullage.registry.queries.identity import KeyLine
from ullage.registry.queries.reclaim.tombstones import known_keys
from ullage.registry.storage_keys import KEYS_AT_ONCE, gave_out, make_key

log = logging.getLogger(__name__)

# After a database took over a store, nothing is erased for so long but what somebody deletes.
ADOPTION_GRACE = timedelta(days=1)
# Processes on one PostgreSQL database write the label one after the other, not in order.
_LATE_LABELS = 64
# Objects of a store without a label that are looked up in the database.
_SAMPLE = 1000
_ON = "start once with --adopt-store"


class StoreForeign(Exception):
    """The database and the store do not belong together. One line: both, and the ways on."""


class Places(NamedTuple):
    """What an operator calls the two."""

    database: str
    storage: str


@dataclass(frozen=True, slots=True)
class Label:
    """What a store says about itself: the registry, its open key line, the batch, when written."""

    registry: str
    line: str
    batch: int
    written: str

    def __str__(self) -> str:
        return json.dumps(
            {
                "registry": self.registry,
                "line": self.line,
                "batch": self.batch,
                "written": self.written,
            }
        )


UNREADABLE = Label("unreadable", "", 0, "")


def parse_label(text: str) -> Label:
    """What `str` made of a label; UNREADABLE for anything else."""
    try:
        found = json.loads(text)
        registry, line, written = (str(found[name]) for name in ("registry", "line", "written"))
        return Label(registry, line, int(found["batch"]), written)
    except (ValueError, KeyError, TypeError):
        return UNREADABLE


# --- judging --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the database knows of itself."""

    registry: str | None
    lines: list[KeyLine]
    blobs: int
    bytes: int

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
    )


def require_no_loss(store: BlobStore, places: Places, *, missing: bool) -> None:
    """Before a database is made where there is none. Raises StoreForeign if the store has objects.

    `missing`: there is no file; otherwise there is an empty one.
    """
    if not _holds_objects(store):
        return
    there = f"there is no database at {places.database}"
    what = there if missing else f"the database {places.database} is empty"
    raise StoreForeign(_without_database(what, _label_of(store), places))


def require_same(db: Database, store: BlobStore, places: Places) -> None:
    """Raise StoreForeign unless the database is the one that writes to this store."""
    facts, label = db.read(_facts), _label_of(store)
    problem = _problem(db, store, facts, label, places)
    if problem is not None:
        raise StoreForeign(problem)


def _problem(
    db: Database, store: BlobStore, facts: _Facts, label: Label | None, places: Places
) -> str | None:
    if not _holds_objects(store):
        return _empty_store(facts, places) if facts.blobs else None
    if label is None:
        return None if _names_some(db, store) else _foreign(facts, label, places)
    if label.registry != facts.registry:
        return _foreign(facts, label, places)
    return _other_state(db, facts, label, places)


def _label_of(store: BlobStore) -> Label | None:
    text = store.read_label()
    return None if text is None else parse_label(text)


def _holds_objects(store: BlobStore) -> bool:
    return any(found.problem is None for found in store.list())


def _names_some(db: Database, store: BlobStore) -> bool:
    """Whether the database names any of the first objects of a store: nobody guesses a key."""
    sound = (found.key for found in store.list() if found.problem is None)
    sample = list(islice(sound, _SAMPLE))
    return bool(db.read(lambda tx: known_keys(tx, sample)))


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


def _empty_store(facts: _Facts, places: Places) -> str:
    return (
        f"the database {places.database} names {facts.blobs} blobs of registry {facts.registry}, "
        f"but {places.storage} is empty - mount or name the right storage, or {_ON}, which goes "
        "on with the empty one: blobs that are missing are taken from the next push"
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


# --- taking over, and going on --------------------------------------------------------------------


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
        identity.forget_sessions(tx, finished)
        identity.disown_key_lines(tx)
        identity.open_key_line(tx, fresh(), fresh())
        identity.note_adoption(tx, now, now + ADOPTION_GRACE)

    before = _label_of(store)
    db.write(adopt)
    log.warning("the database took over the storage; it was labelled %s", before or "not at all")


def is_complete(store: BlobStore, key: str, size: int | None) -> bool:
    """Whether an object is closed for good, as an upload's is just before its blob gets its row.

    A crash in that moment leaves it so. But so are all blobs that are younger than the database, if
    that was copied back from another day or lost its log.
    """
    if size is None:
        return False
    try:
        store.append(key, size).close()
    except KeyUnknown:
        return store.size(key) is not None
    except OSError:
        # Another request is at work on it.
        return False
    return False


def complete_without_blob(registry: Registry) -> int:
    """How many uploads have all their bytes and no blob. A crash leaves a few, a lost log many."""
    size = registry.blobs.size
    sessions = registry.read(identity.session_keys)
    return sum(is_complete(registry.blobs, key, size(key)) for _, key in sessions)


def begin_batch(
    registry: Registry, reserve: Callable[[Transaction, list[str]], None] | None = None
) -> list[str]:
    """One more batch of storage keys, known to the database and then to the store.

    The keys that `reserve` is given in the same transaction; none without it. Raises StorageFull,
    Unavailable.
    """
    mark = registry.store_mark

    def begin(tx: Transaction) -> tuple[str, KeyLine, list[str]]:
        id_ = identity.registry_id(tx, registry.fresh_key())
        line = identity.next_batch(tx, mark.number, mark.batch)
        if line is None:
            identity.open_key_line(tx, registry.fresh_key(), registry.fresh_key())
            line = identity.next_batch(tx, mark.number, mark.batch)
        assert line is not None
        if reserve is None:
            return id_, line, []
        keys = [make_key(line, registry.fresh_key()) for _ in range(KEYS_AT_ONCE)]
        reserve(tx, keys)
        return id_, line, keys

    id_, line, keys = registry.write(begin, freeing=reserve is None)
    _note(registry, id_, line)
    return keys


def _note(registry: Registry, id_: str, line: KeyLine) -> None:
    """Write the store's label; what cannot be written now is written with the next batch."""
    mark = registry.store_mark
    with mark.lock:
        if (line.number, line.last) <= (mark.number, mark.batch):
            return
        written = registry.now().isoformat(timespec="seconds")
        try:
            registry.blobs.write_label(str(Label(id_, line.name, line.last, written)))
        except OSError as error:
            log.warning("the storage's label could not be written: %s", error)
            return
        mark.number, mark.batch = line.number, line.last


def advance(registry: Registry) -> None:
    """Let the line go on if anything changed since, so that a copy of before is told from now."""
    mark = registry.store_mark
    found = registry.read(totals)
    if found != mark.totals:
        begin_batch(registry)
        mark.totals = found


# --- what the database may erase ------------------------------------------------------------------


class Own(NamedTuple):
    """What is needed to tell own objects from others."""

    lines: list[KeyLine]
    adopted_at: datetime | None

    def wrote(self, key: str) -> bool:
        """Whether an object was written under this database."""
        return gave_out(self.lines, key)

    def just_adopted(self, now: datetime) -> bool:
        """Whether it is too soon to erase what no row names."""
        return self.adopted_at is not None and now < self.adopted_at + ADOPTION_GRACE


def own(tx: Transaction) -> Own:
    return Own(identity.key_lines(tx), identity.adopted_at(tx))


def is_own_store(registry: Registry) -> bool:
    """Whether the store that is there now is still this registry's: a disk may have come off."""
    try:
        label = _label_of(registry.blobs)
    except OSError:
        return False
    facts = registry.read(_facts)
    return label.registry == facts.registry if label else not facts.lines

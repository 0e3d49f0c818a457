"""What a store and its database know of each other: the label, and the storage keys given out.

Beside its objects a store has a label: which registry writes here, and how many batches of storage
keys that has given out. The database knows the same, so a start sees that one of the two was lost,
exchanged or copied back from another day (check/store_identity.py).

Source: docs/design/damage.md section 1.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from ullage.blobs.protocol import BlobStore, KeyUnknown
from ullage.database.transaction import Database, Transaction
from ullage.oci.errors import Unavailable
from ullage.registry.context import Registry
from ullage.registry.queries import identity
from ullage.registry.queries.counters import totals
from ullage.registry.queries.identity import KeyLine
from ullage.registry.storage_keys import KEYS_AT_ONCE, gave_out, make_key

log = logging.getLogger(__name__)

# After a database took over a store, nothing is erased for so long but what somebody deletes.
ADOPTION_GRACE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Label:
    """What a store says about itself: the registry, its open key line, the batch, when written.

    `store` tells a registry's stores apart, if it moved (docs/design/moving.md): "" for the first.
    """

    registry: str
    line: str
    batch: int
    written: str
    store: str = ""

    def __str__(self) -> str:
        said = {
            "registry": self.registry,
            "line": self.line,
            "batch": self.batch,
            "written": self.written,
        }
        return json.dumps(said | {"store": self.store} if self.store else said)


UNREADABLE = Label("unreadable", "", 0, "")


def parse_label(text: str) -> Label:
    """What `str` made of a label; UNREADABLE for anything else."""
    try:
        found = json.loads(text)
        registry, line, written = (str(found[name]) for name in ("registry", "line", "written"))
        return Label(registry, line, int(found["batch"]), written, str(found.get("store", "")))
    except (ValueError, KeyError, TypeError):
        return UNREADABLE


def label_of(store: BlobStore) -> Label | None:
    """None for a store that has none; UNREADABLE for one that is no label."""
    text = store.read_label()
    return None if text is None else parse_label(text)


# --- storage keys ---------------------------------------------------------------------------------


def is_complete(store: BlobStore, key: str, size: int | None) -> bool:
    """Whether an object is closed for good, as an upload's is just before its blob gets its row.

    A crash in that moment leaves it so. But so are all blobs that are younger than the database, if
    that was copied back from another day or lost its log.
    """
    if size is None:
        return False
    try:
        with store.open(key, size) as reader:
            # A store may look only now.
            reader.read_at(0, 1)
    except (KeyUnknown, OSError):
        return False
    return True


def complete_without_blob(db: Database, store: BlobStore) -> int:
    """How many uploads have all their bytes and no blob. A crash leaves a few, a lost log many."""
    sessions = db.read(identity.session_keys)
    return sum(is_complete(store, key, store.size(key)) for _, key in sessions)


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
        keys = []
        if reserve is not None:
            keys = [make_key(line, registry.fresh_key()) for _ in range(KEYS_AT_ONCE)]
            reserve(tx, keys)
        # Last: a registry that moves meanwhile locks the table (transfer/switch.py).
        require_own_store(tx, registry)
        return id_, line, keys

    id_, line, keys = registry.write(begin, freeing=reserve is None)
    _note(registry, id_, line)
    return keys


def require_own_store(tx: Transaction, registry: Registry) -> None:
    """Raise Unavailable if the registry has moved away from the store that this process uses."""
    if identity.own_store(tx).name != registry.store_mark.store:
        raise Unavailable(
            message="the registry has moved to another storage; this server is still on the former"
        )


def _note(registry: Registry, id_: str, line: KeyLine) -> None:
    """Write the store's label; what cannot be written now is written with the next batch."""
    mark = registry.store_mark
    with mark.lock:
        if (line.number, line.last) <= (mark.number, mark.batch):
            return
        written = registry.now().isoformat(timespec="seconds")
        try:
            label = Label(id_, line.name, line.last, written, mark.store)
            registry.blobs.write_label(str(label))
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
        label = label_of(registry.blobs)
    except OSError:
        return False
    return registry.read(lambda tx: _wrote_label(tx, label))


def _wrote_label(tx: Transaction, label: Label | None) -> bool:
    if label is None:
        return not identity.key_lines(tx)
    own_label = identity.find_registry_id(tx), identity.own_store(tx).name
    return (label.registry, label.store) == own_label

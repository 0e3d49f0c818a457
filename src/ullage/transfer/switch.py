"""The end of a move: the last differences, and then one fact says where the registry is.

No server runs meanwhile. Where one process owns the database, having it open proves that; on
PostgreSQL the transaction that moves the registry looks for signs of life under a lock.

Source: docs/design/moving.md sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ullage.blobs.protocol import BlobStore
from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.identity import Label
from ullage.registry.queries import identity
from ullage.registry.queries.counters import totals
from ullage.registry.queries.identity import KeyLine, OwnStore
from ullage.transfer.copy import CopyFailed, Copying, Tally, prepare_target
from ullage.transfer.facts import Facts, answer
from ullage.transfer.queries import switch


class _Seen(NamedTuple):
    """What changes as soon as a server runs, or anything is pushed or deleted."""

    line: KeyLine
    totals: dict[str, int]
    own: OwnStore


class Moved(NamedTuple):
    """A registry that is in another store now."""

    tally: Tally
    # Uploads that were open, and begin again.
    ended: int


def finish(
    registry: Registry, target: BlobStore, url: str, caller: Caller
) -> Iterator[Tally | Moved]:
    """Copy what is not there yet and move the registry to `target`; says how far it is, then Moved.

    Raises CopyFailed, RegistryError.
    """
    facts = Facts(lambda request: answer(registry, request))
    whose = facts.whose()
    written = registry.now().isoformat(timespec="seconds")
    name = prepare_target(whose, registry.blobs, target, registry.fresh_key, written)
    seen = registry.write(lambda tx: _at_rest(tx, registry))
    copying = Copying(facts, registry.blobs, target)
    yield from copying.one_pass()
    target.write_label(str(Label(whose.registry, seen.line.name, seen.line.last, written, name)))
    failpoint("copy.before_move")
    ended = registry.write(lambda tx: _move(tx, registry, seen, name, url, caller))
    failpoint("copy.after_move")
    yield Moved(copying.tally, ended)


def _at_rest(tx: Transaction, registry: Registry) -> _Seen:
    """What the database has while no server runs. Raises CopyFailed if one does."""
    alive = switch.servers_alive(tx, registry.now())
    if alive:
        raise CopyFailed(
            f"servers run on this database, on {', '.join(sorted(set(alive)))}: stop them all, and "
            "run this again"
        )
    return _look(tx)


def _look(tx: Transaction) -> _Seen:
    line = replace(identity.key_lines(tx)[-1], noted=0)
    return _Seen(line, totals(tx), identity.own_store(tx))


def _move(
    tx: Transaction, registry: Registry, seen: _Seen, name: str, url: str, caller: Caller
) -> int:
    switch.lock_out_servers(tx)
    if _at_rest(tx, registry) != seen:
        raise CopyFailed("a server ran meanwhile: leave it stopped, and run this again")
    ended = switch.end_uploads(tx)
    switch.forget_states(tx)
    former = (*seen.own.former, seen.own.name)
    identity.set_own_store(tx, OwnStore(name, url, former))
    registry.audit(tx, caller, "store.move", detail={"to": url, "from": seen.own.url})
    return ended

"""Whose turn it is to compare the store with the database: once a day, one of all processes'.

What a process that has died had begun, another begins anew. Two that did it at once would bury
nothing twice; it is the listing of a large store that one is enough for.
docs/design/damage.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta

from ullage.blobs.protocol import StoredObject
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.deletion.queries.reconcile_state import ReconcileState, change_state, find_state
from ullage.deletion.reconcile import reconcile
from ullage.registry.context import Registry
from ullage.registry.queries.processes import is_alive

# From the beginning of one comparison to that of the next.
RECONCILE_PERIOD = timedelta(days=1)
# How long a process has its turn to itself since it last said so, if it lives.
TURN = timedelta(minutes=10)
# How often the others look whether the one at work still lives.
LOOK_AGAIN = timedelta(minutes=1)


class _TurnOver(Exception):
    """Another process compares, or this one is to stop."""


def reconcile_if_due(
    registry: Registry, objects: Iterable[StoredObject], stopped: Callable[[], bool]
) -> timedelta:
    """Reconcile unless that was done today or another process does it; when to ask again.

    `objects` is as for `reconcile`, and not asked for if there is nothing to do. It may end early
    if `stopped`: then nothing follows from it, and it is as if it had not begun.
    Raises RegistryError, OSError.
    """
    seen = registry.read(find_state)
    wait = registry.read(lambda tx: _wait(tx, registry, seen))
    if wait:
        return wait
    turn = _Turn(registry, seen)
    try:
        reconcile(registry, turn.while_mine(objects, stopped))
        turn.end()
    except _TurnOver:
        turn.give_up()
        return LOOK_AGAIN
    return registry.read(lambda tx: _wait(tx, registry, turn.seen))


def _wait(tx: Transaction, registry: Registry, seen: ReconcileState | None) -> timedelta:
    """How long until it may be this process's turn; none if it is."""
    now, none = registry.now(), timedelta(0)
    if seen is None:
        return none
    if seen.done:
        began_at = from_micros(seen.began_at)
        # A clock that was put back does not put it off for as long.
        return max(none, began_at + RECONCILE_PERIOD - now) if began_at <= now else none
    if registry.process is None or seen.holder == registry.process:
        # A process before this one had begun; or this one had, and failed.
        return none
    others = from_micros(seen.until) > now and is_alive(tx, seen.holder, now)
    return LOOK_AGAIN if others else none


class _Turn:
    """One process's."""

    def __init__(self, registry: Registry, seen: ReconcileState | None) -> None:
        self._registry = registry
        self.seen = seen

    def while_mine(
        self, objects: Iterable[StoredObject], stopped: Callable[[], bool]
    ) -> Iterator[StoredObject]:
        """All objects. Raises _TurnOver if it comes to none of them, or not to the last."""
        now = self._registry.now()
        self._keep(ReconcileState(to_micros(now)))
        late_at = now + TURN / 2
        for found in objects:
            now = self._registry.now()
            if now >= late_at:
                self._keep(self._mine)
                late_at = now + TURN / 2
            yield found
        if stopped():
            raise _TurnOver

    def end(self) -> None:
        self._keep(replace(self._mine, done=True))

    def give_up(self) -> None:
        """Leave it to whichever process comes first; nothing if another has it already."""
        if self.seen is not None and self.seen.holder == (self._registry.process or ""):
            self._change(replace(self.seen, until=0))

    @property
    def _mine(self) -> ReconcileState:
        assert self.seen is not None
        return self.seen

    def _keep(self, state: ReconcileState) -> None:
        until = to_micros(self._registry.now() + TURN)
        if not self._change(replace(state, holder=self._registry.process or "", until=until)):
            raise _TurnOver

    def _change(self, state: ReconcileState) -> bool:
        seen = self.seen
        changed = self._registry.write(lambda tx: change_state(tx, seen, state), freeing=True)
        if changed:
            self.seen = state
        return changed

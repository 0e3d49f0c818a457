"""Reading everything once in a while: a bit that flipped on the disk is seen by nothing else.

The scrub hashes all blobs in the order of their digests, slowly, and quarantines those whose bytes
are others: docs/design/damage.md section 3. It goes on where it was after a restart, and of several
processes on one database one does it.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from ullage.blobs.protocol import KeyUnknown
from ullage.check.queries.scrub_state import ScrubState, change_state, find_state
from ullage.database.timestamps import from_micros, to_micros
from ullage.oci.digest import Hasher
from ullage.registry.context import Registry
from ullage.registry.quarantine import quarantine_blob
from ullage.registry.queries.counters import totals
from ullage.registry.queries.quarantine import StoredCopy, copies_after

log = logging.getLogger(__name__)

# No faster than this, whatever there is to read, and no slower, so that a pass has an end.
MOST_BYTES_PER_SECOND = 10 * 1000 * 1000
LEAST_BYTES_PER_SECOND = 256 * 1000
PIECE_BYTES = 1024 * 1024
# Blobs looked up together, and how long one process has the pass to itself since it last said so.
_TOGETHER = 100
_TURN = timedelta(minutes=10)
# A pass that fills its period would be late after any pause.
_MARGIN = 1.25

# Waits so many seconds; True if it is to stop.
Pause = Callable[[float], bool]


def scrub(registry: Registry, period: timedelta, holder: str, pause: Pause) -> timedelta:
    """Go on with the pass, or begin one if the last began a `period` ago; when to ask again.

    Returns when the pass is over, when told to stop, or when it is another process's turn.
    Raises RegistryError if the database does not answer.
    """
    seen, now = registry.read(find_state), registry.now()
    free_at = _free_at(seen, period, holder)
    if free_at is not None and now < free_at:
        return free_at - now
    state = ScrubState(to_micros(now)) if seen is None or seen.done else seen
    return _Pass(registry, seen, period, holder, pause).go_on(state)


def _free_at(seen: ScrubState | None, period: timedelta, holder: str) -> datetime | None:
    """When there is something to do for this process; None for now."""
    if seen is None:
        return None
    if seen.done:
        return from_micros(seen.began_at) + period
    return None if seen.holder == holder else from_micros(seen.until)


class _Pass:
    """One process's turn at a pass."""

    def __init__(
        self,
        registry: Registry,
        seen: ScrubState | None,
        period: timedelta,
        holder: str,
        pause: Pause,
    ) -> None:
        self._registry = registry
        self._seen = seen
        self._period = period
        self._holder = holder
        self._pause = pause
        self._pace = _pace(registry.read(totals)["blob_bytes"], period)
        self._said_until = 0

    def go_on(self, state: ScrubState) -> timedelta:
        if not self._keep(state):
            return _TURN
        while copies := self._registry.read(
            lambda tx: copies_after(tx, state.after, _TOGETHER)  # noqa: B023 - called at once
        ):
            for copy in copies:
                if self._look_at(copy):
                    # Somebody stops it: what was looked at in full is not looked at again.
                    self._keep(replace(state, until=0))
                    return timedelta(0)
                state = replace(state, after=copy.digest)
                if self._is_late() and not self._keep(state):
                    return _TURN
        self._keep(replace(state, after="", done=True))
        next_at = from_micros(state.began_at) + self._period
        return max(next_at - self._registry.now(), timedelta(0))

    def _is_late(self) -> bool:
        """Whether it is time to say that this process is still at it."""
        return to_micros(self._registry.now() + _TURN / 2) >= self._said_until

    def _keep(self, state: ScrubState) -> bool:
        """Write down how far it is; False if another process has the turn now."""
        until = to_micros(self._registry.now() + _TURN)
        mine = replace(state, holder=self._holder, until=until)
        seen = self._seen
        if not self._registry.write(lambda tx: change_state(tx, seen, mine), freeing=True):
            return False
        self._seen, self._said_until = mine, until
        return True

    def _look_at(self, copy: StoredCopy) -> bool:
        """Hash a blob's bytes; True if it was told to stop meanwhile."""
        problem, stopped = self._problem(copy)
        if problem is not None:
            # What looks wrong is read once more: memory errs, too.
            problem, stopped = self._problem(copy)
        if problem is not None:
            quarantine_blob(self._registry, copy.digest, copy.storage_key, problem)
            # Nothing was waited for where there was nothing to read.
            stopped = stopped or self._pause(0)
        return stopped

    def _problem(self, copy: StoredCopy) -> tuple[str | None, bool]:
        """What is wrong with it, None for nothing; whether it was told to stop."""
        try:
            hasher = Hasher(copy.digest.algorithm)
            with self._registry.blobs.open(copy.storage_key, copy.size) as reader:
                if reader.size != copy.size:
                    return f"its bytes are others: {reader.size} instead of {copy.size}", False
                while piece := reader.read_at(hasher.length, PIECE_BYTES):
                    hasher.update(piece)
                    if self._pause(len(piece) / self._pace):
                        return None, True
        except KeyUnknown:
            return "its bytes are missing", False
        except OSError as error:
            log.error("blob %s cannot be read: %s", copy.digest, error)
            lost = error.errno == errno.EIO
            return (f"its bytes cannot be read: {error}" if lost else None), False
        found = hasher.digest()
        return (None if found == copy.digest else f"its bytes are others: {found}"), False


def _pace(total_bytes: int, period: timedelta) -> float:
    """Bytes per second at which all of them take most of a period."""
    wanted = total_bytes * _MARGIN / period.total_seconds()
    return min(max(wanted, LEAST_BYTES_PER_SECOND), MOST_BYTES_PER_SECOND)

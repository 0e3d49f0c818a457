"""What the clock starts: a thread that reclaims space and cleans up while the registry serves.

It sleeps until something is due or a deletion wakes it, works until nothing is left, and
backs off when something fails. It decides nothing: every step is a function of the rooms below.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Protocol

from ullage.blobs.protocol import SHARD_COUNT, StoredObject
from ullage.check.scrub import scrub
from ullage.cleanup.job import claims, execution
from ullage.cleanup.plan import plan
from ullage.cleanup.plan.as_job import choose_plan
from ullage.cleanup.purge import choose_purge
from ullage.cleanup.retention.run import choose_retention, start_if_due
from ullage.database.errors import DatabaseBroken, DatabaseBusy, DatabaseFull, Stopped
from ullage.deletion import reclaim
from ullage.deletion.reconcile_turn import reconcile_if_due
from ullage.oci.errors import RegistryError
from ullage.registry.context import Registry
from ullage.registry.fitness import SPACE
from ullage.registry.identity import advance
from ullage.registry.locks import image_locks
from ullage.registry.pull import pull_log
from ullage.restore import deleted
from ullage.usage import overview

log = logging.getLogger(__name__)

# Look for work at least this often, whatever is known to be due.
IDLE_SECONDS = 30.0
# Deletions come many at once: what comes within this is reclaimed together, one fsync for many.
GATHER_SECONDS = 0.05
# Tidying the database waits for a quiet moment, so that it does not slow down what it tidies after.
QUIET_SECONDS = 1.0
# The store is compared with the database when a start is long over, one object per so long. What
# failed is tried again after the most of pauses.
FIRST_RECONCILE_SECONDS = 600.0
RECONCILE_PAUSE_SECONDS = 0.001
MOST_RECONCILE_PAUSE_SECONDS = 3600.0
# The scrub begins when a start is over, and looks at least this often whether it is due.
FIRST_SCRUB_SECONDS = 60.0
MOST_SCRUB_PAUSE_SECONDS = 3600.0
# The bill is taken a moment after a start, so that a start is not slower for it.
FIRST_OVERVIEW_SECONDS = 2.0
# A wall clock that moved by more than this against the boot clock was set.
CLOCK_JUMP = timedelta(minutes=1)
# Something that fails is tried again after at most this long.
MAX_BACKOFF_SECONDS = 60.0
# A job's transactions are so large that each keeps others from writing for about this long; while
# anything is pushed, for less long, and after each of them the database is left to others for as
# long again.
BATCH_SECONDS = 0.02
SMALLEST_BATCH, LARGEST_BATCH = 50, 1000
BATCH_SECONDS_BESIDE_PUSHES = 0.005
SMALLEST_BATCH_BESIDE_PUSHES = 5
# Between two steps of one push there is less than this, unless it sends bytes of a large blob.
PUSH_SECONDS = 1.0
# A job computes for longer than that between two statements. Others wait for the interpreter for
# half a millisecond then in place of five, and a push needs it dozens of times.
SWITCH_SECONDS, USUAL_SWITCH_SECONDS = 0.0005, sys.getswitchinterval()
# Pulls are written down this often, and old ones forgotten.
PULLS_SECONDS = 5.0
FORGET_SECONDS = 3600.0
# A database or a disk that is away for a while is said in one line; anything else with all it takes
# to find it.
TROUBLES = (RegistryError, OSError, DatabaseBusy, DatabaseFull, DatabaseBroken)
# While anything changes, the store's label goes on this often.
LABEL_SECONDS = 60.0
# The thread that keeps the bill, by its name in `Rounds`.
BILL = "bill"
# What each kind of job deletes.
CHOOSERS = {"plan": choose_plan, "purge": choose_purge, "retention": choose_retention}


class Clock(Protocol):
    """The registry's `now`, which goes its own way beside the machine's wall clock."""

    def moved(self) -> timedelta:
        """How far the wall clock has been put forward, or back, against this one."""

    def adopt(self, moved: timedelta) -> None:
        """Go forward, or back, by as much."""


class Worker:
    """The threads that work beside the requests. `scrub_period`: None for no scrub."""

    def __init__(
        self, registry: Registry, clock: Clock, *, scrub_period: timedelta | None = None
    ) -> None:
        self._registry = registry
        self._scrub_period = scrub_period
        self._clock = clock
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._failures = 0
        # By this, other processes know which one works on a job.
        self._token = uuid.uuid4().hex
        self._wake_jobs = threading.Event()
        self._jobs = threading.Thread(target=self._run_jobs, name="ullage-jobs", daemon=True)
        self._pulls = threading.Thread(target=self._run_pulls, name="ullage-pulls", daemon=True)
        self._untidy = True
        # Whether jobs are being looked for or worked on.
        self._at_a_job = False
        self._label_at = time.monotonic() + LABEL_SECONDS
        self._thread = threading.Thread(target=self._run, name="ullage-worker", daemon=True)
        self._reconciler = threading.Thread(
            target=self._reconcile, name="ullage-reconcile", daemon=True
        )
        self._scrubber = threading.Thread(target=self._scrub, name="ullage-scrub", daemon=True)
        self._bills = threading.Thread(target=self._keep_bill, name="ullage-bill", daemon=True)

    def start(self) -> None:
        # The last process may have left something to do.
        self.wake()
        self._registry.rounds.note(SPACE)
        self._thread.start()
        self._jobs.start()
        self._pulls.start()
        self._reconciler.start()
        self._bills.start()
        if self._scrub_period:
            self._scrubber.start()

    def wake(self) -> None:
        """There is something to reclaim, or a job to do."""
        self._wake.set()
        self._wake_jobs.set()

    def stop(self) -> None:
        """Finish the piece of work at hand and end."""
        self._stop.set()
        self.wake()
        for thread in (
            self._thread,
            self._jobs,
            self._pulls,
            self._reconciler,
            self._scrubber,
            self._bills,
        ):
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(self._pause())
            self._stop.wait(GATHER_SECONDS)
            self._wake.clear()
            self._cycle()

    def _cycle(self) -> None:
        if self._rests():
            return
        try:
            self._follow_clock()
            self._work()
            self._failures = 0
        except TROUBLES as error:
            self._note_trouble()
            log.error("reclaiming failed, trying again soon: %s", error)
        except Exception:
            # Whatever is wrong with one piece of work must not end all reclaiming.
            self._note_trouble()
            log.exception("reclaiming failed, trying again soon")

    def _note_trouble(self) -> None:
        self._failures += 1
        self._registry.rounds.note_error(SPACE)

    def _rests(self) -> bool:
        """Whether nothing is to be done: of a damaged database nobody knows what may be erased."""
        return self._registry.unready is not None

    def _follow_clock(self) -> None:
        """Take over the wall clock's time. If it was set, deadlines move along."""
        moved = self._clock.moved()
        if moved > CLOCK_JUMP:
            log.warning("the clock was put forward by %s: deadlines move along", moved)
            # In this order a promise lasts too long for a moment, rather than not long enough; and
            # if the deadlines cannot be moved now, neither is the clock.
            reclaim.shift_deadlines(self._registry, moved)
            self._clock.adopt(moved)
        elif moved < -CLOCK_JUMP:
            log.warning("the clock was put back by %s: deadlines move along", -moved)
            self._clock.adopt(moved)
            reclaim.shift_deadlines(self._registry, moved)
        else:
            self._clock.adopt(moved)

    def _work(self) -> None:
        registry, busy = self._registry, False
        reclaim.expire_leases(registry)
        reclaim.tidy_signed_urls(registry)
        for step in (
            reclaim.expire_uploads,
            deleted.expire_operations,
            reclaim.erase_deleted,
            reclaim.review_due,
            reclaim.reclaim_due,
        ):
            while not self._stop.is_set() and step(registry):
                registry.rounds.note(SPACE)
                busy = True
        plan.expire_plans(registry)
        start_if_due(registry)
        image_locks.expire_locks(registry)
        while not self._stop.is_set() and execution.expire_jobs(registry):
            pass
        if time.monotonic() >= self._label_at:
            self._label_at = time.monotonic() + LABEL_SECONDS
            advance(registry)
        # A job's next batch fills what the last one emptied, or waits for its tidying.
        self._untidy = busy or self._at_a_job
        if not self._untidy:
            registry.db.housekeep()
        registry.rounds.note(SPACE)

    def _pause(self) -> float:
        """Seconds until something is due."""
        if self._rests():
            return IDLE_SECONDS
        if self._failures:
            return backoff_seconds(self._failures)
        try:
            due = reclaim.next_due(self._registry)
        except Exception as error:  # noqa: BLE001 - the work that comes next says it in full
            log.error("the next deadline is not known: %s", error)
            return 1.0
        longest = QUIET_SECONDS if self._untidy else IDLE_SECONDS
        if due is None:
            return longest
        seconds = (due - self._registry.now()).total_seconds()
        # Something overdue was just tried; it waits for its own back-off.
        return min(longest, seconds) if seconds > 0 else 1.0

    def _run_jobs(self) -> None:
        """Jobs have a thread of their own, so that what they delete leaves the disk meanwhile."""
        while not self._stop.is_set():
            self._wake_jobs.wait(IDLE_SECONDS)
            self._wake_jobs.clear()
            self._at_a_job = True
            sys.setswitchinterval(SWITCH_SECONDS)
            try:
                self._do_jobs()
                self._registry.rounds.note("jobs")
            finally:
                self._at_a_job = False
                sys.setswitchinterval(USUAL_SWITCH_SECONDS)
        if self._rests():
            return
        try:
            claims.release_jobs(self._registry, self._token)
        except RegistryError as error:
            # The claim ends by itself.
            log.warning("a job stays claimed for a while: %s", error)

    def _do_jobs(self) -> None:
        pace, failures = BatchPace(self._pushing, alone=self._registry.process is None), 0
        while not self._stop.is_set() and not self._rests():
            took: list[float] = []
            n = pace.items
            try:
                done = execution.work(self._registry, CHOOSERS, self._token, n, took.append)
                failures = 0
            except Exception as error:
                failures += 1
                if isinstance(error, TROUBLES):
                    log.error("a job failed, trying again soon: %s", error)
                else:
                    log.exception("a job failed, trying again soon")
                self._registry.rounds.note_error("jobs")
                self._note_failure(error)
                self._stop.wait(backoff_seconds(failures))
                continue
            if done is None:
                return
            self._stop.wait(pace.pause_after(done, sum(took)))

    def _pushing(self) -> bool:
        return self._registry.pushes.within(PUSH_SECONDS)

    def _note_failure(self, error: Exception) -> None:
        try:
            execution.note_failure(self._registry, self._token, f"{type(error).__name__}: {error}")
        except TROUBLES as another:
            log.error("that could not be noted: %s", another)

    def _run_pulls(self) -> None:
        """Write down what was pulled by which clients, at intervals and once more at the end."""
        forget_at = time.monotonic()
        while not self._stop.wait(PULLS_SECONDS):
            self._about_pulls(pull_log.write_pulls)
            self._registry.rounds.note("pulls")
            if time.monotonic() >= forget_at:
                forget_at += FORGET_SECONDS
                self._about_pulls(pull_log.forget_old_pulls)
        self._about_pulls(pull_log.write_pulls)

    def _about_pulls(self, step: Callable[[Registry], object]) -> None:
        if self._rests():
            return
        try:
            step(self._registry)
        except TROUBLES as error:
            log.error("something was not noted about pulls: %s", error)
        except Exception:
            # No request waits for it, and the next ones may go better.
            log.exception("something was not noted about pulls")

    def _reconcile(self) -> None:
        """At long intervals, slowly, look for bytes in the store that no row names."""
        wait = FIRST_RECONCILE_SECONDS
        while not self._stop.wait(wait):
            wait = MOST_RECONCILE_PAUSE_SECONDS
            if self._rests():
                continue
            try:
                again = reconcile_if_due(self._registry, self._slow_listing(), self._stop.is_set)
                wait = min(wait, again.total_seconds())
            except TROUBLES as error:
                log.error("comparing the store with the database failed: %s", error)

    def _scrub(self) -> None:
        """Read every blob once in a while."""
        period, wait = self._scrub_period, FIRST_SCRUB_SECONDS
        assert period is not None
        while not self._stop.wait(wait) and not self._rests():
            try:
                again = scrub(self._registry, period, self._token, self._stop.wait)
                wait = min(again.total_seconds(), MOST_SCRUB_PAUSE_SECONDS)
            except (RegistryError, OSError) as error:
                wait = MAX_BACKOFF_SECONDS
                log.error("the scrub failed, trying again soon: %s", error)

    def _keep_bill(self) -> None:
        """Keep the bill as far up to date as it may cost."""
        wait, failures = FIRST_OVERVIEW_SECONDS, 0
        while not self._stop.wait(wait):
            if self._rests():
                wait = IDLE_SECONDS
                continue
            try:
                wait, failures = overview.keep_up(self._registry, self._stop.is_set), 0
                self._registry.rounds.note(BILL)
            except Stopped:
                return
            except TROUBLES as error:
                failures += 1
                wait = overview.LEAST_SECONDS + backoff_seconds(failures)
                self._registry.rounds.note_error(BILL)
                log.error("the bill was not taken, trying again soon: %s", error)

    def _slow_listing(self) -> Iterator[StoredObject]:
        for shard in range(SHARD_COUNT):
            for found in self._registry.blobs.list(shard):
                if self._stop.is_set():
                    return
                time.sleep(RECONCILE_PAUSE_SECONDS)
                yield found


class BatchPace:
    """How many items a job deletes at once, and how long it waits between two batches.

    While `pushing` says that anything is pushed, batches of BATCH_SECONDS_BESIDE_PUSHES and after
    each a pause of as long as it took; otherwise batches of BATCH_SECONDS and no pause. Where this
    process is not `alone`, what others push is not known: such batches, and a pause.
    """

    def __init__(self, pushing: Callable[[], bool], *, alone: bool = True) -> None:
        self._pushing = pushing
        self._alone = alone
        self.items = SMALLEST_BATCH_BESIDE_PUSHES if pushing() else SMALLEST_BATCH

    def pause_after(self, done: int, seconds: float) -> float:
        """Seconds to wait after `done` items kept others from writing for `seconds`.

        The next batch's `items` are adjusted: never more than twice as many, but at least the
        smallest batch.
        """
        pushing = self._pushing()
        if pushing:
            target, smallest = BATCH_SECONDS_BESIDE_PUSHES, SMALLEST_BATCH_BESIDE_PUSHES
        else:
            target, smallest = BATCH_SECONDS, SMALLEST_BATCH
        # A batch that found less than it asked for, the last of a job, says nothing of a full one.
        if done == self.items:
            wanted = int(done * target / max(seconds, 1e-6))
            self.items = max(smallest, min(LARGEST_BATCH, wanted, 2 * done))
        if pushing:
            return seconds
        return 0.0 if self._alone else min(seconds, BATCH_SECONDS)


def backoff_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row: twice as long each time, more or less."""
    # The exponent has a limit of its own: 2.0**1024 is no number.
    longest = min(MAX_BACKOFF_SECONDS, 2.0 ** min(failures, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

"""The worker: a real thread over a real registry, with a clock that only the test moves."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.cleaning import retention
from tests.support.clock import FakeClock
from tests.support.registry import ALICE, make_registry, push_blob, push_image
from ullage import worker as worker_module
from ullage.blobs.memory import MemoryBlobStore
from ullage.cleanup.job import execution
from ullage.cleanup.retention.policy import set_retention
from ullage.clock import SteadyClock
from ullage.database.errors import DatabaseBusy
from ullage.database.statements import Statement
from ullage.database.transaction import Transaction
from ullage.deletion import reclaim
from ullage.deletion.delete import delete_manifest
from ullage.oci.digest import digest_of
from ullage.oci.errors import RegistryError
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Limits, PushActivity, Registry
from ullage.registry.identity import begin_batch
from ullage.registry.pull.pull_log import note_pull
from ullage.registry.pull.read import get_manifest, list_tags, stat_blob
from ullage.registry.push.sessions import get_upload, start_upload
from ullage.registry.push.uploads import append_upload
from ullage.usage import overview
from ullage.usage.overview import find_overview
from ullage.worker import MAX_BACKOFF_SECONDS, BatchPace, Worker, backoff_seconds

APP = parse_repository_name("app")
LAYER = os.urandom(1000)
GRACE = timedelta(seconds=5)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


# For far longer than anything waits.
ENDLESS = Statement.text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000)"
    " SELECT count(*) FROM n"
)


class Store(MemoryBlobStore):
    """A store whose deletions fail while `fault` is set."""

    fault: Exception | None = None

    def delete(self, keys: Iterable[str], states: Iterable[str] = ()) -> None:
        if self.fault is not None:
            raise self.fault
        super().delete(keys, states)


class TwoClocks(FakeClock):
    """The registry's clock, and beside it a wall clock that a test may set."""

    wall_ahead = timedelta(0)

    def moved(self) -> timedelta:
        return self.wall_ahead

    def adopt(self, moved: timedelta) -> None:
        self.advance(moved.total_seconds())
        self.wall_ahead -= moved


@dataclass(frozen=True)
class Running:
    registry: Registry
    worker: Worker
    clock: TwoClocks
    store: Store

    def keys(self) -> int:
        """How many objects the store holds."""
        return len(list(self.store.list()))

    def pass_time(self, by: timedelta) -> None:
        """Time goes by for the registry; the worker looks around."""
        self.clock.advance(by.total_seconds())
        self.worker.wake()

    def set_wall_clock(self, by: timedelta) -> None:
        """Set the wall clock; wait until the worker has taken that over."""
        self.clock.wall_ahead += by
        self.worker.wake()
        wait_for(lambda: self.clock.wall_ahead == timedelta(0))

    def has_layer(self) -> bool:
        try:
            stat_blob(self.registry, APP, digest_of(LAYER))
        except RegistryError:
            return False
        return True

    def has_upload(self, upload_id: str) -> bool:
        try:
            get_upload(self.registry, APP, upload_id, ALICE)
        except RegistryError:
            return False
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for the worker's thread; a failure is one of its, not of a clock."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the worker does nothing"
        time.sleep(0.005)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A registry with its worker at work."""
    clock, store = TwoClocks(datetime.now(UTC)), Store()
    limits = Limits(read_grace=GRACE, lease=HOUR, upload_idle=HOUR)
    bare = make_registry(f"sqlite:///{tmp_path / 'ullage.db'}", store, clock, limits)
    worker: Worker
    registry = replace(bare, wake=lambda: worker.wake())
    worker = Worker(registry, clock)
    worker.start()
    yield Running(registry, worker, clock, store)
    worker.stop()
    registry.db.close()


# --- waking up ------------------------------------------------------------------------------------


def test_it_erases_what_was_deleted_when_the_grace_is_over(running: Running) -> None:
    """A deletion wakes it, so that it knows when to look again."""
    image = push_image(running.registry, "app", "v1", [LAYER])
    delete_manifest(running.registry, APP, image, ALICE)
    assert running.keys() == 2
    running.pass_time(GRACE)
    wait_for(lambda: running.keys() == 0)


def test_it_sleeps_until_something_is_due(running: Running) -> None:
    """Nothing wakes it here, and the next look-around would be far too late for this test."""
    image = push_image(running.registry, "app", "v1", [LAYER])
    short = replace(running.registry.limits, read_grace=timedelta(seconds=0.3))
    delete_manifest(replace(running.registry, limits=short), APP, image, ALICE)
    running.clock.advance(1)
    wait_for(lambda: running.keys() == 0)


def test_it_gives_the_database_s_room_back_once_it_is_quiet(running: Running) -> None:
    """Not in the middle of deletions, but without waiting to be woken."""

    def free_pages(tx: Transaction) -> int:
        return int(tx.execute_directly(sa.text("PRAGMA freelist_count")).scalar_one())

    def leave_room(tx: Transaction) -> int:
        tx.execute_directly(sa.text("CREATE TABLE large (data BLOB)"))
        tx.execute_directly(sa.text("INSERT INTO large VALUES (zeroblob(200000))"))
        tx.execute_directly(sa.text("DROP TABLE large"))
        # Asked here: the worker may be quiet already, and give it back the moment this ends.
        return free_pages(tx)

    image = push_image(running.registry, "app", "v1", [LAYER])
    assert running.registry.write(leave_room) > 0
    delete_manifest(running.registry, APP, image, ALICE)
    running.pass_time(GRACE)
    wait_for(lambda: running.keys() == 0 and running.registry.db.read(free_pages) == 0)


def test_it_ends_abandoned_promises_and_uploads(running: Running) -> None:
    push_blob(running.registry, "app", LAYER)
    upload = start_upload(running.registry, APP, ALICE)
    running.pass_time(HOUR - GRACE)
    assert running.has_layer()
    assert running.has_upload(upload.id)
    running.pass_time(2 * GRACE)
    wait_for(lambda: not running.has_layer() and not running.has_upload(upload.id))
    running.pass_time(GRACE)
    wait_for(lambda: running.keys() == 0)


def test_it_ends_when_it_is_told_to(running: Running) -> None:
    """Also in its sleep, also twice, and also if it never began."""
    for worker in (running.worker, running.worker, Worker(running.registry, running.clock)):
        began = time.monotonic()
        worker.stop()
        assert time.monotonic() - began < 5


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [OSError("the disk is away"), RuntimeError("a defect")], ids=["disk", "defect"]
)
def test_it_goes_on_after_a_failure(
    running: Running, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    """Nothing is forgotten: what could not be erased is erased when it can be."""
    image = push_image(running.registry, "app", "v1", [LAYER])
    running.store.fault = fault
    delete_manifest(running.registry, APP, image, ALICE)
    running.pass_time(GRACE)
    wait_for(lambda: str(fault) in caplog.text)
    assert running.keys() == 2
    running.store.fault = None
    running.pass_time(timedelta(minutes=2))
    wait_for(lambda: running.keys() == 0)


def test_it_goes_on_when_it_cannot_even_tell_what_is_due(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(registry: Registry) -> datetime:
        raise RuntimeError("no deadline")

    with monkeypatch.context() as patched:
        patched.setattr(reclaim, "next_due", broken)
        running.worker.wake()
        wait_for(lambda: "no deadline" in caplog.text)
    image = push_image(running.registry, "app", "v1", [LAYER])
    delete_manifest(running.registry, APP, image, ALICE)
    running.pass_time(GRACE)
    wait_for(lambda: running.keys() == 0)


@pytest.mark.parametrize("failures", [1, 2, 5, 6, 60, 1023, 1024, 10**6])
def test_it_waits_longer_after_each_failure_up_to_a_limit(failures: int) -> None:
    """And goes on doing so if a disk is away over a long weekend (2.0**1024 is no number)."""
    longest = min(MAX_BACKOFF_SECONDS, 2 ** min(failures, 10))
    waits = {backoff_seconds(failures) for _ in range(100)}
    assert all(longest / 2 <= wait <= longest for wait in waits)
    assert len(waits) > 1


# --- clocks that are set --------------------------------------------------------------------------


@pytest.mark.parametrize("by", [DAY, -DAY, 365 * DAY])
def test_promises_last_as_long_when_the_clock_is_set(running: Running, by: timedelta) -> None:
    """R31: a clock put forward by a day would end every push at once."""
    push_blob(running.registry, "app", LAYER)
    upload, empty = (start_upload(running.registry, APP, ALICE) for _ in range(2))
    session = append_upload(running.registry, APP, upload.id, ALICE, start=0)
    session.write(LAYER)
    session.close()
    before = running.clock()
    running.set_wall_clock(by)
    assert running.clock() == before + by
    running.pass_time(HOUR / 2)
    # Something that the worker does after that, to know that it looked around.
    elsewhere = push_image(running.registry, "elsewhere", "v1", [b"other"])
    delete_manifest(running.registry, parse_repository_name("elsewhere"), elsewhere, ALICE)
    running.pass_time(GRACE)
    wait_for(lambda: running.keys() == 2)
    assert running.has_layer()
    assert running.has_upload(upload.id)
    running.pass_time(HOUR / 2)
    wait_for(lambda: not running.has_layer() and not running.has_upload(upload.id))
    assert not running.has_upload(empty.id)


def test_the_clock_waits_for_the_deadlines(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If they cannot be moved along now, no promise ends by that."""
    push_blob(running.registry, "app", LAYER)
    before = running.clock()

    def busy(registry: Registry, by: timedelta) -> None:
        raise DatabaseBusy("not now")

    with monkeypatch.context() as patched:
        patched.setattr(reclaim, "shift_deadlines", busy)
        running.clock.wall_ahead = DAY
        running.worker.wake()
        wait_for(lambda: "not now" in caplog.text)
        assert running.clock() == before
    running.worker.wake()
    wait_for(lambda: running.clock() == before + DAY)
    assert running.has_layer()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("reclaim.expire_leases", "reclaiming failed, trying again soon"),
        ("pull_log.write_pulls", "something was not noted about pulls"),
        ("execution.work", "a job failed, trying again soon"),
    ],
)
def test_a_database_that_is_away_for_a_while_is_said_in_one_line(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
    said: str,
) -> None:
    """An operator who restarts PostgreSQL is shown no traceback (fault F25)."""

    def away(*_: object) -> None:
        raise DatabaseBusy("server closed the connection unexpectedly")

    monkeypatch.setattr(worker_module, "PULLS_SECONDS", 0.01)
    module, _, name = broken.partition(".")
    with monkeypatch.context() as patched:
        patched.setattr(getattr(worker_module, module), name, away)
        worker = Worker(running.registry, running.clock)
        worker.start()
        wait_for(lambda: f"{said}: server closed the connection" in caplog.text)
        worker.stop()
    assert "Traceback" not in caplog.text


def test_a_steady_clock_follows_the_wall_clock_only_when_told() -> None:
    """What the registry goes by: forward, whatever the wall clock says."""
    real = datetime.now(UTC)
    clock = SteadyClock(lambda: real)
    began = clock()
    assert abs(began - real) < timedelta(seconds=1)
    assert clock() >= began
    real += DAY
    assert clock() - began < HOUR
    moved = clock.moved()
    assert abs(moved - DAY) < timedelta(seconds=10)
    clock.adopt(moved)
    assert abs(clock() - real) < timedelta(seconds=10)
    assert abs(clock.moved()) < timedelta(seconds=10)


# --- unknown bytes --------------------------------------------------------------------------------


def test_it_finds_own_bytes_that_no_row_names(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a defect left behind goes too, a day later; nothing else does."""
    push_image(running.registry, "app", "v1", [LAYER])
    own, *_ = begin_batch(running.registry, lambda tx, keys: None)
    running.store.begin(own).close()
    running.store.begin("f" * 32).close()
    running.clock.advance(2 * DAY.total_seconds())
    monkeypatch.setattr(worker_module, "FIRST_RECONCILE_SECONDS", 0)
    limits = replace(running.registry.limits, max_unknown_percent=100)
    second = Worker(replace(running.registry, limits=limits), running.clock)
    second.start()
    try:
        wait_for(lambda: running.store.size(own) is None)
    finally:
        second.stop()
    assert running.has_layer()
    assert running.store.size("f" * 32) == 0


def test_the_label_of_the_store_goes_on_while_anything_changes(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a copy of the database of before is told from now (damage.md section 1)."""
    # One that runs in its own time would write labels, too.
    running.worker.stop()
    monkeypatch.setattr(worker_module, "LABEL_SECONDS", 0)
    worker = Worker(running.registry, running.clock)
    push_image(running.registry, "app", "v1", [LAYER])
    labels = [running.store.read_label()]
    for change in (False, True, False):
        if change:
            push_image(running.registry, "app", "v2", [LAYER, LAYER[:5]])
        worker._cycle()
        labels.append(running.store.read_label())
    pushed, seen, changed, idle = labels
    assert pushed != seen, "the first look"
    assert seen != changed == idle


def test_it_erases_nothing_while_the_database_is_damaged(running: Running) -> None:
    """What looks unused may be what a damaged row kept (damage.md section 4)."""
    image = push_image(running.registry, "app", "v1", [LAYER])
    delete_manifest(running.registry, APP, image, ALICE)
    before = running.keys()
    running.registry.db.damage = "a page that makes no sense"
    running.clock.advance(DAY.total_seconds())
    running.worker._cycle()
    assert running.keys() == before
    running.registry.db.damage = None
    running.pass_time(DAY)
    wait_for(lambda: running.keys() == 0)


# --- policies -------------------------------------------------------------------------------------


def test_it_runs_retention_rules_when_they_are_due(running: Running) -> None:
    for tag in ("old", "a", "b"):
        push_image(running.registry, "app", tag, [tag.encode()])
    rule = {"tags": "^old$", "older_than": "1h"}
    set_retention(running.registry, retention({"rules": [rule]}), ALICE)
    running.pass_time(DAY)
    wait_for(lambda: list_tags(running.registry, APP, 10, None).items == ("a", "b"))


def test_it_writes_down_pulls_now_and_then_and_at_the_end(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "PULLS_SECONDS", 0.01)
    push_image(running.registry, "app", "v1", [LAYER])
    manifest = get_manifest(running.registry, APP, parse_tag("v1"))

    def written() -> int:
        query = sa.text("SELECT coalesce(sum(pulls), 0) FROM pull_history")
        return int(running.registry.db.read(lambda tx: tx.execute_directly(query).scalar_one()))

    worker = Worker(running.registry, running.clock)
    worker.start()
    note_pull(running.registry, manifest.id, parse_tag("v1"), "containerd/2.0")
    wait_for(lambda: written() == 1)
    worker.stop()
    for _ in range(3):
        note_pull(running.registry, manifest.id, manifest.digest, "containerd/2.0")
    running.worker.stop()
    assert written() == 4


# --- the pace of a job (deletion.md section 4.1) --------------------------------------------------


class Seconds:
    """A clock in seconds that only the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def batches(pace: BatchPace, item_seconds: float, count: int) -> list[tuple[float, float]]:
    """How long each of `count` batches takes, and the pause after it."""
    found = []
    for _ in range(count):
        took = pace.items * item_seconds
        pause = pace.pause_after(pace.items, took)
        found.append((round(took, 6), round(pause, 6)))
    return found


def test_a_job_leaves_the_database_to_pushes_for_as_long_as_it_took() -> None:
    """deletion.md section 4.1: batches of 5 ms, each followed by a pause as long."""
    pace = BatchPace(lambda: True)
    settled = batches(pace, 0.0001, 20)[10:]
    assert settled == [(0.005, 0.005)] * 10


def test_a_job_takes_the_whole_time_while_nothing_is_pushed() -> None:
    """deletion.md section 4.1: batches of 20 ms without a pause."""
    pace = BatchPace(lambda: False)
    settled = batches(pace, 0.0001, 20)[10:]
    assert settled == [(0.02, 0.0)] * 10


def test_a_job_makes_way_with_the_first_batch_after_a_push() -> None:
    """And speeds up again a second after the last one."""
    clock = Seconds()
    pushes = PushActivity(clock)
    pace = BatchPace(lambda: pushes.within(1.0))
    assert batches(pace, 0.0001, 10)[-1] == (0.02, 0.0)
    pushes.note()
    (_, pause), (took, _) = batches(pace, 0.0001, 2)
    assert (pause, took) == (0.02, 0.005)
    clock.now += 1.0
    assert batches(pace, 0.0001, 1) == [(0.005, 0.0)]
    assert batches(pace, 0.0001, 4)[-1] == (0.02, 0.0)


def test_slow_items_go_five_at_a_time_beside_pushes_and_their_pause_is_as_long() -> None:
    pace = BatchPace(lambda: True)
    assert batches(pace, 0.05, 3)[-1] == (0.25, 0.25)


def test_a_last_batch_that_is_not_full_changes_no_size() -> None:
    pace = BatchPace(lambda: True)
    items = pace.items
    assert pace.pause_after(items - 1, 0.0001) == 0.0001
    assert pace.items == items


def test_where_others_may_push_there_is_a_pause_without_small_batches() -> None:
    pace = BatchPace(lambda: False, alone=False)
    assert batches(pace, 0.0001, 20)[-1] == (0.02, 0.02)


def test_the_database_is_tidied_when_a_job_is_done_and_not_between_its_batches(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """deletion.md section 4.1: tidying keeps pushes waiting as a batch does."""
    at_work, go = threading.Event(), threading.Event()
    looks: list[None] = []
    tidied: list[None] = []

    def batch(*_: object) -> None:
        at_work.set()
        go.wait(10)

    def look(registry: Registry) -> None:
        looks.append(None)

    def look_round() -> None:
        before = len(looks)
        running.worker.wake()
        wait_for(lambda: len(looks) > before)

    monkeypatch.setattr(reclaim, "expire_leases", look)
    monkeypatch.setattr(execution, "work", batch)
    monkeypatch.setattr(type(running.registry.db), "housekeep", lambda _: tidied.append(None))
    running.worker.wake()
    assert at_work.wait(10)
    # What was begun before the batch is over with the next look.
    look_round()
    tidied.clear()
    look_round()
    look_round()
    assert tidied == []
    go.set()
    wait_for(lambda: bool(tidied))


def test_a_push_is_noticed_and_a_deletion_is_not(running: Running) -> None:
    pushes = running.registry.pushes
    assert not pushes.within(3600)
    image = push_image(running.registry, "app", "v1", [LAYER])
    assert pushes.within(3600)
    quiet = replace(running.registry, pushes=PushActivity())
    delete_manifest(quiet, APP, image, ALICE)
    assert not quiet.pushes.within(3600)


# --- the bill -------------------------------------------------------------------------------------


def test_it_keeps_the_bill(running: Running) -> None:
    """observability.md section 2: taken beside the requests, a moment after a start."""
    wait_for(lambda: find_overview(running.registry) is not None)


def test_a_stop_does_not_wait_for_the_bill(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """observability.md section 2: of a million manifests it takes longer than a stop may."""
    counting = threading.Event()

    def count(tx: Transaction) -> object:
        counting.set()
        return tx.rows(ENDLESS)

    monkeypatch.setattr(overview, "count_registry", count)
    assert counting.wait(10)
    running.worker.stop()
    assert find_overview(running.registry) is None

"""Parts of unfinished uploads in an object store: known, found, removed (I34; deletion.md R23).

The store is tests/support/parts_store.py. Nothing but a session or a tombstone says of parts what
they are: an object under the same key does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.parts_store import PartsStore
from tests.support.registry import ALICE, push_blob, settle
from tests.support.soundness import assert_sound
from ullage.blobs.protocol import StoredObject
from ullage.check.check import check
from ullage.check.findings import Finding, Mode, Report
from ullage.database.transaction import Database
from ullage.deletion.reclaim import reclaim_due
from ullage.deletion.reconcile import UNKNOWN_KEY_GRACE, reconcile
from ullage.oci.digest import digest_of
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.identity import begin_batch
from ullage.registry.pull.read import stat_blob
from ullage.registry.push.append_session import AppendSession
from ullage.registry.push.sessions import Upload, cancel_upload, start_upload
from ullage.registry.push.uploads import append_upload, finish_upload
from ullage.registry.queries.upload_claims import CLAIM_PERIOD
from ullage.usage.usage import unexplained

APP = parse_repository_name("app")
DATA = b"twenty-three bytes long"
OLD = UNKNOWN_KEY_GRACE + timedelta(seconds=1)


@pytest.fixture
def parts() -> PartsStore:
    return PartsStore()


@pytest.fixture
def registry(db: Database, parts: PartsStore, clock: FakeClock) -> Iterator[Registry]:
    """One that may erase anything that is its own."""
    made = registry_on(db, parts, clock)
    registry = replace(made, limits=replace(made.limits, max_unknown_percent=100))
    yield registry
    assert_sound(registry)


def own_key(registry: Registry) -> str:
    return begin_batch(registry, lambda tx, keys: None)[0]


def blob_key(registry: Registry) -> str:
    push_blob(registry, "app", b"a blob that was finished elsewhere")
    return only_key(registry)


def only_key(registry: Registry) -> str:
    """Of the one object in the store."""
    (found,) = [each for each in registry.blobs.list() if each.committed]
    return found.key


def plant_upload(parts: PartsStore, key: str) -> str:
    """What a request leaves that was killed before its row could name it."""
    place = parts.begin_parts(key)
    parts.put_part(key, place, 0, DATA)
    return place


def plant_tail(parts: PartsStore, key: str) -> str:
    return parts.put_tail(key, DATA)


def age(parts: PartsStore, registry: Registry, by: timedelta = OLD) -> None:
    """Let everything in the store be so old."""
    modified = (registry.now() - by).timestamp()
    for some in (parts.objects, parts.unfinished, parts.tails):
        for each in some.values():
            each.modified = modified


def left_over(parts: PartsStore) -> list[StoredObject]:
    return [found for found in parts.list() if not found.committed]


def one_finding(report: Report) -> Finding:
    (finding,) = report.findings
    return finding


def session_at_work(registry: Registry, upload: Upload) -> AppendSession:
    session = append_upload(registry, APP, upload.id, ALICE)
    session.write(DATA)
    return session


PLANTED = {
    "upload": plant_upload,
    "tail": plant_tail,
}
KEYS: dict[str, Callable[[Registry], str]] = {"of a blob": blob_key, "of nothing": own_key}


@pytest.mark.parametrize("key_of", KEYS)
@pytest.mark.parametrize("kind", PLANTED)
def test_parts_that_no_session_names_are_found_at_once_and_removed_when_old(
    registry: Registry, parts: PartsStore, kind: str, key_of: str
) -> None:
    key = KEYS[key_of](registry)
    place = PLANTED[kind](parts, key)
    age(parts, registry, timedelta(minutes=1))
    for repair in (False, True):
        report = check(registry, Mode.DEFAULT, repair=repair)
        finding = one_finding(report)
        assert (finding.invariant, finding.severity) == ("I34", "leak")
        assert key in finding.subject
        assert place in finding.message
        assert f"{len(DATA)} bytes" in finding.message
        assert "until it is 24 h old" in finding.message
        assert (report.exit_code, report.mendable, report.repaired) == (1, 0, 0)
        assert report.bytes["unknown"] == len(DATA)
    age(parts, registry)
    report = check(registry, Mode.DEFAULT)
    assert (report.mendable, len(left_over(parts))) == (1, 1)
    report = check(registry, Mode.DEFAULT, repair=True)
    assert one_finding(report).repaired
    assert left_over(parts) == []
    assert check(registry, Mode.DEEP).findings == ()


def test_parts_are_unexplained_bytes(registry: Registry, parts: PartsStore) -> None:
    push_blob(registry, "app", b"a blob")
    plant_upload(parts, only_key(registry))
    plant_tail(parts, own_key(registry))
    assert unexplained(registry) == (6 + 2 * len(DATA), 2 * len(DATA))
    parts.drop(left_over(parts))


def test_parts_of_a_request_at_work_are_its_sessions_however_old(
    registry: Registry, parts: PartsStore
) -> None:
    """Its row names them when it is done; a slow request may take days."""
    upload = start_upload(registry, APP, ALICE)
    session = session_at_work(registry, upload)
    assert left_over(parts) != []
    age(parts, registry)
    assert check(registry, Mode.DEFAULT, repair=True).findings == ()
    assert reconcile(registry, parts.list()) == 0
    session.close()
    age(parts, registry)
    assert check(registry, Mode.DEFAULT, repair=True).findings == ()
    assert reconcile(registry, parts.list()) == 0
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))
    assert stat_blob(registry, APP, digest_of(DATA)).size == len(DATA)


def test_what_waits_to_be_erased_is_no_leftover(registry: Registry, parts: PartsStore) -> None:
    """The tail before, under a tombstone of its own; and all of a cancelled session."""
    upload = start_upload(registry, APP, ALICE)
    for piece in (b"abc", b"defg", DATA):
        session = append_upload(registry, APP, upload.id, ALICE)
        session.write(piece)
        session.close()
    assert len(parts.tails) == 2
    age(parts, registry)
    assert check(registry, Mode.DEFAULT, repair=True).findings == ()
    cancel_upload(registry, APP, upload.id, ALICE)
    assert check(registry, Mode.DEFAULT, repair=True).findings == ()
    assert reconcile(registry, parts.list()) == 0
    assert len(left_over(parts)) == 3
    settle(registry)
    assert left_over(parts) == []


def test_what_a_killed_request_left_is_found_beside_what_its_session_has(
    registry: Registry, parts: PartsStore, clock: FakeClock
) -> None:
    """Where claims are in the rows; where one process owns the database, once the session ends."""
    upload = start_upload(registry, APP, ALICE)
    session_at_work(registry, upload).close()
    own = {found.place for found in left_over(parts)}
    dead = append_upload(registry, APP, upload.id, ALICE)
    dead.write(b"more")
    plant_upload(parts, upload.key)
    age(parts, registry)
    assert check(registry, Mode.DEFAULT, repair=True).findings == ()
    clock.advance(CLAIM_PERIOD.total_seconds())
    age(parts, registry)
    expected = 1 if registry.db.dialect == "postgresql" else 0
    assert check(registry, Mode.DEFAULT, repair=True).repaired == expected
    assert own <= {found.place for found in left_over(parts)}
    dead.abandon()
    cancel_upload(registry, APP, upload.id, ALICE)
    settle(registry)
    age(parts, registry)
    assert reconcile(registry, parts.list()) == 1 - expected
    assert left_over(parts) == []


@pytest.mark.parametrize("kind", PLANTED)
def test_parts_that_this_database_never_began_are_kept(
    registry: Registry, parts: PartsStore, kind: str
) -> None:
    own_key(registry)
    PLANTED[kind](parts, "b" * 32)
    age(parts, registry)
    assert reconcile(registry, parts.list()) == 0
    finding = one_finding(check(registry, Mode.DEFAULT, repair=True))
    assert (finding.invariant, finding.repaired) == ("I34", False)
    assert "this database never wrote" in finding.message
    [kept] = left_over(parts)
    parts.drop([kept])


def test_the_daily_comparison_removes_old_parts_and_nothing_beside_them(
    registry: Registry, parts: PartsStore
) -> None:
    key = blob_key(registry)
    upload = start_upload(registry, APP, ALICE)
    session_at_work(registry, upload).close()
    named = left_over(parts)
    plant_upload(parts, key)
    plant_tail(parts, own_key(registry))
    assert reconcile(registry, parts.list()) == 0
    age(parts, registry)
    assert reconcile(registry, parts.list()) == 2
    assert {found.place for found in left_over(parts)} == {found.place for found in named}
    assert check(registry, Mode.DEEP).findings == ()
    assert reconcile(registry, parts.list()) == 0


def test_many_parts_of_a_store_are_left_to_a_person(
    registry: Registry, parts: PartsStore, caplog: pytest.LogCaptureFixture
) -> None:
    few = replace(registry, limits=replace(registry.limits, max_unknown_percent=1))
    key = blob_key(few)
    plant_upload(parts, key)
    age(parts, few)
    assert reconcile(few, parts.list()) == 0
    assert "more than 1 % of it" in caplog.text
    assert check(few, Mode.DEFAULT, repair=True).repaired == 1


def test_what_was_removed_since_it_was_listed_is_not_counted(
    registry: Registry, parts: PartsStore
) -> None:
    place = plant_upload(parts, blob_key(registry))
    age(parts, registry)
    seen = list(parts.list())
    parts.unfinished.pop(place)
    assert reconcile(registry, seen) == 0


@pytest.mark.parametrize("lost", ["parts", "tail"])
def test_a_session_that_lost_a_part_is_found(
    registry: Registry, parts: PartsStore, lost: str
) -> None:
    """I17: what was acknowledged is there."""
    upload = start_upload(registry, APP, ALICE)
    session_at_work(registry, upload).close()
    assert check(registry, Mode.DEFAULT).findings == ()
    (parts.unfinished if lost == "parts" else parts.tails).clear()
    finding = one_finding(check(registry, Mode.DEFAULT))
    assert (finding.invariant, finding.severity) == ("I17", "corruption")
    assert f"{len(DATA)} bytes were acknowledged" in finding.message
    cancel_upload(registry, APP, upload.id, ALICE)
    settle(registry)


def test_pushes_under_way_are_no_leftovers(registry: Registry, parts: PartsStore) -> None:
    """Whatever moment of theirs a check or a comparison meets, and however old it took them for."""
    done = threading.Event()

    def push(pusher: int) -> None:
        for number in range(25):
            upload = start_upload(registry, APP, ALICE)
            for piece in (b"%d %d" % (pusher, number), DATA, b"the end"):
                session = append_upload(registry, APP, upload.id, ALICE)
                session.write(piece)
                session.close()
            if number % 3:
                data = b"%d %d" % (pusher, number) + DATA + b"the end"
                finish_upload(registry, APP, upload.id, ALICE, digest_of(data))
            else:
                cancel_upload(registry, APP, upload.id, ALICE)
            reclaim_due(registry)

    def look() -> int:
        looks = 0
        while not done.is_set():
            assert check(registry, Mode.DEFAULT, repair=True).findings == ()
            assert reconcile(registry, [replace(each, modified=0.0) for each in parts.list()]) == 0
            looks += 1
        return looks

    with ThreadPoolExecutor(3) as pool:
        looking = pool.submit(look)
        pushing = [pool.submit(push, pusher) for pusher in range(2)]
        try:
            for each in pushing:
                each.result()
        finally:
            done.set()
        assert looking.result() > 0
    settle(registry)
    assert left_over(parts) == []
    assert len(parts.objects) == 2 * 16

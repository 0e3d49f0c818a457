"""Killed before every call that changes a file or tells a client something (faults F1-F6, gate G1).

tests/crash/die_at.c counts those calls in the server, over all its threads, and kills it before the
one it is told. First a scenario runs to its end and says how many there are, then once for each.
ULLAGE_CRASH_POINTS=all does that; otherwise one early one of each, which ULLAGE_SEED chooses.
"""

import json
import mmap
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash import stock as contents
from tests.crash import test_failpoints as scenarios
from tests.crash.conftest import Stock
from tests.crash.harness import (
    SHORT_LEASE,
    CrashServer,
    ForkServer,
    Lost,
    State,
    User,
    assert_no_leak,
    let_pass,
    nudge,
    read_ledger,
    some_bytes,
    wait_until,
)
from tests.support.require import require_command

ALL = os.environ.get("ULLAGE_CRASH_POINTS", "") == "all"
SEED = int(os.environ.get("ULLAGE_SEED", "1"))
NUMBERS = struct.Struct("qqq")
# A kill at one call of each scenario, by the seed; `make prove GATE=G1` tries every call.
Act = Callable[[User], None]


class DieAt:
    """What the server shares with us: whether calls count, how many did, and which one kills."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(NUMBERS.pack(0, 0, 0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), NUMBERS.size)

    def arm(self, at: int) -> None:
        """From now on calls count; number `at` kills, none if it is 0."""
        self._shared[:] = NUMBERS.pack(0, 0, at)
        self._shared[:] = NUMBERS.pack(1, 0, at)

    def disarm(self) -> int:
        """No call counts any more; how many did."""
        _, count, at = NUMBERS.unpack(self._shared[:])
        self._shared[:] = NUMBERS.pack(0, count, at)
        return int(count)


@pytest.fixture(scope="module")
def counting_forkserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """As `forkserver`, with the library that counts in it."""
    library = tmp_path_factory.mktemp("die_at") / "die_at.so"
    source = Path(__file__).with_name("die_at.c")
    compiler = require_command("gcc")
    flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(library), str(source), "-ldl"], check=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LD_PRELOAD", str(library))
        with ForkServer() as server:
            patched.undo()
            yield server


# --- scenarios ------------------------------------------------------------------------------------


def _nothing(user: User) -> None:
    """Nothing more to do."""


@dataclass(frozen=True)
class Scenario:
    """What a client does. `afterwards` is done once the server is back, before it is judged."""

    act: Act
    afterwards: Act = _nothing
    before: Act = _nothing
    arguments: tuple[str, ...] = ("--read-grace", "0s")
    # The start itself is cut off.
    from_start: bool = False


def delete_repository(user: User) -> None:
    gone: State = {key: None for key in user.journal.state if key[1] == "base/app"}
    with user.journal.changing(gone):
        user.client.expect(202, "DELETE", "/acr/v1/base/app")


def purge(user: User) -> None:
    user.purge("base/app")
    wait_for_jobs(user)


def wait_for_jobs(user: User) -> None:
    def jobs_are_done() -> bool:
        return all(state == "done" for state in user.jobs())

    wait_until(jobs_are_done, lambda: str(user.jobs()))


def finish_purge(user: User) -> None:
    """It goes on by itself; unless nobody ever heard of it."""
    wait_for_jobs(user)
    if user.jobs():
        user.forget_repository("base/app")


def delete_index_softly(user: User) -> None:
    scenarios.delete_index(user)


def delete_index_and_restore_it(user: User) -> None:
    """The journal does not know of it, so everything has to be there in the end."""
    path = f"/v2/base/multi/manifests/{contents.MULTI.digest}"
    user.client.expect(202, "DELETE", path)
    user.restore_everything()


def delete_repository_and_restore_it(user: User) -> None:
    user.client.expect(202, "DELETE", "/acr/v1/base/app")
    user.restore_everything()


def delete_tag_and_restore_it(user: User) -> None:
    user.client.expect(202, "DELETE", "/v2/base/app/manifests/latest")
    user.restore_everything()


def free_everything(user: User) -> None:
    user.client.expect(202, "DELETE", "/api/v1/deleted")


def keep_and_delete(user: User) -> None:
    user.keep_what_is_deleted()
    scenarios.delete_index(user)


def half_an_upload(user: User) -> None:
    location = user.open_session("base/app", scenarios.UNUSED)
    user.append(location, scenarios.UNUSED[:1_000])
    other = user.open_session("base/app", some_bytes("other", 9_000))
    with suppress(Lost):
        # In memory only: nothing of it is acknowledged.
        user.client.ask("PUT", f"{other}?digest=sha256:{'0' * 64}", b"something else")


def lock(user: User) -> None:
    body = json.dumps({"deleteEnabled": False}).encode()
    path = "/acr/v1/base/app/_tags/latest"
    user.client.expect(200, "PATCH", path, body, "application/json")


SCENARIOS = {
    "push in three ways": Scenario(scenarios.push_in_three_ways),
    "push what is there": Scenario(scenarios.push_what_is_there),
    "push an index": Scenario(scenarios.push_index),
    "push a signature": Scenario(scenarios.push_signature),
    "re-tag": Scenario(scenarios.retag),
    "mount": Scenario(scenarios.mount),
    "delete an image": Scenario(scenarios.delete_image),
    "delete the last image": Scenario(scenarios.delete_last_image),
    "delete an index": Scenario(scenarios.delete_index),
    "delete a tag": Scenario(scenarios.delete_tag),
    "delete a blob": Scenario(scenarios.delete_blob),
    "delete a repository": Scenario(delete_repository),
    "cancel an upload": Scenario(scenarios.cancel),
    "upload for nothing": Scenario(scenarios.upload_for_nothing, arguments=SHORT_LEASE),
    "purge": Scenario(purge, finish_purge),
    "lock": Scenario(lock),
    "delete softly": Scenario(delete_index_softly, before=User.keep_what_is_deleted),
    "restore an index": Scenario(
        delete_index_and_restore_it, User.restore_everything, User.keep_what_is_deleted
    ),
    "restore a repository": Scenario(
        delete_repository_and_restore_it, User.restore_everything, User.keep_what_is_deleted
    ),
    "restore a tag": Scenario(
        delete_tag_and_restore_it, User.restore_everything, User.keep_what_is_deleted
    ),
    "free what was deleted": Scenario(free_everything, before=keep_and_delete),
    "start after a crash": Scenario(_nothing, before=half_an_upload, from_start=True),
    "start after a purge was cut off": Scenario(
        _nothing, finish_purge, lambda user: user.purge("base/app"), from_start=True
    ),
    "start after a deletion was cut off": Scenario(
        _nothing, before=delete_repository, from_start=True
    ),
}


# --- trying them ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_before_any_call_leaves_what_was_acknowledged_and_nothing_else(
    counting_forkserver: ForkServer,
    stock: Stock,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    name: str,
) -> None:
    trial = Trial(counting_forkserver, stock, tmp_path, SCENARIOS[name])
    # How many there are is not the same each time: the worker has a mind of its own.
    points = range(1, trial.run(0) + 1) if ALL else [random.Random(f"{SEED} {name}").randint(1, 25)]
    for at in points:
        trial.run(at)
    record_property("crash points", trial.killed)


class Trial:
    """One scenario, over and over on a copy of the same registry."""

    def __init__(
        self, forkserver: ForkServer, stock: Stock, folder: Path, scenario: Scenario
    ) -> None:
        self._forkserver, self._stock, self._folder = forkserver, stock, folder
        self._scenario = scenario
        self._die_at = DieAt(folder / "die-at")
        self.killed = 0

    def run(self, at: int) -> int:
        """Kill before call number `at`, if it comes that far; how many calls there were."""
        data = self._folder / "data"
        journal = self._stock.copy(data)
        try:
            with (
                CrashServer(self._forkserver, data) as server,
                User("", journal) as user,
            ):
                server.env["DIE_AT"] = str(self._die_at.path)
                server.arguments = self._scenario.arguments
                calls = self._act(server, user, at)
                self._judge(server, user, at)
                return calls
        finally:
            shutil.rmtree(data)
            (self._folder / "data.log").unlink(missing_ok=True)

    def _act(self, server: CrashServer, user: User, at: int) -> int:
        server.start()
        user.connect(server.host)
        self._scenario.before(user)
        if self._scenario.from_start:
            server.kill9()
        self._die_at.arm(at)
        with suppress(Lost, AssertionError if self._scenario.from_start else Lost):
            if self._scenario.from_start:
                server.start()
                user.connect(server.host)
            self._scenario.act(user)
            nudge(user)
            # The worker's part of it.
            wait_until(lambda: self._is_done(server), lambda: server.log)
        return self._die_at.disarm()

    @staticmethod
    def _is_done(server: CrashServer) -> bool:
        ledger = read_ledger(server.database)
        return not server.running or not (ledger.tombstones or ledger.waiting)

    def _judge(self, server: CrashServer, user: User, at: int) -> None:
        if server.running:
            server.kill9()
        else:
            self.killed += 1
        let_pass(server.database, hours=1, known_sessions=user.journal.sessions)
        server.arguments = SHORT_LEASE
        server.start()
        user.connect(server.host)
        try:
            self._scenario.afterwards(user)
            user.resume_sessions()
            user.verify()
            user.verify_listings()
            assert_no_leak(server)
            server.check("--deep")
            server.assert_no_500()
        except BaseException as error:
            error.add_note(f"killed before call {at}")
            raise

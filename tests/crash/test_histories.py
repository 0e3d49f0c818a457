"""Tags, manifests and listings are linearizable: as if one request came after the other (I26).

Eight clients meet on five tags and eight images, on SQLite, and on PostgreSQL through two servers.
During every fourth history a server is killed; what was not answered then may have happened or not.
ULLAGE_HISTORIES sets how many, ULLAGE_SEED with which dice.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.harness import CrashServer, ForkServer
from tests.crash.histories import History

HISTORIES = int(os.environ.get("ULLAGE_HISTORIES", "0"))
ON_SQLITE, ON_POSTGRESQL = HISTORIES or 12, HISTORIES or 8
SEED = int(os.environ.get("ULLAGE_SEED", "1"))
OPERATIONS = 200
# Nothing is kept for long: what is deleted is erased at once, while the clients go on.
ARGUMENTS = ("--read-grace", "0s")
Note = Callable[[str, object], None]


def test_histories_are_linearizable(
    forkserver: ForkServer, tmp_path: Path, record_property: Note
) -> None:
    with CrashServer(forkserver, tmp_path / "data", *ARGUMENTS) as server:
        _record_and_check([server], ON_SQLITE, record_property)


@pytest.mark.postgresql
def test_histories_over_two_servers_are_linearizable(
    forkserver: ForkServer, postgres_url: str, tmp_path: Path, record_property: Note
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir(mode=0o700)
    one, two = (
        CrashServer(forkserver, tmp_path / name, *ARGUMENTS, database=postgres_url, storage=storage)
        for name in ("one", "two")
    )
    with one, two:
        _record_and_check([one, two], ON_POSTGRESQL, record_property)


def _record_and_check(servers: list[CrashServer], histories: int, record_property: Note) -> None:
    chance = random.Random(SEED)
    for server in servers:
        server.start()

    def kill() -> None:
        time.sleep(chance.uniform(0, 0.1))  # Somewhere in the middle of it.
        victim = chance.choice(servers)
        victim.kill9()
        victim.start()

    unanswered = 0
    for number in range(histories):
        history = History(
            [server.host for server in servers], f"history/h{number}", SEED * 1_000_000 + number
        )
        history.record(OPERATIONS, kill if number % 4 == 3 else lambda: None)
        history.check()
        operations = [each for some in history.registers.values() for each in some]
        unanswered += sum(not each.answered for each in operations)
    for server in servers:
        server.assert_no_500()
    record_property("histories", histories)
    record_property("operations", histories * OPERATIONS)
    record_property("unanswered", unanswered)

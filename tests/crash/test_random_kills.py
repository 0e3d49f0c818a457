"""Killed at any moment under load, the registry loses nothing, leaks nothing, undoes no deletion.

Eight clients push, re-tag, delete, restore, purge and pull (tests/crash/load.py) while the server
is killed again and again; on PostgreSQL, one of two servers, or PostgreSQL itself. The audit log
says what must be there afterwards (tests/crash/trial.py; invariants I22-I25). ULLAGE_KILLS sets how
often, ULLAGE_SEED with which dice.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.harness import CrashServer, ForkServer, User, wait_until
from tests.crash.postgres import CrashingPostgres
from tests.crash.trial import ARGUMENTS, Trial

KILLS = int(os.environ.get("ULLAGE_KILLS", "0"))
ON_SQLITE, ON_POSTGRESQL = KILLS or 120, KILLS or 40
SEED = int(os.environ.get("ULLAGE_SEED", "1"))
Note = Callable[[str, object], None]


@pytest.fixture(scope="module")
def postgres() -> Iterator[CrashingPostgres]:
    """A server of its own: others' tests must not lose theirs."""
    with CrashingPostgres() as server:
        yield server


@pytest.mark.slow
def test_random_kills_under_load_lose_nothing_leak_nothing_and_undo_no_deletion(
    forkserver: ForkServer, tmp_path: Path, record_property: Note
) -> None:
    def kill(trial: Trial) -> None:
        server.kill9()
        server.start()

    with CrashServer(forkserver, tmp_path / "data", *ARGUMENTS) as server:
        trial = Trial([server], SEED)
        trial.run(ON_SQLITE, kill)
        _note(trial, record_property)


@pytest.mark.slow
@pytest.mark.postgresql
def test_the_same_when_one_of_two_servers_is_killed_or_postgresql_itself(
    forkserver: ForkServer, postgres: CrashingPostgres, tmp_path: Path, record_property: Note
) -> None:
    """F11, F14: the others go on; claims, leases and locks of the dead are somebody's to end."""

    def kill(trial: Trial) -> None:
        victim = trial.chance.choice([*trial.servers, postgres])
        if isinstance(victim, CrashServer):
            victim.kill9()
            victim.start()
            return
        postgres.crash()
        postgres.restart()
        for server in trial.servers:
            _require_answers(server)

    storage = tmp_path / "storage"
    storage.mkdir(mode=0o700)
    with (
        postgres.fresh_database() as url,
        CrashServer(forkserver, tmp_path / "one", *ARGUMENTS, database=url, storage=storage) as one,
        CrashServer(forkserver, tmp_path / "two", *ARGUMENTS, database=url, storage=storage) as two,
    ):
        trial = Trial([one, two], SEED)
        trial.run(ON_POSTGRESQL, kill)
        _note(trial, record_property)


def _require_answers(server: CrashServer) -> None:
    """It finds its way back to the database by itself."""
    with User(server.host) as user:
        wait_until(
            lambda: user.client.ask("GET", "/v2/_catalog").status == 200,
            lambda: f"{server.host} does not come back:\n{server.log}",
        )


def _note(trial: Trial, record_property: Note) -> None:
    for name, value in trial.figures().items():
        record_property(name, value)

"""Under load and without faults every request is answered and everything adds up (gate G6).

The clients of tests/crash/load.py, with leases of seconds and a worker that erases at once. After
every thousand operations the registry must be what its audit log says. ULLAGE_OPERATIONS sets how
many, ULLAGE_SEED with which dice.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.harness import CrashServer, ForkServer
from tests.crash.trial import ARGUMENTS, Trial

OPERATIONS = int(os.environ.get("ULLAGE_OPERATIONS", "") or 500)
SEED = int(os.environ.get("ULLAGE_SEED", "1"))
Note = Callable[[str, object], None]


def test_a_soak(forkserver: ForkServer, tmp_path: Path, record_property: Note) -> None:
    with CrashServer(forkserver, tmp_path / "data", *ARGUMENTS) as server:
        _soak([server], record_property)


@pytest.mark.slow
@pytest.mark.postgresql
def test_a_soak_over_two_servers(
    forkserver: ForkServer, postgres_url: str, tmp_path: Path, record_property: Note
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir(mode=0o700)
    one, two = (
        CrashServer(forkserver, tmp_path / name, *ARGUMENTS, database=postgres_url, storage=storage)
        for name in ("one", "two")
    )
    with one, two:
        _soak([one, two], record_property)


def _soak(servers: list[CrashServer], record_property: Note) -> None:
    trial = Trial(servers, SEED)
    trial.run_in_peace(OPERATIONS)
    for name, value in trial.figures().items():
        record_property(name, value)

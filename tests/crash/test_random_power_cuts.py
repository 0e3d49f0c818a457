"""The power fails at any moment under load, and nothing acknowledged is lost (fault F9).

As tests/crash/test_random_kills.py, but what was not durable is gone: database and blobs are on
loop-mounted ext4 file systems that lose it (tests/crash/mounts.py). ULLAGE_CUTS sets how often,
ULLAGE_SEED with which dice.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.harness import CrashServer, ForkServer, wait_for_state
from tests.crash.mounts import Disk, ext4
from tests.crash.trial import ARGUMENTS, Trial

CUTS = int(os.environ.get("ULLAGE_CUTS", "") or 100)
SEED = int(os.environ.get("ULLAGE_SEED", "1"))


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[Disk, Disk]]:
    """One for the blobs, one for the database: no commit makes a forgotten fsync durable."""
    with ext4(tmp_path / "blobs") as blobs, ext4(tmp_path / "database") as database:
        yield blobs, database


@pytest.mark.slow
def test_random_power_cuts_under_load_lose_nothing_leak_nothing_and_undo_no_deletion(
    forkserver: ForkServer,
    disks: tuple[Disk, Disk],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    def cut(trial: Trial) -> None:
        # No answer may race with the cut.
        os.kill(server.pid, signal.SIGSTOP)
        wait_for_state(server.pid, "T")
        for disk in disks:
            disk.cut_power()
        server.kill9()
        for disk in disks:
            disk.power_up()
        server.start()

    blobs, database = disks
    with CrashServer(
        forkserver,
        database.folder / "data",
        *ARGUMENTS,
        storage=blobs.folder,
        log=tmp_path / "server.log",
    ) as server:
        trial = Trial([server], SEED)
        trial.run(CUTS, cut)
    for name, value in trial.figures().items():
        record_property(name, value)

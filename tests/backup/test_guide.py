"""The commands of docs/guides/backup.md, word for word but for where its folders are."""

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.postgres import PostgresServer
from tests.support.server import UllageServer, command_environment
from tests.transfer.test_store_copy import Crowd

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/guides/backup.md").read_text("utf-8")
_COMMAND = re.compile(r"^    (ullage .*)$", re.MULTILINE)


def commands_of(*titles: str) -> list[str]:
    sections = {each.partition("\n")[0]: each for each in GUIDE.split("\n## ")}
    return [line for title in titles for line in _COMMAND.findall(sections[title])]


class Machine:
    """Where the guide's folders are this test's, and `ullage` is on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, str] = {}
        for name in ("bin", "srv"):
            (folder / name).mkdir()
        program = folder / "bin" / "ullage"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ullage "$@"\n')
        program.chmod(0o755)
        self.registry = folder / "srv" / "registry"

    def spelled(self, line: str) -> str:
        for name, place in self.names.items():
            line = line.replace(name, place)
        return re.sub(r"(?<= )/(srv|mnt)/", f"{self.folder}/\\1/", line)

    def run(self, line: str) -> str:
        if line.startswith("ullage serve"):
            return self._serve(line)
        environment = command_environment()
        environment["PATH"] = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-ec", self.spelled(line)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, line: str) -> str:
        """What it says until it serves."""
        *_, data = self.spelled(line).split()
        with UllageServer(Path(data)) as server:
            assert server.terminate() == 0
            return server.log


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_commands_of_the_guide_do_what_it_says(machine: Machine) -> None:
    making = commands_of("Making one", "Looking at them, removing old ones")
    restoring = commands_of("Restoring")
    assert (len(making), len(restoring)) == (5, 5)
    with UllageServer(machine.registry, "--read-grace", "0s") as server:
        with closing(Crowd(server.url)) as crowd:
            for _ in range(3):
                crowd.push()
            said = [machine.run(line) for line in making]
            assert "4 blobs (" in said[0]
            assert "Copied: 0 blobs (0 B)." in said[1]
            assert [each["finished"] for each in json.loads(said[2])] == [True, True]
            leaked = next(iter(crowd.tags))
            crowd.delete(leaked)
            for line in restoring:
                # As it is started next.
                machine.run(line)
        server.assert_no_500()
    with UllageServer(machine.folder / "srv" / "again") as again:
        crowd.assert_all_there(again.url)
    assert (machine.folder / "srv" / "copy" / "registry-id").exists()


@pytest.mark.postgresql
def test_the_commands_for_postgresql_do_what_it_says(
    machine: Machine, postgres_server: PostgresServer
) -> None:
    backup, restore = commands_of("With PostgreSQL")
    with postgres_server.fresh_database() as old, postgres_server.fresh_database() as new:
        machine.names = {
            "postgresql://ullage@db/registry": old,
            "postgresql://ullage@db/restored": new,
        }
        with (
            UllageServer(machine.registry, "--database", old) as server,
            closing(Crowd(server.url)) as crowd,
        ):
            crowd.push()
            machine.run(backup)
        said = machine.run(restore)
        (start,) = re.findall(r"^Start it: ullage serve --data (\S+) --database (\S+)$", said, re.M)
        with UllageServer(Path(start[0]), "--database", start[1]) as restored:
            crowd.assert_all_there(restored.url)

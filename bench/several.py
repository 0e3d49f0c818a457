"""Ullage as several processes of one registry, which share a PostgreSQL and a folder of blobs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.servers import Place, Process, Ullage, find


class Postgres(Process):
    """PostgreSQL with the settings it comes with, on an empty folder, for this machine only."""

    name = "postgres"
    # It refuses to run as root; then the user that its package makes runs it.
    user = "postgres" if os.geteuid() == 0 else None
    # SIGTERM would wait for its clients to leave.
    stop_signal = signal.SIGINT

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.host}/postgres"

    def prepare(self) -> None:
        super().prepare()
        if self.user:
            shutil.chown(self.folder, self.user, self.user)
            # Its user must get as far as its folder.
            self.folder.parent.chmod(0o755)
        command = [str(self._program("initdb")), "--pgdata", str(self.folder)]
        command += ["--username", "postgres", "--auth", "trust", "--no-instructions"]
        command += ["--encoding", "UTF8", "--locale", "C"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr[-500:]}")

    def command(self) -> Sequence[str | Path]:
        address, _, port = self.host.partition(":")
        # No socket file: the folder's path may be longer than one may be.
        flags = ("-h", address, "-p", port, "-c", "unix_socket_directories=")
        return [self._program("postgres"), "-D", self.folder, *flags]

    def _answers(self) -> bool:
        address, _, port = self.host.partition(":")
        command = [str(self._program("pg_isready")), "-q", "-h", address, "-p", port]
        return subprocess.run(command, check=False).returncode == 0

    def _program(self, name: str) -> Path:
        """All from one folder: Debian's wrappers on PATH choose a server of their own."""
        found = find("postgres")
        assert found is not None
        return Path(found).resolve().with_name(name)


class Several:
    """Processes of one registry, each on a port of its own; one may be enough."""

    def __init__(self, place: Place, processes: int) -> None:
        self.name = f"ullage, {processes} on PostgreSQL"
        self._database = Postgres(place.folder / "postgres")
        shared = ("--database", self._database.url, "--storage", f"file:{place.folder / 'shared'}")
        self._processes = [
            Ullage(place.folder / f"ullage-{number}", place.tls, shared)
            for number in range(processes)
        ]

    @property
    def url(self) -> str:
        """Of one of them."""
        return self._processes[0].url

    @property
    def urls(self) -> Sequence[str]:
        """Of all of them."""
        return [process.url for process in self._processes]

    def start(self) -> None:
        for process in (self._database, *self._processes):
            process.start()

    def restart(self) -> None:
        """The processes of the registry; their database stays."""
        for process in self._processes:
            process.restart()

    def stop(self) -> None:
        for process in (*self._processes, self._database):
            process.stop()

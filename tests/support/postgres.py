"""A real PostgreSQL server for one test session, with a new database for each test."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

from tests.support.require import require_command, unavailable

START_SECONDS = 60
STOP_SECONDS = 30
SUPERUSER = "postgres"

# Durability stays as in production (fsync, synchronous_commit): what a crash keeps is under test.
# The odd time zone and collation are on purpose: neither may ever leak into what we store or sort.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "timezone": "Asia/Kathmandu",
    "log_min_error_statement": "panic",
}
_LOCALES = (
    ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"],
    ["--locale=en_US.UTF-8"],
    ["--locale=C.UTF-8"],
)


class PostgresServer:
    """A server on a free port with a temporary data folder, run by its own unprivileged user.

    PostgreSQL refuses to run as root; then the user `postgres`, which its packages create, owns it.
    Authentication is "trust": it listens on the loopback address only and has no data.
    """

    def __init__(self) -> None:
        self._binaries = Path(require_command("initdb")).resolve().parent
        self._uid, self._gid, self._groups = _unprivileged_user()
        # Not below pytest's own folder: that is closed to other users, the server's among them.
        self._folder = Path(tempfile.mkdtemp(prefix="ullage-postgres-"))
        if self._uid is not None and self._gid is not None:
            os.chown(self._folder, self._uid, self._gid)
        self._data = self._folder / "data"
        self._log_path = self._folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self._start_on_a_free_port()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self._folder)

    @property
    def log(self) -> str:
        """All that the server has said."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        assert self._process is not None, "not started"
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """The URL of a database on this server."""
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def fresh_database(self, template: str = "template1") -> Iterator[str]:
        """The URL of a new database, dropped afterwards, with the connections still on it."""
        name = f"ullage_{secrets.token_hex(8)}"
        self._administer("CREATE DATABASE {} TEMPLATE {}", name, template)
        try:
            yield self.url(name)
        finally:
            self._administer("DROP DATABASE {} WITH (FORCE)", name)

    def _administer(self, statement: str, *names: str) -> None:
        query = sql.SQL(statement).format(*map(sql.Identifier, names))
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(query)

    def _initialise(self) -> None:
        common = [self._program("initdb"), "--pgdata", str(self._data), "--encoding=UTF8"]
        common += [f"--username={SUPERUSER}", "--auth=trust", "--no-instructions"]
        complaints = []
        for locale in _LOCALES:
            done = subprocess.run(
                [*common, *locale],
                cwd=self._folder,
                capture_output=True,
                user=self._uid,
                group=self._gid,
                extra_groups=self._groups,
            )
            if done.returncode == 0:
                return
            complaints.append(done.stderr.decode(errors="replace"))
        raise AssertionError("initdb failed:\n" + "\n".join(complaints))

    def _start_on_a_free_port(self) -> None:
        # Between finding a free port and taking it, another program may: try another one then.
        for _ in range(5):
            self.port = _free_port()
            if self._start():
                return
            if "could not bind" not in self.log:
                break
        raise AssertionError(f"PostgreSQL did not start:\n{self.log}")

    def _start(self) -> bool:
        command = [self._program("postgres"), "-D", str(self._data), "-p", str(self.port)]
        for name, value in (_SETTINGS | {"unix_socket_directories": str(self._folder)}).items():
            command += ["-c", f"{name}={value}"]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests; they stop the server when done.
                user=self._uid,
                group=self._gid,
                extra_groups=self._groups,
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return True
        return False

    def _stop(self) -> None:
        if self._process is None:
            return
        # SIGINT: roll back what runs, write a checkpoint, end. SIGQUIT: end at once.
        for request in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            self._process.send_signal(request)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue

    def _program(self, name: str) -> str:
        # All from one folder: a server only runs on data its own version has laid out.
        return str(self._binaries / name)


def _unprivileged_user() -> tuple[int | None, int | None, list[int] | None]:
    """User, group and further groups to run the server with; None leaves them as they are."""
    if os.geteuid() != 0:
        return None, None, None
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        unavailable("PostgreSQL refuses to run as root, and there is no user postgres")
    return user.pw_uid, user.pw_gid, []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

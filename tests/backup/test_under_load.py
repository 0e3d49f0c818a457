"""Backups of a registry that is pushed to and deleted from: G21, race R25.

Real servers, real databases, real folders (docs/design/backup.md section 1). ULLAGE_BACKUPS says
how many on SQLite; on PostgreSQL it is half of that.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.buckets import CREDENTIALS, S3Server
from tests.support.postgres import PostgresServer
from tests.support.server import UllageServer, command_environment, run_ullage
from tests.transfer.test_store_copy import Crowd
from ullage.backup.layout import DESCRIPTION, names_in
from ullage.config.loading import load_settings
from ullage.oci.digest import digest_of
from ullage.oci.errors import RegistryError
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.pull.read import get_manifest, open_blob
from ullage.wiring.opening import open_registry

pytestmark = pytest.mark.thorough

ASKED = os.environ.get("ULLAGE_BACKUPS")
APP = parse_repository_name("app")
# So many files that a copy takes a while.
FIRST = 20


@pytest.fixture(
    params=[("sqlite", 3), pytest.param(("postgresql", 2), marks=pytest.mark.postgresql)],
    ids=lambda param: param[0],
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> "Iterator[Site]":
    engine, count = request.param
    if ASKED:
        count = int(ASKED) if engine == "sqlite" else int(ASKED) // 2
    with ExitStack() as stack:
        databases: Callable[[], str] | None = None
        if engine == "postgresql":
            postgres: PostgresServer = request.getfixturevalue("postgres_server")
            databases = lambda: stack.enter_context(postgres.fresh_database())  # noqa: E731
        yield Site(tmp_path, databases, count)


class Site:
    """A server to be backed up, and places to restore to, each with a database of its own."""

    def __init__(
        self,
        folder: Path,
        databases: Callable[[], str] | None,
        count: int,
        storages: Callable[[], str] | None = None,
    ) -> None:
        self.count = count
        self.folder = folder
        self.backups = folder / "backups"
        self._others = {"database": databases, "storage": storages}
        self.settings = _flags(self._fresh())
        self.server = UllageServer(folder / "data", *self.settings, "--read-grace", "0s")

    def line(self, *flags: str) -> list[str]:
        return [
            "backup",
            str(self.backups),
            "--data",
            str(self.server.data),
            *self.settings,
            *flags,
        ]

    def back_up(self, *flags: str) -> Path:
        done = run_ullage(*self.line(*flags))
        assert done.returncode == 0, done.stdout + done.stderr
        return self.backups / names_in(self.backups)[-1]

    def restore(self, backup: Path, *flags: str) -> dict[str, str]:
        """Restore a backup somewhere and check it: what to open it with."""
        data = self.folder / f"restored-{backup.name}-{time.monotonic_ns()}"
        given = {"data": str(data), **self._fresh()}
        done = run_ullage("restore-backup", backup, *_flags(given), "--deep", *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Everything is as it should be." in done.stdout
        return given

    def _fresh(self) -> dict[str, str]:
        """A new database, and a new place for blobs, where those are not in the data folder."""
        return {name: make() for name, make in self._others.items() if make is not None}


def _flags(given: Mapping[str, str]) -> list[str]:
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def assert_pulls(given: dict[str, str], tags: dict[str, bytes]) -> None:
    """Every one of these images is in a restored registry, byte for byte."""
    with open_registry(load_settings({**given, "ballast": "0"}, {})) as (registry, _):
        for tag, layer in tags.items():
            assert get_manifest(registry, APP, parse_tag(tag)).raw
            with closing(open_blob(registry, APP, digest_of(layer))) as reader:
                assert reader.read_at(0, reader.size) == layer


def assert_absent(given: dict[str, str], tags: list[str]) -> None:
    with open_registry(load_settings({**given, "ballast": "0"}, {})) as (registry, _):
        for tag in tags:
            with pytest.raises(RegistryError):
                get_manifest(registry, APP, parse_tag(tag))


def test_every_backup_under_load_is_whole_and_has_all_that_was_acknowledged(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    """Each is restored, checked to the last byte, and pulled from."""
    assert_backups_are_whole(site)
    record_property("backups", site.count)


@pytest.mark.postgresql
@pytest.mark.client
def test_so_is_every_backup_from_a_bucket(
    postgres_server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """PostgreSQL, and blobs in a bucket of versitygw: copied, and restored into other buckets."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        buckets = stack.enter_context(S3Server(tmp_path / "buckets"))
        site = Site(
            tmp_path,
            lambda: stack.enter_context(postgres_server.fresh_database()),
            int(ASKED) // 2 if ASKED else 3,
            lambda: buckets.url(buckets.fresh_bucket(), "registry"),
        )
        assert_backups_are_whole(site, "--with-blobs")
    record_property("backups", site.count)


def assert_backups_are_whole(site: Site, *always: str) -> None:
    with site.server as server:
        crowd = Crowd(server.url)
        for _ in range(FIRST):
            crowd.push()
        seen = []
        with crowd.at_work():
            for number in range(site.count):
                before, gone = dict(crowd.tags), list(crowd.deleted)
                flags = ("--incremental", "--verify") if number % 2 else ()
                seen.append((site.back_up(*always, *flags), before, gone))
        assert len(crowd.deleted) > 0
        crowd.close()
        server.assert_no_500()
    for backup, before, gone in seen:
        given = site.restore(backup)
        assert_pulls(given, {tag: data for tag, data in before.items() if tag in crowd.tags})
        assert_absent(given, gone)


def test_a_backup_that_is_killed_is_none_and_erasing_goes_on(site: Site) -> None:
    """At each of its steps; the next backup removes what it left, and is whole."""
    with site.server as server:
        crowd = Crowd(server.url)
        layer = os.urandom(30_000)
        tag = crowd.push(layer)
        crowd.push()
        for failpoint in ("after_snapshot", "after_blob", "before_description"):
            done = run_ullage(*site.line(), env={"ULLAGE_FAILPOINTS": f"backup.{failpoint}=kill@1"})
            assert done.returncode == -9
            assert not list(site.backups.glob(f"*/{DESCRIPTION}"))
        listed = run_ullage("backup", "list", site.backups, "--output", "table")
        assert listed.stdout.count("not finished") == 1, "each removes what the last one left"
        refused = run_ullage("restore-backup", site.backups, "--data", site.folder / "none")
        assert refused.returncode == 1
        assert "has no finished backup" in refused.stderr
        crowd.delete(tag)
        # Their leases hold for ten minutes: a deletion's bytes wait, pushes and pulls do not.
        whole = site.back_up()
        crowd.assert_all_there(server.url)
        assert names_in(site.backups) == [whole.name]
        assert list(site.backups.glob("blobs/*/*.new")) == []
        crowd.close()
        server.assert_no_500()
    site.restore(whole)


def test_erasing_waits_for_a_backup_and_goes_on_when_it_has_ended(site: Site) -> None:
    """Race R25, with the worker of a real server: a backup that stands still, then goes on."""
    with site.server as server:
        crowd = Crowd(server.url)
        doomed = os.urandom(30_000)
        tag = crowd.push(doomed)
        kept = crowd.push()
        running = subprocess.Popen(
            [sys.executable, "-m", "ullage", *site.line()],
            env=command_environment({"ULLAGE_FAILPOINTS": "backup.after_snapshot=stop@1"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with running:
            try:
                _, status = os.waitpid(running.pid, os.WUNTRACED)
                assert os.WIFSTOPPED(status), running.stdout and running.stdout.read()
                crowd.delete(tag)
                began = time.monotonic()
                # A deletion that nothing holds up is off the disk within a second.
                late = crowd.push()
                wait_until(lambda: time.monotonic() > began + 3)
                assert len(doomed) in sizes(server)
                os.kill(running.pid, signal.SIGCONT)
                said, _ = running.communicate(timeout=120)
            finally:
                running.kill()
        assert running.returncode == 0, said
        server._poll(lambda: True if len(doomed) not in sizes(server) else None, "the bytes stay")
        crowd.close()
        server.assert_no_500()
    given = site.restore(site.backups / names_in(site.backups)[-1])
    assert_pulls(given, {tag: doomed, kept: crowd.tags[kept]})
    assert_absent(given, [late])


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sizes(server: UllageServer) -> set[int]:
    return {path.stat().st_size for path in server.data.glob("blobs/*/*")}

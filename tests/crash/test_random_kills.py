"""Killed at any moment under load, the registry loses nothing, leaks nothing, undoes no deletion.

Eight clients push, re-tag, delete, restore, purge and pull (tests/crash/load.py) while the server
is killed again and again; on PostgreSQL, one of two servers, or PostgreSQL itself. The audit log
says what must be there afterwards (tests/crash/trial.py; invariants I22-I25). ULLAGE_KILLS sets how
often, ULLAGE_SEED with which dice, ULLAGE_SERVERS how many share a bucket.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.crash.harness import Bucket, CrashServer, ForkServer, User, wait_until
from tests.crash.load import LARGE_LAYER, LAYERS
from tests.crash.postgres import CrashingPostgres
from tests.crash.trial import ARGUMENTS, Trial
from tests.support.buckets import S3Server
from tests.support.nginx import Nginx

KILLS = int(os.environ.get("ULLAGE_KILLS", "0"))
ON_SQLITE, ON_POSTGRESQL, ON_A_BUCKET = KILLS or 120, KILLS or 40, KILLS or 10
SERVERS = int(os.environ.get("ULLAGE_SERVERS", "2"))
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


@pytest.mark.slow
@pytest.mark.postgresql
def test_the_same_behind_a_balancer_with_all_bytes_in_a_bucket(
    forkserver: ForkServer, postgres: CrashingPostgres, tmp_path: Path, record_property: Note
) -> None:
    """buckets.md: no request needs the process of the one before; afterwards no part is left."""
    seed = itertools.count(1)

    def kill(trial: Trial) -> None:
        # PostgreSQL itself, once in thirty times.
        if next(seed) % 30 == 0:
            postgres.crash()
            postgres.restart()
            for server in trial.servers:
                _require_answers(server)
            return
        victim = trial.chance.choice(trial.servers)
        victim.kill9()
        victim.start()

    with ExitStack() as stack:
        s3 = stack.enter_context(S3Server(tmp_path / "s3"))
        bucket = Bucket(s3, s3.fresh_bucket())
        url = stack.enter_context(postgres.fresh_database())
        servers = [
            stack.enter_context(
                CrashServer(forkserver, tmp_path / f"{n}", *ARGUMENTS, database=url, storage=bucket)
            )
            for n in range(SERVERS)
        ]
        for server in servers:
            server.start()
        hosts = [server.host for server in servers]
        nginx = Nginx(tmp_path / "nginx", site=lambda port: _balanced(port, hosts))
        front = f"127.0.0.1:{stack.enter_context(nginx).port}"
        trial = Trial(servers, SEED, front=front, layers=(*LAYERS, LARGE_LAYER))
        trial.run(ON_A_BUCKET, kill)
        _note(trial, record_property)


def _balanced(port: int, hosts: Sequence[str]) -> str:
    """As docs/guides/many-processes.md has it, but that no request is sent twice.

    A deletion that was carried out and is sent again is answered 404, and the log says otherwise.
    """
    upstream = "".join(f"server {host} fail_timeout=1s;" for host in hosts)
    return f"""
    upstream ullage {{ {upstream} }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{
            proxy_pass http://ullage;
            proxy_http_version 1.1;
            proxy_connect_timeout 2s;
            proxy_next_upstream off;
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
    """


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

"""Two real processes on PostgreSQL: what one changes the other knows within a second.

docs/guides/access.md, Users and tokens. Without notes it takes the other 10 s (accounts), 60 s
(signing keys) or 30 s (work that is left to be done).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import httpx
import psycopg
import pytest

from tests.support.actors import PATIENCE_SECONDS, wait_until
from tests.support.server import UllageServer, run_ullage
from ullage.database.notifications import WORK, Notifications

pytestmark = pytest.mark.postgresql

# Promised is one; the rest is for a machine that has much else to do. Both old limits are longer.
SECONDS = 4.0
_LISTENERS = "FROM pg_stat_activity WHERE application_name = 'ullage-listen' AND datname = %s"


class Pair:
    """Changes are made at one process, and requests are sent to the other."""

    def __init__(self, folder: Path, url: str) -> None:
        self._url, self._store = url, folder / "store"
        self._database = url.rpartition("/")[2].partition("?")[0]
        self._shared = ("--database", url, "--storage", f"file:{self._store}")
        self._one = UllageServer(folder / "one", "--auth", *self._shared)
        self._other = UllageServer(folder / "other", "--auth", *self._shared)

    def __enter__(self) -> Self:
        self._one.start()
        self._other.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._one, self._other):
            if server.running:
                server.kill9()

    def assert_no_500(self) -> None:
        self._one.assert_no_500()
        self._other.assert_no_500()

    def change(self, *words: str) -> None:
        done = run_ullage(*words, "--data", self._one.data, "--output", "json")
        assert done.returncode == 0, done.stderr

    def make_user(self) -> None:
        done = run_ullage(
            *("user", "create", "--name", "ada", "--admin", "--output", "json"),
            *("--data", self._one.data),
        )
        self.password = str(json.loads(done.stdout)["password"])

    def token(self, scope: str = "registry:catalog:*") -> str:
        answer = httpx.get(
            f"{self._other.url}/oauth2/token",
            params={"scope": scope, "service": self._other.host},
            auth=("ada", self.password),
        )
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def status(self, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{self._other.url}/v2/_catalog", headers=headers).status_code

    def visit(self, *words: str) -> None:
        """A command on a third machine, where no server runs."""
        place = {"ULLAGE_DATABASE": self._url, "ULLAGE_STORAGE": f"file:{self._store}"}
        done = run_ullage(*words, "--data", self._store.with_name("third"), env=place)
        assert done.returncode == 0, done.stderr

    def upload(self, piece: bytes) -> None:
        """A session with bytes, and without an end."""
        headers = {"Authorization": f"Bearer {self.token('repository:app:pull,push')}"}
        with httpx.Client(base_url=self._other.url, headers=headers) as client:
            opened = client.post("/v2/app/blobs/uploads/")
            client.patch(opened.headers["Location"], content=piece).raise_for_status()

    def stored(self) -> int:
        """Bytes in the store, blobs and uploads alike."""
        files = (path for path in self._store.rglob("*") if path.parent != self._store)
        return sum(path.stat().st_size for path in files if path.is_file())

    def listeners(self) -> list[int]:
        return self._asked(f"SELECT pid {_LISTENERS}")

    def cut_off(self) -> None:
        self._asked(f"SELECT pg_terminate_backend(pid)::int {_LISTENERS}")

    def _asked(self, query: str) -> list[int]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return [row[0] for row in connection.execute(query.encode(), [self._database])]


@pytest.fixture
def pair(tmp_path: Path, postgres_url: str) -> Iterator[Pair]:
    with Pair(tmp_path, postgres_url) as pair:
        pair.make_user()
        wait_until(lambda: len(pair.listeners()) == 2, "both listen")
        yield pair
        pair.assert_no_500()


def refused_after(pair: Pair, change: Callable[[], None]) -> float:
    """Seconds until a token that was in use is refused by the process that made no change."""
    token = pair.token()
    assert pair.status(token) == 200
    change()
    started = time.monotonic()
    wait_until(lambda: pair.status(token) == 401, "the token is refused")
    return time.monotonic() - started


CHANGES = (
    ("key", "rotate", "--revoke"),
    ("user", "update", "--name", "ada", "--status", "disabled"),
    ("user", "password", "--name", "ada"),
)


@pytest.mark.parametrize("words", CHANGES, ids=lambda words: "-".join(words[:2]))
def test_what_one_process_takes_away_the_other_refuses_at_once(
    pair: Pair, words: tuple[str, ...]
) -> None:
    assert refused_after(pair, lambda: pair.change(*words)) < SECONDS


def test_a_listener_that_was_cut_off_listens_again(pair: Pair) -> None:
    """A change after its connection was lost is heard by the next one."""
    before = set(pair.listeners())

    def change() -> None:
        pair.cut_off()
        pair.change("user", "password", "--name", "ada")

    assert refused_after(pair, change) < SECONDS
    wait_until(lambda: len(set(pair.listeners()) - before) == 2, "both listen again")


def test_what_a_command_leaves_to_be_done_a_server_does_at_once(pair: Pair) -> None:
    """`ullage upload cancel` has no worker of its own, and no server runs in its data folder."""
    pair.upload(b"x" * 1000)
    wait_until(lambda: pair.stored() == 1000, "the upload's bytes are there")
    pair.visit("upload", "cancel", "--account", "ada")
    started = time.monotonic()
    wait_until(lambda: pair.stored() == 0, "the upload's bytes are gone")
    assert time.monotonic() - started < SECONDS


def test_a_note_is_for_the_others(postgres_url: str) -> None:
    """What a process tells it hears itself of as little as of notes of other versions."""
    heard: list[str] = []
    ready = threading.Semaphore(0)

    def listening(name: str) -> Notifications:
        calls = {WORK: lambda: heard.append(name), "ready": ready.release}
        return Notifications(postgres_url, calls)

    with listening("one") as one, listening("other") as other:
        assert ready.acquire(timeout=PATIENCE_SECONDS)
        assert ready.acquire(timeout=PATIENCE_SECONDS)
        assert sorted(heard) == ["one", "other"], "each looks when it has connected"
        one.tell("something new")
        one.tell(WORK)
        wait_until(lambda: len(heard) == 3, "the other hears it")
        # Whatever the first would have heard of its own note, it would have heard before this.
        other.tell("ready")
        assert ready.acquire(timeout=PATIENCE_SECONDS)
    assert heard[2:] == ["other"]

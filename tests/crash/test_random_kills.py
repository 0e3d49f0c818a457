"""Killed at any moment under load, the registry loses nothing, leaks nothing, undoes no deletion.

Eight clients push, re-tag, delete and pull while the server is killed again and again. Each client
has tags and manifests of its own; the repositories and most layers are shared by all, so that their
deletions meet. A lost answer is settled by looking, once the server is back: all as before, or all
as after (invariants I23-I25). ULLAGE_KILLS sets how often.
"""

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import pytest

from tests.crash.harness import (
    SHORT_LEASE,
    CrashServer,
    ForkServer,
    Image,
    Lost,
    Refused,
    User,
    assert_no_leak,
    digest_of,
    let_pass,
    make_image,
    make_index,
    some_bytes,
)
from tests.support.require import clients_required

KILLS = int(os.environ.get("ULLAGE_KILLS", "") or (200 if clients_required() else 40))
CLIENTS = 8
REPOSITORIES = ("load/a", "load/b", "load/c/d")
LAYERS = tuple(some_bytes(n, 500 + 3_000 * n) for n in range(24))
# Images that one client keeps at most, so that looking after a kill stays cheap.
MOST_IMAGES = 3
# Long enough for a push on a busy machine, short enough for promises to end while we look.
LEASE_SECONDS = 8
ARGUMENTS = ("--lease", f"{LEASE_SECONDS}s", "--read-grace", "0s", "--upload-idle", "5s")
SETTLE_SECONDS = 60


@dataclass
class Crowd:
    """What the clients and the killer know in common."""

    host: str
    stop: threading.Event = field(default_factory=threading.Event)
    acknowledged: int = 0
    progress: threading.Condition = field(default_factory=threading.Condition)

    def report(self) -> None:
        """An operation was acknowledged."""
        with self.progress:
            self.acknowledged += 1
            self.progress.notify_all()

    def wait_for(self, operations: int, seconds: float) -> None:
        """Let so many more operations be acknowledged, or so much time pass."""
        with self.progress:
            target = self.acknowledged + operations
            self.progress.wait_for(lambda: self.acknowledged >= target, seconds)


class Worker:
    """One client's life."""

    def __init__(self, number: int, crowd: Crowd) -> None:
        self.user = User(crowd.host)
        self._crowd = crowd
        self._number = number
        self._random = random.Random(number)
        self._made = 0

    def live(self) -> User:
        """Do one thing after another until told to stop; settle whatever a kill cut off."""
        while not self._crowd.stop.is_set():
            try:
                self._do_something()
                self._crowd.report()
            except Lost:
                self.settle()
        return self.user

    def settle(self) -> None:
        """Once the server is back, see what became of the lost operation."""
        deadline = monotonic() + SETTLE_SECONDS
        while True:
            try:
                self._look_around()
            except Lost:
                assert monotonic() < deadline, "the server did not come back"
                self._crowd.stop.wait(0.02)
            else:
                return

    def _look_around(self) -> None:
        """At what is uncertain and what must be there; the rest comes in the end."""
        journal = self.user.journal
        live = [key for key, shown in journal.state.items() if shown]
        gone = [key for key, shown in journal.state.items() if not shown]
        some_gone = self._random.sample(gone, min(len(gone), 5))
        journal.settle(self.user.look({*live, *some_gone, *journal.pending}))
        for repository, digest in self._some_image():
            self.user.pull(repository, digest)

    def _do_something(self) -> None:
        act: Callable[[], None] = self._random.choices(
            [self._push, self._push_index, self._retag, self._delete, self._untag, self._pull,
             self._dally, self._waste],
            [10, 2, 3, 7, 2, 4, 2, 1],
        )[0]  # fmt: skip
        if len(self.user.journal.live()) >= MOST_IMAGES:
            act = self._delete
        act()

    def _push(self) -> None:
        repository = self._random.choice(REPOSITORIES)
        layers = self._random.sample(LAYERS, self._random.randint(1, 3))
        image = make_image(*layers, config=self._unique())
        how = self._random.choice(["single", "put", "chunks"])
        began = monotonic()
        try:
            self._upload(repository, image, how)
            self.user.put(repository, image, self._tag())
        except Refused as refused:
            # What was promised lasts for a lease, also across a crash (invariant I25).
            late = monotonic() - began > LEASE_SECONDS / 2
            if not (late and refused.answer.error_code == "MANIFEST_BLOB_UNKNOWN"):
                raise

    def _upload(self, repository: str, image: Image, how: str) -> None:
        """Have each blob promised: what was promised before a kill is not asked for again."""
        for data in image.blobs:
            while not self._promised(repository, data, how):
                self.settle()

    def _promised(self, repository: str, data: bytes, how: str) -> bool:
        """Ask, mount or upload, as clients do; False if the answer was lost."""
        try:
            path = f"/v2/{repository}/blobs/{digest_of(data)}"
            if self.user.client.ask("HEAD", path).status == 200:
                return True
            source = self._random.choice(REPOSITORIES)
            if self._random.random() < 0.5 and self._mounted(repository, source, data):
                return True
            self.user.upload(repository, data, how)
        except Lost:
            return False
        return True

    def _mounted(self, repository: str, source: str, data: bytes) -> bool:
        """202 is the other right answer: a session, which no client here goes on with."""
        query = f"mount={digest_of(data)}&from={source}"
        answer = self.user.client.ask("POST", f"/v2/{repository}/blobs/uploads/?{query}")
        assert answer.status in (201, 202), answer
        return answer.status == 201

    def _push_index(self) -> None:
        repository = self._random.choice(REPOSITORIES)
        image = make_image(self._random.choice(LAYERS), config=self._unique())
        self.user.push(repository, image)
        self.user.put(repository, make_index(image), self._tag())

    def _retag(self) -> None:
        for repository, digest in self._some_image():
            self.user.put(repository, self.user.journal.images[digest], self._tag())

    def _delete(self) -> None:
        for repository, digest in self._some_image():
            children = self._children(digest)
            # A child goes along unless it is tagged itself.
            along = [child for child in children if not self._tagged(repository, child)]
            if not self._parents(repository, digest):
                self.user.delete_image(repository, digest, *along)

    def _untag(self) -> None:
        tags = [key for key, shown in self.user.journal.state.items() if key[0] == "tag" and shown]
        if tags:
            _, repository, tag = self._random.choice(tags)
            self.user.delete_tag(repository, tag)

    def _pull(self) -> None:
        for repository, digest in self._some_image():
            self.user.pull(repository, digest)

    def _dally(self) -> None:
        """Begin an upload and leave it."""
        location = self.user.open_session(self._random.choice(REPOSITORIES), self._unique())
        self.user.append(location, b"half of it")

    def _waste(self) -> None:
        """Upload what no manifest will need, and perhaps delete it again."""
        repository, data = self._random.choice(REPOSITORIES), self._unique()
        self.user.upload(repository, data)
        if self._random.random() < 0.5:
            self.user.delete_blob(repository, data)

    def _some_image(self) -> list[tuple[str, str]]:
        """One of those that are there, if there are any."""
        live = self.user.journal.live()
        return [self._random.choice(live)] if live else []

    def _children(self, digest: str) -> list[str]:
        raw = self.user.journal.images[digest].raw
        return [child for child in self.user.journal.images if child.encode() in raw]

    def _parents(self, repository: str, digest: str) -> list[str]:
        return [
            parent
            for its_repository, parent in self.user.journal.live()
            if its_repository == repository and digest in self._children(parent)
        ]

    def _tagged(self, repository: str, digest: str) -> bool:
        return any(
            key[:2] == ("tag", repository) and shown == digest
            for key, shown in self.user.journal.state.items()
        )

    def _tag(self) -> str:
        return f"client{self._number}-{self._random.randrange(3)}"

    def _unique(self) -> bytes:
        self._made += 1
        return f"client {self._number}, number {self._made}".encode() * 20


@pytest.mark.slow
def test_random_kills_under_load_lose_nothing_leak_nothing_and_undo_no_deletion(
    forkserver: ForkServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with CrashServer(forkserver, tmp_path / "data", *ARGUMENTS) as server:
        _kill_at_random(server, KILLS, record_property)


@pytest.mark.slow
@pytest.mark.postgresql
def test_the_same_when_postgresql_lives_on(
    forkserver: ForkServer,
    postgres_url: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Claims, leases and locks of the dead process are for others to end."""
    with CrashServer(forkserver, tmp_path / "data", *ARGUMENTS, database=postgres_url) as server:
        _kill_at_random(server, KILLS // 5, record_property)


def _kill_at_random(
    server: CrashServer, kills: int, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(kills)
    server.start()
    crowd = Crowd(server.host)
    workers = [Worker(number, crowd) for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        lives = [pool.submit(worker.live) for worker in workers]
        try:
            for _ in range(kills):
                crowd.wait_for(chance.choice([1, 3, 10, 30]), seconds=2)
                server.kill9()
                server.start()
                for life in lives:
                    assert not life.done(), life.result()
        finally:
            crowd.stop.set()
    users = [life.result() for life in lives]
    _assert_all_is_well(server, users)
    for name, value in _figures(server, users).items():
        record_property(name, value)


def _assert_all_is_well(server: CrashServer, users: list[User]) -> None:
    """After the last crash nothing is lost and, once promises have ended, nothing is left over."""
    server.kill9()
    let_pass(server.database, hours=25)
    server.arguments = SHORT_LEASE
    server.start()
    for user in users:
        user.connect(server.host)
        user.verify()
        user.client.close()
    assert_no_leak(server)
    server.check()
    server.check("--deep")
    server.assert_no_500()


def _figures(server: CrashServer, users: list[User]) -> dict[str, object]:
    starts = sorted(server.starts)
    return {
        "kills": len(starts) - 2,
        "acknowledged": sum(user.journal.acknowledged for user in users),
        "lost_answers": sum(user.journal.lost for user in users),
        "images_at_the_end": sum(len(user.journal.live()) for user in users),
        "start_seconds_median": round(starts[len(starts) // 2], 3),
        "start_seconds_most": round(starts[-1], 3),
    }

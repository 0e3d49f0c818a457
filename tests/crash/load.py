"""Clients that do everything at once to the same repositories, and note what they were told.

No client owns anything: what one pushes another one re-tags, deletes, restores or purges. Every
request has an id of its own, which the audit log has too, so that afterwards the log says what
became of each (tests/crash/oracle.py).
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.crash.harness import (
    ANSWER_SECONDS,
    Answer,
    Image,
    digest_of,
    make_image,
    make_index,
    some_bytes,
)

REPOSITORIES = ("load/a", "load/b", "load/c/d")
LAYERS = tuple(some_bytes(n, 500 + 3_000 * n) for n in range(24))
# More than a part of a bucket that S3 takes: 5 MiB.
LARGE_LAYER = some_bytes("large", 6_000_000)
# Images that there are at most, so that looking at all of them stays cheap.
MOST_IMAGES = 24
# Long enough for a push on a busy machine, short enough for promises to end while we look.
LEASE_SECONDS = 8
# Longer than any start takes.
AWAY_SECONDS = 60
# Rails are for people: here everything may go.
ALLOWED = ["empty-repository", "only-tag", "most-of-repository", "pulled-recently"]
RULES = {
    "enabled": True,
    "rules": [
        {"name": "old", "tags": "^r-", "keep_newest": 2, "allow": ALLOWED},
        {"name": "orphans", "untagged": True, "older_than": "1s", "allow": ALLOWED},
    ],
}
# 500 never: whoever reads the server's log finds it there.
_NO_ANSWER = (502, 503, 504, 507)

Outcome = Literal["acknowledged", "refused", "unknown"]


class Away(Exception):
    """The request may have been carried out, or not."""


class NotSent(Away):
    """There was nobody to send it to."""


class No(Exception):
    """An answer that says no, by its error code."""

    def __init__(self, what: str, answer: Answer) -> None:
        super().__init__(f"{what}: {answer.status} {answer.body[:500]!r}")
        self.answer = answer


@dataclass
class Act:
    """A mutation that a client asked for, and what it was told."""

    request_id: str
    # Of the audit log's entry.
    action: str
    repository: str | None
    outcome: Outcome
    said: str = ""


@dataclass
class Broken:
    """A promise that was not kept, between two moments in seconds since 1970 (invariant I25)."""

    repository: str
    since: float
    until: float
    said: str


@dataclass
class Crowd:
    """What all clients know in common. `hosts` are servers of one registry."""

    hosts: Sequence[str]
    layers: Sequence[bytes] = LAYERS
    stop: threading.Event = field(default_factory=threading.Event)
    images: dict[str, Image] = field(default_factory=dict)
    # What was seen last of each repository: which digests may be there. A guess.
    there: dict[str, set[str]] = field(default_factory=lambda: {n: set() for n in REPOSITORIES})
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
            self.progress.wait_for(
                lambda: self.acknowledged >= target or self.stop.is_set(), seconds
            )

    def children(self) -> dict[str, list[str]]:
        """What each manifest that anybody ever pushed lists."""
        return {digest: listed(image) for digest, image in list(self.images.items())}


def listed(image: Image) -> list[str]:
    """The digests in an index."""
    return [child["digest"] for child in json.loads(image.raw).get("manifests", [])]


class Courier:
    """One connection to one of several servers, another one when it breaks."""

    def __init__(self, hosts: Sequence[str], name: str, at: int) -> None:
        self._hosts, self._name, self._at = hosts, name, at
        self._sent = 0
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def next_id(self) -> str:
        self._sent += 1
        return f"{self._name}-{self._sent}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        media_type: str | None = None,
        request_id: str | None = None,
    ) -> Answer:
        """Send one request and read the whole answer. Raises Away, NotSent."""
        headers = {"X-Request-Id": request_id or self.next_id()}
        if media_type:
            headers["Content-Type"] = media_type
        if body is None and method in ("POST", "PUT"):
            headers["Content-Length"] = "0"
        connection = self._connected()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            found = Answer(
                answer.status,
                {name.lower(): value for name, value in answer.getheaders()},
                answer.read(),
            )
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self._at += 1
            raise Away(f"{method} {path}: {error!r}") from error
        if found.status >= 400:
            # A server that did not read the whole body ends the connection.
            self.close()
        if found.status in _NO_ANSWER:
            raise Away(f"{method} {path}: {found.status} {found.body[:200]!r}")
        return found

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            connection = http.client.HTTPConnection(
                self._hosts[self._at % len(self._hosts)], timeout=ANSWER_SECONDS
            )
            try:
                connection.connect()
            except OSError as error:
                self._at += 1
                raise NotSent(repr(error)) from error
            self._connection = connection
        return self._connection


class Client:
    """One client's life. What it asked for is in `acts`, by request id in the order of asking."""

    def __init__(self, number: int, crowd: Crowd, seed: int) -> None:
        name = f"c{number}-{seed}"
        self._name = name
        self._courier = Courier(crowd.hosts, name, number)
        self._crowd = crowd
        self._number = number
        self._random = random.Random(name)
        self._made = 0
        self.acts: list[Act] = []
        self.broken: list[Broken] = []

    def live(self) -> None:
        """Do one thing after another until told to stop."""
        while not self._crowd.stop.is_set():
            try:
                self._do_something()
                self._crowd.report()
            except No:
                # Somebody was faster; what may not be refused is looked at where it is asked for.
                pass
            except Away:
                self._wait_for_a_server()
        self._courier.close()

    def _wait_for_a_server(self) -> None:
        deadline = time.monotonic() + AWAY_SECONDS
        while not self._crowd.stop.is_set():
            with suppress(Away):
                if self._courier.ask("GET", "/v2/").status == 200:
                    return
            assert time.monotonic() < deadline, "no server came back"
            self._crowd.stop.wait(0.02)

    def _do_something(self) -> None:
        act: Callable[[], None] = self._random.choices(
            [self._push, self._push_index, self._sign, self._retag, self._delete, self._untag,
             self._pull, self._dally, self._waste, self._restore, self._free, self._purge,
             self._retain, self._delete_repository, self._switch_soft_delete],
            [30, 6, 5, 9, 14, 8, 10, 6, 3, 12, 2, 2, 1, 3, 1],
        )[0]  # fmt: skip
        if sum(map(len, self._crowd.there.values())) > MOST_IMAGES:
            act = self._random.choice([self._delete, self._delete, self._purge])
        act()

    # -- asking

    def _change(
        self,
        action: str,
        repository: str | None,
        status: int | tuple[int, ...],
        method: str,
        path: str,
        body: bytes | None = None,
        media_type: str | None = None,
    ) -> Answer:
        """Ask for a mutation, and note what became of it. Raises No, Away."""
        act = Act(self._courier.next_id(), action, repository, "unknown")
        self.acts.append(act)
        answer = self._courier.ask(method, path, body, media_type, act.request_id)
        act.said = f"{method} {path}: {answer.status} {answer.body[:300]!r}"
        if answer.status in ((status,) if isinstance(status, int) else status):
            act.outcome = "acknowledged"
            return answer
        act.outcome = "refused"
        raise No(f"{method} {path}", answer)

    def _change_json(
        self, action: str, status: int, method: str, path: str, asked: object
    ) -> Answer:
        body = json.dumps(asked).encode()
        return self._change(action, None, status, method, path, body, "application/json")

    # -- pushing

    def _push(self) -> None:
        layers = self._random.sample(self._crowd.layers, self._random.randint(1, 3))
        image = make_image(*layers, config=self._unique())
        self._push_image(self._some_repository(), image, [self._tag()])

    def _sign(self) -> None:
        """Push a referrer of something; whether its subject is still there does not matter."""
        repository, digest = self._some_image()
        subject = self._crowd.images[digest]
        self._push_image(repository, make_image(config=self._unique(), subject=subject), [])

    def _push_index(self) -> None:
        repository = self._some_repository()
        images = [
            make_image(self._random.choice(self._crowd.layers), config=self._unique())
            for _ in range(self._random.randint(1, 2))
        ]
        for image in images:
            self._push_image(repository, image, [])
        self._put(repository, make_index(*images), self._tag())

    def _push_image(self, repository: str, image: Image, tags: list[str]) -> None:
        """Every blob is promised before its manifest is put, and then the put has to succeed."""
        since, now = time.time(), time.monotonic()
        how = self._random.choice(["single", "put", "chunks"])
        for data in image.blobs:
            self._have(repository, data, how)
        try:
            self._put(repository, image, *tags)
        except No as no:
            late = time.monotonic() - now > LEASE_SECONDS / 2
            if no.answer.error_code == "MANIFEST_BLOB_UNKNOWN" and not late:
                self.broken.append(Broken(repository, since, time.time(), str(no)))
            raise

    def _have(self, repository: str, data: bytes, how: str) -> None:
        """Ask, mount or upload, as clients do; again until there is an answer."""
        while True:
            try:
                path = f"/v2/{repository}/blobs/{digest_of(data)}"
                if self._courier.ask("HEAD", path).status == 200:
                    return
                if self._random.random() < 0.3 and self._mounted(repository, data):
                    return
                self._upload(repository, data, how)
            except Away:
                self._wait_for_a_server()
                if self._crowd.stop.is_set():
                    raise
            else:
                return

    def _mounted(self, repository: str, data: bytes) -> bool:
        query = f"mount={digest_of(data)}&from={self._random.choice(REPOSITORIES)}"
        path = f"/v2/{repository}/blobs/uploads/?{query}"
        # 202 is the other right answer: a session, which nobody here goes on with.
        act = Act(self._courier.next_id(), "blob.mount", repository, "unknown")
        self.acts.append(act)
        answer = self._courier.ask("POST", path, request_id=act.request_id)
        assert answer.status in (201, 202), answer
        act.outcome = "acknowledged" if answer.status == 201 else "refused"
        return answer.status == 201

    def _upload(self, repository: str, data: bytes, how: str) -> None:
        digest, sessions = digest_of(data), f"/v2/{repository}/blobs/uploads/"
        upload = "blob.upload"
        if how == "single":
            self._change(upload, repository, 201, "POST", f"{sessions}?digest={digest}", data)
            return
        location = self._expect(202, "POST", sessions).headers["location"]
        end = f"{location}?digest={digest}"
        if how == "put":
            self._change(upload, repository, 201, "PUT", end, data)
            return
        middle = len(data) // 2
        self._expect(202, "PATCH", location, data[:middle])
        self._expect(202, "PATCH", location, data[middle:])
        self._change(upload, repository, 201, "PUT", end)

    def _expect(self, status: int, method: str, path: str, body: bytes | None = None) -> Answer:
        answer = self._courier.ask(method, path, body)
        if answer.status != status:
            raise No(f"{method} {path}", answer)
        return answer

    def _put(self, repository: str, image: Image, *tags: str) -> None:
        self._crowd.images[image.digest] = image
        reference = image.digest
        query = "?" + "&".join(f"tag={tag}" for tag in tags) if tags else ""
        if len(tags) == 1 and self._random.random() < 0.7:
            reference, query = tags[0], ""
        path = f"/v2/{repository}/manifests/{reference}{query}"
        self._change("manifest.push", repository, 201, "PUT", path, image.raw, image.media_type)
        self._crowd.there[repository].add(image.digest)

    def _retag(self) -> None:
        repository, digest = self._some_image()
        self._put(repository, self._crowd.images[digest], self._tag())

    def _dally(self) -> None:
        """Begin an upload and leave it."""
        path = f"/v2/{self._some_repository()}/blobs/uploads/"
        location = self._expect(202, "POST", path).headers["location"]
        self._expect(202, "PATCH", location, b"half of it")

    def _waste(self) -> None:
        """Upload what no manifest will need, and perhaps delete it again."""
        repository, data = self._some_repository(), self._unique()
        self._upload(repository, data, "single")
        if self._random.random() < 0.5:
            path = f"/v2/{repository}/blobs/{digest_of(data)}"
            self._change("blob.delete", repository, 202, "DELETE", path)

    # -- deleting

    def _delete(self) -> None:
        repository, digest = self._some_image()
        path = f"/v2/{repository}/manifests/{digest}"
        self._gone(repository, digest)
        self._change("manifest.delete", repository, 202, "DELETE", path)

    def _untag(self) -> None:
        repository, tag = self._some_repository(), self._tag()
        self._change("tag.delete", repository, 202, "DELETE", f"/v2/{repository}/manifests/{tag}")

    def _delete_repository(self) -> None:
        repository = self._some_repository()
        self._crowd.there[repository].clear()
        self._change("repository.delete", repository, 202, "DELETE", f"/acr/v1/{repository}")

    def _purge(self) -> None:
        """Tags of one client, and what then has none."""
        asked = {
            "filters": [f"{self._some_repository()}:^c{self._random.randrange(4)}"],
            "ago": "0d",
            "untagged": True,
            "allow": ALLOWED,
        }
        self._change_json("purge.start", 202, "POST", "/api/v1/purge", asked)

    def _retain(self) -> None:
        self._change_json("retention.start", 202, "POST", "/api/v1/retention/runs", {})

    # -- taking back

    def _restore(self) -> None:
        operation = self._some_operation()
        path = f"/api/v1/deleted/{operation['id']}/restore"
        answer = self._change_json("operation.restore", 200, "POST", path, {})
        if not json.loads(answer.body)["repositories"]:
            # Somebody else has restored or freed it in between.
            self.acts[-1].outcome = "refused"

    def _free(self) -> None:
        path = f"/api/v1/deleted/{self._some_operation()['id']}"
        self._change("operation.free", None, 202, "DELETE", path)

    def _some_operation(self) -> dict[str, Any]:
        answer = self._expect(200, "GET", "/api/v1/deleted?n=50")
        operations = json.loads(answer.body)["operations"]
        if not operations:
            raise No("restore", answer)
        chosen: dict[str, Any] = self._random.choice(operations)
        return chosen

    def _switch_soft_delete(self) -> None:
        """On most of the time."""
        status = "disabled" if self._random.random() < 0.3 else "enabled"
        path = "/api/v1/policies/soft-delete"
        self._change_json("policy.update", 200, "PATCH", path, {"status": status})

    # -- looking

    def _pull(self) -> None:
        """Every byte of what is served is right, and it is served to its end."""
        repository, digest = self._some_image()
        image = self._crowd.images[digest]
        answer = self._courier.ask("GET", f"/v2/{repository}/manifests/{digest}")
        if answer.status == 404:
            self._gone(repository, digest)
            return
        assert (answer.status, answer.body) == (200, image.raw), answer
        for data in image.blobs:
            found = self._courier.ask("GET", f"/v2/{repository}/blobs/{digest_of(data)}")
            # Deleted in between.
            assert found.status == 404 or (found.status, found.body) == (200, data), found

    # -- choosing

    def _some_repository(self) -> str:
        return self._random.choice(REPOSITORIES)

    def _some_image(self) -> tuple[str, str]:
        """One that may be there. Raises No."""
        some = [(name, digest) for name in REPOSITORIES for digest in [*self._crowd.there[name]]]
        if not some:
            raise No("no image", Answer(404, {}, b""))
        return self._random.choice(some)

    def _gone(self, repository: str, digest: str) -> None:
        self._crowd.there[repository].discard(digest)

    def _tag(self) -> str:
        """Few, so that clients meet."""
        return self._random.choice([f"c{self._random.randrange(4)}", f"r-{self._number}", "latest"])

    def _unique(self) -> bytes:
        self._made += 1
        return f"client {self._name}, number {self._made}".encode() * 20

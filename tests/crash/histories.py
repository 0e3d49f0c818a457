"""Histories of tags and manifests: what eight clients asked of a few names, and were told.

Of one repository, each tag and each digest is a register (tests/crash/linearizability.py). Deleting
a manifest also clears every tag that pointed to it, and a listing looks at all tags in one moment.
"""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

from tests.crash.harness import Answer, Image, User, make_image, some_bytes
from tests.crash.linearizability import Kind, Operation, Value, explains
from tests.crash.load import AWAY_SECONDS, Away, Courier, NotSent

CLIENTS = 8
TAGS = ("v1", "v2", "v3", "v4", "latest")
LAYER, CONFIG = some_bytes("history", 2_000), b"{}"
# They differ in an annotation's place: which blobs they need is the same, so that no upload is.
IMAGES = tuple(
    Image(
        image.raw.replace(b'"schemaVersion"', b" " * at + b'"schemaVersion"', 1), image.media_type
    )
    for at, image in enumerate([make_image(LAYER, config=CONFIG)] * 8)
)
# Holds the blobs, and nobody deletes it.
ANCHOR = make_image(LAYER, config=CONFIG, subject=make_image(config=b"anchor"))
Register = tuple[str, str]
# A connection to each server.
Couriers = Sequence[Courier]


class History:
    """One history in the making, in a repository of its own, over several servers."""

    def __init__(self, hosts: Sequence[str], repository: str, seed: int) -> None:
        self.repository = repository
        self.registers: dict[Register, list[Operation]] = defaultdict(list)
        self._hosts = hosts
        self._seed = seed
        self._lock = threading.Lock()
        with User(hosts[0]) as user:
            for data in (LAYER, CONFIG):
                user.upload(repository, data)
            user.put(repository, ANCHOR)

    def record(self, operations: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Let the clients do so much together, and something happen meanwhile."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            each = operations // CLIENTS
            clients = [pool.submit(self._live, number, each) for number in range(CLIENTS)]
            meanwhile()
        for client in clients:
            client.result()

    def check(self) -> None:
        """Every register's history has an order. AssertionError with one that has none."""
        for (kind, name), operations in self.registers.items():
            assert explains(operations), (
                f"{self.repository} {kind} {name} (seed {self._seed}):\n"
                + ("\n".join(map(str, sorted(operations, key=lambda each: each.began))))
            )

    def _live(self, number: int, operations: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        couriers = [Courier([host], f"h{number}", 0) for host in self._hosts]
        for _ in range(operations):
            act = chance.choices(
                [self._put, self._get, self._untag, self._delete, self._list], [5, 6, 2, 2, 1]
            )[0]
            act(couriers, chance)
        for courier in couriers:
            courier.close()

    # -- what clients do

    def _put(self, couriers: Couriers, chance: random.Random) -> None:
        image, tag = chance.choice(IMAGES), chance.choice([*TAGS, None])
        status, _, began, ended = self._ask(
            couriers, chance, "PUT", f"manifests/{tag or image.digest}", image
        )
        assert status in (201, None), status
        self._note("digest", image.digest, "put", began, ended, "there")
        if tag is not None:
            self._note("tag", tag, "put", began, ended, image.digest)

    def _get(self, couriers: Couriers, chance: random.Random) -> None:
        digest = chance.choice([image.digest for image in IMAGES])
        name = chance.choice([*TAGS, digest])
        method = chance.choice(["GET", "HEAD"])
        status, found, began, ended = self._ask(couriers, chance, method, f"manifests/{name}")
        if status is None:
            return
        assert status in (200, 404), status
        value = found if status == 200 else None
        if name == digest:
            self._note("digest", name, "get", began, ended, "there" if value else None)
        else:
            self._note("tag", name, "get", began, ended, value)

    def _untag(self, couriers: Couriers, chance: random.Random) -> None:
        tag = chance.choice(TAGS)
        status, _, began, ended = self._ask(couriers, chance, "DELETE", f"manifests/{tag}")
        assert status in (202, 404, None), status
        self._note("tag", tag, "delete", began, ended, held=status == 202)

    def _delete(self, couriers: Couriers, chance: random.Random) -> None:
        digest = chance.choice(IMAGES).digest
        status, _, began, ended = self._ask(couriers, chance, "DELETE", f"manifests/{digest}")
        assert status in (202, 404, None), status
        self._note("digest", digest, "delete", began, ended, held=status == 202)
        for tag in TAGS:
            self._note("tag", tag, "clear", began, ended, digest, held=status == 202)

    def _list(self, couriers: Couriers, chance: random.Random) -> None:
        status, body, began, ended = self._ask(couriers, chance, "GET", "tags/list")
        if status is None:
            return
        assert status == 200, status
        listed = json.loads(body or "{}")["tags"] or []
        for tag in TAGS:
            self._note("tag", tag, "seen", began, ended, held=tag in listed)

    # -- asking and noting

    def _ask(
        self,
        couriers: Couriers,
        chance: random.Random,
        method: str,
        path: str,
        image: Image | None = None,
    ) -> tuple[int | None, str | None, float, float]:
        """The status, the digest or the body, and between which moments; None: no answer."""
        body, media_type = (image.raw, image.media_type) if image else (None, None)
        began = monotonic()
        try:
            answer = self._sent(couriers, chance, method, path, body, media_type)
        except Away:
            return None, None, began, float("inf")
        ended = monotonic()
        if path == "tags/list":
            return answer.status, answer.body.decode(), began, ended
        return answer.status, answer.headers.get("docker-content-digest"), began, ended

    def _sent(
        self,
        couriers: Couriers,
        chance: random.Random,
        method: str,
        path: str,
        body: bytes | None,
        media_type: str | None,
    ) -> Answer:
        """By any of the servers that is there. Raises Away."""
        deadline = monotonic() + AWAY_SECONDS
        while True:
            courier = chance.choice(couriers)
            try:
                return courier.ask(method, f"/v2/{self.repository}/{path}", body, media_type)
            except NotSent:
                if monotonic() > deadline:
                    raise
                sleep(0.02)

    def _note(
        self,
        kind: str,
        name: str,
        what: Kind,
        began: float,
        ended: float,
        value: Value = None,
        *,
        held: bool = True,
    ) -> None:
        with self._lock:
            self.registers[kind, name].append(Operation(what, began, ended, value, held))

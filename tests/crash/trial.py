"""A registry under load is struck again and again, and judged by its own audit log.

Strikes come in flocks. Between two of them the clients rest, and the registry must be what its log
says (tests/crash/oracle.py), and the log what the clients were told:

- every acknowledged mutation has exactly one entry, every refused one none, every unanswered one
  one or none (invariant I22);
- what the log says is there can be pulled whole, what it says was deleted is gone, nothing else is
  missing (I23, I24), and every deletion that can be taken back is listed;
- a push to which every blob was promised was not refused (I25).
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import sqlalchemy as sa

from tests.crash.harness import (
    SHORT_LEASE,
    CrashServer,
    Key,
    User,
    assert_no_leak,
    let_pass,
    wait_until,
)
from tests.crash.load import LAYERS, LEASE_SECONDS, REPOSITORIES, RULES, Act, Broken, Client, Crowd
from tests.crash.oracle import Entry, Replay, read_log
from ullage.check.run import OVERDUE
from ullage.database.timestamps import to_micros

# As a request's status in the log, or as what follows an error that nobody expected.
FAILURE = re.compile(r'"status": 500|^Traceback ', re.MULTILINE)
# What is known to fail: a push whose repository is deleted in its middle.
DELETED_REPOSITORIES_BREAK_PUSHES = True
CLIENTS = 8
# Strikes between two judgements.
FLOCK = 20
# Operations between two judgements, where nobody strikes.
JUDGED_EVERY = 1_000
ARGUMENTS = ("--lease", f"{LEASE_SECONDS}s", "--read-grace", "0s", "--upload-idle", "5s")
# Names that nothing is expected under, of which some are looked at each time; in the end, all.
SOME_GONE = 60
# Actions of jobs, under the id of the request that started them.
_OF_JOBS = {"purge.delete", "retention.delete"}
_FINISHED = {"done", "refused", "cancelled"}


class Trial:
    """One registry, served by one process or several, and its clients.

    Those push `layers`, and ask the servers, or what `front` is between them.
    """

    def __init__(
        self,
        servers: Sequence[CrashServer],
        seed: int,
        *,
        front: str | None = None,
        layers: Sequence[bytes] = LAYERS,
    ) -> None:
        self.servers = servers
        self.chance = random.Random(seed)
        for server in servers:
            if not server.running:
                server.start()
        hosts = [server.host for server in servers] if front is None else [front]
        self.crowd = Crowd(hosts, layers)
        self._clients = [Client(number, self.crowd, seed) for number in range(CLIENTS)]
        self._replay = Replay()
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        self._judged = [0] * CLIENTS
        self._set_policies()
        self.struck = 0
        self._began = monotonic()

    def run(self, strikes: int, strike: Callable[[Trial], None]) -> None:
        """Strike so many times; `strike` lets somebody die and brings everybody back."""

        def strike_now_and_then() -> None:
            for _ in range(min(FLOCK, strikes - self.struck)):
                self.crowd.wait_for(self.chance.choice([1, 3, 10, 20]), seconds=2)
                strike(self)
                self.struck += 1

        while self.struck < strikes:
            self._under_load(strike_now_and_then)
            self.judge()
        self._judge_the_end()

    def run_in_peace(self, operations: int) -> None:
        """Nobody dies: then every request is answered, and never with a 5xx."""
        while (left := operations - self.crowd.acknowledged) > 0:
            some = min(JUDGED_EVERY, left)
            self._under_load(lambda some=some: self.crowd.wait_for(some, seconds=600))  # type: ignore[misc]
            self.judge()
            acts = [act for client in self._clients for act in client.acts]
            unanswered = [act for act in acts if act.outcome == "unknown"]
            assert not unanswered, unanswered[0]
        self._judge_the_end()

    def _under_load(self, meanwhile: Callable[[], None]) -> None:
        self.crowd.stop.clear()
        with ThreadPoolExecutor(CLIENTS) as pool:
            lives = [pool.submit(client.live) for client in self._clients]
            for life in lives:
                # Nobody waits for clients that are gone.
                life.add_done_callback(lambda life: self.crowd.stop.set())
            try:
                meanwhile()
            finally:
                self.crowd.stop.set()
        for life in lives:
            life.result()

    def _set_policies(self) -> None:
        with User(self.crowd.hosts[0]) as user:
            user.keep_what_is_deleted()
            rules = json.dumps(RULES).encode()
            path = "/api/v1/policies/retention"
            user.client.expect(200, "PUT", path, rules, "application/json")
        self._replay.apply(read_log(self._database))

    @property
    def _database(self) -> str:
        return self.servers[0].database

    # -- judging

    def judge(self, *, everything: bool = False) -> None:
        """What is there is what the log says, and the log is what the clients were told."""
        self._let_jobs_end()
        entries = read_log(self._database, self._replay.last_id)
        self._replay.learn(self.crowd.children())
        self._replay.apply(entries)
        for entry in entries:
            self._entries[entry.request_id].append(entry)
        self._judge_acts(entries)
        self._judge_promises()
        self._judge_content(everything)
        self._judge_operations()
        for server in self.servers:
            _require_no_failure(server.log)

    def _let_jobs_end(self) -> None:
        if self.struck and self._database.startswith("postgresql"):
            # Claims of the dead last for a minute.
            for server in self.servers:
                server.kill9()
            self._sql("UPDATE jobs SET claimed_until = 0 WHERE claimed_until IS NOT NULL")
            for server in self.servers:
                server.start()
        open_ = "SELECT count(*) FROM jobs WHERE finished_at IS NULL"
        wait_until(lambda: self._sql(open_) == [(0,)], lambda: self.servers[0].log)
        states = {state for (state,) in self._sql("SELECT DISTINCT state FROM jobs")}
        assert states <= _FINISHED, states

    def _judge_acts(self, entries: Sequence[Entry]) -> None:
        asked: set[str] = set()
        for number, client in enumerate(self._clients):
            for act in client.acts[self._judged[number] :]:
                self._judge_act(act)
            self._judged[number] = len(client.acts)
            asked |= {act.request_id for act in client.acts}
        strangers = [entry for entry in entries if entry.request_id not in asked]
        assert not strangers, f"nobody asked for {strangers[0]}"

    def _judge_act(self, act: Act) -> None:
        found = self._entries[act.request_id]
        own = [entry for entry in found if entry.action == act.action]
        others = {entry.action for entry in found} - {act.action} - _OF_JOBS
        assert not others, f"{act} has entries of {others}"
        # A restore has one entry for each of its transactions, and may be refused in the last.
        if act.action == "operation.restore":
            assert act.outcome != "acknowledged" or own, f"{act} is not in the log"
            return
        least, most = {"acknowledged": (1, 1), "refused": (0, 0), "unknown": (0, 1)}[act.outcome]
        assert least <= len(own) <= most, f"{act} is in the log {len(own)} times"

    def _judge_promises(self) -> None:
        for client in self._clients:
            for broken in client.broken:
                excused = DELETED_REPOSITORIES_BREAK_PUSHES and self._was_deleted_meanwhile(broken)
                assert excused, f"a promise was broken: {broken}"
            client.broken.clear()

    def _was_deleted_meanwhile(self, broken: Broken) -> bool:
        return any(
            entry.action == "repository.delete"
            and entry.repository == broken.repository
            and broken.since - 1 <= entry.at <= broken.until + 1
            for entries in self._entries.values()
            for entry in entries
        )

    def _judge_content(self, everything: bool) -> None:
        there = self._replay.keys()
        gone = sorted(self._replay.named - there)
        if not everything:
            gone = self.chance.sample(gone, min(len(gone), SOME_GONE))
        keys: set[Key] = {*there, *gone}
        expected = self._replay.expected(keys)
        for server in self.servers:
            with User(server.host) as user:
                found = user.look(keys)
                wrong = {
                    key: (found[key], expected[key]) for key in keys if found[key] != expected[key]
                }
                assert not wrong, f"(found, by the log): {wrong}\n{self._about(wrong)}"
                user.journal.images = self.crowd.images
                for kind, name, digest in there:
                    if kind == "manifest":
                        user.pull(name, digest)
                self._judge_listings(user)
        for name in REPOSITORIES:
            # What clients guess from.
            live = self._replay.live.get(name)
            self.crowd.there[name] = set(live.manifests) if live else set()

    def _about(self, keys: Any) -> str:
        """What the log says of the first of these names."""
        _, name, reference = next(iter(keys))
        lines = [
            str(entry)
            for entries in self._entries.values()
            for entry in entries
            if entry.repository == name
            and (reference == entry.target or reference in json.dumps(entry.detail))
        ]
        return "\n".join(lines[-20:])

    def _judge_listings(self, user: User) -> None:
        live = {name: each for name, each in self._replay.live.items() if each.manifests}
        listed = json.loads(user.client.expect(200, "GET", "/v2/_catalog").body)
        assert (listed["repositories"] or []) == sorted(live)
        for name, repository in live.items():
            listed = json.loads(user.client.expect(200, "GET", f"/v2/{name}/tags/list").body)
            assert (listed["tags"] or []) == sorted(repository.tags)

    def _judge_operations(self) -> None:
        """Every deletion that can be taken back is listed, and nothing else is."""
        listed: dict[str, dict[str, Any]] = {}
        path: str | None = "/api/v1/deleted?n=500"
        with User(self.crowd.hosts[0]) as user:
            while path is not None:
                answer = user.client.expect(200, "GET", path)
                found = json.loads(answer.body)["operations"]
                listed |= {each["id"]: each for each in found}
                link = answer.headers.get("link", "")
                path = link[1 : link.index(">")] if link else None
        by_the_log = self._replay.restorable()
        wrong = {id_: listed.get(id_) for id_ in listed.keys() ^ by_the_log}
        assert not wrong, f"listed, or missing there: {wrong}"

    def _judge_the_end(self) -> None:
        """After the last strike nothing is lost and, once promises have ended, nothing is left."""
        for server in self.servers:
            server.kill9()
        let_pass(self._database, hours=25)
        first = self.servers[0]
        for server in self.servers:
            server.arguments = SHORT_LEASE
            server.start()
        self.judge(everything=True)
        for server in self.servers[1:]:
            assert server.terminate() == 0
        # A day of work became late at once; it is a finding only where nothing catches up.
        wait_until(self._caught_up, lambda: first.log)
        first.clear_store()
        first.check("--deep")
        with User(first.host) as user:
            user.client.expect(202, "DELETE", "/api/v1/deleted")
        assert_no_leak(first)
        first.check()
        first.check("--deep")
        _require_no_failure(first.log)

    def _caught_up(self) -> bool:
        late = to_micros(datetime.now(UTC) - OVERDUE)
        return not self._sql(f"SELECT 1 FROM tombstones WHERE due_at < {late} LIMIT 1")

    def figures(self) -> dict[str, object]:
        """What the trial came to."""
        outcomes = Counter(act.outcome for client in self._clients for act in client.acts)
        actions = Counter(entry.action for entries in self._entries.values() for entry in entries)
        starts = sorted(start for server in self.servers for start in server.starts)
        return {
            "struck": self.struck,
            "operations": self.crowd.acknowledged,
            "seconds": round(monotonic() - self._began, 1),
            **dict(sorted(outcomes.items())),
            "start_seconds_median": round(starts[len(starts) // 2], 3),
            "start_seconds_most": round(starts[-1], 3),
            **dict(sorted(actions.items())),
        }

    def _sql(self, statement: str) -> list[tuple[Any, ...]]:
        engine = sa.create_engine(self._database, poolclass=sa.NullPool)
        try:
            with engine.begin() as connection:
                found = connection.exec_driver_sql(statement)
                return [tuple(row) for row in found.all()] if found.returns_rows else []
        finally:
            engine.dispose()


def _require_no_failure(log: str) -> None:
    """No request was answered 500, and nothing was raised that nobody expected; else, that part."""
    found = FAILURE.search(log)
    assert found is None, _without_frames(log[max(0, found.start() - 500) : found.start() + 30_000])


def _without_frames(log: str) -> str:
    """What a traceback says, without other people's code."""
    lines = [line for line in log.splitlines() if "site-packages" not in line and "^^^" not in line]
    return "\n".join(lines)[:8000]

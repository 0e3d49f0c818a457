"""What the crash suites share: servers that start fast, clients that keep a journal, and the sums.

A client's journal says what each of its names must show. An operation whose answer was lost may
have happened or not, but only as a whole: afterwards the registry must be in the state before it or
in the state after it. Acknowledged means that the client has read the status line (reliability.md
section 1.1).
"""

import hashlib
import http.client
import json
import os
import random
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import sqlalchemy as sa

from tests.support.buckets import CREDENTIALS, S3Server
from tests.support.server import UllageServer, command_environment

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
# With these every promise has ended as soon as one looks, and everything comes back.
SHORT_LEASE = ("--lease", "50ms", "--read-grace", "0s")
QUIET_SECONDS = 30
# What says whose a store is.
LABEL = "registry-id"
ANSWER_SECONDS = 30


# --- processes ------------------------------------------------------------------------------------


class ForkServer:
    """Runs the command `ullage`, or tests/crash/drive.py, by forking what has it imported."""

    def __enter__(self) -> Self:
        environment = command_environment()
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment["PYTHONPATH"]])
        program = Path(__file__).with_name("forkserver.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for the tests; they end it when they are done.
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        # The end of its input is the end of it.
        self._process.communicate()

    def start(self, argv: Sequence[str | Path], env: Mapping[str, str], log: Path) -> "Process":
        """Run argv[0], "ullage" or "drive", leading a process group of its own."""
        request = {"argv": [str(word) for word in argv], "env": dict(env), "log": str(log)}
        return Process(self, self._ask(request)["pid"])

    def run(
        self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run to the end: the exit code (minus the signal if killed), and what it said."""
        log.unlink(missing_ok=True)
        process = self.start(argv, env or {}, log)
        try:
            code = process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return code, log.read_text()

    def exit_code(self, pid: int) -> int:
        """Of a process that has ended."""
        return self._ask({"wait": pid})["code"]

    def _ask(self, request: Mapping[str, object]) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server has ended"
        return cast("dict[str, int]", json.loads(answer))


class Process:
    """As much of a `subprocess.Popen` as UllageServer uses, for a child of the fork server."""

    def __init__(self, parent: ForkServer, pid: int) -> None:
        self.pid = pid
        self._parent = parent
        self._code: int | None = None
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        return self._code if self._ended(0) else None

    def wait(self, timeout: float) -> int:
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired("ullage", timeout)
        assert self._code is not None
        return self._code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def _ended(self, timeout: float) -> bool:
        if self._code is None and select.select([self._handle], [], [], timeout)[0]:
            os.close(self._handle)
            self._code = self._parent.exit_code(self.pid)
        return self._code is not None


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3 server that keeps its objects as files. In text, its URL for `--storage`.

    Its parts are the smallest that S3 has, so that more uploads have some.
    """

    server: S3Server
    name: str

    def __str__(self) -> str:
        return self.server.url(self.name, part="5MiB")

    def stored(self) -> dict[str, int]:
        """Name and size of all objects but the label; of unfinished uploads there are none."""
        unfinished = self.server.unfinished_bytes(self.name)
        assert not unfinished, f"{unfinished} bytes of parts that no object was made of"
        sizes = self.server.sizes(self.name)
        return {name.rpartition("/")[2]: size for name, size in sizes.items() if name != LABEL}

    def let_pass(self, hours: float) -> None:
        """Everything in it is older by so much."""
        then = time.time() - hours * 3600
        for path in (self.server.folder / self.name).rglob("*"):
            with suppress(FileNotFoundError):
                os.utime(path, (then, then))


class CrashServer(UllageServer):
    """A server made to be killed. `armed` is what ULLAGE_FAILPOINTS says from the next start on.

    The database (a URL) and the storage are in the data folder unless given, the log is beside it.
    `storage` is a folder or a bucket.
    """

    def __init__(
        self,
        forkserver: ForkServer,
        data: Path,
        *arguments: str | Path,
        database: str | None = None,
        storage: Path | Bucket | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(data, *arguments, env=CREDENTIALS if isinstance(storage, Bucket) else None)
        self.log_path = log or self.log_path
        self._forkserver = forkserver
        self.armed = ""
        self.starts: list[float] = []
        self._given_database = database
        self._given_storage = storage

    @property
    def database(self) -> str:
        """The URL, as SQLAlchemy wants it."""
        given = self._given_database or f"sqlite:///{self.data / 'ullage.db'}"
        return given.replace("postgresql:", "postgresql+psycopg:", 1)

    @property
    def store(self) -> Path:
        """The folder with blobs/ and uploads/."""
        assert not isinstance(self._given_storage, Bucket), "its bytes are in a bucket"
        return self._given_storage or self.data

    def stored(self) -> dict[str, int]:
        """Name and size of everything in the store."""
        given = self._given_storage
        return given.stored() if isinstance(given, Bucket) else stored_files(self.store)

    def clear_store(self) -> None:
        """A day passes for a bucket; then what killed requests left there is found and removed.

        That is parts and tails that no row names yet (buckets.md). Of files nothing is left.
        """
        if isinstance(self._given_storage, Bucket):
            self._given_storage.let_pass(hours=25)
            code, said = self.run_check("--repair")
            unexpected = re.findall(r"^\w+ (?!I34)I\d+: .*", said, re.MULTILINE)
            assert code in (0, 1), f"ullage check --repair: {code}\n{said}\n{self.log}"
            assert not unexpected, said

    def __enter__(self) -> Self:
        """Unlike its parent, a test that arms it starts it; the block only ends what runs."""
        return self

    def start(self) -> None:
        """Start, and return when it answers. AssertionError with the log if it does not."""
        self._spawn()
        try:
            self._wait_until_ready(self._said_before)
        except BaseException:
            self.kill9()
            raise
        self.starts.append(time.monotonic() - self._spawned)

    def start_and_die(self) -> None:
        """Start a server that a failpoint kills before it serves."""
        self._spawn()
        self.expect_kill()

    def expect_kill(self) -> None:
        """Wait for the end that a failpoint brings: SIGKILL, and nothing else."""
        try:
            code = self.wait(20)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.armed} was not reached:\n{self.log}") from None
        assert code == -signal.SIGKILL, f"{self.armed}: ended with {code}:\n{self.log}"
        self.armed = ""

    def place(self) -> list[str | Path]:
        """The flags that say where this server's data is."""
        flags: list[str | Path] = ["--data", self.data]
        if self._given_database:
            flags += ["--database", self._given_database]
        if self._given_storage:
            bucket = isinstance(self._given_storage, Bucket)
            flags += ["--storage", f"{'' if bucket else 'file:'}{self._given_storage}"]
        return flags

    def run_check(self, *flags: str) -> tuple[int, str]:
        """The exit code of `ullage check`, and what it said."""
        log = self.log_path.with_suffix(".check")
        return self._forkserver.run(["ullage", "check", *self.place(), *flags], log, self.env)

    def check(self, *flags: str) -> None:
        """`ullage check` finds nothing wrong."""
        code, said = self.run_check(*flags)
        assert code == 0, f"ullage check {' '.join(flags)} ended with {code}:\n{said}\n{self.log}"

    def drive(self, what: str, *arguments: str, armed: str = "") -> int:
        """Run tests/crash/drive.py on this server's data, in a process of its own."""
        env = self.env | ({"ULLAGE_FAILPOINTS": armed} if armed else {})
        log = self.log_path.with_suffix(".drive")
        code, said = self._forkserver.run(["drive", what, *self.place(), *arguments], log, env)
        assert code in (0, -signal.SIGKILL), f"{what} ended with {code}:\n{said}"
        return code

    def _spawn(self) -> None:
        assert not self.running, "already running"
        self._said_before = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._spawned = time.monotonic()
        argv = ["ullage", "serve", "--listen", self._listen, *self.place(), *self.arguments]
        env = self.env | ({"ULLAGE_FAILPOINTS": self.armed} if self.armed else {})
        process = self._forkserver.start(argv, env, self.log_path)
        # It does all that is asked of the real one.
        self._process = cast("subprocess.Popen[bytes]", process)


def wait_for_state(pid: int, state: str) -> None:
    """Until /proc says so; "T" is stopped."""
    deadline = time.monotonic() + QUIET_SECONDS
    while (found := Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) != state:
        assert time.monotonic() < deadline, f"process {pid} is {found}, expected {state}"
        time.sleep(0.002)


# --- clients --------------------------------------------------------------------------------------


class Lost(Exception):
    """The connection ended before an answer: the request may have been carried out, or not."""


class Refused(Exception):
    """An answer, but not the hoped-for one."""

    def __init__(self, what: str, answer: "Answer") -> None:
        super().__init__(f"{what}: {answer.status} {answer.body[:500]!r}")
        self.answer = answer


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error_code(self) -> str:
        """From the body that the protocol demands (distribution-spec, "Error Codes")."""
        return str(json.loads(self.body)["errors"][0]["code"])


class Client:
    """One connection, made anew when it breaks."""

    def __init__(self, host: str) -> None:
        self._connection = http.client.HTTPConnection(host, timeout=ANSWER_SECONDS)

    def close(self) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: bytes | None = None, media_type: str | None = None
    ) -> Answer:
        """Send one request and read the whole answer. Raises Lost."""
        headers = {"Content-Type": media_type} if media_type else {}
        if body is None and method in ("POST", "PUT"):
            headers["Content-Length"] = "0"
        try:
            # A server that refuses a body in the middle answers before it ends the connection.
            with suppress(BrokenPipeError):
                self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            found = Answer(
                answer.status,
                {name.lower(): value for name, value in answer.getheaders()},
                answer.read(),
            )
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Lost(f"{method} {path}: {error!r}") from error
        if body and found.status >= 400:
            # A server that did not read the whole body ends the connection.
            self._connection.close()
        return found

    def expect(
        self,
        status: int,
        method: str,
        path: str,
        body: bytes | None = None,
        media_type: str | None = None,
    ) -> Answer:
        """As `ask`. Raises Refused for any other status."""
        answer = self.ask(method, path, body, media_type)
        if answer.status != status:
            raise Refused(f"{method} {path}", answer)
        return answer


# A manifest or a tag of a repository, and what it shows: a digest, or None for "there is none".
Key = tuple[str, str, str]
State = dict[Key, str | None]


@dataclass
class Image:
    """A manifest's bytes with everything it needs, as the client pushed it."""

    raw: bytes
    media_type: str = MANIFEST
    blobs: tuple[bytes, ...] = ()

    @property
    def digest(self) -> str:
        return digest_of(self.raw)


@dataclass
class Session:
    """An upload session that was opened: `sent` bytes of `data` were acknowledged."""

    repository: str
    data: bytes
    sent: int = 0
    # The answer to its end (PUT) or its cancelling was lost.
    ended: bool = False


@dataclass
class Journal:
    """What one client knows."""

    state: State = field(default_factory=dict)
    # What an unanswered operation may have changed.
    pending: State = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    acknowledged: int = 0
    lost: int = 0

    @contextmanager
    def changing(self, change: State) -> Iterator[None]:
        """Around an operation that makes this change if it is acknowledged."""
        assert not self.pending, "an earlier operation's outcome is not settled"
        self.pending = change
        try:
            yield
        except Refused:
            self.pending = {}
            raise
        except Lost:
            self.lost += 1
            raise
        self.pending = {}
        self.state |= change
        self.acknowledged += 1

    def settle(self, found: State) -> None:
        """Compare with what the registry shows: all as before the pending operation, or after."""
        before = {key: self.state.get(key) for key in found}
        after = before | self.pending
        assert found in (before, after), (
            f"found {_differences(found, before)} compared with before, "
            f"{_differences(found, after)} with after"
        )
        self.state |= found
        self.pending = {}

    def live(self) -> list[tuple[str, str]]:
        """Repository and digest of every manifest that must be there."""
        return [
            (repository, name)
            for (kind, repository, name), digest in self.state.items()
            if kind == "manifest" and digest
        ]


def _differences(found: State, expected: State) -> dict[Key, tuple[str | None, str | None]]:
    return {key: (found[key], expected[key]) for key in found if found[key] != expected.get(key)}


class User:
    """A client that pushes and deletes, and remembers what it was told."""

    def __init__(self, host: str, journal: Journal | None = None) -> None:
        self.client = Client(host)
        self.journal = journal or Journal()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def connect(self, host: str) -> None:
        """Begin anew with another server, or with the same one after its restart."""
        self.client.close()
        self.client = Client(host)

    # -- blobs

    def upload(self, repository: str, data: bytes, how: str = "single") -> None:
        """Upload a blob in one request ("single"), two ("put"), or two chunks ("chunks")."""
        if how == "single":
            path = f"/v2/{repository}/blobs/uploads/?digest={digest_of(data)}"
            self.client.expect(201, "POST", path, data)
            return
        location = self.open_session(repository, data)
        if how == "put":
            self.finish(location, data)
            return
        middle = len(data) // 2
        self.append(location, data[:middle])
        self.append(location, data[middle:])
        self.finish(location)

    def open_session(self, repository: str, data: bytes) -> str:
        location = self.client.expect(202, "POST", f"/v2/{repository}/blobs/uploads/").headers[
            "location"
        ]
        self.journal.sessions[location] = Session(repository, data)
        return location

    def append(self, location: str, piece: bytes) -> None:
        self.client.expect(202, "PATCH", location, piece)
        self.journal.sessions[location].sent += len(piece)

    def finish(self, location: str, rest: bytes | None = None) -> None:
        session = self.journal.sessions[location]
        session.ended = True
        path = f"{location}?digest={digest_of(session.data)}"
        self.client.expect(201, "PUT", path, rest)
        del self.journal.sessions[location]

    def cancel(self, location: str) -> None:
        self.journal.sessions[location].ended = True
        self.client.expect(204, "DELETE", location)
        del self.journal.sessions[location]

    def resume_sessions(self) -> None:
        """Go on with every open session: what was acknowledged is still there (race R18)."""
        for location, session in list(self.journal.sessions.items()):
            self._resume(location, session)

    def _resume(self, location: str, session: Session) -> None:
        answer = self.client.ask("GET", location)
        if answer.status == 404:
            # A session without acknowledged bytes may live in the server's memory only.
            what = f"{location} is gone with {session.sent} acknowledged bytes"
            assert session.ended or not session.sent, what
            del self.journal.sessions[location]
            return
        assert answer.status == 204, answer
        kept = session_bytes(answer)
        assert session.sent <= kept <= len(session.data)
        try:
            self.append_rest(location, kept)
            self.finish(location)
        except Refused as refused:
            # Its bytes had become final before the crash; then it ends, and gives them back. Or it
            # never had one: ten minutes are all that an empty session has, and an hour passed.
            if refused.answer.status != 404 or not (session.ended or not kept):
                raise
            with suppress(Refused):
                # On a database that lives on, the commit may have been on its way until now.
                self.cancel(location)
            self.journal.sessions.pop(location, None)
            self.upload(session.repository, session.data)

    def append_rest(self, location: str, kept: int) -> None:
        session = self.journal.sessions[location]
        session.sent = kept
        if kept < len(session.data):
            self.append(location, session.data[kept:])

    def mount(self, repository: str, source: str, data: bytes) -> None:
        query = f"mount={digest_of(data)}&from={source}"
        self.client.expect(201, "POST", f"/v2/{repository}/blobs/uploads/?{query}")

    def delete_blob(self, repository: str, data: bytes) -> None:
        self.client.expect(202, "DELETE", f"/v2/{repository}/blobs/{digest_of(data)}")

    # -- manifests and tags

    def put(self, repository: str, image: Image, tag: str | None = None) -> None:
        """Put a manifest under its digest, or under a tag."""
        change: State = {("manifest", repository, image.digest): image.digest}
        if tag is not None:
            change["tag", repository, tag] = image.digest
        self.journal.images[image.digest] = image
        path = f"/v2/{repository}/manifests/{tag or image.digest}"
        with self.journal.changing(change):
            self.client.expect(201, "PUT", path, image.raw, image.media_type)

    def push(
        self, repository: str, image: Image, tag: str | None = None, how: str = "single"
    ) -> None:
        """Upload what the registry has not, then put the manifest."""
        for data in image.blobs:
            path = f"/v2/{repository}/blobs/{digest_of(data)}"
            if self.client.ask("HEAD", path).status == 404:
                self.upload(repository, data, how)
        self.put(repository, image, tag)

    def delete_tag(self, repository: str, tag: str) -> None:
        with self.journal.changing({("tag", repository, tag): None}):
            self.client.expect(202, "DELETE", f"/v2/{repository}/manifests/{tag}")

    def delete_image(self, repository: str, digest: str, *along: str) -> None:
        """Delete a manifest; its tags and the manifests `along` go with it."""
        gone = {digest, *along}
        change: State = {
            key: None
            for key, shown in self.journal.state.items()
            if key[1] == repository and shown in gone
        }
        with self.journal.changing(change):
            self.client.expect(202, "DELETE", f"/v2/{repository}/manifests/{digest}")

    def forget_repository(self, repository: str) -> None:
        """It was deleted with everything in it."""
        for key in self.journal.state:
            if key[1] == repository:
                self.journal.state[key] = None

    def purge(self, repository: str) -> None:
        """Have a job delete everything in a repository."""
        asked = {"filters": [f"{repository}:.*"], "ago": "0d", "untagged": True}
        body = json.dumps(asked).encode()
        self.client.expect(202, "POST", "/api/v1/purge", body, "application/json")

    def keep_what_is_deleted(self) -> None:
        """Switch soft delete on."""
        body, path = b'{"status": "enabled"}', "/api/v1/policies/soft-delete"
        self.client.expect(200, "PATCH", path, body, "application/json")

    def restore_everything(self) -> None:
        listed = json.loads(self.client.expect(200, "GET", "/api/v1/deleted").body)
        for operation in listed["operations"]:
            path = f"/api/v1/deleted/{operation['id']}/restore"
            self.client.expect(200, "POST", path, b"{}", "application/json")

    def jobs(self) -> list[str]:
        """The states of all jobs."""
        listed = json.loads(self.client.expect(200, "GET", "/api/v1/jobs").body)
        return [job["state"] for job in listed["jobs"]]

    # -- looking

    def look(self, keys: Iterable[Key]) -> State:
        """What the registry shows under these names."""
        return {key: self._shown(key) for key in keys}

    def verify(self) -> None:
        """The registry shows what it must, and everything shown can be pulled whole."""
        self.journal.settle(self.look(self.journal.state | self.journal.pending))
        for repository, digest in self.journal.live():
            self.pull(repository, digest)

    def verify_listings(self) -> None:
        """Tags and repositories are listed exactly; for a client that is alone."""
        live = {repository for repository, _ in self.journal.live()}
        listed = json.loads(self.client.expect(200, "GET", "/v2/_catalog").body)
        assert (listed["repositories"] or []) == sorted(live)
        for repository in live:
            tags = sorted(
                name
                for (kind, its, name), digest in self.journal.state.items()
                if (kind, its) == ("tag", repository) and digest
            )
            listed = json.loads(self.client.expect(200, "GET", f"/v2/{repository}/tags/list").body)
            assert listed["tags"] == tags

    def pull(self, repository: str, digest: str) -> None:
        """Every byte of an image is there and right."""
        image = self.journal.images[digest]
        answer = self.client.expect(200, "GET", f"/v2/{repository}/manifests/{digest}")
        assert answer.body == image.raw
        assert answer.headers["content-type"] == image.media_type
        for data in image.blobs:
            found = self.client.expect(200, "GET", f"/v2/{repository}/blobs/{digest_of(data)}")
            assert found.body == data, f"{digest_of(data)} has other bytes"

    def _shown(self, key: Key) -> str | None:
        _, repository, name = key
        answer = self.client.ask("HEAD", f"/v2/{repository}/manifests/{name}")
        assert answer.status in (200, 404), answer
        return answer.headers["docker-content-digest"] if answer.status == 200 else None


def session_bytes(answer: Answer) -> int:
    """How many bytes an upload session has, from its Range header; "0-0" is none."""
    first, _, last = answer.headers["range"].partition("-")
    assert first == "0"
    return int(last) + 1 if last != "0" else 0


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def some_bytes(seed: int | str, size: int) -> bytes:
    """The same bytes for the same seed."""
    return random.Random(seed).randbytes(size)


def make_image(*layers: bytes, config: bytes | None = None, subject: Image | None = None) -> Image:
    """An image of these layers; its config is its own unless given."""
    if config is None:
        config = json.dumps({"layers": [digest_of(layer) for layer in layers]}).encode()
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer) for layer in layers],
    }
    if subject is not None:
        manifest["subject"] = descriptor(subject.media_type, subject.raw)
    return Image(json.dumps(manifest).encode(), MANIFEST, (config, *layers))


def make_index(*images: Image) -> Image:
    """An index over images that are pushed before it."""
    listed = [descriptor(image.media_type, image.raw) for image in images]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
    return Image(json.dumps(index).encode(), INDEX)


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


# --- sums -----------------------------------------------------------------------------------------


class Ledger(NamedTuple):
    """What the database says should be on the disk: storage keys and sizes in bytes."""

    blobs: dict[str, int]
    digests: set[str]
    # Blobs that a manifest refers to.
    needed: set[str]
    uploads: dict[str, int]
    tombstones: dict[str, int]
    # Reviews, and repositories being erased: work that is not done yet.
    waiting: int

    @property
    def quiet(self) -> bool:
        return not self.tombstones and not self.waiting

    @property
    def keys(self) -> dict[str, int]:
        return self.blobs | self.uploads | self.tombstones


@contextmanager
def _connected(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
        if engine.dialect.name == "sqlite":
            # The last to close took the log in; that it was there is for the next start to see.
            Path(f"{engine.url.database}-wal").touch(0o600)


def read_ledger(url: str) -> Ledger:
    """Ask the database itself, behind the server's back. All of it is of one moment."""
    with _connected(url) as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only = 1")
            # The driver would begin at the first change only, and there is none.
            connection.exec_driver_sql("BEGIN")
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")

        def ask(query: str) -> Sequence[Any]:
            return connection.exec_driver_sql(query).all()

        blobs = ask("SELECT digest, storage_key, size FROM blobs")
        return Ledger(
            blobs={key: size for _, key, size in blobs},
            digests={digest for digest, _, _ in blobs},
            needed={digest for (digest,) in ask("SELECT DISTINCT digest FROM manifest_blobs")},
            uploads=dict(map(tuple, ask('SELECT storage_key, "offset" FROM uploads'))),
            tombstones=dict(map(tuple, ask("SELECT storage_key, size FROM tombstones"))),
            waiting=sum(
                count
                for (count,) in ask(
                    "SELECT count(*) FROM reviews UNION ALL "
                    "SELECT count(*) FROM repositories WHERE deleted_at IS NOT NULL"
                )
            ),
        )


# Every deadline there is. Leases and their memory are rows only on PostgreSQL.
_DEADLINES = (
    "UPDATE reviews SET due_at = due_at - {0}",
    "UPDATE tombstones SET due_at = due_at - {0}, claimed_until = claimed_until - {0}",
    "UPDATE uploads SET expires_at = expires_at - {0}, claimed_until = claimed_until - {0}",
    'UPDATE leases SET "until" = "until" - {0}, confirm_until = confirm_until - {0}',
    "UPDATE lease_memory SET complete_from = complete_from - {0}",
)


def let_pass(url: str, hours: float, known_sessions: Iterable[str] = ()) -> None:
    """So much time passes while no server runs: every deadline in the database moves closer.

    And it is a day for upload sessions whose location is not among `known_sessions`.
    """
    with _connected(url) as connection:
        for statement in _DEADLINES:
            connection.exec_driver_sql(statement.format(int(hours * 3600 * 1_000_000)))
        stranded = sa.text("UPDATE uploads SET expires_at = 0 WHERE id NOT IN :known").bindparams(
            sa.bindparam("known", expanding=True, type_=sa.Text)
        )
        # A session's row has the first digits of its id.
        known = [location.rpartition("/")[2][:32] for location in known_sessions]
        connection.execute(stranded, {"known": known})
        connection.commit()


def let_doubt_pass(url: str) -> None:
    """A start keeps complete bytes without a row for a day, which is over (damage.md section 1)."""
    later = "UPDATE tombstones SET due_at = 0 WHERE due_at > {}"
    in_an_hour = int((time.time() + 3600) * 1_000_000)
    with _connected(url) as connection:
        connection.exec_driver_sql(later.format(in_an_hour))
        connection.commit()


def stored_files(store: Path) -> dict[str, int]:
    """Name and size of every regular file in blobs/ and uploads/."""
    committed, open_ = (_files_below(store / folder) for folder in ("blobs", "uploads"))
    assert not committed.keys() & open_.keys(), "stored twice"
    return committed | open_


def _files_below(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue  # Reclaimed while we look.
        if stat.S_ISREG(status.st_mode):
            found[path.name] = status.st_size
    return found


def nudge(user: User) -> None:
    """Wake the worker: it looks at everything when bytes are given back."""
    # More than one byte: a session of one says the same of itself as a session of none ("0-0").
    location = user.open_session("nudge", b"nudge")
    user.append(location, b"nudge")
    user.cancel(location)


def wait_until(true: Callable[[], bool], what: Callable[[], str]) -> None:
    """Look until it is true. AssertionError with `what` after QUIET_SECONDS."""
    deadline = time.monotonic() + QUIET_SECONDS
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def assert_no_leak(server: CrashServer) -> None:
    """Once nothing is due any more, the disk has what manifests need and sessions have: no more.

    Invariants I8, I10 and I15, added up independently of `ullage check`.
    """
    let_doubt_pass(server.database)
    with User(server.host) as user:
        nudge(user)
    wait_until(
        lambda: read_ledger(server.database).quiet,
        lambda: f"never quiet: {read_ledger(server.database)}\n{server.log}",
    )
    assert_accounted(server)
    ledger = read_ledger(server.database)
    assert ledger.digests == ledger.needed, "blobs that nothing needs, and no review is planned for"


def assert_accounted(server: CrashServer) -> None:
    """Every byte on the disk is a blob's or an open session's, with or without use for it."""

    def is_erased() -> bool:
        let_doubt_pass(server.database)
        return not read_ledger(server.database).tombstones

    def is_given_back() -> bool:
        # Keys that a dead process had in hand are its own for five seconds more (PostgreSQL).
        return is_erased() and server.stored() == read_ledger(server.database).keys

    wait_until(is_erased, lambda: f"never erased: {read_ledger(server.database)}\n{server.log}")
    deadline = time.monotonic() + QUIET_SECONDS
    with User(server.host) as user:
        while not is_given_back() and time.monotonic() < deadline:
            # The worker looks around when something is given back.
            nudge(user)
            time.sleep(0.2)
    ledger, files = read_ledger(server.database), server.stored()
    assert files == ledger.keys, _unlike(files, ledger.keys)


def assert_committed(server: CrashServer) -> None:
    """Every blob lies where a commit puts it.

    It would be readable where uploads lie, too, but then its commit was not durable.
    """
    blobs = read_ledger(server.database).blobs
    elsewhere = blobs.keys() - _files_below(server.store / "blobs").keys()
    # What a lease still kept may have been reclaimed while we looked.
    assert not elsewhere & read_ledger(server.database).blobs.keys()


def _unlike(files: dict[str, int], rows: dict[str, int]) -> str:
    names = {name for name in files | rows if files.get(name) != rows.get(name)}
    return "\n".join(
        f"{name}: {files.get(name)} bytes on the disk, {rows.get(name)} by the database"
        for name in sorted(names)
    )

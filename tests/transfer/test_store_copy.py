"""A registry moves to another store while it is pushed to and deleted from (moving.md section 1).

Real servers, real databases, real folders; the copy is killed on the way, more than once.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import push_image, start_upload
from tests.support.server import UllageServer, command_environment, run_ullage
from ullage.oci.digest import digest_of

pytestmark = pytest.mark.thorough

# Several pieces of a copy.
LARGE = os.urandom(3_500_000)


class Crowd:
    """A client that pushes images and deletes some; what must be there and what must not."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self.tags: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def close(self) -> None:
        self._client.close()

    def push(self, layer: bytes | None = None) -> str:
        tag, layer = f"v{len(self.tags) + len(self.deleted)}", layer or os.urandom(20_000)
        push_image(self._client, "app", tag, [layer])
        self.tags[tag] = layer
        return tag

    def delete(self, tag: str) -> None:
        found = self._client.get(f"/v2/app/manifests/{tag}")
        digest = digest_of(found.content)
        assert self._client.delete(f"/v2/app/manifests/{digest}").status_code == 202
        del self.tags[tag]
        self.deleted.append(tag)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Push and delete all the time."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._live)
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _live(self) -> None:
        # Not as fast as it can: what it pushes is pulled again in the end.
        while not self._stop.wait(0.1):
            self.push()
            tag = self.push()
            if len(self.tags) > 5:
                self.delete(tag)

    def assert_all_there(self, url: str) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            for tag, layer in self.tags.items():
                manifest = client.get(f"/v2/app/manifests/{tag}").json()
                for part in (manifest["config"], *manifest["layers"]):
                    pulled = client.get(f"/v2/app/blobs/{part['digest']}")
                    assert pulled.status_code == 200
                    assert digest_of(pulled.content) == part["digest"]
                assert manifest["layers"][0]["digest"] == digest_of(layer)
            for tag in self.deleted:
                assert client.get(f"/v2/app/manifests/{tag}").status_code == 404


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder of a store: its size, and when it was written."""
    places = (folder / "blobs", folder / "uploads", folder / "registry-id")
    paths = [path for place in places for path in (place, *place.rglob("*"))]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def _kill(place: str) -> str:
    name, at, passes = place.partition("@")
    return f"{name}=kill{at}{passes}"


class Move:
    """The commands of a move, and the two places."""

    def __init__(self, tmp_path: Path, database: str | None) -> None:
        self.data = tmp_path / "data"
        self.new = f"file:{tmp_path / 'new'}"
        self.settings: tuple[str, ...] = ("--database", database) if database else ()
        self.server = UllageServer(self.data, *self.settings, "--read-grace", "0s")
        # What the commands find in their environment.
        self.environment: Mapping[str, str] = {}
        self._crowds: list[Crowd] = []

    def crowd(self, server: UllageServer | None = None) -> Crowd:
        """A client of the server, which is not closed before the test is over."""
        self._crowds.append(Crowd((server or self.server).url))
        return self._crowds[-1]

    def close(self) -> None:
        for crowd in self._crowds:
            crowd.close()

    def copy(self, *flags: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        command: tuple[str | Path, ...] = (
            "store",
            "copy",
            "--to",
            self.new,
            "--data",
            self.data,
            *self.settings,
            *flags,
        )
        done = run_ullage(*command, env={**self.environment, **(env or {})})
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def standing_still(self, failpoint: str) -> Iterator[subprocess.Popen[str]]:
        """A copy that has stopped there; killed at the end if it still runs."""
        command = ["store", "copy", "--to", self.new, "--data", str(self.data), *self.settings]
        copy = subprocess.Popen(
            [sys.executable, "-m", "ullage", *command],
            env=command_environment({"ULLAGE_FAILPOINTS": f"{failpoint}=stop@1"}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with copy:
            try:
                _, status = os.waitpid(copy.pid, os.WUNTRACED)
                assert os.WIFSTOPPED(status)
                yield copy
            finally:
                copy.kill()

    def killed(self, failpoint: str, *flags: str) -> None:
        code, said = self.copy(*flags, env={"ULLAGE_FAILPOINTS": _kill(failpoint)})
        assert code == -9, said

    def check(self, *flags: str) -> tuple[int, str]:
        command: tuple[str | Path, ...] = ("check", "--data", self.data, *self.settings, *flags)
        done = run_ullage(*command, env=self.environment)
        return done.returncode, done.stdout + done.stderr

    def refused(self, *flags: str) -> str:
        """The one line with which a server that starts so refuses."""
        done = run_ullage(
            "serve", "--listen", "127.0.0.1:0", "--data", self.data, *self.settings, *flags
        )
        assert done.returncode == 1, done.stdout + done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return line


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def move(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Move]:
    database = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    move = Move(tmp_path, database)
    with move.server:
        yield move
        move.close()
        move.server.assert_no_500()


def test_a_registry_moves_while_it_is_pushed_to_and_deleted_from(move: Move) -> None:
    """moving.md, promises 1 to 5, with a kill -9 at each kind of step."""
    crowd = move.crowd()
    for layer in (LARGE, None, None, None):
        crowd.push(layer)
    with crowd.at_work():
        move.killed("copy.after_piece")
        move.killed("copy.after_commit@3")
        assert move.copy()[0] == 0
        assert move.copy()[0] == 0
    # Behind the copy's back: one more, and one less that is in the copy.
    late = crowd.push()
    crowd.delete(next(iter(crowd.tags)))
    code, said = move.copy("--finish")
    assert (code, "a server runs" in said) == (1, True)
    assert move.server.terminate() == 0
    before = snapshot(move.data)
    move.killed("copy.before_move", "--finish")
    assert "is a copy of registry" in move.refused("--storage", move.new)
    code, said = move.copy("--finish")
    assert code == 0, said
    assert f"start it with --storage {move.new}" in said
    assert snapshot(move.data) == before, "nothing was touched"
    assert f"has moved from {move.data} to {move.new}" in move.refused()
    move.settings += ("--storage", move.new)
    move.server.arguments += ("--storage", move.new)
    move.server.start()
    assert late in crowd.tags
    crowd.assert_all_there(move.server.url)
    code, report = move.check("--deep")
    assert code == 0, report
    moved = move.crowd()
    moved.push()
    moved.assert_all_there(move.server.url)
    assert snapshot(move.data) == before


def test_a_move_that_was_killed_after_the_fact_is_done(move: Move) -> None:
    """moving.md section 4."""
    crowd = move.crowd()
    crowd.push()
    assert move.server.terminate() == 0
    move.killed("copy.after_move", "--finish")
    assert "has moved from" in move.refused()
    move.server.arguments += ("--storage", move.new)
    move.server.start()
    crowd.assert_all_there(move.server.url)


def test_uploads_that_are_open_end_and_say_so(move: Move) -> None:
    """moving.md section 3: their clients are told 404 and begin again; the books are right."""
    with httpx.Client(base_url=move.server.url) as client:
        location = start_upload(client, "app")
        answer = client.patch(location, content=b"a part")
        assert answer.status_code == 202
        assert move.server.terminate() == 0
        code, said = move.copy("--finish")
        assert code == 0, said
        assert "Ended: 1 open upload;" in said
        move.settings += ("--storage", move.new)
        move.server.arguments += ("--storage", move.new)
        move.server.start()
        assert client.get(answer.headers["Location"]).status_code == 404
        assert client.get("/v2/_catalog").json()["repositories"] == []
    assert move.check()[0] == 0


def test_the_way_back_is_told(move: Move) -> None:
    """The former place goes on if it is told to, and then the new one is refused."""
    crowd = move.crowd()
    crowd.push()
    assert move.server.terminate() == 0
    assert move.copy("--finish")[0] == 0
    move.server.arguments += ("--adopt-store",)
    move.server.start()
    crowd.assert_all_there(move.server.url)
    assert move.server.terminate() == 0
    assert "is a copy of registry" in move.refused("--storage", move.new)
    move.server.arguments = move.server.arguments[:-1]
    move.server.start()
    crowd.assert_all_there(move.server.url)


def test_a_dry_run_says_how_much_and_makes_nothing(move: Move, tmp_path: Path) -> None:
    crowd = move.crowd()
    crowd.push(LARGE)
    code, said = move.copy("--dry-run")
    assert code == 0, said
    assert "To be copied: 2 blobs (3.3 MiB)." in said
    assert not (tmp_path / "new").exists()
    assert move.copy()[0] == 0
    code, said = move.copy("--dry-run")
    assert "To be copied: 0 blobs (0 B).\nThere already: 2 blobs (3.3 MiB)." in said


def test_only_an_empty_place_or_a_copy_of_this_registry_is_taken(
    move: Move, tmp_path: Path
) -> None:
    """Each in one line; and nothing there is touched."""
    crowd = move.crowd()
    crowd.push()
    with UllageServer(tmp_path / "other") as other:
        move.crowd(other).push()
    before = snapshot(tmp_path / "other")
    (tmp_path / "file").touch()
    for to, why in (
        (f"file:{tmp_path / 'other'}", "it is the storage of registry"),
        (f"file:{move.data}", "that is the storage that the registry uses"),
        (f"file:{move.data / 'blobs' / 'new'}", "is inside the storage of now"),
        (f"file:{tmp_path / 'file'}", "to: blob store"),
        ("memory:", "memory: is gone with the command"),
        ("ftp://host", "is not a blob store"),
    ):
        move.new = to
        code, said = move.copy()
        assert code == 1, said
        (line,) = [line for line in said.splitlines() if line.startswith("ERROR")]
        assert why in line
    assert snapshot(tmp_path / "other") == before


def test_what_is_deleted_is_removed_from_the_copy(move: Move, tmp_path: Path) -> None:
    crowd = move.crowd()
    tag, _ = crowd.push(), crowd.push()
    assert move.copy()[0] == 0
    assert len(files(tmp_path / "new")) == 3
    crowd.delete(tag)
    said = move.copy()[1]
    assert "Removed there: 1 blob, deleted since." in said
    assert len(files(tmp_path / "new")) == 2
    assert files(tmp_path / "new").items() <= files(move.data).items()


def test_a_damaged_blob_is_quarantined_and_not_copied(move: Move, tmp_path: Path) -> None:
    """damage.md section 3: what finds wrong bytes says so at once."""
    crowd = move.crowd()
    tag = crowd.push(LARGE)
    (path,) = [path for path in move.data.rglob("blobs/*/*") if path.stat().st_size == len(LARGE)]
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(bytes(1000))
    code, said = move.copy()
    assert code == 1, said
    assert "Not copied: 1 damaged blob;" in said
    assert path.name not in files(tmp_path / "new")
    with httpx.Client(base_url=move.server.url) as client:
        assert client.head(f"/v2/app/blobs/{digest_of(LARGE)}").status_code == 404
    assert tag in crowd.tags


def test_one_copy_at_a_time_and_none_without_its_server(move: Move) -> None:
    """moving.md section 4: two at once; and a server that is killed while it is asked for rows."""
    move.crowd().push(LARGE)
    with move.standing_still("copy.after_piece") as copy:
        assert "another one runs on this registry" in move.copy()[1]
        move.server.kill9()
        copy.send_signal(signal.SIGCONT)
        _, said = copy.communicate(timeout=60)
    assert copy.returncode == 1
    (line,) = said.splitlines()
    assert "the server has stopped meanwhile: run this again" in line


def files(store: Path) -> dict[str, bytes]:
    """What is in a store's blobs, by storage key."""
    return {path.name: path.read_bytes() for path in store.glob("blobs/*/*") if path.is_file()}

"""A damaged database at work and at a start, by the real command (damage.md section 4)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import push_image, start_upload
from tests.support.server import UllageServer, run_ullage

pytestmark = pytest.mark.thorough

IMAGES = 40
PAGE = 4096


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UllageServer]:
    with UllageServer(tmp_path / "data") as server:
        with httpx.Client(base_url=server.url) as client:
            for n in range(IMAGES):
                push_image(
                    client, "app", f"v{n}", [b"layer %d" % n], annotations={"n": f"{n:0900}"}
                )
        yield server
        server.assert_no_500()


def ruin_manifest(database: Path, n: int) -> None:
    """Overwrite the head of the page that has one image's manifest, as a lost sector does."""
    place = database.read_bytes().index(f"{n:0900}".encode())
    with database.open("r+b") as file:
        file.seek(place // PAGE * PAGE)
        file.write(b"\xa5" * 64)


def pulls(client: httpx.Client) -> list[int]:
    return [client.get(f"/v2/app/manifests/v{n}").status_code for n in range(IMAGES)]


def refusal(server: UllageServer, *more: str) -> str:
    done = run_ullage("serve", "--data", server.data, "--listen", "127.0.0.1:0", *more)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line


def test_damage_that_is_met_at_work_is_a_503_and_never_a_500(server: UllageServer) -> None:
    """And from then on nothing is written, which might make it worse."""
    assert server.terminate() == 0
    ruin_manifest(server.data / "ullage.db", 20)
    server.start()
    with httpx.Client(base_url=server.url) as client:
        statuses = pulls(client)
        assert set(statuses) == {200, 503}
        assert statuses.count(503) < IMAGES / 2, "the others are served"
        for _ in range(2):
            answer = client.put("/v2/app/manifests/new", content=b"{}")
            assert answer.status_code in (400, 503)
            digest = client.head("/v2/app/manifests/v1").headers["Docker-Content-Digest"]
            assert client.delete(f"/v2/app/manifests/{digest}").status_code == 503
        assert client.get("/v2/app/manifests/v1").status_code == 200
    assert server.log.count("is damaged (") == 1
    # Although it ends in good order: the next start knows.
    assert server.terminate() == 0
    line = refusal(server)
    assert line.startswith(f"ERROR: the database {server.data / 'ullage.db'} is damaged (")
    done = run_ullage("check", "--data", server.data)
    assert done.returncode == 2
    assert "corruption I29: the database" in done.stdout


def test_a_damaged_database_serves_pulls_if_it_is_told_to(server: UllageServer) -> None:
    assert server.terminate() == 0
    database = server.data / "ullage.db"
    ruin_manifest(database, 20)
    (server.data / "owner.lock").unlink()
    assert "is damaged" in refusal(server)
    before = database.read_bytes()
    server.arguments = ("--read-only-on-damage",)
    server.start()
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/v2/app/tags/list").status_code == 200
        assert client.get("/v2/_catalog").status_code == 200
        assert client.post("/v2/app/blobs/uploads/").status_code == 503
        assert client.post("/v2/other/blobs/uploads/", content=b"x").status_code == 503
        assert set(pulls(client)) == {200, 503}
    assert server.terminate() == 0
    assert database.read_bytes() == before


def fold_log(database: Path) -> None:
    """Take the log in, as SQLite does by itself now and then."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def stored(server: UllageServer) -> set[str]:
    return {path.name for path in (server.data / "blobs").rglob("*") if path.is_file()}


def test_a_lost_log_is_noticed_at_the_start(server: UllageServer) -> None:
    """It is part of the database until a clean stop: what was pushed last is in it.

    The file is not older than the label of the storage here, but lacks uploads that were complete.
    """
    fold_log(server.data / "ullage.db")
    with httpx.Client(base_url=server.url) as client:
        push_image(client, "app", "last", [b"the last layer"])
    server.kill9()
    (server.data / "ullage.db-wal").unlink()
    blobs = stored(server)
    for _ in range(2):
        line = refusal(server)
        assert "its log ullage.db-wal is missing, and 2 uploads that were complete" in line, line
        assert "--adopt-store" in line
    server.arguments = ("--adopt-store",)
    server.start()
    server.arguments = ()
    server.restart()
    with httpx.Client(base_url=server.url) as client:
        assert set(pulls(client)) == {200}
        assert client.get("/v2/app/manifests/last").status_code == 404
        start_upload(client, "app")
    assert stored(server) == blobs


def test_no_command_works_on_a_database_that_lost_its_log(server: UllageServer) -> None:
    """What a server refuses is not sound for `ullage check` either, and nothing writes into it."""
    fold_log(server.data / "ullage.db")
    with httpx.Client(base_url=server.url) as client:
        push_image(client, "app", "last", [b"the last layer"])
    server.kill9()
    (server.data / "ullage.db-wal").unlink()
    database, blobs = (server.data / "ullage.db").read_bytes(), stored(server)
    line = refusal(server)
    for words, code in (
        (("check",), 3),
        (("check", "--deep"), 3),
        (("check", "--repair"), 3),
        (("user", "create", "--name", "anna"), 1),
        (("audit", "list"), 1),
    ):
        done = run_ullage(*words, "--data", server.data)
        *place, last = done.stderr.splitlines()
        assert (done.returncode, done.stdout, last) == (code, "", line), words
        assert all(each.startswith("registry: ") for each in place), words
        assert (server.data / "ullage.db").read_bytes() == database, words
    assert stored(server) == blobs


def test_a_log_that_another_program_took_in_is_not_lost(server: UllageServer) -> None:
    """Whatever opens the file after a crash and closes it, `sqlite3` say, leaves no log."""
    server.kill9()
    with closing(sqlite3.connect(server.data / "ullage.db")) as connection:
        connection.execute("SELECT count(*) FROM tags").fetchone()
    assert not (server.data / "ullage.db-wal").exists()
    server.start()
    with httpx.Client(base_url=server.url) as client:
        assert set(pulls(client)) == {200}
    assert "has no log: the last changes may be missing" in server.log
    server.restart()
    assert server.log.count("has no log") == 1

"""`/livez`, `/readyz`, `/startupz` and `ullage health` (docs/design/observability.md section 1)."""

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from tests.support.clock import FakeClock
from tests.support.registry import make_registry
from tests.support.server import UllageServer, run_ullage
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.errors import DatabaseUnreachable
from ullage.registry import fitness
from ullage.registry.context import Registry
from ullage.registry.rounds import Rounds
from ullage.server.monitoring import health as health_module
from ullage.server.monitoring.health import Health, readiness

PAGES = ("/livez", "/readyz", "/startupz")
FIT = ["[+]database ok", "[+]store ok", "[+]worker ok", "[+]shutdown ok", "readyz check passed"]


def lines(response: httpx.Response) -> list[str]:
    return response.text.splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_a_registry_that_serves_is_fit(page: str, client: httpx.Client) -> None:
    answer = client.get(page)
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert client.head(page).status_code == 200
    assert client.post(page).status_code == 405


def test_it_says_of_each_part_whether_it_is_fit(client: httpx.Client) -> None:
    assert lines(client.get("/readyz?verbose")) == FIT


@pytest.mark.thorough
def test_a_caller_without_rights_learns_the_status_only(tmp_path: Path) -> None:
    """What fails is for operators; and a wrong password is no reason to be called unfit."""
    with UllageServer(tmp_path / "data", "--auth") as server:
        password = server.log.partition("with the password ")[2].split()[0]
        credentials = (None, ("admin", "wrong"), ("admin", password))
        found = [
            httpx.get(f"{server.url}/readyz?verbose", auth=auth)
            if auth
            else httpx.get(f"{server.url}/readyz?verbose")
            for auth in credentials
        ]
        assert [answer.status_code for answer in found] == [200, 200, 200]
        assert [lines(answer) for answer in found] == [["ok"], ["ok"], FIT]


def test_probes_are_not_in_the_request_log(ullage_server: UllageServer) -> None:
    with httpx.Client(base_url=ullage_server.url) as client:
        for page in PAGES:
            client.get(page)
        client.get("/v2/")
    assert ullage_server.terminate() == 0
    assert '"/v2/"' in ullage_server.log
    assert not [page for page in PAGES if page in ullage_server.log]


@pytest.mark.thorough
def test_a_store_whose_folder_is_gone_is_not_fit(tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    with UllageServer(tmp_path / "more", "--storage", f"file:{folder}") as server:
        for path, folders, files in os.walk(folder, topdown=False):
            for each in files:
                (Path(path) / each).unlink()
            for each in folders:
                (Path(path) / each).rmdir()
        folder.rmdir()
        answer = httpx.get(f"{server.url}/readyz?verbose")
        assert answer.status_code == 503
        assert lines(answer)[1] == "[-]store failed: the store's folder is gone"
        assert lines(answer)[-1] == "readyz check failed"
        done = run_ullage("health", "--listen", server.host)
        assert done.returncode == 1
        assert "the store's folder is gone" in done.stderr
        assert run_ullage("health", "--live", "--listen", server.host).returncode == 0


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_it_as_an_exit_code(server: UllageServer) -> None:
    done = run_ullage("health", "--listen", server.host)
    assert (done.returncode, done.stdout.splitlines()) == (0, FIT)
    # As in a container, whose settings are variables; it is asked from its own machine.
    port = server.host.rpartition(":")[2]
    done = run_ullage("health", env={"ULLAGE_LISTEN": f":{port}"})
    assert (done.returncode, done.stderr) == (0, "")


def test_no_answer_is_one_line(tmp_path: Path) -> None:
    done = run_ullage("health", "--listen", "127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr == "ERROR: no answer from 127.0.0.1:1: Connection refused\n"


# --- each part ------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path, clock: FakeClock) -> Iterator[Registry]:
    registry = make_registry(f"sqlite:///{tmp_path / 'ullage.db'}", MemoryBlobStore(), clock)
    yield registry
    registry.db.close()


def test_a_full_disk_is_fit_for_work(registry: Registry) -> None:
    """A full registry has to go on deleting."""
    full = MemoryBlobStore(capacity=0)
    assert full.free_bytes() == 0
    assert fitness.store_fault(SimpleNamespace(blobs=full)) is None  # type: ignore[arg-type]
    assert fitness.database_fault(registry) is None


def test_a_database_that_does_not_answer_is_not(registry: Registry) -> None:
    def read(_: object) -> None:
        raise DatabaseUnreachable("connection refused")

    gone = replace(registry, db=SimpleNamespace(read=read, damage=None))
    fault = "the registry's database cannot be reached; try again"
    assert fitness.database_fault(gone) == fault


def test_a_database_that_is_damaged_is_not(registry: Registry) -> None:
    registry.db.damage = "page 3 is never used"
    assert fitness.database_fault(registry) == "the database is damaged: page 3 is never used"


def test_a_worker_that_does_not_come_round_is_not() -> None:
    now = [0.0]
    rounds = Rounds(lambda: now[0])
    registry = SimpleNamespace(rounds=rounds)
    # Never started: a registry that may not be changed is judged by its database.
    assert fitness.worker_fault(registry) is None  # type: ignore[arg-type]
    rounds.note(fitness.SPACE)
    now[0] = fitness.ROUND_SECONDS
    assert fitness.worker_fault(registry) is None  # type: ignore[arg-type]
    now[0] += 1
    assert fitness.worker_fault(registry) == "it came round 601 s ago"  # type: ignore[arg-type]
    rounds.note(fitness.SPACE)
    assert fitness.worker_fault(registry) is None  # type: ignore[arg-type]


def test_from_the_signal_on_it_is_not() -> None:
    health = Health({"database": lambda: None})
    assert readiness(asyncio.run(health.report()), verbose=False).status_code == 200
    health.stop()
    report = asyncio.run(health.report())
    assert report == {"database": None, "shutdown": "the server is stopping"}
    assert readiness(report, verbose=False).status_code == 503


def test_a_part_that_hangs_is_not_and_keeps_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "CHECK_SECONDS", 0.05)
    hangs, asked = threading.Event(), []

    def slow() -> str | None:
        asked.append(threading.get_ident())
        hangs.wait(30)
        return None

    async def probe() -> None:
        health = Health({"store": slow, "database": lambda: None})
        for _ in range(3):
            report = await health.report()
            assert report["store"] == "no answer within 0.05 s"
            assert report["database"] is None
        assert len(asked) == 1
        hangs.set()
        while (await health.report())["store"] is not None:
            pass
        # What it said in the end may be of long ago: each probe asks anew.
        before = len(asked)
        assert (await health.report())["store"] is None
        assert len(asked) == before + 1

    asyncio.run(probe())


def test_a_check_that_fails_is_a_part_that_is_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> str | None:
        raise ValueError("a defect")

    report = asyncio.run(Health({"store": broken}).report())
    assert report["store"] == "the check itself failed; the registry's log has more"
    assert "a defect" in caplog.text

"""Commands that wait for a job outlast a restart of the registry."""

import threading
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.server.pushing import push_image
from tests.support.server import UllageServer
from ullage.cli.commands import job

pytestmark = pytest.mark.thorough

DYING = {"ULLAGE_FAILPOINTS": "job.after_batch=kill"}


def test_a_purge_goes_on_when_the_registry_is_back(
    tmp_path: Path, ullage: Ullage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed in the middle of the job, and started again."""
    with UllageServer(tmp_path / "data", env=DYING) as server:
        monkeypatch.setenv("ULLAGE_REGISTRY", server.host)
        with httpx.Client(base_url=server.url) as client:
            digest = push_image(client, "app", "v1", (b"only in v1",))
            push_image(client, "app", "v2")
        done: list[Done] = []
        line = ("purge", "--filter", "app:^v1$", "--ago", "0d", "--untagged")
        waiting = threading.Thread(target=lambda: done.append(ullage(*line)))
        waiting.start()
        assert server.wait() == -9
        server.env.clear()
        server.start()
        waiting.join(timeout=60)
        (ended,) = done
        assert ended.code == 0, ended
        assert "The registry is away; asking again for 60 s." in ended.err
        assert "Number of deleted manifests: 1" in ended.out
        with httpx.Client(base_url=server.url) as client:
            assert client.get(f"/v2/app/manifests/{digest}").status_code == 404


def test_one_that_stays_away_is_given_up_with_the_way_on(
    tmp_path: Path, ullage: Ullage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PATIENCE_SECONDS", 0.5)
    with UllageServer(tmp_path / "data", env=DYING) as server:
        monkeypatch.setenv("ULLAGE_REGISTRY", server.host)
        with httpx.Client(base_url=server.url) as client:
            push_image(client, "app", "v1")
        done = ullage("purge", "--filter", "app:^v1$", "--ago", "0d", "--untagged")
        assert server.wait() == -9
        server.env.clear()
        server.start()
        with httpx.Client(base_url=server.url) as client:
            (there,) = client.get("/api/v1/jobs").json()["jobs"]
        assert done.code == 1
        assert f"ullage job watch {there['id']}" in done.err
        assert ullage("job", "watch", there["id"]).code == 0

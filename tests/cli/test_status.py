"""`ullage status`: a registry on one screen of 80 x 24, over HTTP and on its own machine."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Ullage
from tests.cli.terminal import at_terminal
from tests.server.pushing import push_image
from tests.support.server import UllageServer, run_ullage
from ullage.cli.local.status import screen

pytestmark = pytest.mark.thorough

RULES = """
- {name: old, repositories: app, tags: '^pr-', older_than: 0d, allow: [most-of-repository]}
- {name: orphans, repositories: app, untagged: true, older_than: 0d}
"""


@pytest.fixture
def filled(tmp_path: Path, ullage: Ullage, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry with a bit of everything."""
    with UllageServer(tmp_path / "data") as server:
        monkeypatch.setenv("ULLAGE_REGISTRY", server.host)
        with httpx.Client(base_url=server.url) as client:
            push_image(client, "app", "v1", (b"kept".ljust(3000),))
            push_image(client, "app", "v2", (b"kept too".ljust(2000),))
            push_image(client, "app", "pr-1", (b"goes".ljust(1000),))
            push_image(client, "app", "pr-1", (b"goes, too".ljust(500),))
            client.post("/v2/app/blobs/uploads/").raise_for_status()
            (tmp_path / "rules.yaml").write_text(RULES)
            assert ullage("retention", "set", str(tmp_path / "rules.yaml")).code == 0
            yield server


def test_a_registry_is_one_screen(filled: UllageServer) -> None:
    place = {"ULLAGE_REGISTRY": filled.host, "COLUMNS": "80", "LINES": "24"}
    code, shown = at_terminal(("status",), (), place)
    lines = [line.rpartition("\x1b[K")[2].rpartition("\r")[2] for line in shown.splitlines()]
    assert code == 0, shown
    assert len(lines) <= 23
    assert all(len(line) <= 79 for line in lines)
    found = {line[:14].strip(): line[14:] for line in lines if line[:14].strip()}
    assert found["images"] == "4 manifests in 1 repositories"
    assert found["retention"].endswith(": 2 manifests and 1 tag, frees 1.5 KiB")
    assert found["retention"].startswith("at 2")
    assert found["soft delete"] == "off, 0 B can be restored"
    assert found["uploads"] == "1 open, 0 B"
    assert found["jobs"] == "none runs"
    assert "used, " in found["disk"]
    assert found["next"].startswith("ullage suggest --free ")


def test_what_it_says_is_what_the_other_commands_say(filled: UllageServer, ullage: Ullage) -> None:
    """Of the same sums: the bill, and a dry run of the rules."""
    said = json.loads(ullage("status", "-o", "json").out)
    bill = json.loads(ullage("usage", "-o", "json").out)
    assert said["registry"] == bill["registry"]
    assert said["largest"] == bill["entries"][:5]
    run = json.loads(ullage("retention", "run", "--dry-run", "-o", "json").out)
    ahead = said["retention"]
    assert ahead["at"] == json.loads(ullage("retention", "show").out)["next_run"]
    assert (ahead["manifest_count"], ahead["tag_count"], ahead["freed_bytes"]) == (
        *(run["manifest_count"], run["tag_count"], run["planned_bytes"]),
    )
    assert said["disk"]["grown_bytes"] == bill["registry"]["disk_bytes"]


def test_the_same_is_said_of_files_here_with_and_without_a_server(filled: UllageServer) -> None:
    def status() -> Any:
        done = run_ullage("status", "--data", filled.data, "-o", "json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        # What time does to it.
        return {name: said[name] for name in ("registry", "largest", "retention", "soft_delete")}

    asked = status()
    assert asked["retention"]["manifest_count"] == 2
    assert filled.terminate() == 0
    opened = status()
    # A stop ends sessions without bytes and forgets promises that nobody needs any more.
    assert opened["registry"]["disk_bytes"] == asked["registry"]["disk_bytes"]
    assert opened["retention"] == asked["retention"]


def test_what_needs_a_person_is_said_and_fits(ullage: Ullage) -> None:
    job = {"id": "0123456789abcdef", "kind": "purge", "manifests_deleted": 5}
    job["manifest_count"] = 1000
    sums = dict.fromkeys(("disk", "tagged", "untagged", "leased", "uploading", "pending"), 10**12)
    data: dict[str, Any] = {
        "disk": {"used_bytes": 10**12, "free_bytes": 10**9, "grown_bytes": 7 * 10**8},
        "registry": {f"{name}_bytes": count for name, count in sums.items()},
        "largest": [{"name": "long" * 30, "fair_share_bytes": 10**12}] * 5,
        "repository_count": 5,
        "retention": None,
        "soft_delete": {"enabled": True, "days": 7, "bytes": 10},
        "uploads": {"count": 3, "bytes": 10},
        "jobs": [job] * 9,
        "warnings": [f"warning {number}" for number in range(9)],
    }
    data["registry"]["manifest_count"] = 10**6
    lines = [*screen(data)]
    assert len(lines) == 21
    assert "full in 10 days like these" in lines[1]
    assert "jobs          01234567 purge: 5 of 1,000 manifests" in lines
    assert any(line.endswith(", and 7 more") for line in lines)
    assert sum("warning" in line for line in lines) == 4
    assert lines[-1] == "next          ullage suggest --free 500GB"

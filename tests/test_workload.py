"""The made-up registry (bench/workload.py): the same from the same seed, and true to itself."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from bench.loading import load
from bench.pushing import push
from bench.workload import INDEX, Generator, Made, Unfinished, Workload
from tests.support.server import UllageServer

pytestmark = pytest.mark.thorough

SMALL = Workload(seed=7, repositories=25, median_tags=2, tags=30, orphans=40)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def checked(folder: Path) -> str:
    """What `ullage check` says about a data folder; it has to say that nothing is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "ullage", "check", "--data", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert (done.returncode, report["findings"]) == (0, []), done.stdout
    return done.stdout


def test_two_runs_with_one_seed_are_the_same_and_with_another_are_not() -> None:
    """workload.md section 5: a repeated measurement measures the same registry."""
    once, again = (list(Generator(SMALL).everything()) for _ in range(2))
    assert once == again
    assert list(Generator(replace(SMALL, seed=8)).everything()) != once


def test_it_has_everything_that_real_registries_have() -> None:
    """workload.md section 5, and peers.md B2, B3, B18 and B24: what careless cleaners break."""
    workload = replace(SMALL, repositories=150, median_tags=6)
    pushes = list(Generator(workload).everything())
    made = [each for each in pushes if isinstance(each, Made)]
    unfinished = [each for each in pushes if isinstance(each, Unfinished)]
    assert {each.in_a_blob for each in unfinished} == {True, False}
    tagged = {(each.repository, each.tag): each.digest for each in made if each.tag}
    kept = {(repository, digest) for (repository, _), digest in tagged.items()}
    ours = [each for each in made if each.repository.startswith("team")]
    untagged = [each for each in ours if (each.repository, each.digest) not in kept]
    assert 0.7 < len(untagged) / len(ours) < 0.95
    indexes = [each for each in ours if each.media_type == INDEX]
    inner = {each.digest for each in indexes}
    assert any(inner & set(each.children) for each in indexes)
    assert any((each.tag or "").endswith(".sig") for each in ours)
    assert sum(b'"subject"' in each.raw for each in ours) > len(ours) / 50
    homes = Counter(digest for _, digest in {(each.repository, each.digest) for each in made})
    promoted = [each for each in made if each.repository.startswith("prod/")]
    assert promoted
    assert all(homes[each.digest] > 1 for each in promoted)
    assert Counter(each.repository for each in made)["ci/orphans"] == workload.orphans + 1


def test_what_is_loaded_is_a_registry_without_a_fault(tmp_path: Path) -> None:
    """`ullage check` recounts and compares everything, the store too; and it starts."""
    count = load(tmp_path / "data", SMALL, datetime.now(UTC), files=True)
    assert f'"manifests": {count}' in checked(tmp_path / "data")
    with UllageServer(tmp_path / "data") as server, httpx.Client(base_url=server.url) as client:
        plan = client.post(
            "/api/v1/plans", json={"filters": ["ci/orphans:x"], "untagged_only": True}
        )
        assert (plan.status_code, plan.json()["manifest_count"]) == (201, 40)
        bill = client.get("/api/v1/usage", params={"check": "true"}).json()["registry"]
        assert bill["unexplained_bytes"] == 0
        server.assert_no_500()


def test_what_is_loaded_is_what_would_have_been_pushed(tmp_path: Path) -> None:
    """The same manifests, tags, blobs and bytes, whichever way they came."""
    small = replace(SMALL, repositories=6, tags=5, orphans=5, real=True)
    load(tmp_path / "loaded", small, datetime.now(UTC), files=True)
    bills = []
    for folder in (tmp_path / "loaded", tmp_path / "pushed"):
        with UllageServer(folder) as server, httpx.Client(base_url=server.url) as client:
            if folder.name == "pushed":
                push(server.host, small)
            names = client.get("/v2/_catalog", params={"n": 1000}).json()["repositories"]
            bill = client.get("/api/v1/usage").json()
            lines = {
                entry["name"]: (entry["bytes"], entry["manifest_count"], entry["tag_count"])
                for entry in bill["entries"]
            }
            bills.append((names, lines, bill["registry"]["tagged_bytes"]))
            server.assert_no_500()
    assert bills[0] == bills[1]
    checked(tmp_path / "pushed")

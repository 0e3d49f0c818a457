"""`/metrics` and `--metrics` (docs/design/observability.md section 3)."""

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from tests.server.pushing import push_blob, push_image, start_upload
from tests.support.clock import FakeClock
from tests.support.registry import ALICE, make_registry, settle
from tests.support.registry import push_image as put_image
from tests.support.server import UllageServer, run_ullage
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.check import run_check
from ullage.deletion.delete import delete_manifest
from ullage.deletion.reclaim import reclaim_due
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import note_pull, write_pulls
from ullage.registry.pull.read import get_manifest
from ullage.server.app import App, create_app
from ullage.server.distribution import routes as distribution
from ullage.server.monitoring.counting import AT_ONCE, BOUNDS, OTHER, RequestCounts
from ullage.usage.overview import take_overview

APP = parse_repository_name("app")
BASE = next(route for route in distribution.ROUTES if route.path == "/v2/")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    """Every sample by its name and labels; also proves that the text can be read."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def registry(tmp_path: Path, clock: FakeClock) -> Iterator[Registry]:
    registry = make_registry(f"sqlite:///{tmp_path / 'ullage.db'}", MemoryBlobStore(), clock)
    yield registry
    registry.db.close()


def asked(app: App, *requests: tuple[str, str]) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.request(method, path) for method, path in requests]

    return asyncio.run(run())


def scraped(registry: Registry, *requests: tuple[str, str], largest: int = 0) -> Samples:
    """What `/metrics` says after these requests."""
    app = create_app(registry, metrics_repositories=largest)
    return samples(asked(app, *requests, ("GET", "/metrics"))[-1].text)


def test_requests_are_counted_by_route_and_never_by_name(registry: Registry) -> None:
    """OpenTelemetry, "HTTP server": the route's template; a method that is none is _OTHER."""
    put_image(registry, "app", "v1", [b"layer"])
    found = scraped(
        registry,
        ("GET", "/v2/app/manifests/v1"),
        ("GET", "/v2/app/manifests/v1"),
        ("GET", "/v2/secret/tags/list"),
        ("GET", "/nowhere"),
        ("BREW", "/v2/"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
    )
    name = "http_server_request_duration_seconds"
    counted = {
        tuple(
            dict(labels)[key]
            for key in ("http_request_method", "http_route", "http_response_status_code")
        ): value
        for (sample, labels), value in found.items()
        if sample == f"{name}_count"
    }
    assert counted == {
        ("GET", "/v2/{name}/manifests/{reference}", "200"): 2,
        ("GET", "/v2/{name}/tags/list", "404"): 1,
        ("GET", "", "404"): 1,
        (OTHER, "", "405"): 1,
    }
    assert not [key for key in found if "secret" in str(key) or "'app'" in str(key)]
    active = (
        "http_server_active_requests",
        (("http_request_method", "GET"), ("url_scheme", "http")),
    )
    # The scrape itself.
    assert found[active] == 1


def test_a_histogram_is_cumulative_and_its_bounds_belong_below() -> None:
    counts = RequestCounts()
    for seconds in (0.001, BOUNDS[0], 0.3, 99.0):
        counts.end(("GET", BASE, 200, None, seconds, None))
    (served,) = counts.served()
    assert (served.counts[0], served.counts[BOUNDS.index(0.5)], served.counts[-1]) == (2, 1, 1)
    assert served.seconds == pytest.approx(99.306)
    assert counts.active() == [("GET", "http", 0)]


def test_of_what_was_sent_the_bytes_of_pulls_count() -> None:
    counts = RequestCounts("https")
    blob = next(route for route in distribution.ROUTES if route.endpoint == "end-2")
    head = [(b"etag", b"x"), (b"content-length", b"7")]
    for method, route, status in (
        ("GET", blob, 200), ("HEAD", blob, 200), ("GET", blob, 404), ("GET", BASE, 200)
    ):  # fmt: skip
        counts.end((method, route, status, None, 0.1, head))
    # A client that left in the middle.
    counts.end(("GET", blob, 200, "http", 0.1, None))
    assert counts.sent_bytes() == 7
    assert {each.scheme for each in counts.served()} == {"https", "http"}


def test_what_is_no_method_and_no_route_has_one_name() -> None:
    counts = RequestCounts()
    for _ in range(AT_ONCE):
        counts.end(("BREW", None, 404, None, 0.1, None))
    (served,) = counts.served()
    assert (served.method, served.route, sum(served.counts)) == (OTHER, "", AT_ONCE)


def test_the_disk_sums_to_the_bill(registry: Registry) -> None:
    put_image(registry, "app", "v1", [b"layer"], config=b"{}")
    put_image(registry, "team/b", None, [b"orphan"], config=b"{}")
    # Its config came twice, and is kept once.
    settle(registry)
    take_overview(registry)
    found = scraped(registry, largest=1)
    disk = {labels[0][1]: n for (name, labels), n in found.items() if name == "ullage_disk_bytes"}
    assert disk == {
        "tagged": 7, "untagged": 6, "leased": 0, "restorable": 0, "uploading": 0, "pending": 0,
    }  # fmt: skip
    largest = {
        labels[0][1]: n for (name, labels), n in found.items() if name == "ullage_repository_bytes"
    }
    assert sum(largest.values()) == sum(disk.values())
    assert (set(largest) - {"app", "team/b"}, len(largest)) == ({"_other"}, 2)
    for name, number in (("blobs", 3), ("manifests", 2), ("tags", 1), ("repositories", 2)):
        assert found[f"ullage_{name}", ()] == number


def test_pushes_pulls_deletions_and_what_they_free_are_counted(
    registry: Registry, clock: FakeClock
) -> None:
    image = put_image(registry, "app", "v1", [b"layer"], config=b"{}")
    manifest = get_manifest(registry, APP, image)
    note_pull(registry, manifest.id, image, "docker/27.0")
    write_pulls(registry)
    delete_manifest(registry, APP, image, ALICE)
    clock.advance(4)
    reclaim_due(registry)
    found = scraped(registry)
    assert found["ullage_pushed_bytes_total", ()] == 7 + len(manifest.raw)
    assert found["ullage_freed_bytes_total", ()] == 7
    pulls = {labels: n for (name, labels), n in found.items() if name == "ullage_pulls_total"}
    assert [(dict(labels)["by"], n) for labels, n in pulls.items()] == [("digest", 1)]
    deleted = {
        dict(labels)["what"]: n
        for (name, labels), n in found.items()
        if name == "ullage_deleted_total" and dict(labels)["by"] == "client"
    }
    assert deleted == {"manifest": 1, "tag": 1}
    assert found["ullage_tombstones", ()] == 0
    assert found["ullage_tombstone_attempts_total", ()] == 2
    assert found["ullage_erase_delay_seconds_count", ()] == 2
    # Both waited for four seconds.
    assert found["ullage_erase_delay_seconds_bucket", (("le", "3.0"),)] == 0
    assert found["ullage_erase_delay_seconds_bucket", (("le", "5.0"),)] == 2


def test_what_the_last_check_left_is_counted_until_the_next(registry: Registry) -> None:
    """Nothing before the first one: that nothing was found is not known yet."""
    put_image(registry, "app", "v1", [b"layer"], config=b"{}")
    settle(registry)
    assert not [name for name, _ in scraped(registry) if name == "ullage_check_findings"]
    registry.write(lambda tx: tx.execute_directly(sa.text("UPDATE blobs SET repository_count = 5")))
    list(run_check(registry, {"mode": "fast"}, ALICE))
    assert scraped(registry)["ullage_check_findings", (("kind", "I14"),)] > 0
    list(run_check(registry, {"mode": "fast", "repair": True}, ALICE))
    assert scraped(registry)["ullage_check_findings", (("kind", "I14"),)] == 0


def test_what_is_rolled_back_is_not_counted(registry: Registry) -> None:
    def fails(tx: object) -> None:
        registry.audit(tx, ALICE, "tag.delete", repository="app")  # type: ignore[arg-type]
        raise ValueError("rolled back")

    with pytest.raises(ValueError, match="rolled back"):
        registry.write(fails)
    assert registry.tallies.counts("deleted") == {}


def test_openmetrics_is_spoken_to_those_that_ask_for_it(client: httpx.Client) -> None:
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    answer = client.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "process_resident_memory_bytes" in plain.text


# --- a listener apart -----------------------------------------------------------------------------


def watched_at(server: UllageServer) -> str:
    found = re.search(r"Figures for Prometheus, without credentials: (\S+)/metrics", server.log)
    assert found is not None
    return found[1]


@pytest.mark.thorough
def test_figures_are_apart_without_credentials_and_not_on_the_registry(tmp_path: Path) -> None:
    with UllageServer(tmp_path / "data", "--auth", "--metrics", "127.0.0.1:0") as server:
        apart = watched_at(server)
        for page in ("/livez", "/readyz", "/startupz", "/metrics"):
            assert httpx.get(apart + page).status_code == 200
        assert "[+]store ok" in httpx.get(f"{apart}/readyz?verbose").text
        # Prometheus asks by whatever name it knows.
        assert httpx.get(f"{apart}/livez", headers={"Host": "registry:9105"}).status_code == 200
        assert httpx.get(f"{apart}/v2/").status_code == 404
        assert httpx.post(f"{apart}/metrics").status_code == 405
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        password = server.log.partition("with the password ")[2].split()[0]
        assert httpx.get(f"{server.url}/metrics", auth=("admin", password)).status_code == 200
        address = apart.removeprefix("http://")
        done = run_ullage("health", "--metrics", address)
        assert done.returncode == 0
        assert "[+]worker ok" in done.stdout
        found = samples(httpx.get(f"{apart}/metrics").text)
        assert found["ullage_logins_total", (("method", "password"), ("result", "ok"))] == 1


@pytest.mark.thorough
def test_from_sigterm_on_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    """While an upload that runs may finish, no balancer is to send another one."""
    with UllageServer(tmp_path / "data", "--metrics", "127.0.0.1:0") as server:
        apart = watched_at(server)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            location = start_upload(client, "app")
            goes_on = threading.Event()

            def body() -> Iterator[bytes]:
                yield b"first"
                goes_on.wait(30)
                yield b"last"

            statuses: list[int] = []
            upload = threading.Thread(
                target=lambda: statuses.append(client.patch(location, content=body()).status_code)
            )
            upload.start()
            deadline = time.monotonic() + 20
            active = (
                "http_server_active_requests",
                (
                    ("http_request_method", "PATCH"),
                    ("url_scheme", "http"),
                ),
            )
            while samples(httpx.get(f"{apart}/metrics").text).get(active) != 1:
                assert time.monotonic() < deadline
            os.kill(server.pid, signal.SIGTERM)
            while httpx.get(f"{apart}/readyz").status_code != 503:
                assert time.monotonic() < deadline
            answer = httpx.get(f"{apart}/readyz?verbose")
            assert "[-]shutdown failed: the server is stopping" in answer.text
            assert httpx.get(f"{apart}/livez").status_code == 200
            goes_on.set()
            upload.join()
            assert statuses == [202]
        assert server.wait() == 0


@pytest.mark.thorough
def test_traffic_is_counted_by_a_real_server(ullage_server: UllageServer) -> None:
    with httpx.Client(base_url=ullage_server.url) as client:
        push_image(client, "app", "v1")
        layer = push_blob(client, "app", b"x" * 300_000)
        assert len(client.get(f"/v2/app/blobs/{layer}").content) == 300_000
        client.head(f"/v2/app/blobs/{layer}")
        found = samples(client.get("/metrics").text)
    assert found["ullage_pulled_bytes_total", ()] == 300_000
    assert found["ullage_pushes_total", (("kind", "image"),)] == 1
    assert [value for (name, _), value in found.items() if name == "ullage_info"] == [1]


def test_an_address_that_is_taken_is_one_line(server: UllageServer, tmp_path: Path) -> None:
    apart = ("serve", "--data", tmp_path / "data", "--listen")
    done = run_ullage(*apart, "127.0.0.1:0", "--metrics", server.host)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Address already in use" in line
    assert line.endswith("or choose another address with --metrics")
    done = run_ullage(*apart, server.host, "--metrics", server.host)
    assert done.returncode == 2
    assert "the registry listens there" in done.stderr

"""Pulls that are sent to the bucket (buckets.md section 5): real clients, real services."""

from __future__ import annotations

import secrets
import subprocess
import time
from calendar import timegm
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.clients.containers import Skopeo
from tests.server.pushing import push_blob, push_image
from tests.support.actors import wait_until
from tests.support.buckets import S3Server
from tests.support.object_servers import ObjectServer
from tests.support.object_services import SERVICES, ObjectServices, open_services
from tests.support.require import require_command
from tests.support.server import UllageServer, run_ullage
from ullage.oci.digest import Digest, digest_of

MIB = 2**20
# Larger than --redirect-over.
LAYER = secrets.token_bytes(MIB + 1)
SMALL = secrets.token_bytes(MIB)
# Deletions give their bytes back within so many seconds (deletion.md section 1).
BACK_SECONDS = 5


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServices]:
    with open_services(tmp_path_factory.mktemp("services")) as services:
        yield services


class Site:
    """A registry of one process or more on a bucket of its own."""

    def __init__(self, buckets: ObjectServer, tmp_path: Path) -> None:
        if isinstance(buckets, S3Server) and not buckets.strict:
            pytest.skip("moto's URLs never end, and it takes HEAD for GET")
        self.buckets, self.bucket = buckets, buckets.fresh_bucket()
        self._folder = tmp_path
        self._started = 0

    @contextmanager
    def serving(self, *flags: str, public: bool = True) -> Iterator[UllageServer]:
        """One more process; any 500 fails the test."""
        reached = self.buckets.endpoint.replace("127.0.0.1", "localhost")
        options = {"public": reached} if public else {}
        self._started += 1
        storage = ("--storage", self.buckets.url(self.bucket, "here", **options))
        data = self._folder / f"data-{self._started}"
        with UllageServer(data, *storage, *flags, env=self.buckets.environment) as server:
            yield server
            server.assert_no_500()

    def stored(self) -> int:
        """How many objects there are, but for the label."""
        return sum(not name.endswith("registry-id") for name in self.buckets.sizes(self.bucket))


@pytest.fixture
def site(services: ObjectServices, tmp_path: Path) -> Site:
    return Site(services["s3"], tmp_path)


@pytest.fixture(
    params=[
        "s3",
        *(pytest.param(each, marks=pytest.mark.thorough) for each in SERVICES if each != "s3"),
    ]
)
def any_site(services: ObjectServices, tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """One on each kind of service."""
    return Site(services[request.param], tmp_path)


def get(server: UllageServer, digest: Digest, **headers: str) -> httpx.Response:
    return httpx.get(f"{server.url}/v2/app/blobs/{digest}", headers=headers, timeout=60)


def redirected(server: UllageServer, digest: Digest) -> str:
    """The URL that a pull is sent to."""
    answer = get(server, digest)
    assert answer.status_code == 307, answer.text
    return answer.headers["Location"]


def lasts(url: str) -> float:
    """Seconds since the epoch at which a URL ends, by what is signed in it."""
    query = parse_qs(urlsplit(url).query)
    if "se" in query:
        # Of a container.
        return timegm(time.strptime(query["se"][0], "%Y-%m-%dT%H:%M:%SZ"))
    signed_at = time.strptime(query["X-Amz-Date"][0] + "+0000", "%Y%m%dT%H%M%SZ%z")
    return timegm(signed_at) + int(query["X-Amz-Expires"][0])


# --- which pulls are redirected -------------------------------------------------------------------


def test_a_large_blob_is_read_from_the_bucket(any_site: Site) -> None:
    """Status and headers; by curl, which goes there without the registry's credentials."""
    curl = require_command("curl")
    with any_site.serving() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        digest = push_blob(client, "app", LAYER)
        answer = get(server, digest)
        assert answer.status_code == 307
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Length"] == "0"
        assert urlsplit(answer.headers["Location"]).hostname == "localhost"
        # Handed out once more: signed once in --signed-url.
        assert get(server, digest).headers["Location"] == answer.headers["Location"]
        command = [curl, "-sSL", "--user", "alice:secret", f"{server.url}/v2/app/blobs/{digest}"]
        done = subprocess.run(command, capture_output=True, check=True)
        assert done.stdout == LAYER


def test_what_is_small_a_range_and_head_are_not_redirected(site: Site) -> None:
    """A URL signed for GET refuses HEAD; a Range may go on where a URL has ended."""
    with site.serving() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        digest, small = push_blob(client, "app", LAYER), push_blob(client, "app", SMALL)
        assert client.get(f"/v2/app/blobs/{small}").content == SMALL
        head = client.head(f"/v2/app/blobs/{digest}")
        assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(LAYER)))
        part = get(server, digest, Range="bytes=5-1048580")
        assert (part.status_code, part.content) == (206, LAYER[5:1048581])
        assert get(server, digest, Range="bytes=-1").content == LAYER[-1:]
        assert get(server, digest, **{"If-None-Match": f'"{digest}"'}).status_code == 304
        assert get(server, digest_of(b"never pushed")).status_code == 404


def test_known_clients_are_served_by_the_registry(site: Site) -> None:
    """Those that send the registry's credentials along (--proxy-agents)."""
    with site.serving() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        digest = push_blob(client, "app", LAYER)
        for agent in ("Python-urllib/3.11", "RenovateBot/37 (https://github.com/renovatebot)"):
            served = get(server, digest, **{"User-Agent": agent})
            assert (served.status_code, served.content) == (200, LAYER), agent
        assert get(server, digest, **{"User-Agent": "containerd/1.7"}).status_code == 307


@pytest.mark.parametrize(
    ("flags", "public", "status"),
    [
        ((), False, 200),
        (("--redirect", "never"), True, 200),
        (("--redirect", "always"), False, 307),
        (("--redirect-over", "2MiB"), True, 200),
    ],
)
def test_whether_pulls_are_redirected_is_said_by_the_settings(
    site: Site, flags: tuple[str, ...], public: bool, status: int
) -> None:
    """buckets.md section 5: an endpoint of the server's own may be out of the clients' reach."""
    with (
        site.serving(*flags, public=public) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        assert get(server, push_blob(client, "app", LAYER)).status_code == status


def test_a_start_warns_of_a_bucket_on_the_registry_s_own_host(site: Site) -> None:
    """Clients written in Go would send the registry's credentials there."""
    with site.serving("--external-url", "http://localhost:5000") as server:
        assert "send the registry's credentials along" in server.log
    with site.serving("--external-url", "http://registry.example.com") as server:
        assert "credentials along" not in server.log


def test_a_store_without_urls_cannot_always_redirect(tmp_path: Path) -> None:
    done = run_ullage("serve", "--data", tmp_path / "data", "--redirect", "always")
    assert done.returncode != 0
    assert "redirect: 'always' - only a bucket has URLs" in done.stderr


@pytest.mark.client
def test_skopeo_pulls_from_the_bucket(site: Site, tmp_path: Path) -> None:
    with (
        Skopeo() as skopeo,
        site.serving() as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        push_image(client, "app", "v1", [LAYER, b"small"])
        skopeo.copy(f"docker://{server.host}/app:v1", f"dir:{tmp_path}/out")
        pulled = tmp_path / "out" / digest_of(LAYER).partition(":")[2]
        assert pulled.read_bytes() == LAYER
        wait_until(lambda: '"status": 307' in server.log, "a line about the redirect")


# --- deletions ------------------------------------------------------------------------------------


def test_what_was_pulled_by_nobody_is_off_the_bucket_within_seconds(any_site: Site) -> None:
    """deletion.md section 1; while another blob, of which a URL was given out, stays."""
    with any_site.serving() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        pulled = push_image(client, "app", "v1", [LAYER])
        url = redirected(server, digest_of(LAYER))
        others = [
            push_image(client, "app", f"o{n}", [secrets.token_bytes(MIB + n)]) for n in (2, 3)
        ]
        began = time.monotonic()
        for digest in (pulled, *others):
            assert client.delete(f"/v2/app/manifests/{digest}").status_code == 202
        wait_until(lambda: any_site.stored() == 1, "only the layer that was signed")
        assert time.monotonic() - began < BACK_SECONDS
        assert client.get(f"/v2/app/blobs/{digest_of(LAYER)}").status_code == 404
        assert httpx.get(url).content == LAYER


def _works_to_its_end(site: Site, url: str) -> None:
    """The URL reads the blob until it ends, and then the bytes are off the bucket."""
    ends_at = lasts(url)
    while time.time() < ends_at - 0.5:
        answer = httpx.get(url)
        # One that was sent too late says nothing.
        if time.time() < ends_at - 0.1:
            assert (answer.status_code, answer.content) == (200, LAYER)
    wait_until(lambda: site.stored() == 0, "no byte on the bucket")


def test_a_url_works_to_its_end_and_the_bytes_go_after_it(any_site: Site) -> None:
    with (
        any_site.serving("--signed-url", "3s") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        image = push_image(client, "app", "v1", [LAYER])
        url = redirected(server, digest_of(LAYER))
        assert client.delete(f"/v2/app/manifests/{image}").status_code == 202
        _works_to_its_end(any_site, url)


@pytest.mark.postgresql
def test_a_url_of_another_process_works_to_its_end(site: Site, postgres_url: str) -> None:
    """Two processes on PostgreSQL: one gives the URL out, the other deletes."""
    flags = ("--database", postgres_url, "--signed-url", "3s")
    with (
        site.serving(*flags) as one,
        site.serving(*flags) as other,
        httpx.Client(base_url=other.url, timeout=60) as client,
    ):
        image = push_image(client, "app", "v1", [LAYER])
        url = redirected(one, digest_of(LAYER))
        assert client.delete(f"/v2/app/manifests/{image}").status_code == 202
        assert get(one, digest_of(LAYER)).status_code == 404
        _works_to_its_end(site, url)


def test_the_registry_is_sound_with_urls_given_out(any_site: Site) -> None:
    """`ullage check` knows of bytes that wait."""
    with any_site.serving() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        image = push_image(client, "app", "v1", [LAYER])
        redirected(server, digest_of(LAYER))
        assert client.delete(f"/v2/app/manifests/{image}").status_code == 202
        done = run_ullage(
            "check",
            *("--data", server.data, "--storage", *server.arguments[1:2]),
            env=any_site.buckets.environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr

"""A real registry whose blobs are in a bucket, with real clients: the bucket adds up to the books.

docs/design/buckets.md and azure-storage.md, section 1. The services are real ones, too; that of
Google is a proxy in front of one.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.clients.containers import Skopeo
from tests.clients.layout import Image, read_contents, write_image
from tests.clients.programs import payload
from tests.support.object_servers import ObjectServer
from tests.support.object_services import SERVICES, ObjectServices, open_services
from tests.support.server import UllageServer, run_ullage

pytestmark = pytest.mark.client

LABEL = frozenset({"books/registry-id"})
# More than two parts of 5 MiB.
LARGE = payload("large", 12_000_000)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServices]:
    with open_services(tmp_path_factory.mktemp("services")) as services:
        yield services


@pytest.fixture(params=SERVICES)
def service(services: ObjectServices, request: pytest.FixtureRequest) -> ObjectServer:
    return services[request.param]


@pytest.fixture
def bucket(service: ObjectServer) -> str:
    return service.fresh_bucket()


def storage(service: ObjectServer, bucket: str) -> str:
    return service.url(bucket, "books", **service.small_pieces)


def wait_until_it_holds(service: ObjectServer, bucket: str, expected: int) -> None:
    """Deleted bytes leave the bucket a read grace and a turn of the worker later."""
    deadline = time.monotonic() + 30
    while (found := service.stored_bytes(bucket, beside=LABEL)) != expected:
        assert time.monotonic() < deadline, f"{found} bytes in the bucket instead of {expected}"
        time.sleep(0.1)


def assert_sound(service: ObjectServer, *where: str | Path) -> None:
    done = run_ullage("check", "--deep", *where, env=service.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything is as it should be" in done.stdout


def push_large(first: httpx.Client, second: httpx.Client, name: str) -> str:
    """Begin an upload at one server, and end it at another."""
    digest = f"sha256:{hashlib.sha256(LARGE).hexdigest()}"
    location = first.post(f"/v2/{name}/blobs/uploads/").headers["location"]
    for client, piece in ((first, LARGE[:7_000_000]), (second, LARGE[7_000_000:])):
        path = httpx.URL(location).path
        answer = client.patch(path, content=piece)
        assert answer.status_code == 202, answer.text
        location = answer.headers["location"]
    done = first.put(httpx.URL(location).path, params={"digest": digest})
    assert done.status_code == 201, done.text
    return digest


def test_skopeo_pushes_pulls_and_deletes_and_the_bucket_adds_up(
    service: ObjectServer, bucket: str, tmp_path: Path
) -> None:
    where = storage(service, bucket)
    with (
        Skopeo() as skopeo,
        UllageServer(tmp_path / "data", "--storage", where, env=service.environment) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        sizes = {}
        for name in ("v1", "v2"):
            write_image(tmp_path / name, Image(("base", name)))
            skopeo.copy(f"oci:{tmp_path}/{name}", f"docker://{server.host}/app:{name}")
            manifest = client.get(
                f"/v2/app/manifests/{name}", headers={"Accept": "application/*, */*"}
            ).json()
            for blob in (manifest["config"], *manifest["layers"]):
                sizes[name, blob["digest"]] = blob["size"]
        kept = {digest: size for (name, digest), size in sizes.items() if name == "v2"}
        everything = {digest: size for (_, digest), size in sizes.items()}
        wait_until_it_holds(service, bucket, sum(everything.values()))
        for name in ("v1", "v2"):
            skopeo.copy(f"docker://{server.host}/app:{name}", f"oci:{tmp_path}/{name}-out:x")
            assert read_contents(tmp_path / f"{name}-out") == read_contents(tmp_path / name)

        digest = push_large(client, client, "app")
        assert client.get(f"/v2/app/blobs/{digest}").content == LARGE
        part = client.get(f"/v2/app/blobs/{digest}", headers={"Range": "bytes=6000000-6999999"})
        assert (part.status_code, part.content) == (206, LARGE[6_000_000:7_000_000])
        assert client.delete(f"/v2/app/blobs/{digest}").status_code in (202, 405)

        skopeo.delete(f"{server.host}/app:v1")
        assert_sound(service, "--data", server.data)
        server.assert_no_500()
        assert server.terminate() == 0
    # Without a server the same command looks into the bucket by itself.
    assert_sound(service, "--data", tmp_path / "data", "--storage", where)
    with UllageServer(tmp_path / "data", "--storage", where, env=service.environment) as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for digest, size in kept.items():
                assert len(client.get(f"/v2/app/blobs/{digest}").content) == size
        server.assert_no_500()


@pytest.mark.parametrize("end", ["cancelled", "killed"])
def test_what_does_not_become_a_blob_leaves_the_bucket(
    service: ObjectServer, bucket: str, tmp_path: Path, end: str
) -> None:
    """Parts and tail of an upload that is cancelled; also after a kill and a new start."""
    where = storage(service, bucket)
    server = UllageServer(tmp_path / "data", "--storage", where, env=service.environment)
    with server, httpx.Client(base_url=server.url, timeout=60) as client:
        location = client.post("/v2/app/blobs/uploads/").headers["location"]
        location = client.patch(location, content=LARGE).headers["location"]
        wait_until_it_holds(service, bucket, len(LARGE))
        if end == "killed":
            server.kill9()
            server.start()
        assert_sound(service, "--data", server.data)
        assert client.delete(location).status_code == 204
        wait_until_it_holds(service, bucket, 0)
        assert_sound(service, "--data", server.data)
        server.assert_no_500()


@pytest.mark.parametrize("size", [1000, len(LARGE)])
def test_a_blob_that_is_gone_from_the_bucket_is_in_quarantine_after_a_pull(
    service: ObjectServer, bucket: str, tmp_path: Path, size: int
) -> None:
    """The store finds that out at the first read, and the next push replaces it."""
    data = LARGE[:size]
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with (
        UllageServer(
            tmp_path / "data", "--storage", storage(service, bucket), env=service.environment
        ) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):

        def push() -> int:
            where = "/v2/app/blobs/uploads/"
            return client.post(where, params={"digest": digest}, content=data).status_code

        assert push() == 201
        for name, stored in service.sizes(bucket).items():
            if stored == size:
                service.remove(bucket, name)
        with suppress(httpx.RemoteProtocolError):
            # Of a large one the answer has begun; it breaks off.
            assert client.get(f"/v2/app/blobs/{digest}").status_code == 404
        assert client.get(f"/v2/app/blobs/{digest}").status_code == 404
        assert push() == 201
        assert client.get(f"/v2/app/blobs/{digest}").content == data
        server.assert_no_500()


@pytest.mark.postgresql
def test_an_upload_changes_its_process_with_every_request(
    service: ObjectServer, bucket: str, tmp_path: Path, postgres_url: str
) -> None:
    """buckets.md section 3: the state is in the row."""
    arguments = ("--database", postgres_url, "--storage", storage(service, bucket))
    with (
        UllageServer(tmp_path / "one", *arguments, env=service.environment) as one,
        UllageServer(tmp_path / "two", *arguments, env=service.environment) as two,
        httpx.Client(base_url=one.url, timeout=60) as first,
        httpx.Client(base_url=two.url, timeout=60) as second,
    ):
        digest = push_large(first, second, "app")
        assert second.get(f"/v2/app/blobs/{digest}").content == LARGE
        wait_until_it_holds(service, bucket, len(LARGE))
        assert_sound(service, "--data", one.data)
        for server in (one, two):
            server.assert_no_500()

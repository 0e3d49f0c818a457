"""distribution-spec, "Pull": manifests (end-3) and blobs (end-2), whole, in part and unchanged."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import (
    encoded,
    error_code,
    image,
    index_of,
    push_blob,
    push_image,
    put_manifest,
    refused,
)
from tests.server.raw import Closed, Connection
from tests.support.registry import CONFIG, INDEX, LAYER, MANIFEST, descriptor
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of

DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DATA = bytes(range(256)) * 400  # More than the server reads ahead, so that it is sent as a file.
SMALL = b"0123456789"


# --- manifests ------------------------------------------------------------------------------------


def test_a_manifest_comes_back_byte_for_byte(client: httpx.Client, name: str) -> None:
    """ "Pulling manifests": by tag and by digest, whatever its white space and order of keys."""
    manifest = image(client, name)
    raw = json.dumps(dict(reversed(manifest.items())), indent=7).encode() + b"\n\n"
    digest = digest_of(raw)
    headers = {"Content-Type": MANIFEST}
    put = client.put(f"/v2/{name}/manifests/v1", content=raw, headers=headers)
    assert put.status_code == 201
    for reference in ("v1", digest):
        answer = client.get(f"/v2/{name}/manifests/{reference}")
        assert (answer.status_code, answer.content) == (200, raw)
        assert answer.headers["Content-Type"] == MANIFEST
        assert answer.headers["Content-Length"] == str(len(raw))
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.headers["ETag"] == f'"{digest}"'


def test_head_of_a_manifest_is_get_without_the_body(client: httpx.Client, name: str) -> None:
    digest = push_image(client, name, "v1")
    for reference in ("v1", digest):
        got = client.get(f"/v2/{name}/manifests/{reference}")
        asked = client.head(f"/v2/{name}/manifests/{reference}")
        assert (asked.status_code, asked.content) == (200, b"")
        for header in ("Content-Length", "Content-Type", "Docker-Content-Digest", "ETag"):
            assert asked.headers[header] == got.headers[header]


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        MANIFEST,
        "application/*",
        INDEX,
        f"{DOCKER_IMAGE}, {INDEX};q=0.5, */*;q=0.1",
        "text/html",
        "q=;;,//",
    ],
)
def test_accept_never_changes_what_is_served(
    client: httpx.Client, name: str, accept: str | None
) -> None:
    """The bytes named by a digest are of one type; another one would be another manifest."""
    digest = push_image(client, name, "v1")
    request = httpx.Request("GET", f"{client.base_url}/v2/{name}/manifests/v1")
    if accept is not None:
        request.headers["Accept"] = accept
    answer = client.send(request)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, MANIFEST)
    assert digest_of(answer.content) == digest


def test_every_kind_of_manifest_is_served_as_its_type(client: httpx.Client, name: str) -> None:
    """Image, nested index, Docker schema 2, and a type that nobody knows."""
    digest = push_image(client, name, "image")
    index = index_of(client, name, [digest])
    assert put_manifest(client, name, "index", index).status_code == 201
    nested = index_of(client, name, [digest_of(encoded(index))])
    assert put_manifest(client, name, "nested", nested).status_code == 201
    docker = {**image(client, name), "mediaType": DOCKER_IMAGE}
    assert put_manifest(client, name, "docker", docker).status_code == 201
    unknown = {"mediaType": "application/vnd.example.thing.v9+json", "parts": [1, 2]}
    assert put_manifest(client, name, "unknown", unknown).status_code == 201
    for tag, manifest in {
        "index": index,
        "nested": nested,
        "docker": docker,
        "unknown": unknown,
    }.items():
        answer = client.get(f"/v2/{name}/manifests/{tag}")
        assert answer.headers["Content-Type"] == manifest["mediaType"]
        assert answer.content == encoded(manifest)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_unchanged_manifest_is_not_sent_again(
    client: httpx.Client, name: str, method: str
) -> None:
    """RFC 9110, section 13.1.2: If-None-Match, by tag as well as by digest."""
    digest = push_image(client, name, "v1")
    other = digest_of(b"other")
    for reference in ("v1", digest):
        for tags, status in {
            f'"{digest}"': 304,
            f'W/"{digest}"': 304,
            f'"{other}", "{digest}"': 304,
            "*": 304,
            f'"{other}"': 200,
            '"*"': 200,
            "": 200,
        }.items():
            answer = client.request(
                method, f"/v2/{name}/manifests/{reference}", headers={"If-None-Match": tags}
            )
            assert answer.status_code == status, tags
            assert answer.headers["ETag"] == f'"{digest}"'
            assert answer.headers["Docker-Content-Digest"] == digest
            assert status == 200 or answer.content == b""


def test_what_is_not_there_is_404(client: httpx.Client, name: str) -> None:
    """ "404 Not Found if the manifest is not found"; an unknown repository says so."""
    elsewhere = push_image(client, f"{name}/other", "v1")
    missing = digest_of(b"missing")
    for reference in ("v1", missing, elsewhere):
        answer = client.get(f"/v2/{name}/manifests/{reference}")
        assert refused(answer) == (404, "NAME_UNKNOWN")
    push_image(client, name, "v1", [b"another layer"])
    for reference in ("v2", missing, elsewhere):
        assert refused(client.get(f"/v2/{name}/manifests/{reference}")) == (404, "MANIFEST_UNKNOWN")
        asked = client.head(f"/v2/{name}/manifests/{reference}")
        assert (asked.status_code, asked.content) == (404, b"")
    stale = client.get(f"/v2/{name}/manifests/v2", headers={"If-None-Match": "*"})
    assert refused(stale) == (404, "MANIFEST_UNKNOWN")


# --- blobs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", SMALL, DATA], ids=["empty", "small", "large"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_comes_back_byte_for_byte(
    client: httpx.Client, name: str, data: bytes, algorithm: str
) -> None:
    """ "Pulling blobs"; what was pushed may be hostile, so a browser must not show or run it."""
    digest = push_blob(client, name, data, algorithm)
    got = client.get(f"/v2/{name}/blobs/{digest}")
    assert (got.status_code, got.content) == (200, data)
    asked = client.head(f"/v2/{name}/blobs/{digest}")
    assert (asked.status_code, asked.content) == (200, b"")
    for answer in (got, asked):
        assert answer.headers["Content-Length"] == str(len(data))
        assert answer.headers["Docker-Content-Digest"] == digest
        assert answer.headers["ETag"] == f'"{digest}"'
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert "immutable" in answer.headers["Cache-Control"]


def test_a_blob_is_seen_only_in_the_repositories_that_have_it(
    client: httpx.Client, name: str
) -> None:
    """CVE-2024-39897: knowing a digest is no right to read it."""
    digest = push_blob(client, f"{name}/other", SMALL)
    assert refused(client.get(f"/v2/{name}/blobs/{digest}")) == (404, "BLOB_UNKNOWN")
    asked = client.head(f"/v2/{name}/blobs/{digest}")
    assert (asked.status_code, asked.content) == (404, b"")
    stale = client.get(f"/v2/{name}/blobs/{digest}", headers={"If-None-Match": f'"{digest}"'})
    assert refused(stale) == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_unchanged_blob_is_not_sent_again(client: httpx.Client, name: str, method: str) -> None:
    """RFC 9110, sections 13.1.2 and 15.4.5: 304 with what a cache needs."""
    digest = push_blob(client, name, DATA)
    for tags in (f'"{digest}"', f'W/"{digest}"', f'"x", "{digest}"', "*"):
        answer = client.request(
            method, f"/v2/{name}/blobs/{digest}", headers={"If-None-Match": tags}
        )
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == f'"{digest}"'
        assert answer.headers["Docker-Content-Digest"] == digest
        assert "immutable" in answer.headers["Cache-Control"]
    answer = client.request(method, f"/v2/{name}/blobs/{digest}", headers={"If-None-Match": '"x"'})
    assert answer.status_code == 200


# --- parts of blobs -------------------------------------------------------------------------------

LAST = len(DATA) - 1


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=500-1499", 500, 1499),
        ("bytes=500-", 500, LAST),
        ("bytes=-500", LAST - 499, LAST),
        ("bytes=0-", 0, LAST),
        (f"bytes={LAST}-", LAST, LAST),
        ("bytes=-1", LAST, LAST),
        (f"bytes=7-{10**18}", 7, LAST),
        (f"bytes=-{10**18}", 0, LAST),
    ],
)
def test_one_range_of_a_blob_is_206(
    client: httpx.Client, name: str, asked: str, first: int, last: int
) -> None:
    """RFC 9110, section 14.1.2: all three forms; a last byte past the end is clipped."""
    digest = push_blob(client, name, DATA)
    answer = client.get(f"/v2/{name}/blobs/{digest}", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, DATA[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"
    assert answer.headers["Content-Length"] == str(last + 1 - first)
    assert answer.headers["Docker-Content-Digest"] == digest


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (DATA, f"bytes={len(DATA)}-"),
        (DATA, f"bytes={len(DATA)}-{len(DATA) + 5}"),
        (DATA, f"bytes={10**18}-"),
        (DATA, "bytes=-0"),
        (b"", "bytes=0-0"),
        (b"", "bytes=0-"),
    ],
)
def test_a_range_without_a_byte_is_416(
    client: httpx.Client, name: str, data: bytes, asked: str
) -> None:
    """RFC 9110, section 15.5.17: with the blob's size, and in words of its own."""
    digest = push_blob(client, name, data)
    answer = client.get(f"/v2/{name}/blobs/{digest}", headers={"Range": asked})
    assert refused(answer) == (416, "RANGE_INVALID")
    assert answer.headers["Content-Range"] == f"bytes */{len(data)}"
    (error,) = answer.json()["errors"]
    assert error["message"] == "no byte of the blob is in the range that is asked for"
    assert error["detail"] == {"size": len(data)}


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,3-4",
        "bytes=5-2",
        "bytes=-",
        "bytes=",
        "bytes",
        "items=0-5",
        "bytes=0x10-0x20",
        "bytes=1_0-2_0",
        "bytes= 0-5",
        "bytes=--5",
        "bytes=+1-5",
        "bytes=\u0661-5",
        "bytes=0-99999999999999999999",
        "bytes=" + ",".join(f"{n}-{n}" for n in range(500)),
    ],
)
def test_a_range_that_makes_no_sense_is_ignored(
    client: httpx.Client, name: str, asked: str
) -> None:
    """RFC 9110, section 14.2: a server may. Several ranges would cost us more than the client."""
    digest = push_blob(client, name, SMALL)
    answer = client.get(f"/v2/{name}/blobs/{digest}", headers={b"Range": asked.encode()})
    assert (answer.status_code, answer.content) == (200, SMALL)
    assert "Content-Range" not in answer.headers


def test_a_range_counts_only_for_the_version_that_if_range_names(
    client: httpx.Client, name: str
) -> None:
    """RFC 9110, section 13.1.5."""
    digest = push_blob(client, name, SMALL)
    for version, status in {
        f'"{digest}"': 206,
        f'W/"{digest}"': 200,
        '"other"': 200,
        "Mon, 23 Nov 2026 21:02:33 GMT": 200,
    }.items():
        headers = {"Range": "bytes=2-3", "If-Range": version}
        answer = client.get(f"/v2/{name}/blobs/{digest}", headers=headers)
        assert (answer.status_code, answer.content) == (
            status,
            SMALL[2:4] if status == 206 else SMALL,
        )


def test_a_range_is_for_get_only(client: httpx.Client, name: str) -> None:
    """RFC 9110, section 14.2: on HEAD a Range is ignored."""
    digest = push_blob(client, name, SMALL)
    answer = client.head(f"/v2/{name}/blobs/{digest}", headers={"Range": "bytes=2-3"})
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(SMALL)))


def test_a_pull_goes_on_where_it_broke_off(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    data = os.urandom(4 * 1024 * 1024)
    digest = push_blob(client, name, data)
    with Connection(server) as broken:
        broken.request("GET", f"/v2/{name}/blobs/{digest}")
        head = broken.exactly(1_000_000).partition(b"\r\n\r\n")[2]
        broken.reset()
    headers = {"Range": f"bytes={len(head)}-", "If-Range": f'"{digest}"'}
    rest = client.get(f"/v2/{name}/blobs/{digest}", headers=headers)
    assert rest.status_code == 206
    assert digest_of(head + rest.content) == digest


# --- bytes that went bad --------------------------------------------------------------------------


def stored_file(server: UllageServer, size: int) -> Path:
    """Where the only blob of this size is kept."""
    found = [p for p in server.data.glob("blobs/*/*") if p.stat().st_size == size]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    """A server whose files the tests damage."""
    with UllageServer(tmp_path_factory.mktemp("own") / "data") as server:
        yield server


def test_a_damaged_blob_is_refused_and_never_short_and_the_next_push_heals_it(
    own: UllageServer,
) -> None:
    """F47: a wrong size is found before the first byte is sent; from then on it is not there."""
    sizes = {"truncated": 200_001, "grown": 200_002, "missing": 200_003}
    with httpx.Client(base_url=own.url) as client:
        layers = {name: os.urandom(size) for name, size in sizes.items()}
        damaged = {name: push_blob(client, "app", layer) for name, layer in layers.items()}
        sound = push_blob(client, "app", SMALL)
        os.truncate(stored_file(own, sizes["truncated"]), 200_000)
        os.truncate(stored_file(own, sizes["grown"]), 200_004)
        stored_file(own, sizes["missing"]).unlink()
        for digest in damaged.values():
            assert client.head(f"/v2/app/blobs/{digest}").status_code == 200, "nobody has looked"
            for headers in ({}, {"Range": "bytes=0-9"}):
                answer = client.get(f"/v2/app/blobs/{digest}", headers=headers)
                assert refused(answer) == (404, "BLOB_UNKNOWN")
            assert client.head(f"/v2/app/blobs/{digest}").status_code == 404
            mount = f"/v2/elsewhere/blobs/uploads/?mount={digest}&from=app"
            assert client.post(mount).status_code == 202
            assert f"blob {digest} is quarantined" in own.log
        for name, digest in damaged.items():
            assert push_blob(client, "app", layers[name]) == digest
            assert client.get(f"/v2/app/blobs/{digest}").content == layers[name]
        assert client.get(f"/v2/app/blobs/{sound}").content == SMALL
    own.assert_no_500()


def test_a_blob_that_shrinks_while_it_is_sent_breaks_the_connection(own: UllageServer) -> None:
    """F47: never a clean end before the announced one; the log says why."""
    size = 32 * 1024 * 1024
    with httpx.Client(base_url=own.url, timeout=30) as client:
        path = f"/v2/app/blobs/{push_blob(client, 'app', os.urandom(size))}"
    with (
        Connection(own, receive_buffer=65536) as whole,
        Connection(own, receive_buffer=65536) as part,
    ):
        whole.request("GET", path).exactly(1000)
        part.request("GET", path, "Range: bytes=1-\r\n").exactly(1000)
        os.truncate(stored_file(own, size), 1000)
        for slow in (whole, part):
            with pytest.raises(Closed):
                slow.exactly(size - 1000)
    assert "broke off the answer" in own.log


def test_descriptors_keep_their_unusual_fields(client: httpx.Client, name: str) -> None:
    """What we do not understand belongs to whoever wrote it."""
    layer = {**descriptor(LAYER, SMALL), "x-vendor": {"nested": [1, None, "é"]}}
    config = b"{}"
    for blob in (SMALL, config):
        push_blob(client, name, blob)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [layer],
        "x-more": True,
    }
    assert put_manifest(client, name, "v1", manifest).status_code == 201
    assert client.get(f"/v2/{name}/manifests/v1").json() == manifest
    assert error_code(client.get(f"/v2/{name}/manifests/v2")) == "MANIFEST_UNKNOWN"

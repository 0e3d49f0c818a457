"""Malformed requests: each is refused with the right 4xx and OCI error, and nothing is stored.

reliability.md sections 1.3 (F33-F35), 3.2 (S24-S32, S45) and 5. The module's server fails the run
for any 500.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.pushing import (
    encoded,
    image,
    push_blob,
    push_image,
    put_manifest,
    refused,
    start_upload,
)
from tests.server.raw import Connection
from tests.support.registry import CONFIG, INDEX, LAYER, MANIFEST
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of

pytestmark = pytest.mark.thorough

DIGEST = digest_of(b"data")


def stored(server: UllageServer, client: httpx.Client) -> set[str]:
    """Every repository, every stored blob and every open upload."""
    names = client.get("/v2/_catalog", params={"n": 1000}).json()["repositories"] or []
    files = [*server.data.glob("blobs/*/*"), *server.data.glob("uploads/*")]
    return {*names, *(path.name for path in files)}


@pytest.fixture
def nothing_is_stored(server: UllageServer, client: httpx.Client) -> Iterator[None]:
    """Fail the test if the registry holds anything more at its end than before."""
    before = stored(server, client)
    yield
    deadline = time.monotonic() + 10
    # Bytes of a refused upload are erased in the background.
    while more := stored(server, client) - before:
        assert time.monotonic() < deadline, more
        time.sleep(0.01)


refuses = pytest.mark.usefixtures("nothing_is_stored")


def ask(server: UllageServer, method: str, path: str, headers: str = "", body: bytes = b"") -> Any:
    """Status and error code of an answer to a request whose path no client library tidies up."""
    with Connection(server) as connection:
        answer = connection.request(method, path, headers, body).answer(to_head=method == "HEAD")
        return answer.status, answer.code


# --- names ----------------------------------------------------------------------------------------

BAD_NAMES = [
    *["..", ".", "../a", "./a", "a/..", "a/.", "a/../b", "a/./b", "..a", "a..b", ".a", "a."],
    *["a//b", "/a", "a/", "//", "A", "aB", "_a", "a_", "-a", "a-", "a___b", "a._b", "a-_b"],
    *["_catalog", "_uploads", "a/_manifests", "a@b", "a:b", "a~b", "a*b", "a+b", "a,b", "a=b"],
    *["..%2f..", "..%2F..%2Fetc", "%2e%2e", "%2e%2e%2f%2e%2e", "a%2F..%2Fb", "a%2f%2fb", "%2Fa"],
    *["a%2F", "%2f", "a%5Cb", "..%5c..", "a%00", "%00", "a%0a", "a%0Ab", "a%0d%0aSet-Cookie:x"],
    *["a%20", "%20a", "a%09b", "a%1b%5B31m", "a%7Fb", "%FF", "a%80", "%C0%AE%C0%AE", "%c0%af"],
    *["%e0%80%af", "%ED%A0%80", "%C3%A9", "%EF%BC%A1", "%D0%B0", "%E2%80%A8", "a%252Fb", "a%252e"],
    *["a%2", "a%zz", "a%", "%", "a" * 256, "a/" * 128 + "a", "%61" * 300],
]
ENDPOINTS = [
    ("GET", "/v2/{}/tags/list"),
    ("HEAD", "/v2/{}/manifests/v1"),
    ("GET", "/v2/{}/manifests/v1"),
    ("PUT", "/v2/{}/manifests/v1"),
    ("DELETE", f"/v2/{{}}/manifests/{DIGEST}"),
    ("GET", f"/v2/{{}}/blobs/{DIGEST}"),
    ("HEAD", f"/v2/{{}}/blobs/{DIGEST}"),
    ("DELETE", f"/v2/{{}}/blobs/{DIGEST}"),
    ("POST", "/v2/{}/blobs/uploads/"),
    ("POST", f"/v2/{{}}/blobs/uploads/?digest={DIGEST}"),
    ("GET", f"/v2/{{}}/blobs/uploads/{'0' * 32}"),
    ("PATCH", f"/v2/{{}}/blobs/uploads/{'0' * 32}"),
    ("PUT", f"/v2/{{}}/blobs/uploads/{'0' * 32}?digest={DIGEST}"),
    ("DELETE", f"/v2/{{}}/blobs/uploads/{'0' * 32}"),
    ("GET", f"/v2/{{}}/referrers/{DIGEST}"),
]


@refuses
@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_a_name_that_is_none_is_not_found_and_not_written(
    server: UllageServer, method: str, path: str
) -> None:
    """S24: the grammar of names, whole and in ASCII, after decoding exactly once; 255 at most.

    distribution-spec, "Pulling manifests" and "Pulling blobs": what a registry does not have is a
    404; "Listing Referrers" knows none.
    """
    reads = method in ("GET", "HEAD") and "/referrers/" not in path
    status, code = (404, "NAME_UNKNOWN") if reads else (400, "NAME_INVALID")
    with Connection(server) as connection:
        for name in BAD_NAMES:
            connection.request(method, path.format(name))
            answer = connection.answer(to_head=method == "HEAD")
            expected = (status, None if method == "HEAD" else code)
            assert (answer.status, answer.code) == expected, name


def test_an_encoded_slash_in_a_name_is_a_slash(server: UllageServer, client: httpx.Client) -> None:
    """S28: it never moves the boundary between name and endpoint; then it is decoded, once."""
    digest = push_image(client, "encoded/slash", "v1")
    for path in (
        "/v2/encoded%2Fslash/manifests/v1",
        "/v2/encoded%2fslash/manifests/v1",
        "/v2/%65ncoded%2Fslas%68/manifests/%761",
        f"/v2/encoded%2Fslash/manifests/{digest.replace(':', '%3A')}",
    ):
        assert ask(server, "GET", path) == (200, None), path
    for path, refusal in {
        "/v2/encoded/slash%2Fmanifests%2Fv1": (404, "NOT_FOUND"),
        "/v2/encoded/slash%2Fmanifests/v1": (404, "NOT_FOUND"),
        "/v2/encoded/slash/manifests%2Fv1": (404, "NOT_FOUND"),
        "/v2%2Fencoded/slash/manifests/v1": (404, "NOT_FOUND"),
        "/v2/encoded/slash/tags%2flist": (404, "NOT_FOUND"),
        "/v2/../v2/encoded/slash/manifests/v1": (404, "NAME_UNKNOWN"),
        "/v2/%2e%2e/v2/": (404, "NOT_FOUND"),
        "/v2/.": (404, "NOT_FOUND"),
    }.items():
        assert ask(server, "GET", path) == refusal, path


@pytest.mark.parametrize(
    "name",
    [
        "blobs",
        "manifests",
        "tags",
        "uploads",
        "referrers",
        "list",
        "v2",
        "tags/list",
        "blobs/uploads",
        "manifests/v1",
        "x/blobs/uploads",
        "x/blobs/uploads/y",
        "x/manifests",
        "blobs/sha256",
        "a/tags/list/tags/list",
    ],
)
def test_endpoints_words_may_be_parts_of_a_name(client: httpx.Client, name: str) -> None:
    """S24: the last marker in a path counts, so every such name works, for everything."""
    location = start_upload(client, name)
    assert location == f"/v2/{name}/blobs/uploads/{location.rpartition('/')[2]}"
    assert client.get(location).status_code == 204
    assert client.delete(location).status_code == 204
    digest = push_image(client, name, "uploads")
    assert client.get(f"/v2/{name}/tags/list").json() == {"name": name, "tags": ["uploads"]}
    for reference in ("uploads", digest):
        head = client.head(f"/v2/{name}/manifests/{reference}")
        assert head.headers["Docker-Content-Digest"] == digest
    assert client.get(f"/v2/{name}/blobs/{digest_of(b'layer')}").content == b"layer"
    assert client.get(f"/v2/{name}/referrers/{digest}").json()["manifests"] == []
    assert name in client.get("/v2/_catalog?n=1000").json()["repositories"]
    assert client.delete(f"/v2/{name}/manifests/{digest}").status_code == 202


# --- tags, digests, sessions ----------------------------------------------------------------------


@refuses
def test_a_tag_that_is_none_is_not_found_and_not_written(server: UllageServer) -> None:
    """S25: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`, whole and in ASCII.

    distribution-spec, "Pulling manifests": a manifest that is not there is a 404, however named.
    """
    tags = [
        *[".", "..", ".a", "-a", "a" * 129, "a+b", "a@b", "a*", "~", "a%20", "%20", "a%0a"],
        *["%00", "a%00b", "a%2Fb", "%2e%2e", "..%2f..", "a%25", "a%2", "%", "%C3%A9", "%FF"],
        *["a%252e", "%EF%BC%A1", "%ED%A0%80", "a%0d%0aX-Y", ".INVALID_MANIFEST_NAME"],
    ]
    for tag in tags:
        path = f"/v2/app/manifests/{tag}"
        for method in ("PUT", "DELETE"):
            assert ask(server, method, path) == (400, "TAG_INVALID"), (method, tag)
        assert ask(server, "GET", path) == (404, "MANIFEST_UNKNOWN"), tag
        assert ask(server, "HEAD", path) == (404, None), tag


HEX = DIGEST.hex
BAD_DIGESTS = [
    *["sha256:", "sha256", ":", f":{HEX}", HEX, f"sha256:{HEX[:-1]}", f"sha256:{HEX}0"],
    *[f"sha256:{HEX.upper()}", f"SHA256:{HEX}", f"Sha256:{HEX}", f"sha256:{HEX[:-1]}g"],
    *[f"sha512:{HEX}", f"sha256:{HEX}{HEX}", f"sha384:{'0' * 96}", f"md5:{'0' * 32}"],
    *[f"sha1:{'0' * 40}", "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8"],
    *[f"sha256:{HEX}%0a", f"%0asha256:{HEX}", f"sha256:{HEX}%00", f"sha256:{HEX}%20"],
    *["sha256:..%2f..%2fx", f"sha256:{HEX[:-1]}%D9%A0", f"sha256:{HEX[:-1]}%EF%BC%90"],
    *[f"sha256::{HEX}", f"sha256:{HEX}:x", f"sha256%00:{HEX}", "%FF:%FF", f"sha256:{'0' * 8000}"],
]


@refuses
def test_a_digest_that_is_none_is_400(server: UllageServer, client: httpx.Client) -> None:
    """F34, S26: lower-case hexadecimal digits, exactly as many as the algorithm has."""
    for digest in BAD_DIGESTS:
        for method, path in [
            ("GET", f"/v2/app/blobs/{digest}"),
            ("DELETE", f"/v2/app/blobs/{digest}"),
            ("GET", f"/v2/app/referrers/{digest}"),
            ("POST", f"/v2/app/blobs/uploads/?digest={digest}"),
            ("POST", f"/v2/app/blobs/uploads/?mount={digest}&from=b"),
        ]:
            status, code = ask(server, method, path)
            # NUL and what is not UTF-8 are no text at all in a query string.
            odd = "?" in path and ("%00" in path or "%FF" in path)
            assert status == 400, (method, path)
            assert code == ("UNSUPPORTED" if odd else "DIGEST_INVALID"), (method, path)
        if ":" in digest:
            for method in ("GET", "PUT", "DELETE"):
                refusal = ask(server, method, f"/v2/app/manifests/{digest}")
                assert refusal == (400, "DIGEST_INVALID"), (method, digest)


def test_an_upload_survives_every_digest_that_is_none(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """F34: the session holds what it held; the right digest ends it."""
    location = start_upload(client, name)
    assert client.patch(location, content=b"data").status_code == 202
    for digest in BAD_DIGESTS:
        status, _ = ask(server, "PUT", f"{location}?digest={digest}", body=b"more")
        assert status == 400, digest
    for query, code in {
        "": "DIGEST_INVALID",
        "?digest=": "DIGEST_INVALID",
        f"?digest={DIGEST}&digest={DIGEST}": "DIGEST_INVALID",
        f"?digest={DIGEST}&digest=sha256:00": "DIGEST_INVALID",
        f"?Digest={DIGEST}": "DIGEST_INVALID",
        f"?digest={DIGEST}&x=%FF": "UNSUPPORTED",
    }.items():
        assert ask(server, "PUT", f"{location}{query}") == (400, code), query
    assert client.get(location).headers["Range"] == "0-3"
    assert client.put(location, params={"digest": DIGEST}).status_code == 201


def test_a_session_has_one_name(server: UllageServer, client: httpx.Client, name: str) -> None:
    """S27: none of the other spellings of a UUID, no other case, nothing around it."""
    location = start_upload(client, name)
    folder, _, session = location.rpartition("/")
    hyphened = "-".join([session[:8], session[8:12], session[12:16], session[16:20], session[20:]])
    others = [
        *[session.upper(), hyphened, f"%7B{hyphened}%7D", f"urn:uuid:{hyphened}", f"{session}%0a"],
        *[f"{session}%00", f"%20{session}", session[:-1], f"{session}0", "..", "%2e%2e", "0" * 32],
        *[f"..%2f{session}", f"{session}%2f..", "a" * 7000, "%FF", "%D9%A0" * 32],
    ]
    for other in others:
        if other == session:
            continue  # A name of digits only has no other case.
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            refusal = ask(server, method, f"{folder}/{other}?digest={DIGEST}", body=b"data")
            assert refusal == (404, "BLOB_UPLOAD_UNKNOWN"), (method, other)
    assert client.get(location).status_code == 204


# --- query strings --------------------------------------------------------------------------------

BAD_NUMBERS = [
    *["", "-1", "+1", "1.0", "1e9", "0x10", "1_000", "1,000", "NaN", "Infinity", "one", "%201"],
    *[
        "1%20",
        "1%0a",
        "%0a1",
        "9" * 20,
        "9" * 5000,
        "%E0%A5%A7",
        "%D9%A1",
        "%EF%BC%91",
        "%B2",
        "1n",
    ],
]


@pytest.mark.parametrize(
    "path", ["/v2/_catalog", "/v2/{name}/tags/list", "/v2/{name}/referrers/{d}"]
)
def test_a_page_size_that_is_no_number_is_400(
    server: UllageServer, client: httpx.Client, name: str, path: str
) -> None:
    """CVE-2023-2253, reliability.md section 5: 1 to 19 digits; more than a page is a page."""
    push_image(client, name, "v1")
    path = path.format(name=name, d=DIGEST)
    for number in BAD_NUMBERS:
        odd = "%B2" in number
        code = "UNSUPPORTED" if odd else "PAGINATION_NUMBER_INVALID"
        assert ask(server, "GET", f"{path}?n={number}") == (400, code), number
    for number in ("1", "2147483648", "9223372036854775808", "9" * 19):
        assert ask(server, "GET", f"{path}?n={number}") == (200, None), number


@refuses
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/_catalog?n=1&n=1"),
        ("GET", "/v2/_catalog?last=a&last=b"),
        ("GET", "/v2/app/tags/list?n=1&n=2"),
        ("GET", "/v2/app/tags/list?last=a&l%61st=a"),
        ("GET", f"/v2/app/referrers/{DIGEST}?artifactType=a&artifactType=b"),
        ("GET", f"/v2/app/referrers/{DIGEST}?last=a&last=a"),
        ("POST", f"/v2/app/blobs/uploads/?mount={DIGEST}&mount={DIGEST}"),
        ("POST", f"/v2/app/blobs/uploads/?mount={DIGEST}&from=a&from=b"),
        ("POST", "/v2/app/blobs/uploads/?digest-algorithm=sha256&digest-algorithm=sha512"),
        ("GET", "/v2/_catalog?last=%FF"),
        ("GET", "/v2/_catalog?last=%C0%AF"),
        ("GET", "/v2/_catalog?last=%ED%A0%80"),
        ("GET", "/v2/_catalog?last=a%00"),
        ("GET", "/v2/app/tags/list?last=%00"),
        ("GET", "/v2/_catalog?%00=1"),
        ("GET", "/v2/_catalog?%FF"),
        ("GET", f"/v2/app/referrers/{DIGEST}?artifactType=%00"),
        ("GET", f"/v2/app/referrers/{DIGEST}?last=%00"),
    ],
)
def test_a_query_that_can_be_read_in_two_ways_is_400(
    server: UllageServer, method: str, path: str
) -> None:
    """S29: duplicate keys; and what is no text for every database (PostgreSQL has no NUL)."""
    assert ask(server, method, path) == (400, "UNSUPPORTED")


@refuses
def test_an_algorithm_that_nobody_knows_is_400(server: UllageServer) -> None:
    for algorithm in ("md5", "SHA256", "sha384", "sha256,sha512", "sha256%0a", "a" * 5000, "%20"):
        path = f"/v2/app/blobs/uploads/?digest-algorithm={algorithm}"
        assert ask(server, "POST", path) == (400, "DIGEST_INVALID"), algorithm


@refuses
def test_paths_queries_and_headers_have_an_end(server: UllageServer) -> None:
    """S36: 8 KiB each of path and query string, 32 KiB of headers; the connection goes on."""
    with Connection(server) as connection:
        for path, headers, status in [
            (f"/v2/{'a' * 10_240}/tags/list", "", 414),
            (f"/v2/app/blobs/{'a' * 10_240}", "", 414),
            (f"/v2/{'a/' * 5000}tags/list", "", 414),
            (f"/v2/_catalog?last={'a' * 10_240}", "", 414),
            (f"/v2/_catalog?{'n=1&' * 3000}", "", 414),
            ("/v2/", f"X-Large: {'a' * 33_000}\r\n", 431),
            ("/v2/", "".join(f"X-{n}: {'a' * 700}\r\n" for n in range(50)), 431),
        ]:
            answer = connection.request("GET", path, headers).answer()
            assert (answer.status, answer.code) == (status, "UNSUPPORTED"), path[:40]
        assert connection.request("GET", "/v2/").answer().status == 200
    assert ask(server, "GET", f"/v2/_catalog?last={'%25' * 2600}") == (200, None)


# --- Content-Range --------------------------------------------------------------------------------


def test_a_content_range_that_is_none_is_400(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """F33: syntax is 400, and the session goes on."""
    location = start_upload(client, name)
    assert client.patch(location, content=b"0123").status_code == 202
    for covered in [
        *["", "a-b", "-1-5", "4", "4-", "-4", "-", "4--5", "bytes=4-13", "bytes 4-13/x", "bytes"],
        *[
            "4 - 13",
            "4-13,14-23",
            "1_4-1_5",
            "+4-13",
            "0x4-0xd",
            "13-4",
            "4-3",
            "4.0-13.0",
            "4e0-5",
        ],
        *["4-99999999999999999999", f"{'9' * 5000}-{'9' * 5000}", "items 4-13/*", "bytes */14"],
        *["\u0664-\u0667", "\uff14-\uff17", "4-13;q=1", "NaN-NaN", "4-13/", "bytes 4-13/-1"],
    ]:
        with Connection(server) as connection:
            head = (
                f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n".encode()
            )
            head += b"Content-Range: " + covered.encode() + b"\r\n\r\n"
            answer = connection.send(head + b"4567890123").answer()
            assert (answer.status, answer.code) == (400, "RANGE_INVALID"), covered
    assert client.get(location).headers["Range"] == "0-3"
    headers = {"Content-Range": "4-13"}
    assert client.patch(location, content=b"4567890123", headers=headers).status_code == 202
    assert client.get(location).headers["Range"] == "0-13"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_chunk_must_be_as_long_as_its_range(
    client: httpx.Client, name: str, streamed: bool
) -> None:
    """F32: shorter or longer is 400 SIZE_INVALID, whether seen at once or at the end."""
    location = start_upload(client, name)
    assert client.patch(location, content=b"0123").status_code == 202
    for covered in ("4-12", "4-14", "4-4", "4-1000000"):
        data = b"4567890123"
        for method in ("PATCH", "PUT"):
            answer = client.request(
                method,
                location,
                params={"digest": DIGEST} if method == "PUT" else None,
                content=iter([data[:5], data[5:]]) if streamed else data,
                headers={"Content-Range": covered},
            )
            assert refused(answer) == (400, "SIZE_INVALID"), (method, covered)
            assert client.get(location).headers["Range"] == "0-3"
    assert client.put(location, params={"digest": digest_of(b"0123")}).status_code == 201


# --- encoded bodies -------------------------------------------------------------------------------


@refuses
@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "deflate", "gzip, identity", "x", ""])
def test_an_encoded_body_is_415(server: UllageServer, name: str, encoding: str) -> None:
    """S45: nothing is unpacked here; RFC 9110, section 12.5.3: the answer says what would do."""
    for method, path in [
        ("PUT", f"/v2/{name}/manifests/v1"),
        ("POST", f"/v2/{name}/blobs/uploads/?digest={DIGEST}"),
        ("PATCH", f"/v2/{name}/blobs/uploads/{'0' * 32}"),
        ("PUT", f"/v2/{name}/blobs/uploads/{'0' * 32}?digest={DIGEST}"),
    ]:
        with Connection(server) as connection:
            connection.request(method, path, f"Content-Encoding: {encoding}\r\n", b"data")
            answer = connection.answer()
            assert (answer.status, answer.code) == (415, "UNSUPPORTED")
            assert answer.headers["accept-encoding"] == "identity"


def test_identity_is_no_encoding(client: httpx.Client, name: str) -> None:
    headers = {"Content-Encoding": "Identity"}
    path = f"/v2/{name}/blobs/uploads/"
    answer = client.post(path, params={"digest": DIGEST}, content=b"data", headers=headers)
    assert answer.status_code == 201


# --- manifests ------------------------------------------------------------------------------------


def varied(**changes: Any) -> bytes:
    """A manifest of an image, with some of its fields changed."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": DIGEST, "size": 4},
            "layers": [{"mediaType": LAYER, "digest": DIGEST, "size": 4}],
            **changes,
        }
    ).encode()


def layer(**changes: Any) -> list[dict[str, Any]]:
    return [{"mediaType": LAYER, "digest": DIGEST, "size": 4, **changes}]


GOOD = varied()
BAD_MANIFESTS: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a number": b"1",
    "a string": b'"x"',
    "an empty object": b"{}",
    "cut off": GOOD[:-1],
    "followed by more": GOOD + b"{}",
    "followed by NUL": GOOD + b"\0",
    "HTML": b"<html></html>",
    "not UTF-8": GOOD.replace(b'"layers"', b'"\xff": 1, "layers"'),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16 without a mark": GOOD.decode().encode("utf-16-le"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "100,000 brackets": b"[" * 100_000,
    "2,000 nested objects": b'{"a":' * 2000,
    "nested 33 deep": varied(x=json.loads("[" * 32 + "]" * 32)),
    "a key twice": GOOD.replace(b'"schemaVersion": 2', b'"schemaVersion": 2, "schemaVersion": 2'),
    "a digest twice": GOOD.replace(b'"size": 4}]', b'"size": 4, "size": 4}]'),
    "NaN": varied(x=float("nan")),
    "Infinity": varied(x=float("inf")),
    "-Infinity": varied(x=-float("inf")),
    "1e400": GOOD.replace(b'"size": 4}]', b'"size": 1e400}]'),
    "5,000 digits": GOOD.replace(b'"size": 4}]', b'"size": ' + b"4" * 5000 + b"}]"),
    "5,000 digits elsewhere": GOOD[:-1] + b', "x": ' + b"4" * 5000 + b"}",
    "a lone surrogate": varied(annotations={"x": "\ud800"}),
    "a lone surrogate as key": varied(annotations={"\udfff": "x"}),
    "NUL": varied(annotations={"x": "a\0b"}),
    "NUL in a media type": varied(layers=layer(mediaType="application/x\0y")),
    "control characters raw": GOOD.replace(b'"layers"', b'"x": "\n", "layers"'),
    "true for a size": varied(layers=layer(size=True)),
    "a negative size": varied(layers=layer(size=-1)),
    "a huge size": varied(layers=layer(size=2**63)),
    "a fractional size": varied(layers=layer(size=4.0)),
    "a size in words": varied(layers=layer(size="4")),
    "no size": varied(layers=[{"mediaType": LAYER, "digest": DIGEST}]),
    "no digest": varied(layers=[{"mediaType": LAYER, "size": 4}]),
    "no media type": varied(layers=[{"digest": DIGEST, "size": 4}]),
    "an upper-case digest": varied(layers=layer(digest=f"sha256:{HEX.upper()}")),
    "a path for a digest": varied(layers=layer(digest="sha256:../../etc/passwd")),
    "an unknown algorithm": varied(layers=layer(digest=f"md5:{'0' * 32}")),
    "layers that are an object": varied(layers={}),
    "a layer that is null": varied(layers=[None]),
    "a config that is a list": varied(config=[]),
    "a config that is missing": GOOD.replace(b'"config"', b'"konfig"'),
    "another spelling": GOOD.replace(b'"config"', b'"Config"'),
    "an image and an index": varied(manifests=[]),
    "an index inside": varied(manifests=layer()),
    "schema 1": varied(schemaVersion=1),
    "schema 3": varied(schemaVersion=3),
    "schema true": varied(schemaVersion=True),
    "a media type that is a list": varied(mediaType=[MANIFEST]),
    "a media type of 300 characters": varied(layers=layer(mediaType="a/" + "b" * 300)),
    "annotations that are numbers": varied(annotations={"x": 1}),
    "annotations that are a list": varied(annotations=[]),
    "a subject that is a string": varied(subject=str(DIGEST)),
    "urls that are a string": varied(layers=layer(urls="https://example.com")),
    "16,385 layers": varied(layers=layer() * 16_385),
    "4,001 annotations": varied(annotations={str(n): "" for n in range(4001)}),
}


@refuses
@pytest.mark.parametrize("raw", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_manifest_that_is_none_is_400(client: httpx.Client, name: str, raw: bytes) -> None:
    """reliability.md section 5, S31, CVE-2021-41190: what can be read in two ways is refused."""
    for reference in ("v1", digest_of(raw), digest_of(raw, "sha512")):
        answer = client.put(
            f"/v2/{name}/manifests/{reference}", content=raw, headers={"Content-Type": MANIFEST}
        )
        assert refused(answer) == (400, "MANIFEST_INVALID"), answer.text
        answer = client.get(f"/v2/{name}/manifests/{reference}")
        assert refused(answer) == (404, "NAME_UNKNOWN")


def test_the_manifests_above_differ_from_a_good_one(client: httpx.Client, name: str) -> None:
    push_blob(client, name, b"data")
    answer = client.put(
        f"/v2/{name}/manifests/v1", content=GOOD, headers={"Content-Type": MANIFEST}
    )
    assert answer.status_code == 201, answer.text


LIMIT = 4 * 1024 * 1024


def test_a_manifest_of_4_mib_is_taken_and_one_byte_more_is_413(
    client: httpx.Client, name: str
) -> None:
    """CVE-2017-11468: with a length and without."""
    raw = encoded(image(client, name))
    headers = {"Content-Type": MANIFEST}
    path = f"/v2/{name}/manifests/v1"
    longest = raw.ljust(LIMIT)
    for data in (longest + b" ", iter([longest, b" "])):
        answer = client.put(path, content=data, headers=headers)
        assert refused(answer) == (413, "MANIFEST_INVALID")
        assert refused(client.get(path)) == (404, "NAME_UNKNOWN")
    for data in (longest, iter([longest[:1000], longest[1000:]])):
        assert client.put(path, content=data, headers=headers).status_code == 201
        assert client.get(path).content == longest


@refuses
def test_a_manifest_without_end_is_413(server: UllageServer, name: str) -> None:
    """CVE-2017-11468: as soon as it is too long, not when it ends."""
    with Connection(server) as connection:
        line = f"PUT /v2/{name}/manifests/v1 HTTP/1.1"
        head = f"{line}\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.send(head.encode())
        for _ in range(5):
            connection.send(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
        answer = connection.answer()
        assert (answer.status, answer.code) == (413, "MANIFEST_INVALID")
        assert connection.is_closed()
    with Connection(server) as connection:
        connection.request("PUT", f"/v2/{name}/manifests/v1", length=10**18)
        assert connection.answer().status == 413


def test_one_digest_never_has_two_types(client: httpx.Client, name: str) -> None:
    """CVE-2021-41190: a body without a type of its own, first an image and then an index."""
    push_blob(client, name, b"data")
    raw = json.dumps({"schemaVersion": 2, "config": None, "layers": None, "manifests": []}).encode()
    for content_type in (MANIFEST, INDEX, "application/json"):
        headers = {"Content-Type": content_type}
        answer = client.put(f"/v2/{name}/manifests/v1", content=raw, headers=headers)
        assert refused(answer) == (400, "MANIFEST_INVALID")


# --- limits of one's own --------------------------------------------------------------------------


def test_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    """Each limit is a setting; a refused upload costs nothing, an idle one ends by itself."""
    limits = {
        "--max-manifest": "2KiB",
        "--max-name": "300",
        "--max-uploads": "2",
        "--max-descriptors": "3",
        "--upload-idle": "2s",
    }
    arguments = [word for pair in limits.items() for word in pair]
    with (
        UllageServer(tmp_path / "data", *arguments) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        long = "a" * 300
        manifest = image(client, long, [b"1", b"2"])
        assert put_manifest(client, long, "v1", manifest).status_code == 201
        assert refused(client.get(f"/v2/{long}a/tags/list")) == (404, "NAME_UNKNOWN")
        four = image(client, "app", [b"1", b"2", b"3", b"4"])
        answer = put_manifest(client, "app", "v1", four)
        assert refused(answer) == (400, "MANIFEST_INVALID")
        assert "--max-descriptors" in answer.json()["errors"][0]["message"]
        padded = manifest | {"x": " " * 2048}
        assert refused(put_manifest(client, long, "v2", padded)) == (413, "MANIFEST_INVALID")

        first, second = start_upload(client, long), start_upload(client, "app")
        assert client.patch(first, content=b"data").status_code == 202
        # One without a byte would make way for the next one.
        assert client.patch(second, content=b"data").status_code == 202
        elsewhere = client.patch(first, content=b"x", headers={"Content-Range": "0-0"})
        assert (elsewhere.status_code, elsewhere.headers["Location"]) == (416, first)
        third = client.post("/v2/app/blobs/uploads/")
        assert refused(third) == (429, "TOOMANYREQUESTS")
        assert 0 < int(third.headers["Retry-After"]) <= 60
        assert client.delete(second).status_code == 204
        deadline = time.monotonic() + 20
        while client.get(first).status_code == 204:
            assert time.monotonic() < deadline, "an idle upload does not end"
            # The worker looks around every 30 s, and whenever something has been given up.
            given_up = start_upload(client, "app")
            assert client.patch(given_up, content=b"x").status_code == 202
            assert client.delete(given_up).status_code == 204
            time.sleep(0.05)
        while list(server.data.glob("uploads/*")):
            assert time.monotonic() < deadline, "its bytes are left behind"
            time.sleep(0.05)
        server.assert_no_500()


@pytest.mark.postgresql
def test_postgresql_is_never_asked_for_what_it_cannot_hold(ullage_server_pg: UllageServer) -> None:
    """reliability.md section 5: NUL, numbers beyond 64 bits, and text that would be a pattern."""
    with httpx.Client(base_url=ullage_server_pg.url, timeout=30) as client:
        push_image(client, "app", "v1")
        for path, status in {
            "/v2/_catalog?last=%00": 400,
            "/v2/app/tags/list?last=a%00b": 400,
            f"/v2/app/referrers/{DIGEST}?artifactType=%00": 400,
            "/v2/_catalog?n=9223372036854775808": 200,
            "/v2/_catalog?last=%F0%9F%90%B3": 200,
            f"/v2/app/tags/list?last={'%25' * 2600}": 200,
            f"/v2/app/referrers/{DIGEST}?last=%5C%5C&artifactType=%25": 200,
            "/v2/app/manifests/%00": 404,
            "/v2/a%00/manifests/v1": 404,
        }.items():
            assert client.get(path).status_code == status, path
        for what in ("NUL", "a lone surrogate", "a huge size", "5,000 digits elsewhere"):
            raw = BAD_MANIFESTS[what]
            assert client.put("/v2/app/manifests/v2", content=raw).status_code == 400, what
        raw = encoded(image(client, "app", annotations={"x": "\U0001f433 \u2028 \\ % _"}))
        assert client.put("/v2/app/manifests/v3", content=raw).status_code == 201
        assert client.get("/v2/app/manifests/v3").content == raw

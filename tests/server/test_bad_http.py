"""HTTP as no client should speak it (F32, F38): answered or closed, and never out of step.

After every odd request the same connection is asked something plain. It is answered once, as asked,
or the connection is closed: no byte of one request is ever taken for another one.
"""

import itertools

import httpx
import pytest

from tests.server.pushing import push_blob, refused, start_upload
from tests.server.raw import Answer, Connection
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of

PLAIN = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
PUT = b"PUT /v2/app/manifests/v1 HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\n"


def answers(server: UllageServer, request: bytes) -> list[int]:
    """The statuses of all answers until the server closes, at the latest after a plain request."""
    last = PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    statuses: list[int] = []
    with Connection(server) as connection:
        connection.send(request + last)
        while not connection.is_closed():
            to_head = request.startswith(b"HEAD") and not statuses
            statuses.append(connection.answer(to_head=to_head).status)
    return statuses


# --- heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        # RFC 9112, section 3.2: exactly one Host, which an absolute form overrules.
        (b"GET /v2/ HTTP/1.1\r\n\r\n", [400, 200]),
        (b"GET /v2/ HTTP/1.1\r\nHost:\r\n\r\n", [400, 200]),
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", [400, 200]),
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nhost: y\r\n\r\n", [400, 200]),
        (b"GET http://other/v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", [200, 200]),
        (
            b"GET http://other/v2/a%2Fb/tags/list?n=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            [404, 200],
        ),
        (b"GET http://other HTTP/1.1\r\nHost: localhost\r\n\r\n", [200, 200]),
        # HTTP/1.0 knows neither Host nor connections that stay open.
        (b"GET /v2/ HTTP/1.0\r\n\r\n", [200]),
        (b"GET /v2/nothing HTTP/1.0\r\nHost: localhost\r\n\r\n", [404]),
        (b"GET /v2/ HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", [200, 200]),
        # Methods.
        (b"get /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", [405, 200]),
        (b"F" * 3000 + b" /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", [405, 200]),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", [404, 200]),
        (b"CONNECT other:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", [405, 200]),
        # Offers that are not taken.
        (
            b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            [200, 200],
        ),
        (
            b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nAccept: */*;q=x\r\n\r\n",
            [200, 200],
        ),
        (b"GET /v2/#part HTTP/1.1\r\nHost: localhost\r\n\r\n", [200, 200]),
        # Bytes that are not text (a User-Agent is kept, quoted, and goes nowhere else).
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUser-Agent: \xe9\xff\r\n\r\n", [200, 200]),
        (b"GET /v2/\xc3\xa9/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n", [404, 200]),
        # What is no HTTP is not guessed at: closed.
        (b"GET /v2/ HTTP/2.0\r\nHost: localhost\r\n\r\n", [400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10, [400]),
        (b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
        (b"GET /v2/ a HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
        (b"GET /v2/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
        (b"GET /v2/?last=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
        (b"GET \\v2\\ HTTP/1.1\r\nHost: localhost\r\n\r\n", [400]),
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX : a\r\n\r\n", [400]),
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", [400]),
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUser-Agent: \x1b[31m\r\n\r\n", [400]),
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUser-Agent: \0\r\n\r\n", [400]),
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a\rb\r\n\r\n", [400]),
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n", [431]),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", [414]),
    ],
)
def test_heads_of_all_kinds(server: UllageServer, request_head: bytes, expected: list[int]) -> None:
    assert answers(server, request_head) == expected


# --- lengths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        (POST + b"Content-Length: -1\r\n\r\n", [400]),
        (POST + b"Content-Length: +0\r\n\r\n", [400]),
        (POST + b"Content-Length: 0x0\r\n\r\n", [400]),
        (POST + b"Content-Length: 1_0\r\n\r\n", [400]),
        (POST + b"Content-Length: \r\n\r\n", [400]),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", [400]),
        (POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", [400]),
        (POST + b"Content-Length: 4, 5\r\n\r\nabcd", [400]),
        # RFC 9112, section 6.1: chunked must come last, else the end of the body is unknown.
        (POST + b"Transfer-Encoding: gzip\r\n\r\n", [400]),
        (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", [400]),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", [400]),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", [415, 200]),
        (POST + b"Transfer-Encoding: gzip\r\n" + CHUNKED + b"0\r\n\r\n", [400, 200]),
        # Chunks.
        (PUT + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", [400, 200]),
        (PUT + CHUNKED + b"2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n", [400, 200]),
        (PUT + CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", [400]),
        (PUT + CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", [400]),
        (PUT + CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n", [400]),
        (PUT + CHUNKED + b"fffffffffffffffffff\r\n{}\r\n0\r\n\r\n", [400]),
        (PUT + CHUNKED + b"1\r\n{}\r\n0\r\n\r\n", [400]),
        (PUT + CHUNKED + b"2\n{}\n0\n\n", [400]),
        (PUT + CHUNKED + b"2\r\n{}\r\n0\r\nno trailer\r\n\r\n", [400]),
    ],
)
def test_lengths_of_all_kinds(server: UllageServer, odd: bytes, expected: list[int]) -> None:
    """F32: a length that can be read in two ways, or not at all."""
    assert answers(server, odd) == expected


def test_chunked_overrules_a_length_and_the_connection_ends(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """RFC 9112, section 6.1: what follows is never taken for a request (smuggling)."""
    location = start_upload(client, name)
    smuggled = f"DELETE {location} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for headers in (
        b"Content-Length: 6\r\n" + CHUNKED,
        CHUNKED[:-2] + b"Content-Length: 6\r\n\r\n",
    ):
        with Connection(server) as connection:
            connection.send(POST + headers + b"0\r\n\r\n" + smuggled)
            answer = connection.answer()
            assert (answer.status, answer.headers["connection"]) == (202, "close")
            assert connection.is_closed()
    assert client.get(location).status_code == 204


def test_what_follows_a_body_is_the_next_request(server: UllageServer) -> None:
    """F32: longer than announced; what is left over is no HTTP, so it is 400 and closed."""
    assert answers(server, PUT + b"Content-Length: 2\r\n\r\n{}garbage\r\n\r\n") == [400, 400]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_body_where_none_belongs_is_skipped(server: UllageServer, method: str) -> None:
    """F38: its bytes are not the next request; one that is too long ends the connection."""
    head = f"{method} /v2/app/manifests/v1 HTTP/1.1\r\nHost: localhost\r\n".encode()
    hidden = PLAIN * 3
    length = b"Content-Length: %d\r\n\r\n" % len(hidden)
    assert answers(server, head + length + hidden) == [404, 200]
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
    assert answers(server, head + CHUNKED + chunk) == [404, 200]
    hidden *= 20_000
    length = b"Content-Length: %d\r\n\r\n" % len(hidden)
    assert answers(server, head + length + hidden) == [404]


@pytest.mark.parametrize("body", [b"", b"{", b"{}" * 1000])
def test_a_body_cut_short_is_told_so(
    server: UllageServer, client: httpx.Client, body: bytes
) -> None:
    """F32: a client that half-closes still reads what was wrong."""
    for head in (
        PUT + b"Content-Length: 3000\r\n\r\n" + body,
        PUT + CHUNKED + b"bb8\r\n" + body,
        POST.replace(b"uploads/", b"uploads/?digest=" + digest_of(b"x").encode())
        + b"Content-Length: 3000\r\n\r\n"
        + body,
    ):
        with Connection(server) as connection:
            answer = connection.send(head).half_close().answer()
            assert (answer.status, answer.code) == (400, "SIZE_INVALID")
            assert connection.is_closed()
    assert refused(client.get("/v2/app/manifests/v1")) == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize(
    "broken",
    [b"zz\r\n", b"5\r\nworldx", b"0\r\nno trailer\r\n\r\n"],
    ids=["length", "end of chunk", "trailer"],
)
def test_what_came_before_a_broken_chunk_is_kept(
    server: UllageServer, client: httpx.Client, name: str, broken: bytes
) -> None:
    """F31: for an upload a broken body is a broken line."""
    location = start_upload(client, name)
    head = f"PATCH {location} HTTP/1.1\r\nHost: localhost\r\n".encode()
    with Connection(server) as connection:
        answer = connection.send(head + CHUNKED + b"5\r\nhello\r\n" + broken).answer()
        assert (answer.status, answer.code) == (400, "SIZE_INVALID")
        assert connection.is_closed()
    assert client.get(location).headers["Range"] in ("0-4", "0-9")


# --- conversations --------------------------------------------------------------------------------


def test_requests_may_come_before_the_last_answer(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """F38: pipelined requests are answered in order, failures among them."""
    digest = push_blob(client, name, b"hello")
    expected = {
        "/v2/": (200, b"{}"),
        f"/v2/{name}/blobs/{digest}": (200, b"hello"),
        f"/v2/{name.upper()}/tags/list": (404, None),
        "/nowhere": (404, None),
    }
    paths = list(itertools.islice(itertools.cycle(expected), 40))
    with Connection(server) as connection:
        connection.send(
            b"".join(f"GET {p} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for p in paths)
        )
        for path in paths:
            answer = connection.answer()
            status, body = expected[path]
            assert answer.status == status, path
            assert body is None or answer.body == body, path


def test_a_connection_goes_on_after_every_refusal(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """F38: an error is an answer like any other, if its request was read to the end."""
    location = start_upload(client, name)
    refusals = [
        ("PUT", f"/v2/{name}/manifests/v1", b"{"),
        ("PUT", f"/v2/{name}/manifests/-", b"{}"),
        ("PATCH", f"{location}0", b"data"),
        ("PUT", f"{location}?digest={digest_of(b'x')}", b"data"),
        ("POST", f"/v2/{name}/blobs/uploads/?digest={digest_of(b'x')}", b"data"),
        ("DELETE", f"/v2/{name}/manifests/v1", b""),
        ("POST", f"/v2/{name}/tags/list", b"data"),
    ]
    with Connection(server) as connection:
        for method, path, body in refusals:
            answer = connection.request(method, path, body=body).answer()
            assert 400 <= answer.status < 500, path
            assert connection.send(PLAIN).answer().status == 200, path


def expecting(connection: Connection, method: str, path: str, length: int) -> Answer:
    """Send a request's head with Expect: 100-continue; returns the first answer."""
    return connection.request(method, path, "Expect: 100-continue\r\n", length=length).answer()


def test_a_client_that_asks_first_is_told_to_go_on(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """RFC 9110, section 10.1.1."""
    location = start_upload(client, name)
    digest = digest_of(b"hello")
    with Connection(server) as connection:
        assert expecting(connection, "PATCH", location, 5).status == 100
        assert connection.send(b"hello").answer().status == 202
        assert connection.request("PUT", f"{location}?digest={digest}").answer().status == 201
    assert client.get(f"/v2/{name}/blobs/{digest}").content == b"hello"


def test_a_client_that_asks_first_saves_itself_the_body(
    server: UllageServer, client: httpx.Client, name: str
) -> None:
    """RFC 9110, section 10.1.1: a refusal comes instead of 100."""
    location = start_upload(client, name)
    for method, path, length, status in [
        ("PUT", f"/v2/{name}/manifests/v1", 10**9, 413),
        ("PUT", f"/v2/{name}/manifests/-", 2, 400),
        ("PATCH", f"{location}0", 10**9, 404),
        ("PUT", f"{location}?digest=sha256:00", 10**9, 400),
        ("POST", f"/v2/{name.upper()}/blobs/uploads/?digest={digest_of(b'')}", 10**9, 400),
    ]:
        with Connection(server) as connection:
            assert expecting(connection, method, path, length).status == status

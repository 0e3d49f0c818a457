"""Large blobs that nginx in front sends itself, set up as docs/guides/access.md has it."""

import http.client
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.connection import Connection
from bench.images import Blob, push_blob
from tests.support.nginx import Nginx
from tests.support.server import UllageServer
from ullage.server.http.blob_response import SMALL_BYTES

pytestmark = pytest.mark.thorough

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "access.md"
FOR_A_CLIENT = {"X-Forwarded-For": "192.0.2.7"}
LARGE, SMALL = Blob.random(3 * 1024 * 1024 + 7), Blob.random(SMALL_BYTES)
SETTINGS = ("--trusted-proxies", "127.0.0.1", "--send-file", "nginx:/ullage-files/")
# What each answer has of its own, and what the server says of itself and of the file.
_OF_ONE = ("date", "x-request-id", "x-ms-correlation-request-id")
_OF_SERVER = ("server", "connection", "last-modified")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    port: int, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=dict(headers or {}))
    response = connection.getresponse()
    fields = [(name.lower(), value) for name, value in response.getheaders()]
    headers_of = {name: response.headers[name] for name, _ in fields}
    headers_of["cache-control"] = ", ".join(response.headers.get_all("cache-control", []))
    answer = Answer(response.status, headers_of, response.read())
    connection.close()
    # Only what may be a list comes twice: RFC 9110, section 5.3.
    names = [name for name, _ in fields if name != "cache-control"]
    assert len(set(names)) == len(names), f"a field came twice: {fields}"
    return answer


def port_of(server: UllageServer) -> int:
    return int(server.host.rpartition(":")[2])


def path_of(blob: Blob) -> str:
    return f"/v2/app/blobs/{blob.digest}"


def as_in_the_guide(upstream: str, blobs: Path) -> str:
    """What the guide has between the braces of its server, for this registry."""
    [block] = re.findall(
        r"```nginx\nserver \{\n    listen 80;\n(.*?)\n\}\n```", GUIDE.read_text(), re.S
    )
    text: str = block.replace("127.0.0.1:5000", upstream)
    assert "alias /srv/ullage/blobs/;" in text
    return text.replace("/srv/ullage/blobs/", f"{blobs}/")


@contextmanager
def behind_nginx(
    server: UllageServer, folder: Path, *, upstream: str = "", blobs: Path | None = None
) -> Iterator[int]:
    """The port of an nginx in front of a registry."""
    text = as_in_the_guide(upstream or server.host, blobs or server.data / "blobs")
    with Nginx(folder, server.host, server=text) as nginx:
        yield nginx.port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    with UllageServer(tmp_path_factory.mktemp("send-file") / "data", *SETTINGS) as server:
        with Connection(server.url) as connection:
            for blob in (LARGE, SMALL):
                push_blob(connection, "app", blob.data, blob.digest)
        yield server
        server.assert_no_500()


@pytest.fixture(scope="module")
def nginx(server: UllageServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with behind_nginx(server, tmp_path_factory.mktemp("behind") / "nginx") as port:
        yield port


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"Range": "bytes=5-1000004"},
        {"Range": "bytes=3145730-"},
        {"Range": "bytes=-9"},
        {"Range": "bytes=0-99999999"},
        # RFC 9110, section 14.2: what is ignored is ignored by nginx, too.
        {"Range": "bytes=0-1,5-6"},
        {"Range": "bytes=9-1"},
        {"Range": "lines=1-2"},
        {"Range": "bytes=99999999-"},
        {"Range": "bytes=5-9", "If-Range": f'"{LARGE.digest}"'},
        {"Range": "bytes=5-9", "If-Range": '"another"'},
        {"Range": "bytes=5-9", "If-Range": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"If-None-Match": f'"{LARGE.digest}"'},
        {"If-None-Match": '"another"'},
    ],
    # Digests are others in each worker.
    ids=lambda asked: str(asked).replace(LARGE.digest, "its own"),
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("blob", [LARGE, SMALL], ids=["large", "small"])
def test_clients_of_nginx_get_what_those_of_the_registry_get(
    server: UllageServer, nginx: int, blob: Blob, method: str, asked: dict[str, str]
) -> None:
    """Status, body and every field of ours; nginx adds what it is and when the file was written."""
    own = ask(port_of(server), path_of(blob), asked, method)
    found = ask(nginx, path_of(blob), asked, method)
    assert (found.status, found.body) == (own.status, own.body)
    for answer in (own, found):
        for name in _OF_SERVER:
            answer.headers.pop(name, None)
    if found.status == 206 and "accept-ranges" not in found.headers:
        # It has just shown that it takes them.
        found.headers["accept-ranges"] = own.headers["accept-ranges"]
    assert set(found.headers) == set(own.headers)
    for name in set(own.headers).difference(_OF_ONE):
        assert found.headers[name] == own.headers[name]


def test_nginx_sends_what_is_large_and_the_registry_what_is_small(server: UllageServer) -> None:
    """The path is that of the file below the store's folder."""
    large = ask(port_of(server), path_of(LARGE), FOR_A_CLIENT)
    assert (large.status, large.body, large.headers["content-length"]) == (200, b"", "0")
    location, _, place = large.headers["x-accel-redirect"].partition("/blobs/")
    assert location == "/ullage-files"
    assert (server.data / "blobs" / place).read_bytes() == LARGE.data
    small = ask(port_of(server), path_of(SMALL), FOR_A_CLIENT)
    assert (small.body, "x-accel-redirect" in small.headers) == (SMALL.data, False)


@pytest.mark.parametrize("asked", [{}, {"Range": "bytes=0-9"}], ids=str)
def test_others_than_nginx_get_the_bytes(server: UllageServer, asked: dict[str, str]) -> None:
    """A client on the proxy's machine, one on another, and a proxy that wants the bytes."""
    wanted = LARGE.data[:10] if asked else LARGE.data
    assert ask(port_of(server), path_of(LARGE), asked).body == wanted
    off = {"Ullage-Send-File": "off"}
    assert ask(port_of(server), path_of(LARGE), FOR_A_CLIENT | off | asked).body == wanted
    host = ("127.0.0.1", port_of(server))
    with socket.create_connection(host, source_address=("127.0.0.2", 0)) as other:
        lines = [f"GET {path_of(LARGE)} HTTP/1.1", f"Host: {server.host}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (FOR_A_CLIENT | asked).items()]
        other.sendall("\r\n".join([*lines, "", ""]).encode())
        received = b"".join(iter(lambda: other.recv(1 << 20), b""))
    assert received.partition(b"\r\n\r\n")[2] == wanted


def test_the_files_are_no_clients_business(server: UllageServer, nginx: int) -> None:
    place = ask(port_of(server), path_of(LARGE), FOR_A_CLIENT).headers["x-accel-redirect"]
    assert ask(nginx, place).status == 404
    assert ask(nginx, "/ullage-files/blobs/../ullage.db").status == 404


def test_what_nginx_cannot_open_comes_from_the_registry(
    server: UllageServer, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    with behind_nginx(server, tmp_path / "nginx", blobs=tmp_path / "elsewhere") as port:
        whole = ask(port, path_of(LARGE))
        assert (whole.status, whole.body) == (200, LARGE.data)
        assert whole.headers["etag"] == f'"{LARGE.digest}"'
        assert ask(port, path_of(LARGE), {"Range": "bytes=1-4"}).body == LARGE.data[1:5]


# --- a deletion between the answer and nginx's opening of the file -------------------------------


class Delayed:
    """Passes a registry's answers on to nginx, those with X-Accel-Redirect not before `go`."""

    def __init__(self, upstream: str) -> None:
        self.told, self.go = threading.Event(), threading.Event()
        self._upstream = upstream
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.go.set()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One request; nginx asks for its connection to be closed after it (HTTP/1.0)."""
        host, _, port = self._upstream.partition(":")
        with client, socket.create_connection((host, int(port))) as server:
            server.sendall(client.recv(1 << 16))
            answer = b"".join(iter(lambda: server.recv(1 << 20), b""))
            if b"x-accel-redirect" in answer:
                self.told.set()
                self.go.wait(60)
            client.sendall(answer)


@pytest.fixture
def delayed(server: UllageServer) -> Iterator[Delayed]:
    delayed = Delayed(server.host)
    yield delayed
    delayed.close()


def deleted(server: UllageServer, blob: Blob) -> None:
    with Connection(server.url) as connection:
        connection.expect(202, "DELETE", path_of(blob))


def asked_in_between(
    port: int, blob: Blob, delayed: Delayed
) -> tuple[threading.Thread, list[Answer]]:
    """A client asks; returns once the registry has told nginx to send the file."""
    answers: list[Answer] = []
    client = threading.Thread(target=lambda: answers.append(ask(port, path_of(blob))))
    client.start()
    assert delayed.told.wait(60)
    return client, answers


def pushed(server: UllageServer) -> tuple[Blob, Path]:
    """A new blob, and its file."""
    blob = Blob.random(1_000_000)
    with Connection(server.url) as connection:
        push_blob(connection, "app", blob.data, blob.digest)
    place = ask(port_of(server), path_of(blob), FOR_A_CLIENT).headers["x-accel-redirect"]
    return blob, server.data / place.removeprefix("/ullage-files/")


def test_a_blob_that_is_deleted_before_nginx_opens_it_is_still_sent(
    tmp_path: Path,
) -> None:
    """deletion.md section 3.3, read grace: here an hour, so that no machine is too slow for it."""
    with UllageServer(tmp_path / "data", *SETTINGS, "--read-grace", "1h") as server:
        delayed = Delayed(server.host)
        blob, file = pushed(server)
        with behind_nginx(server, tmp_path / "nginx", upstream=delayed.host) as port:
            client, answers = asked_in_between(port, blob, delayed)
            deleted(server, blob)
            assert ask(port_of(server), path_of(blob)).status == 404
            delayed.go.set()
            client.join()
        delayed.close()
        assert file.exists()
    assert (answers[0].status, answers[0].body) == (200, blob.data)


def test_nginx_that_comes_after_the_bytes_are_gone_asks_again(
    server: UllageServer, delayed: Delayed, tmp_path: Path
) -> None:
    """deletion.md R20: the truth, in the registry's words, and nothing of another blob."""
    blob, file = pushed(server)
    with behind_nginx(server, tmp_path / "nginx", upstream=delayed.host) as port:
        client, answers = asked_in_between(port, blob, delayed)
        deleted(server, blob)
        while file.exists():
            os.sched_yield()
        delayed.go.set()
        client.join()
    assert answers[0].status == 404
    assert b'"BLOB_UNKNOWN"' in answers[0].body
    assert "no-store" in answers[0].headers["cache-control"]

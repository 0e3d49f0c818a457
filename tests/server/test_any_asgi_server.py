"""The application under another ASGI server than the one we serve it with: in process, by hand.

Also what no real server does on demand: paths without their raw form, HTTP/2, cancelled requests.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.server.pushing import encoded
from tests.support.clock import FakeClock
from tests.support.registry import CONFIG, LAYER, MANIFEST, descriptor, make_registry, push_blob
from ullage.blobs.memory import MemoryAppend, MemoryBlobStore
from ullage.oci.digest import digest_of
from ullage.oci.errors import RegistryError
from ullage.registry.context import Registry
from ullage.server.app import App, create_app
from ullage.server.http.authentication import Guard
from ullage.server.http.bodies import Bodies
from ullage.server.http.context import Context
from ullage.server.http.origins import OwnOrigins
from ullage.server.http.permissions import KNOWN
from ullage.server.http.routes import Route, Router
from ullage.server.http.shared_reads import SharedReads
from ullage.server.http.threads import FairThreads, Threads
from ullage.server.http.write_batches import WriteBatches
from ullage.server.monitoring.counting import RequestCounts
from ullage.server.monitoring.health import Health
from ullage.server.monitoring.sources import Sources

LARGE = os.urandom(3 * 1024 * 1024)
Message = MutableMapping[str, Any]


@pytest.fixture
def store() -> MemoryBlobStore:
    return MemoryBlobStore()


@pytest.fixture
def registry(tmp_path: Path, store: MemoryBlobStore, clock: FakeClock) -> Iterator[Registry]:
    registry = make_registry(f"sqlite:///{tmp_path / 'ullage.db'}", store, clock)
    yield registry
    registry.db.close()


def converse(app: ASGIApp, conversation: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Talk to the application through httpx's own ASGI server, which offers no extensions."""

    async def run() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await conversation(client)

    asyncio.run(run())


def scope_of(method: str, path: str, **changes: Any) -> dict[str, Any]:
    """What a server says about a request."""
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("192.0.2.1", 1234),
        "server": ("registry", 80),
        **changes,
    }


async def ask(
    app: ASGIApp, scope: dict[str, Any], *pieces: bytes, cut: bool = False
) -> tuple[int, dict[str, str], bytes]:
    """Send a request and its body; `cut`: the client goes away before the body's end."""
    incoming = [
        {"type": "http.request", "body": piece, "more_body": cut or number < len(pieces)}
        for number, piece in enumerate(pieces or (b"",), 1)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], headers, body


# --- ordinary use ---------------------------------------------------------------------------------


def test_an_image_goes_in_and_comes_out(registry: Registry) -> None:
    async def conversation(client: httpx.AsyncClient) -> None:
        for blob in (b"{}", LARGE):
            opened = await client.post("/v2/team/app/blobs/uploads/")
            location = opened.headers["Location"]
            assert (await client.patch(location, content=blob)).status_code == 202
            put = await client.put(location, params={"digest": digest_of(blob)})
            assert put.status_code == 201
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, b"{}"),
            "layers": [descriptor(LAYER, LARGE)],
        }
        put = await client.put("/v2/team/app/manifests/v1", content=encoded(manifest))
        assert put.status_code == 201
        got = await client.get("/v2/team%2Fapp/manifests/v1")
        assert (got.status_code, got.content) == (200, encoded(manifest))
        path = f"/v2/team/app/blobs/{digest_of(LARGE)}"
        assert (await client.get(path)).content == LARGE
        part = await client.get(path, headers={"Range": "bytes=5-2000000"})
        assert (part.status_code, part.content) == (206, LARGE[5:2_000_001])
        for answer in (await client.get("/v2/%2e%2e/tags/list"), await client.get("/nowhere")):
            assert answer.json()["errors"][0]["code"] in ("NAME_UNKNOWN", "NOT_FOUND")
        digest = put.headers["Docker-Content-Digest"]
        deleted = await client.delete(f"/v2/team/app/manifests/{digest}")
        assert deleted.status_code == 202

    converse(create_app(registry), conversation)


def test_a_server_may_leave_out_the_raw_path(registry: Registry) -> None:
    """It is optional in ASGI; what was decoded is not decoded once more."""
    app = create_app(registry)

    async def run() -> None:
        push_blob(registry, "team/app", b"data")
        for path, status in {
            f"/v2/team/app/blobs/{digest_of(b'data')}": 200,
            "/v2/team%2Fapp/tags/list": 404,
            "/v2/\u00e9/tags/list": 404,
            "/v2/": 200,
        }.items():
            scope = scope_of("GET", path)
            del scope["raw_path"]
            found, _, body = await ask(app, scope)
            assert found == status, (path, body)

    asyncio.run(run())


def test_http_2_has_bodies_without_a_length(registry: Registry) -> None:
    """There a PUT may bring bytes that no header has announced."""
    app = create_app(registry)

    async def run() -> None:
        for pieces in ((b"da", b"ta"), (b"",)):
            digest = digest_of(b"".join(pieces))
            _, headers, _ = await ask(app, scope_of("POST", "/v2/app/blobs/uploads/"))
            target = f"{headers['location']}?digest={digest}"
            status, _, _ = await ask(app, scope_of("PUT", target, http_version="2"), *pieces)
            assert status == 201
            got = await ask(app, scope_of("GET", f"/v2/app/blobs/{digest}"))
            assert got[2] == b"".join(pieces)

    asyncio.run(run())


def test_it_lives_as_long_as_its_server(registry: Registry) -> None:
    """The lifespan protocol; with other protocols than HTTP it has nothing to do."""
    app = create_app(registry)

    async def run() -> None:
        incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[Message] = []

        async def receive() -> Message:
            return incoming.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        await app({"type": "lifespan"}, receive, send)
        assert [message["type"] for message in sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]
        await app({"type": "websocket"}, receive, send)
        assert len(sent) == 2

    asyncio.run(run())


# --- clients that go away -------------------------------------------------------------------------


def test_what_arrived_before_the_client_went_is_kept(registry: Registry) -> None:
    app = create_app(registry)

    async def run() -> None:
        _, headers, _ = await ask(app, scope_of("POST", "/v2/app/blobs/uploads/"))
        session = headers["location"]
        status, _, _ = await ask(app, scope_of("PATCH", session), LARGE, b"data", cut=True)
        assert status == 400
        status, headers, _ = await ask(app, scope_of("GET", session))
        assert headers["range"] == f"0-{len(LARGE) + 3}"

    asyncio.run(run())


def test_a_blob_is_not_read_for_a_client_that_went(registry: Registry) -> None:
    """Some servers take bytes for a client that is gone, without an error."""
    app = create_app(registry)
    digest = push_blob(registry, "app", LARGE)

    async def run() -> None:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            await asyncio.sleep(0)

        await app(scope_of("GET", f"/v2/app/blobs/{digest}"), receive, send)
        assert sum(len(message.get("body", b"")) for message in sent) < len(LARGE)

    asyncio.run(run())


class Stalling(MemoryBlobStore):
    """A disk that takes its time: writing waits for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.writing, self.go = threading.Event(), threading.Event()

    def begin(self, key: str) -> MemoryAppend:
        return self._stalling(super().begin(key))

    def resume(self, key: str, offset: int, state: str) -> MemoryAppend:
        return self._stalling(super().resume(key, offset, state))

    def _stalling(self, append: MemoryAppend) -> MemoryAppend:
        write = append.write

        def stalled(data: bytes | bytearray | memoryview) -> None:
            self.writing.set()
            assert self.go.wait(20)
            write(data)

        append.write = stalled  # type: ignore[method-assign]
        return append


@pytest.mark.parametrize(("times", "kept"), [(1, 2), (2, 1)])
def test_a_cancelled_upload_is_not_let_go_while_it_is_written(
    tmp_path: Path, clock: FakeClock, times: int, kept: int
) -> None:
    """A server that is stopped cancels requests; a thread may be in the middle of a write then.

    One in a hurry cancels once more: then only what is being written is kept.
    """
    store = Stalling()
    registry = make_registry(f"sqlite:///{tmp_path / 'ullage.db'}", store, clock)
    app = create_app(registry)

    async def run() -> None:
        _, headers, _ = await ask(app, scope_of("POST", "/v2/app/blobs/uploads/"))
        session = headers["location"]
        # The first piece is being written, so the second one waits; the third never comes.
        pieces = [{"type": "http.request", "body": LARGE, "more_body": True} for _ in range(2)]

        last_taken = asyncio.Event()

        async def receive() -> Message:
            if not pieces:
                last_taken.set()
                await asyncio.Event().wait()
            return pieces.pop()

        async def send(message: Message) -> None: ...

        request = asyncio.ensure_future(app(scope_of("PATCH", session), receive, send))
        await asyncio.to_thread(store.writing.wait, 20)
        await last_taken.wait()
        for _ in range(times):
            request.cancel()
            done, _ = await asyncio.wait({request}, timeout=0.05)
            assert not done, "ended while its bytes are being written"
        store.go.set()
        with pytest.raises(asyncio.CancelledError):
            await request
        _, headers, _ = await ask(app, scope_of("GET", session))
        assert headers["range"] == f"0-{kept * len(LARGE) - 1}"
        target = f"{session}?digest={digest_of(LARGE * kept)}"
        status, _, _ = await ask(app, scope_of("PUT", target))
        assert status == 201

    asyncio.run(run())
    registry.db.close()


# --- defects of our own ---------------------------------------------------------------------------


def app_with(registry: Registry, handler: Callable[..., Awaitable[Response]]) -> App:
    """The application with a handler that is not ours."""
    threads = Threads(1, inline_reads=True)
    reads = SharedReads(registry, threads)
    batches, bodies = WriteBatches(registry, threads), Bodies(threads, 60)
    origins = OwnOrigins(listen_host="", external_url="", hosts=())
    guard = Guard(None, threads, FairThreads(1), origins)
    sources = Sources(registry, RequestCounts(), {}, {})
    context = Context(
        registry, threads, reads, batches, bodies, guard, Health.of(registry), sources
    )
    return App(context, Router([Route("x", "GET", "/x", handler, KNOWN)]), None)


def test_a_defect_is_a_500_with_a_number_to_report(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """S58: the client gets no traceback, path or secret; the log has them under the same number."""

    async def broken(context: Context, request: Request) -> Response:
        raise RuntimeError("a secret")

    async def run() -> None:
        status, headers, body = await ask(app_with(registry, broken), scope_of("GET", "/x"))
        assert (status, headers["content-type"]) == (500, "application/json")
        assert b"secret" not in body
        number = httpx.Response(status, content=body).json()["errors"][0]["detail"]["request_id"]
        assert number in caplog.text
        assert "a secret" in caplog.text
        assert "500 GET /x" in caplog.text

    asyncio.run(run())


def test_an_error_without_a_status_is_a_defect(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """A 500 that is not logged is not found."""

    class Forgotten(RegistryError):
        code = "FORGOTTEN"

    async def broken(context: Context, request: Request) -> Response:
        raise Forgotten

    async def run() -> None:
        status, _, body = await ask(app_with(registry, broken), scope_of("GET", "/x"))
        assert (status, b"UNKNOWN" in body) == (500, True)
        assert "Forgotten has no status" in caplog.text

    asyncio.run(run())


def test_an_answer_that_breaks_off_is_logged_and_raised(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the server can break the connection, so that no client takes the answer for whole."""

    class Short(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError("in the middle")

    async def broken(context: Context, request: Request) -> Response:
        return Short()

    async def run() -> None:
        with pytest.raises(RuntimeError, match="in the middle"):
            await ask(app_with(registry, broken), scope_of("GET", "/x"))
        assert "broke off the answer to GET /x" in caplog.text

    asyncio.run(run())

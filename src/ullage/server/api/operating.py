"""`/api/v1/audit`, `uploads` and `check`: what goes on in the registry, for administrators."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ullage.accounts.audit_log import TimeInvalid, list_audit
from ullage.accounts.documents import AuditDocument
from ullage.check.findings import Report
from ullage.documents import Document, RequestBody
from ullage.oci.errors import BlobUploadUnknown, TooManyRequests, Unavailable, ValueInvalid
from ullage.registry.push import open_uploads
from ullage.registry.push.open_uploads import UploadDocument
from ullage.server.http.context import Context, caller_of, query_of
from ullage.server.http.errors import error_response
from ullage.server.http.json_bodies import read_body, seen
from ullage.server.http.operations import Operation, Parameter, page
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import ADMINISTRATION_READ, ADMINISTRATION_WRITE
from ullage.server.http.request import Request
from ullage.server.http.responses import API_VERSION, encoded, json_response
from ullage.server.http.routes import Route

# A check that takes longer begins its answer, so that no proxy gives it up.
PATIENCE_SECONDS = 5.0


class AuditEntries(Document, frozen=True):
    """A page of the audit log, the newest entry first."""

    entries: list[AuditDocument]


class Uploads(Document, frozen=True):
    """Upload sessions by repository and id."""

    uploads: list[UploadDocument]


class CheckRequest(RequestBody, frozen=True):
    """How much to look at, and whether to mend what is safe to mend."""

    mode: Literal["fast", "default", "deep"] = "default"
    repair: bool = False


async def list_entries(context: Context, request: Request) -> Response:
    """Who changed what, the newest first, page by page."""
    query = query_of(request)
    n = page_size(query, context.registry.limits.max_page_size, 100)
    wanted = {name: query.one(name) for name in _FILTERS}
    last = query.one("last")
    entries = await context.threads.submit(
        list_audit,
        context.registry,
        **wanted,
        top=max(n, 1),
        before=None if last is None else seen(last),
    )
    path = "/api/v1/audit"
    more = next_link(path, n=n, last=entries[-1].id, **wanted) if 0 < n <= len(entries) else {}
    return json_response(AuditEntries(entries if n else []), headers=more)


async def list_uploads(context: Context, request: Request) -> Response:
    """Open upload sessions: all of them, or those of a repository or an account."""
    query = query_of(request)
    found = await context.threads.submit(
        open_uploads.list_uploads,
        context.registry,
        repository=query.one("repository"),
        account=query.one("account"),
    )
    return json_response(Uploads(found))


async def cancel_uploads(context: Context, request: Request) -> Response:
    """End an upload session, or those of a repository or an account."""
    query = query_of(request)
    ended = await context.threads.submit(
        open_uploads.cancel_uploads,
        context.registry,
        caller_of(request),
        upload=query.one("upload"),
        repository=query.one("repository"),
        account=query.one("account"),
    )
    return json_response(Uploads(ended))


async def check(context: Context, request: Request) -> Response:
    """Prove that database and storage agree; one check at a time. It ends with its connection.

    Where it takes long, line feeds are sent before the report, so that no proxy thinks that nothing
    happens. What makes it impossible then is an error's body with status 200.
    """
    # Half a megabyte that a server does not need before it is asked.
    from ullage.check.check import run_check

    body = await read_body(context, request, CheckRequest, ValueInvalid)
    if context.checking.locked():
        raise TooManyRequests(message="a check is going on; wait until it has ended")
    await context.checking.acquire()
    wanted = {"mode": body.mode, "repair": body.repair}
    stop = asyncio.Event()
    steps = run_check(context.registry, wanted, caller_of(request))
    making = asyncio.ensure_future(_last(context, steps, stop))
    making.add_done_callback(lambda _: context.checking.release())
    await asyncio.wait({making}, timeout=PATIENCE_SECONDS)
    return _report_response(making.result()) if making.done() else _LateReport(making, stop)


async def _last(
    context: Context, steps: Iterator[dict[str, Any]], stop: asyncio.Event
) -> dict[str, Any]:
    """What a check says at its end; step by step, so that other work has the threads, too."""
    said: dict[str, Any] = {}
    while not stop.is_set():
        step = await context.threads.submit(next, steps, None)
        if step is None:
            break
        said = step
    return said


class _LateReport(Response):
    """The report of a check that is under way; it is stopped when its client goes away."""

    status_code = 200

    def __init__(self, making: asyncio.Future[dict[str, Any]], stop: asyncio.Event) -> None:
        self.background = None
        self.raw_headers = encoded({"Content-Type": "application/json", **API_VERSION})
        self._making = making
        self._stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            waiting: set[asyncio.Future[Any]] = {self._making, gone}
            while not self._making.done():
                await send({"type": "http.response.body", "body": b"\n", "more_body": True})
                await asyncio.wait(
                    waiting, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    raise ClientDisconnect
            answer = _report_response(self._making.result())
            await send({"type": "http.response.body", "body": bytes(answer.body)})
        finally:
            self._stop.set()
            gone.cancel()


def _report_response(said: dict[str, Any]) -> Response:
    if "exit_code" in said:
        return json_response(said)
    return error_response(Unavailable(message=str(said.get("error", "the check did not finish"))))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


_FILTERS = ("subject", "action", "repository", "since", "until")
_SINCE = "not before: a time such as 2026-11-23T10:00:00Z, or an age such as 24h"
_AUDIT = Operation(
    {200: AuditEntries},
    query=(
        Parameter("subject", "only of this account", example="anna"),
        Parameter("action", "only this action", example="manifest.delete"),
        Parameter("repository", "only in this repository", example="team/app"),
        Parameter("since", _SINCE, example="24h"),
        Parameter("until", "before: as since"),
        *page("100"),
    ),
    errors=(TimeInvalid,),
    headers=("Link",),
)
_OF_REPOSITORY = Parameter("repository", "only in this repository", example="team/app")
_OF_ACCOUNT = Parameter("account", "only of this account", example="ci")
_LIST = Operation({200: Uploads}, query=(_OF_REPOSITORY, _OF_ACCOUNT))
_CANCEL = Operation(
    {200: Uploads},
    query=(Parameter("upload", "only this one"), _OF_REPOSITORY, _OF_ACCOUNT),
    errors=(BlobUploadUnknown,),
)
_CHECK = Operation({200: Report}, request=(CheckRequest,), example={"mode": "fast"})
_UPLOADS = "/api/v1/uploads"
_READ, _WRITE = ADMINISTRATION_READ, ADMINISTRATION_WRITE
ROUTES = (
    Route("audit", "GET", "/api/v1/audit", list_entries, _READ, _AUDIT),
    Route("uploads", "GET", _UPLOADS, list_uploads, _READ, _LIST),
    Route("uploads", "DELETE", _UPLOADS, cancel_uploads, _WRITE, _CANCEL),
    Route("check", "POST", "/api/v1/check", check, _WRITE, _CHECK),
)

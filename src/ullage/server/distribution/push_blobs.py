"""distribution-spec, "Pushing blobs": upload sessions, whole blobs, and mounts."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from ullage.authorization import Action
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import (
    BlobUploadUnknown,
    DigestInvalid,
    RangeInvalid,
    RegistryError,
    SizeInvalid,
)
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.push import links, sessions, uploads
from ullage.registry.push.append_session import AppendSession
from ullage.registry.push.sessions import Upload
from ullage.registry.push.tickets import DIGITS, ROW, is_ticket, row_id
from ullage.server.http.bodies import Body, require_length
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.errors import BodyTimeout
from ullage.server.http.parameters import content_range, decimal_header, received_range
from ullage.server.http.request import Request
from ullage.server.http.responses import empty_response

# --- a session begins, or a blob comes whole: end-4, end-11 ---------------------------------------


async def start_upload(context: Context, request: Request, name: str) -> Response:
    """distribution-spec, "Pushing blobs": open a session (end-4a), take a whole blob (end-4b), with
    the digest algorithm announced (end-4c), or mount one from another repository (end-11)."""
    repository, query = context.name(name), query_of(request)
    caller = caller_of(request)
    mount, source = query.one("mount"), query.one("from")
    if mount is not None:
        digest = parse_digest(mount)
        readable = source is not None and principal_of(request).may(Action.PULL, source)
        # Without the right to read the source this looks like a blob that is not there.
        if source and readable and await _mounted(context, repository, source, digest, caller):
            return _created(repository, digest)
        algorithm = digest.algorithm
    else:
        algorithm = query.one("digest-algorithm") or "sha256"
    whole = query.one("digest")
    if whole is not None:
        return await _take_whole_blob(context, request, repository, parse_digest(whole), caller)
    upload = await _started(context, repository, caller, algorithm)
    return _session(repository, upload.id, upload.offset, 202)


async def _started(
    context: Context, repository: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    """A new session, by the shortest way that there is to one."""
    registry = context.registry
    if context.threads.inline_reads and sessions.starts_at_once(registry):
        return sessions.start_upload(registry, repository, caller, algorithm)
    if await context.reads.takes_uploads(repository):
        upload = sessions.sign_upload(registry, repository, caller, algorithm)
        if upload is not None:
            return upload
    return await context.threads.submit(
        sessions.start_upload, registry, repository, caller, algorithm
    )


async def _mounted(
    context: Context, repository: RepositoryName, source: str, digest: Digest, caller: Caller
) -> bool:
    try:
        from_repository = context.name(source)
    except RegistryError:
        # "If a registry does not support cross-repository mounting or is unable to mount the
        # requested blob, it SHOULD return a 202": an upload session.
        return False
    return await context.threads.submit(
        links.mount_blob, context.registry, repository, from_repository, digest, caller
    )


async def _take_whole_blob(
    context: Context, request: Request, repository: RepositoryName, digest: Digest, caller: Caller
) -> Response:
    async with context.bodies.arriving(request) as body:
        if await body.gather():
            await context.threads.submit(
                uploads.upload_whole, context.registry, repository, caller, digest, body.pieces
            )
            return _created(repository, digest)
        upload = await context.threads.submit(
            sessions.start_upload, context.registry, repository, caller, digest.algorithm
        )
        try:
            session = await context.threads.submit(
                uploads.append_upload, context.registry, repository, upload.id, caller
            )
            await _stream_or_abandon(context, body, session)
            await context.threads.submit(session.commit, digest)
        except BaseException:
            await asyncio.shield(
                context.threads.submit(
                    sessions.end_unannounced, context.registry, repository, upload, caller
                )
            )
            raise
    return _created(repository, digest)


# --- sessions: end-5, end-6, end-13, end-14 -------------------------------------------------------


async def get_upload(context: Context, request: Request, name: str, upload_id: str) -> Response:
    """distribution-spec, "Pushing a blob in chunks": how much the session has received (end-13)."""
    repository = context.name(name)
    upload = await context.threads.read(
        sessions.get_upload, context.registry, repository, _upload_id(upload_id), caller_of(request)
    )
    return _session(repository, upload.id, upload.offset, 204)


async def patch_upload(context: Context, request: Request, name: str, upload_id: str) -> Response:
    """distribution-spec, "Pushing a blob in chunks" (end-5); without Content-Range, a stream.

    When the connection breaks, what arrived is kept and the client may go on from there.
    """
    repository, session_id = context.name(name), _upload_id(upload_id)
    announced, expected = _announced(request)
    where = (context.registry, repository, session_id, caller_of(request))
    # Before anything is read: a client at the wrong offset gets a 416. And what arrives belongs
    # where the session is now, however long it takes.
    start = await context.threads.read(sessions.require_offset, *where, announced)
    async with context.bodies.arriving(request) as body:
        try:
            whole = await body.gather()
        except (ClientDisconnect, BodyTimeout, asyncio.CancelledError):
            keep = context.threads.submit(uploads.add_to_upload, *where, start, body.pieces)
            await asyncio.shield(keep)
            raise
        if whole:
            require_length(expected, body.length)
            add = context.threads.submit(uploads.add_to_upload, *where, start, body.pieces)
            upload = await asyncio.shield(add)
        else:
            session = await context.threads.submit(uploads.append_upload, *where, start)
            upload = await _stream_and_keep(context, body, session, expected)
    return _session(repository, upload.id, upload.offset, 202)


async def _stream_and_keep(
    context: Context, body: Body, session: AppendSession, expected: int | None
) -> Upload:
    """Stream the body of a request that may stop short."""
    try:
        await body.stream(session)
        require_length(expected, body.length)
    except (ClientDisconnect, BodyTimeout, asyncio.CancelledError):
        await asyncio.shield(context.threads.submit(session.close))
        raise
    except SizeInvalid:
        await context.threads.submit(session.abandon)
        raise
    return await context.threads.submit(session.close)


async def finish_upload(context: Context, request: Request, name: str, upload_id: str) -> Response:
    """distribution-spec, "Pushing a blob monolithically" and the end of chunks (end-6)."""
    repository = context.name(name)
    text = query_of(request).one("digest")
    if text is None:
        raise DigestInvalid(message="the digest parameter is missing: PUT <location>?digest=…")
    digest = parse_digest(text)
    where = (context.registry, repository, _upload_id(upload_id), caller_of(request))
    if _has_no_body(request):
        await context.threads.submit(uploads.finish_upload, *where, digest)
        return _created(repository, digest)
    start, expected = _announced(request)
    async with context.bodies.arriving(request) as body:
        if await body.gather():
            require_length(expected, body.length)
            await context.write_batches.run(
                lambda: uploads.prepare_blob(*where, digest, body.pieces, start),
                body.length,
                needs_database=not is_ticket(upload_id),
            )
            return _created(repository, digest)
        try:
            session = await context.threads.submit(uploads.append_upload, *where, start)
        except BlobUploadUnknown:
            # A client that lost the response sends the same request, with its body, once more.
            await context.threads.submit(uploads.finish_upload, *where, digest)
            return _created(repository, digest)
        await _stream_or_abandon(context, body, session)
        try:
            require_length(expected, body.length)
        except SizeInvalid:
            await context.threads.submit(session.abandon)
            raise
        await context.threads.submit(session.commit, digest)
    return _created(repository, digest)


async def cancel_upload(context: Context, request: Request, name: str, upload_id: str) -> Response:
    """distribution-spec main, "Cancel a blob upload" (end-14)."""
    await context.threads.submit(
        sessions.cancel_upload,
        context.registry,
        context.name(name),
        _upload_id(upload_id),
        caller_of(request),
    )
    return empty_response(204, {})


def _announced(request: Request) -> tuple[int | None, int | None]:
    """The offset of the request's bytes in the session, and their number, as announced."""
    length = decimal_header(request.headers.get("content-length"))
    span = content_range(request.headers.get("content-range"), length)
    return (span[0], span[1] - span[0]) if span else (None, None)


async def _stream_or_abandon(context: Context, body: Body, session: AppendSession) -> None:
    """Stream the body of a request that is all or nothing."""
    try:
        await body.stream(session)
    except (ClientDisconnect, BodyTimeout, asyncio.CancelledError):
        await asyncio.shield(context.threads.submit(session.abandon))
        raise


def _has_no_body(request: Request) -> bool:
    length = request.headers.get("content-length")
    if length is not None:
        return decimal_header(length) == 0
    # Since HTTP/2 a body needs no header to announce it.
    http_1: bool = request.scope["http_version"].startswith("1")
    return http_1 and "transfer-encoding" not in request.headers


def _upload_id(text: str) -> str:
    if len(text) not in (ROW, DIGITS) or not set(text) <= set("0123456789abcdef"):
        raise BlobUploadUnknown({"upload": text[:64]})
    return text


# --- responses ------------------------------------------------------------------------------------


def _session(repository: RepositoryName, upload_id: str, offset: int, status: int) -> Response:
    """Every response about a session has its address and how much it has received."""
    return empty_response(status, _session_headers(repository, upload_id, offset))


def range_headers(name: RepositoryName, upload_id: str, error: RangeInvalid) -> dict[str, str]:
    """distribution-spec, "Pushing a blob in chunks": a 416 tells the client where to go on."""
    return _session_headers(name, upload_id, error.offset)


def _session_headers(repository: RepositoryName, upload_id: str, offset: int) -> dict[str, str]:
    return {
        # Relative: an absolute one breaks clients behind a proxy, and Azure's SDK anywhere.
        "Location": f"/v2/{repository}/blobs/uploads/{upload_id}",
        "Range": received_range(offset),
        "Docker-Upload-UUID": row_id(upload_id),
    }


def _created(repository: RepositoryName, digest: Digest) -> Response:
    return empty_response(
        201,
        {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest},
    )

"""OCI Distribution 1.1 and what is newer on the specification's main branch: `/v2/`, in spec order.

Every handler reads: parse, call one service, shape the answer. `ROUTES` at the end is the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import (
    BlobUploadUnknown,
    DigestInvalid,
    RangeInvalid,
    RegistryError,
    SizeInvalid,
    TagInvalid,
)
from ullage.oci.reference import (
    RepositoryName,
    Tag,
    parse_reference,
    parse_repository_name,
    parse_tag,
)
from ullage.server.blobs import (
    HEADS_KEPT,
    SMALL_BYTES,
    BlobResponse,
    blob_head,
    blob_headers,
    unchanged_headers,
)
from ullage.server.bodies import Bodies, Body, require_length
from ullage.server.guard import Guard
from ullage.server.needs import CATALOG, DELETE, KNOWN, PULL, PUSH
from ullage.server.rounds import Rounds
from ullage.server.routes import Route
from ullage.server.threads import Threads
from ullage.server.wire import (
    API_VERSION,
    Answer,
    BodyTimeout,
    Query,
    RangeNotSatisfiable,
    byte_range,
    content_range,
    decimal_header,
    empty_response,
    encoded,
    error_response,
    held_range,
    json_response,
    next_link,
    page_size,
)
from ullage.services import Caller, Registry, delete, ending, pull, push, sessions, uploading
from ullage.services.access import Action, Principal
from ullage.services.pulls import note_pull
from ullage.services.sessions import Upload
from ullage.services.uploading import AppendSession

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
# A User-Agent is only kept to tell clients apart.
MAX_AGENT = 200
# By which id a deletion can be taken back.
OPERATION = "Ullage-Operation"


@dataclass(frozen=True, slots=True)
class Face:
    """What every handler needs besides the request."""

    registry: Registry
    threads: Threads
    rounds: Rounds
    bodies: Bodies
    guard: Guard

    def name(self, text: str) -> RepositoryName:
        return parse_repository_name(text, self.registry.limits.max_name_length)


Handler: TypeAlias = Callable[..., Awaitable[Response]]


def caller_of(request: Request) -> Caller:
    """Who asks, as services see it; App has put the principal into the scope."""
    client = request.scope.get("client")
    agent = request.headers.get("user-agent", "")[:MAX_AGENT]
    return Caller(
        subject=principal_of(request).subject,
        address=client[0] if client else "",
        agent=agent,
        request_id=request.scope["ullage.request_id"],
    )


def principal_of(request: Request) -> Principal:
    principal: Principal = request.scope["ullage.principal"]
    return principal


def query_of(request: Request) -> Query:
    return Query(request.scope["query_string"])


# --- end-1 ----------------------------------------------------------------------------------------


async def get_base(face: Face, request: Request) -> Response:
    """distribution-spec, "Determining Support"."""
    return json_response({})


# --- blobs: end-2, end-10 -------------------------------------------------------------------------


async def get_blob(face: Face, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Pulling blobs"."""
    repository, digest = face.name(name), parse_digest(reference)
    if _not_modified(request, digest):
        await face.threads.read(pull.stat_blob, face.registry, repository, digest)
        return empty_response(304, unchanged_headers(digest))
    if face.threads.inline_reads and "range" not in request.headers:
        held = pull.held_blob(face.registry, repository, digest)
        if held is not None:
            return Answer.ready(200, blob_head(digest, len(held)), held)
    reader = await face.threads.submit(
        pull.open_blob, face.registry, repository, digest, read_ahead=SMALL_BYTES
    )
    try:
        span = byte_range(_range_asked(request, digest), reader.size)
    except RangeNotSatisfiable:
        reader.close()
        return error_response(
            RangeInvalid({"size": reader.size}, offset=reader.size),
            {"Content-Range": f"bytes */{reader.size}"},
        )
    headers = API_VERSION | blob_headers(digest, reader.size)
    if span is None:
        return BlobResponse(face.threads, reader, (0, reader.size), 200, headers)
    headers["Content-Length"] = str(span[1] - span[0])
    headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{reader.size}"
    return BlobResponse(face.threads, reader, span, 206, headers)


async def head_blob(face: Face, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Checking if content exists in the registry".

    Whoever may push is promised the blob with the answer: it need not upload it.
    """
    repository, digest = face.name(name), parse_digest(reference)
    if principal_of(request).may(Action.PUSH, repository):
        blob = await face.threads.read(
            pull.stat_blob_for_push, face.registry, repository, digest, caller_of(request)
        )
    else:
        blob = await face.threads.read(pull.stat_blob, face.registry, repository, digest)
    if _not_modified(request, digest):
        return empty_response(304, unchanged_headers(digest))
    return Answer.ready(200, blob_head(digest, blob.size))


async def delete_blob(face: Face, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Deleting Blobs"."""
    repository, digest = face.name(name), parse_digest(reference)
    await face.threads.submit(
        delete.delete_blob, face.registry, repository, digest, caller_of(request)
    )
    return empty_response(202, {"Docker-Content-Digest": digest})


def _not_modified(request: Request, digest: Digest) -> bool:
    """RFC 9110 §13.1.2, with the digest as the entity tag, of something that exists."""
    condition = request.headers.get("if-none-match")
    if condition is None:
        return False
    tags = [tag.strip() for tag in condition.split(",")]
    return tags == ["*"] or digest in (tag.removeprefix("W/").strip('"') for tag in tags)


def _range_asked(request: Request, digest: Digest) -> str | None:
    """RFC 9110 §13.1.5: with If-Range, a Range counts for exactly that version of the blob."""
    if request.headers.get("if-range", f'"{digest}"') != f'"{digest}"':
        return None
    return request.headers.get("range")


# --- manifests: end-3, end-7, end-9 ---------------------------------------------------------------


async def get_manifest(face: Face, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Pulling manifests". What was pushed is served, whatever Accept says."""
    wanted = parse_reference(reference)
    manifest = await face.threads.read(pull.get_manifest, face.registry, face.name(name), wanted)
    if request.method == "GET":
        # Also where the client has it still and is told so. HEAD only looks.
        note_pull(face.registry, manifest.id, wanted, request.headers.get("user-agent", ""))
    if _not_modified(request, manifest.digest):
        return Answer(304, _manifest_headers(manifest.digest))
    head = _manifest_head(manifest.digest, manifest.media_type, len(manifest.raw))
    return Answer.ready(200, head, b"" if request.method == "HEAD" else manifest.raw)


def _manifest_headers(digest: Digest) -> dict[str, str]:
    return {
        **API_VERSION,
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "X-Content-Type-Options": "nosniff",
    }


@lru_cache(HEADS_KEPT)
def _manifest_head(digest: Digest, media_type: str, size: int) -> list[tuple[bytes, bytes]]:
    """The whole manifest's header fields, encoded; not to be changed."""
    more = {"Content-Type": media_type, "Content-Length": str(size)}
    return encoded(_manifest_headers(digest) | more)


async def put_manifest(face: Face, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Pushing Manifests"; with `tag` parameters, end-7b."""
    repository, target = face.name(name), parse_reference(reference)
    tags = [parse_tag(tag) for tag in query_of(request).all("tag")]
    if tags and isinstance(target, Tag):
        raise TagInvalid(
            {"tag": tags[0]}, "tag parameters are for pushing by digest; this push names a tag"
        )
    media_type = request.headers.get("content-type")
    async with face.bodies.whole(request, face.registry.limits.max_manifest_bytes) as raw:
        receive = partial(
            push.receive_manifest,
            face.registry,
            repository,
            target,
            raw,
            media_type,
            caller_of(request),
            tags,
        )
        result = await face.rounds.run(receive, len(raw))
    headers = {
        "Location": f"/v2/{repository}/manifests/{result.digest}",
        "Docker-Content-Digest": result.digest,
    }
    if result.subject is not None:
        headers["OCI-Subject"] = result.subject
    response = empty_response(201, headers)
    for tag in result.tags if tags else ():
        response.headers.append("OCI-Tag", tag)
    return response


async def delete_manifest(face: Face, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Deleting Manifests" and "Deleting tags": a tag goes alone."""
    repository, target = face.name(name), parse_reference(reference)
    caller = caller_of(request)
    deleted: delete.Deleted | delete.Untagged
    if isinstance(target, Digest):
        deleted = await face.threads.submit(
            delete.delete_manifest, face.registry, repository, target, caller
        )
    else:
        deleted = await face.threads.submit(
            delete.delete_tag, face.registry, repository, target, caller
        )
    return empty_response(202, restorable(deleted.operation))


def restorable(operation: str | None) -> dict[str, str]:
    """A header that says by which id a deletion can be taken back, if it can."""
    return {OPERATION: operation} if operation is not None else {}


# --- uploads: end-4, end-5, end-6, end-11, end-13, end-14 -----------------------------------------


async def start_upload(face: Face, request: Request, name: str) -> Response:
    """distribution-spec, "Pushing blobs": open a session (end-4a), take a whole blob (end-4b), with
    the digest algorithm announced (end-4c), or mount one from another repository (end-11)."""
    repository, query = face.name(name), query_of(request)
    caller = caller_of(request)
    mount, source = query.one("mount"), query.one("from")
    if mount is not None:
        digest = parse_digest(mount)
        readable = source is not None and principal_of(request).may(Action.PULL, source)
        # Without the right to read the source this looks like a blob that is not there.
        if source and readable and await _mounted(face, repository, source, digest, caller):
            return _created(repository, digest)
        algorithm = digest.algorithm
    else:
        algorithm = query.one("digest-algorithm") or "sha256"
    whole = query.one("digest")
    if whole is not None:
        return await _take_whole_blob(face, request, repository, parse_digest(whole), caller)
    if face.threads.inline_reads and sessions.starts_at_once(face.registry):
        upload = sessions.start_upload(face.registry, repository, caller, algorithm)
    else:
        upload = await face.threads.submit(
            sessions.start_upload, face.registry, repository, caller, algorithm
        )
    return _session(repository, upload.id, upload.offset, 202)


async def _mounted(
    face: Face, repository: RepositoryName, source: str, digest: Digest, caller: Caller
) -> bool:
    try:
        from_repository = face.name(source)
    except RegistryError:
        # "If a registry does not support cross-repository mounting or is unable to mount the
        # requested blob, it SHOULD return a 202": an upload session.
        return False
    return await face.threads.submit(
        push.mount_blob, face.registry, repository, from_repository, digest, caller
    )


async def _take_whole_blob(
    face: Face, request: Request, repository: RepositoryName, digest: Digest, caller: Caller
) -> Response:
    async with face.bodies.arriving(request) as body:
        if await body.gather():
            await face.threads.submit(
                uploading.upload_whole, face.registry, repository, caller, digest, body.pieces
            )
            return _created(repository, digest)
        upload = await face.threads.submit(
            sessions.start_upload, face.registry, repository, caller, digest.algorithm
        )
        try:
            session = await face.threads.submit(
                uploading.append_upload, face.registry, repository, upload.id, caller
            )
            await _stream_or_abandon(face, body, session)
            await face.threads.submit(session.finish, digest)
        except BaseException:
            # Nobody knows this session's address, so nobody can go on with it.
            await asyncio.shield(face.threads.submit(ending.end_upload, face.registry, upload))
            raise
    return _created(repository, digest)


async def get_upload(face: Face, request: Request, name: str, upload_id: str) -> Response:
    """distribution-spec, "Pushing a blob in chunks": how much the session holds (end-13)."""
    repository = face.name(name)
    upload = await face.threads.read(
        sessions.get_upload, face.registry, repository, _upload_id(upload_id), caller_of(request)
    )
    return _session(repository, upload.id, upload.offset, 204)


async def patch_upload(face: Face, request: Request, name: str, upload_id: str) -> Response:
    """distribution-spec, "Pushing a blob in chunks" (end-5); without Content-Range, a stream.

    When the connection breaks, what arrived is kept and the client may go on from there.
    """
    repository, session_id = face.name(name), _upload_id(upload_id)
    announced, expected = _announced(request)
    where = (face.registry, repository, session_id, caller_of(request))
    # Before anything is read: whoever is in the wrong place is told so. And what arrives belongs
    # where the session is now, however long it takes.
    start = await face.threads.read(sessions.require_offset, *where, announced)
    async with face.bodies.arriving(request) as body:
        try:
            whole = await body.gather()
        except (ClientDisconnect, BodyTimeout, asyncio.CancelledError):
            keep = face.threads.submit(uploading.add_to_upload, *where, start, body.pieces)
            await asyncio.shield(keep)
            raise
        if whole:
            require_length(expected, body.length)
            add = face.threads.submit(uploading.add_to_upload, *where, start, body.pieces)
            upload = await asyncio.shield(add)
        else:
            session = await face.threads.submit(uploading.append_upload, *where, start)
            upload = await _stream_and_keep(face, body, session, expected)
    return _session(repository, upload.id, upload.offset, 202)


async def _stream_and_keep(
    face: Face, body: Body, session: AppendSession, expected: int | None
) -> Upload:
    """Stream the body of a request that may stop short."""
    try:
        await body.stream(session)
        require_length(expected, body.length)
    except (ClientDisconnect, BodyTimeout, asyncio.CancelledError):
        await asyncio.shield(face.threads.submit(session.end))
        raise
    except SizeInvalid:
        await face.threads.submit(session.abandon)
        raise
    return await face.threads.submit(session.end)


async def finish_upload(face: Face, request: Request, name: str, upload_id: str) -> Response:
    """distribution-spec, "Pushing a blob monolithically" and the end of chunks (end-6)."""
    repository = face.name(name)
    text = query_of(request).one("digest")
    if text is None:
        raise DigestInvalid(message="the digest parameter is missing: PUT <location>?digest=…")
    digest = parse_digest(text)
    where = (face.registry, repository, _upload_id(upload_id), caller_of(request))
    if _has_no_body(request):
        await face.threads.submit(uploading.finish_upload, *where, digest)
        return _created(repository, digest)
    start, expected = _announced(request)
    async with face.bodies.arriving(request) as body:
        if await body.gather():
            require_length(expected, body.length)
            commit = partial(uploading.commit_upload, *where, digest, body.pieces, start)
            await face.rounds.run(commit, body.length)
            return _created(repository, digest)
        try:
            session = await face.threads.submit(uploading.append_upload, *where, start)
        except BlobUploadUnknown:
            # Whoever lost the answer sends the same request, with its body, once more.
            await face.threads.submit(uploading.finish_upload, *where, digest)
            return _created(repository, digest)
        await _stream_or_abandon(face, body, session)
        try:
            require_length(expected, body.length)
        except SizeInvalid:
            await face.threads.submit(session.abandon)
            raise
        await face.threads.submit(session.finish, digest)
    return _created(repository, digest)


async def cancel_upload(face: Face, request: Request, name: str, upload_id: str) -> Response:
    """distribution-spec main, "Cancel a blob upload" (end-14)."""
    await face.threads.submit(
        sessions.cancel_upload,
        face.registry,
        face.name(name),
        _upload_id(upload_id),
        caller_of(request),
    )
    return empty_response(204, {})


def _announced(request: Request) -> tuple[int | None, int | None]:
    """Where in the session the request says its bytes begin, and how many they are."""
    length = decimal_header(request.headers.get("content-length"))
    span = content_range(request.headers.get("content-range"), length)
    return (span[0], span[1] - span[0]) if span else (None, None)


async def _stream_or_abandon(face: Face, body: Body, session: AppendSession) -> None:
    """Stream the body of a request that is all or nothing."""
    try:
        await body.stream(session)
    except (ClientDisconnect, BodyTimeout, asyncio.CancelledError):
        await asyncio.shield(face.threads.submit(session.abandon))
        raise


def _has_no_body(request: Request) -> bool:
    length = request.headers.get("content-length")
    if length is not None:
        return decimal_header(length) == 0
    # Since HTTP/2 a body needs no header to announce it.
    http_1: bool = request.scope["http_version"].startswith("1")
    return http_1 and "transfer-encoding" not in request.headers


def _upload_id(text: str) -> str:
    if len(text) != 32 or not set(text) <= set("0123456789abcdef"):
        raise BlobUploadUnknown({"upload": text[:64]})
    return text


def _session(repository: RepositoryName, upload_id: str, offset: int, status: int) -> Response:
    """Every answer about a session says where it is and what it holds."""
    return empty_response(status, _session_headers(repository, upload_id, offset))


def _session_headers(repository: RepositoryName, upload_id: str, offset: int) -> dict[str, str]:
    return {
        # Relative: an absolute one breaks clients behind a proxy, and Azure's SDK anywhere.
        "Location": f"/v2/{repository}/blobs/uploads/{upload_id}",
        "Range": held_range(offset),
        "Docker-Upload-UUID": upload_id,
    }


def _created(repository: RepositoryName, digest: Digest) -> Response:
    return empty_response(
        201,
        {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest},
    )


# --- listings: end-8, end-12, and the catalog -----------------------------------------------------


async def list_tags(face: Face, request: Request, name: str) -> Response:
    """distribution-spec, "Listing Tags"."""
    repository, query = face.name(name), query_of(request)
    n = page_size(query, face.registry.limits.max_page_size)
    page = await face.threads.read(pull.list_tags, face.registry, repository, n, query.one("last"))
    more = page.more and page.items
    link = next_link(f"/v2/{repository}/tags/list", n=n, last=page.items[-1]) if more else {}
    return json_response({"name": repository, "tags": page.items}, headers=link)


async def list_repositories(face: Face, request: Request) -> Response:
    """Docker's catalog, which the OCI specification leaves out; paged like tags."""
    query = query_of(request)
    n = page_size(query, face.registry.limits.max_page_size)
    page = await face.threads.read(
        pull.list_repositories, face.registry, n, query.one("last"), principal_of(request)
    )
    more = page.more and page.items
    link = next_link("/v2/_catalog", n=n, last=page.items[-1]) if more else {}
    # None of an empty list: az stumbles over its absence, acr over its being empty.
    return json_response({"repositories": page.items or None}, headers=link)


async def list_referrers(face: Face, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Listing Referrers": always an index, empty if there are none."""
    repository, digest, query = face.name(name), parse_digest(reference), query_of(request)
    artifact_type = query.one("artifactType")
    n = page_size(query, face.registry.limits.max_page_size) or 1
    page = await face.threads.read(
        pull.list_referrers,
        face.registry,
        repository,
        digest,
        artifact_type,
        n,
        query.one("last"),
    )
    headers = {"OCI-Filters-Applied": "artifactType"} if artifact_type is not None else {}
    if page.next is not None:
        path = f"/v2/{repository}/referrers/{digest}"
        headers |= next_link(path, artifactType=artifact_type, n=query.one("n"), last=page.next)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page.descriptors}
    return json_response(index, headers=headers, media_type=OCI_INDEX)


# --- errors that say where the session stands -----------------------------------------------------


def range_headers(name: RepositoryName, upload_id: str, error: RangeInvalid) -> dict[str, str]:
    """distribution-spec, "Pushing a blob in chunks": a 416 tells the client where to go on."""
    return _session_headers(name, upload_id, error.offset)


# distribution-spec, "Endpoints". `{name}` may contain slashes; the last marker in a path counts.
ROUTES = (
    Route("end-1", "GET", "/v2/", get_base, KNOWN),
    Route("end-2", "GET", "/v2/{name}/blobs/{digest}", get_blob, PULL),
    Route("end-2", "HEAD", "/v2/{name}/blobs/{digest}", head_blob, PULL),
    Route("end-3", "GET", "/v2/{name}/manifests/{reference}", get_manifest, PULL),
    Route("end-3", "HEAD", "/v2/{name}/manifests/{reference}", get_manifest, PULL),
    Route("end-4", "POST", "/v2/{name}/blobs/uploads/", start_upload, PUSH),
    Route("end-5", "PATCH", "/v2/{name}/blobs/uploads/{session}", patch_upload, PUSH),
    Route("end-6", "PUT", "/v2/{name}/blobs/uploads/{session}", finish_upload, PUSH),
    Route("end-7", "PUT", "/v2/{name}/manifests/{reference}", put_manifest, PUSH),
    Route("end-8", "GET", "/v2/{name}/tags/list", list_tags, PULL),
    Route("end-9", "DELETE", "/v2/{name}/manifests/{reference}", delete_manifest, DELETE),
    Route("end-10", "DELETE", "/v2/{name}/blobs/{digest}", delete_blob, DELETE),
    Route("end-12", "GET", "/v2/{name}/referrers/{digest}", list_referrers, PULL),
    Route("end-13", "GET", "/v2/{name}/blobs/uploads/{session}", get_upload, PUSH),
    Route("end-14", "DELETE", "/v2/{name}/blobs/uploads/{session}", cancel_upload, PUSH),
    Route("catalog", "GET", "/v2/_catalog", list_repositories, CATALOG),
)

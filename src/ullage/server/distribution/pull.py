"""distribution-spec, "Pull": blobs and manifests, whole, in part, or just whether they exist."""

from __future__ import annotations

from functools import lru_cache

from starlette.responses import Response

from ullage.authorization import Action
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import ManifestUnknown, TagInvalid
from ullage.oci.reference import Tag, parse_reference
from ullage.registry.pull import read
from ullage.registry.pull.pull_log import note_pull
from ullage.registry.pull.signed_links import remembered_link, signed_link
from ullage.server.http.blob_response import (
    HEADS_KEPT,
    SMALL_BYTES,
    BlobResponse,
    blob_head,
    blob_headers,
    unchanged_headers,
)
from ullage.server.http.context import Context, caller_of, principal_of
from ullage.server.http.errors import RangeNotSatisfiable, error_response
from ullage.server.http.parameters import byte_range
from ullage.server.http.request import Request
from ullage.server.http.responses import API_VERSION, FixedResponse, empty_response, encoded

# --- blobs: end-2 ---------------------------------------------------------------------------------


async def get_blob(context: Context, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Pulling blobs"."""
    repository, digest = context.name(name), parse_digest(reference)
    if _not_modified(request, digest):
        await context.reads.blob(repository, digest)
        return empty_response(304, unchanged_headers(digest))
    blob = await context.reads.blob(repository, digest)
    cached = context.registry.blob_cache.get(blob.key)
    if cached is not None and b"range" not in request.fields.first:
        return FixedResponse.ready(200, blob_head(digest, len(cached)), cached)
    redirects = context.redirects
    if redirects is not None and redirects.serves(request, blob.size):
        url = remembered_link(context.registry, blob.key)
        url = url or await context.threads.submit(signed_link, context.registry, blob)
        if url is not None:
            return redirects.response(digest, url)
    reader = await context.threads.submit(
        read.open_found_blob, context.registry, repository, blob, read_ahead=SMALL_BYTES
    )
    try:
        span = byte_range(_range_asked(request, digest), reader.size)
    except RangeNotSatisfiable as error:
        reader.close()
        return error_response(error, {"Content-Range": f"bytes */{reader.size}"})
    # nginx reads a Range by rules of its own: it gets none that counts for nothing here.
    if span is not None or "range" not in request.headers:
        sender = context.send_file
        if sender is not None and sender.serves(request, reader.size):
            reader.close()
            return sender.response(digest, reader.size, reader.key)
    headers = API_VERSION | blob_headers(digest, reader.size)
    if not reader.there:
        await context.threads.submit(_look, reader, span or (0, reader.size))
    if span is None:
        span, status = (0, reader.size), 200
        return BlobResponse(context.threads, context.ready, reader, span, status, headers)
    headers["Content-Length"] = str(span[1] - span[0])
    headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{reader.size}"
    return BlobResponse(context.threads, context.ready, reader, span, 206, headers)


def _look(reader: read.BlobReader, span: tuple[int, int]) -> None:
    try:
        reader.look(*span)
    except BaseException:
        reader.close()
        raise


async def head_blob(context: Context, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Checking if content exists in the registry".

    A caller with the right to push is promised the blob with the response: it need not upload it.
    """
    repository, digest = context.name(name), parse_digest(reference)
    if principal_of(request).may(Action.PUSH, repository):
        size = await context.reads.promised_size(repository, digest, caller_of(request))
    else:
        size = (await context.reads.blob(repository, digest)).size
    if _not_modified(request, digest):
        return empty_response(304, unchanged_headers(digest))
    return FixedResponse.ready(200, blob_head(digest, size))


def _range_asked(request: Request, digest: Digest) -> str | None:
    """RFC 9110 §13.1.5: with If-Range, a Range counts for exactly that version of the blob."""
    whole = f'"{digest}"'
    if request.headers.get("if-range", whole) != whole:
        return None
    asked: str | None = request.headers.get("range")
    return asked


# --- manifests: end-3 -----------------------------------------------------------------------------


async def get_manifest(context: Context, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Pulling manifests". What was pushed is served, whatever Accept lists."""
    wanted = _manifest_wanted(reference)
    manifest = await context.reads.manifest(context.name(name), wanted)
    pulls = request.scope["method"] == "GET"
    if pulls:
        # Also where the client has it and the response is a 304. A HEAD is no pull.
        agent = request.fields.first.get(b"user-agent", b"").decode("latin-1")
        note_pull(context.registry, manifest.id, wanted, agent)
    if _not_modified(request, manifest.digest):
        return FixedResponse(304, _manifest_headers(manifest.digest))
    head = _manifest_head(manifest.digest, manifest.media_type, len(manifest.raw))
    return FixedResponse.ready(200, head, manifest.raw if pulls else b"")


def _manifest_wanted(reference: str) -> Tag | Digest:
    """Raises ManifestUnknown for what is no tag: there can be none; and DigestInvalid."""
    try:
        return parse_reference(reference)
    except TagInvalid as error:
        raise ManifestUnknown(error.detail, error.message) from None


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


# --- what the client has already ------------------------------------------------------------------


def _not_modified(request: Request, digest: Digest) -> bool:
    """RFC 9110 §13.1.2, with the digest as the entity tag, of something that exists."""
    condition = request.fields.first.get(b"if-none-match")
    if condition is None:
        return False
    tags = [tag.strip() for tag in condition.decode("latin-1").split(",")]
    return tags == ["*"] or digest in (tag.removeprefix("W/").strip('"') for tag in tags)

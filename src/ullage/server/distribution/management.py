"""distribution-spec, "Content Management": deleting tags, manifests and blobs (end-9, end-10)."""

from __future__ import annotations

from starlette.responses import Response

from ullage.deletion import delete
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.reference import parse_reference
from ullage.server.http.context import Context, caller_of
from ullage.server.http.request import Request
from ullage.server.http.responses import empty_response

# The header with the id by which a deletion can be taken back.
OPERATION = "Ullage-Operation"
# The headers with the bytes that a deletion gives back, at once and later.
FREED, LATER = "Ullage-Freed-Bytes", "Ullage-Later-Bytes"


async def delete_manifest(
    context: Context, request: Request, name: str, reference: str
) -> Response:
    """distribution-spec, "Deleting Manifests" and "Deleting tags": a tag goes alone."""
    repository, target = context.name(name), parse_reference(reference)
    caller = caller_of(request)
    deleted: delete.Deleted | delete.Untagged
    if isinstance(target, Digest):
        deleted = await context.threads.submit(
            delete.delete_manifest, context.registry, repository, target, caller
        )
    else:
        deleted = await context.threads.submit(
            delete.delete_tag, context.registry, repository, target, caller
        )
    return empty_response(202, receipt(deleted))


async def delete_blob(context: Context, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Deleting Blobs"."""
    repository, digest = context.name(name), parse_digest(reference)
    deleted = await context.threads.submit(
        delete.delete_blob, context.registry, repository, digest, caller_of(request)
    )
    return empty_response(202, {"Docker-Content-Digest": digest} | receipt(deleted))


def receipt(deleted: delete.Deleted | delete.Untagged) -> dict[str, str]:
    """What a deletion gives back, and by which operation it can be taken back, if it can."""
    freed = later = 0
    if isinstance(deleted, delete.Deleted):
        freed, later = deleted.freed_bytes, deleted.later_bytes
    operation = {OPERATION: deleted.operation} if deleted.operation is not None else {}
    return {FREED: str(freed), LATER: str(later)} | operation

"""Azure Container Registry's soft delete, `/acr/v1/_deleted/` (azure.md section 2.9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from ullage.oci.digest import parse_digest
from ullage.oci.errors import ManifestTooLarge, Unsupported
from ullage.oci.reference import Tag, parse_tag
from ullage.oci.strict_json import JSONInvalid, loads
from ullage.restore import listings
from ullage.restore.listings import Listed
from ullage.restore.manifest import restore_manifest
from ullage.server.acr.data_plane import MAX_CHANGES_BYTES, PAGE, PREFIX, timestamp
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.errors import BodyTooLarge
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import DELETED_CATALOG, DELETED_READ, DELETED_RESTORE
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route


async def list_repositories(context: Context, request: Request) -> Response:
    """Repositories of which nothing is live any more."""
    query = query_of(request)
    n = page_size(query, context.registry.limits.max_page_size, PAGE)
    found = await context.threads.submit(
        listings.list_repositories, context.registry, principal_of(request), n, query.one("last")
    )
    return _page("_catalog", "repositories", n, found, lambda row: {"repository": row.name})


async def list_manifests(context: Context, request: Request, name: str) -> Response:
    """Manifests by the time when they were deleted."""
    repository, query = context.name(name), query_of(request)
    n = page_size(query, context.registry.limits.max_page_size, PAGE)
    found = await context.threads.submit(
        listings.list_manifests, context.registry, repository, n, query.one("last")
    )
    return _page(
        f"{quote(repository, safe='')}/_manifests",
        "manifests",
        n,
        found,
        lambda row: {"digest": row.digest},
    )


async def list_tags(context: Context, request: Request, name: str) -> Response:
    """Tags by the time when they were deleted: az takes the last one of a name for the newest."""
    repository, query = context.name(name), query_of(request)
    n = page_size(query, context.registry.limits.max_page_size, PAGE)
    found = await context.threads.submit(
        listings.list_tags, context.registry, repository, n, query.one("last")
    )
    return _page(
        f"{quote(repository, safe='')}/_tags",
        "tags",
        n,
        found,
        lambda row: {"tag": row.name, "digest": row.digest},
    )


async def restore(context: Context, request: Request, name: str, digest: str) -> Response:
    """A manifest with its children and referrers, under one of its tags or all of them."""
    repository, wanted = context.name(name), parse_digest(digest)
    # 2.9: Python's spelling of a truth value, in whatever case.
    force = (query_of(request).one("force") or "").lower() == "true"
    tag = await _tag(context, request)
    restored = await context.threads.submit(
        restore_manifest, context.registry, repository, wanted, tag, caller_of(request), force=force
    )
    return json_response(
        {
            "digest": wanted,
            "tag": tag,
            "manifestsRestored": restored.manifest_count,
            "tagsRestored": restored.tag_count,
        }
    )


async def _tag(context: Context, request: Request) -> Tag | None:
    """The body: `{"tag": "v1"}`, which may be null or missing. Raises Unsupported, TagInvalid."""
    try:
        async with context.bodies.whole(request, MAX_CHANGES_BYTES) as raw:
            body = loads(raw) if raw else {}
    except ManifestTooLarge:
        raise BodyTooLarge(
            message=f"the request is longer than {MAX_CHANGES_BYTES} bytes"
        ) from None
    except JSONInvalid as error:
        raise Unsupported(message=f"the request: {error}") from None
    tag = body.get("tag") if isinstance(body, dict) else body
    if tag is not None and not isinstance(tag, str):
        raise Unsupported(message="expected a JSON object with a tag, which is a text or null")
    return parse_tag(tag) if tag is not None else None


def _page(
    what: str, key: str, n: int, found: Listed[Any], names: Callable[[Any], dict[str, str]]
) -> Response:
    """`expiresAfter` is ours: az reads the policy's days and counts by itself."""
    items = [
        names(row)
        | {
            "createdAt": timestamp(row.created_at),
            "deletedAt": timestamp(row.deleted_at),
            "expiresAfter": timestamp(found.policy.until(row.counts_from)),
        }
        for row in found.rows
    ]
    more = found.next
    link = next_link(f"{PREFIX}_deleted/{what}", last=more, n=n) if more is not None else {}
    return json_response({key: items or None}, headers=link)


_ONE = "/acr/v1/_deleted/{name}"

ROUTES = (
    Route(
        "deleted-catalog", "GET", "/acr/v1/_deleted/_catalog", list_repositories, DELETED_CATALOG
    ),
    Route("deleted-manifests", "GET", f"{_ONE}/_manifests", list_manifests, DELETED_READ),
    Route("deleted-tags", "GET", f"{_ONE}/_tags", list_tags, DELETED_READ),
    Route("restore-manifest", "POST", f"{_ONE}/_manifests/{{digest}}", restore, DELETED_RESTORE),
)

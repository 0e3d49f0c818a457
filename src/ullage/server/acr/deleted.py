"""Azure Container Registry's soft delete, `/acr/v1/_deleted/` (azure.md section 2.9)."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from ullage.deletion.soft_delete import SoftDelete
from ullage.oci.digest import parse_digest
from ullage.oci.errors import ManifestTooLarge, Unsupported
from ullage.oci.reference import Tag, parse_tag
from ullage.oci.strict_json import JSONInvalid, loads
from ullage.restore import deleted
from ullage.restore.deleted import Listed
from ullage.restore.manifest import restore_manifest
from ullage.server.acr.data_plane import MAX_CHANGES_BYTES, PAGE, PREFIX, timestamp
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.errors import BodyTooLarge
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import DELETED_CATALOG, DELETED_READ, DELETED_RESTORE
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route


async def list_repositories(context: Context, request: Request) -> Response:
    """Repositories of which nothing is live any more."""
    query = query_of(request)
    n = page_size(query, context.registry.limits.max_page_size, PAGE)
    found = await context.threads.submit(
        deleted.list_repositories, context.registry, principal_of(request), n, query.one("last")
    )
    items = [
        {"repository": row.name, **_times(row.created_at, row.deleted_at)}
        | _expires(found.policy, row.counts_from)
        for row in found.rows
    ]
    return _page("_catalog", "repositories", items, n, found)


async def list_manifests(context: Context, request: Request, name: str) -> Response:
    """Manifests by the time when they were deleted."""
    repository, query = context.name(name), query_of(request)
    n = page_size(query, context.registry.limits.max_page_size, PAGE)
    found = await context.threads.submit(
        deleted.list_manifests, context.registry, repository, n, query.one("last")
    )
    items = [
        {"digest": row.digest, **_times(row.created_at, row.deleted_at)}
        | _expires(found.policy, row.counts_from)
        for row in found.rows
    ]
    return _page(f"{quote(repository, safe='')}/_manifests", "manifests", items, n, found)


async def list_tags(context: Context, request: Request, name: str) -> Response:
    """Tags by the time when they were deleted: az takes the last one of a name for the newest."""
    repository, query = context.name(name), query_of(request)
    n = page_size(query, context.registry.limits.max_page_size, PAGE)
    found = await context.threads.submit(
        deleted.list_tags, context.registry, repository, n, query.one("last")
    )
    items = [
        {"tag": row.name, "digest": row.digest, **_times(row.created_at, row.deleted_at)}
        | _expires(found.policy, row.counts_from)
        for row in found.rows
    ]
    return _page(f"{quote(repository, safe='')}/_tags", "tags", items, n, found)


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


def _times(created: datetime, when_deleted: datetime) -> dict[str, str]:
    return {"createdAt": timestamp(created), "deletedAt": timestamp(when_deleted)}


def _expires(policy: SoftDelete, counts_from: datetime) -> dict[str, str]:
    """az asks Azure for the days and counts by itself."""
    return {"expiresAfter": timestamp(policy.until(counts_from))}


def _page(what: str, key: str, items: list[dict[str, Any]], n: int, found: Listed[Any]) -> Response:
    more = found.next
    path = f"{PREFIX}_deleted/{what}"
    link = next_link(path, last=more, n=n) if more is not None else {}
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

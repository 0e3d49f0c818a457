"""Azure Container Registry's data plane, `/acr/v1/`: attributes, and listings with all of them.

Section numbers are those of docs/reference/azure.md. What Azure's clients cannot do without: lists
are never empty but `null`, links are relative, and every `changeableAttributes` has all four
members.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from ullage.deletion import delete
from ullage.oci.digest import parse_digest
from ullage.oci.errors import (
    ManifestTooLarge,
    ManifestUnknown,
    NameUnknown,
    TagUnknown,
    Unsupported,
    shown,
)
from ullage.oci.reference import RepositoryName, parse_tag
from ullage.oci.strict_json import JSONInvalid, JSONValue, loads
from ullage.registry import attributes, listings
from ullage.registry.attributes import WORDS, AttributeChanges
from ullage.registry.listings import (
    Attributes,
    ManifestDetails,
    Order,
    Reference,
    RepositoryDetails,
    TagDetails,
)
from ullage.registry.pull import read
from ullage.server.distribution.management import receipt
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.errors import BodyTooLarge
from ullage.server.http.parameters import Query, next_link, page_size
from ullage.server.http.permissions import CATALOG, DELETE, METADATA_READ, METADATA_WRITE
from ullage.server.http.request import Request
from ullage.server.http.responses import API_VERSION, empty_response, json_response
from ullage.server.http.routes import Route

PREFIX = "/acr/v1/"
PAGE = 100
MAX_CHANGES_BYTES = 64 * 1024
_ORDERS: dict[str, Order] = {"": Order.NAME, "none": Order.NAME} | {
    order.value: order for order in (Order.OLDEST_FIRST, Order.NEWEST_FIRST)
}
_CHANGEABLE = {word: column for column, word in WORDS.items()}


# --- 2.3: the catalog -----------------------------------------------------------------------------


async def list_repositories(context: Context, request: Request) -> Response:
    """Repositories by name."""
    query = query_of(request)
    n = _page_size(context, query)
    page = await context.threads.submit(
        read.list_repositories, context.registry, n, query.one("last"), principal_of(request)
    )
    more = page.items[-1] if page.more and page.items else None
    link = next_link("/acr/v1/_catalog", last=more, n=n, orderby="") if more else {}
    return json_response({"repositories": page.items or None}, headers=link)


# --- 2.4: a repository ----------------------------------------------------------------------------


async def get_repository(context: Context, request: Request, name: str) -> Response:
    repository = context.name(name)
    details = await context.threads.submit(listings.get_repository, context.registry, repository)
    return json_response(_repository(context, request, details))


async def update_repository(context: Context, request: Request, name: str) -> Response:
    repository = context.name(name)
    changes = await _changes(context, request)
    details = await context.threads.submit(
        attributes.update_repository, context.registry, repository, changes, caller_of(request)
    )
    return json_response(_repository(context, request, details))


async def delete_repository(context: Context, request: Request, name: str) -> Response:
    repository = context.name(name)
    deleted = await context.threads.submit(
        delete.delete_repository, context.registry, repository, caller_of(request)
    )
    return json_response(
        {"manifestsDeleted": deleted.manifests or None, "tagsDeleted": deleted.tags or None},
        status=202,
        headers=receipt(deleted),
    )


def _repository(context: Context, request: Request, details: RepositoryDetails) -> dict[str, Any]:
    return _head(context, request, details.name) | {
        "createdTime": timestamp(details.created_at),
        "lastUpdateTime": timestamp(details.updated_at),
        "manifestCount": details.manifest_count,
        "tagCount": details.tag_count,
        "changeableAttributes": _attributes(details.attributes),
    }


# --- 2.5: tags ------------------------------------------------------------------------------------


async def list_tags(context: Context, request: Request, name: str) -> Response:
    repository, query = context.name(name), query_of(request)
    n, order, digest = _page_size(context, query), _order(query), query.one("digest")
    page = await context.threads.submit(
        listings.list_tags,
        context.registry,
        repository,
        order,
        n,
        query.one("last"),
        parse_digest(digest) if digest else None,
    )
    body = _head(context, request, repository) | {"tags": _list(map(_tag, page.items))}
    return json_response(body, headers=_next(repository, "_tags", query, n, page.next))


async def get_tag(context: Context, request: Request, name: str, tag: str) -> Response:
    repository = context.name(name)
    details = await context.threads.submit(
        listings.get_tag, context.registry, repository, parse_tag(tag)
    )
    return json_response(_head(context, request, repository) | {"tag": _tag(details)})


async def update_tag(context: Context, request: Request, name: str, tag: str) -> Response:
    repository, wanted = context.name(name), parse_tag(tag)
    changes = await _changes(context, request)
    details = await context.threads.submit(
        attributes.update_tag, context.registry, repository, wanted, changes, caller_of(request)
    )
    return json_response(_head(context, request, repository) | {"tag": _tag(details)})


async def delete_tag(context: Context, request: Request, name: str, tag: str) -> Response:
    """Untag: the manifest stays, and no byte comes back."""
    repository, wanted = context.name(name), parse_tag(tag)
    try:
        untagged = await context.threads.submit(
            delete.delete_tag, context.registry, repository, wanted, caller_of(request)
        )
    except (NameUnknown, ManifestUnknown):
        raise TagUnknown({"name": repository, "tag": wanted}) from None
    headers = {"X-Ms-Int-Docker-Content-Digest": untagged.digest}
    return empty_response(202, headers | receipt(untagged))


def _tag(details: TagDetails) -> dict[str, Any]:
    return {
        "name": details.name,
        "digest": details.digest,
        "createdTime": timestamp(details.created_at),
        "lastUpdateTime": timestamp(details.updated_at),
        "signed": False,
        "changeableAttributes": _attributes(details.attributes),
    }


# --- 2.6: manifests -------------------------------------------------------------------------------


async def list_manifests(context: Context, request: Request, name: str) -> Response:
    repository, query = context.name(name), query_of(request)
    n, order = _page_size(context, query), _order(query)
    page = await context.threads.submit(
        listings.list_manifests, context.registry, repository, order, n, query.one("last")
    )
    body = _head(context, request, repository) | {"manifests": _list(map(_manifest, page.items))}
    return json_response(body, headers=_next(repository, "_manifests", query, n, page.next))


async def get_manifest(context: Context, request: Request, name: str, digest: str) -> Response:
    repository, wanted = context.name(name), parse_digest(digest)
    details, references = await context.threads.submit(
        listings.get_manifest, context.registry, repository, wanted
    )
    return _manifest_response(context, request, repository, details, references)


async def update_manifest(context: Context, request: Request, name: str, digest: str) -> Response:
    repository, wanted = context.name(name), parse_digest(digest)
    changes = await _changes(context, request)
    details, references = await context.threads.submit(
        attributes.update_manifest,
        context.registry,
        repository,
        wanted,
        changes,
        caller_of(request),
    )
    return _manifest_response(context, request, repository, details, references)


def _manifest_response(
    context: Context,
    request: Request,
    repository: RepositoryName,
    details: ManifestDetails,
    references: tuple[Reference, ...] | None,
) -> Response:
    body = _head(context, request, repository) | {"manifest": _manifest(details)}
    if references is not None:
        body["references"] = [
            {"digest": each.digest} | _platform(each.platform) for each in references
        ]
    return json_response(body)


def _manifest(details: ManifestDetails) -> dict[str, Any]:
    document = {
        "digest": details.digest,
        "imageSize": details.image_size,
        "createdTime": timestamp(details.created_at),
        "lastUpdateTime": timestamp(details.updated_at),
        **_platform(details.platform),
        "mediaType": details.media_type,
        # Explicitly null for an orphan: the query `[?tags==null]` finds it then.
        "tags": details.tags,
        "changeableAttributes": _attributes(details.attributes),
    }
    if details.content_size is not None:
        # Azure has no such member.
        document["contentSize"] = details.content_size
    if details.config_media_type is not None:
        document["configMediaType"] = details.config_media_type
    return document


def _platform(platform: listings.Platform) -> dict[str, str]:
    return {name: word for name, word in platform._asdict().items() if word is not None}


# --- what all of them have in common --------------------------------------------------------------


def timestamp(when: datetime) -> str:
    """2.0: RFC 3339 with seven fractional digits, such as 2021-08-30T20:28:05.6142891Z."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def no_such_page() -> Response:
    """2.1: what real ACR answers for a name that no repository can have."""
    return Response("404 page not found\n", 404, API_VERSION, "text/plain")


def _head(context: Context, request: Request, repository: str) -> dict[str, Any]:
    host = context.guard.base_url(request).partition("://")[2]
    return {"registry": host, "imageName": repository}


def _attributes(attributes: Attributes) -> dict[str, bool]:
    return {word: getattr(attributes, column) for column, word in WORDS.items()}


def _list(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]] | None:
    return list(items) or None


def _page_size(context: Context, query: Query) -> int:
    return page_size(query, context.registry.limits.max_page_size, PAGE)


def _order(query: Query) -> Order:
    text = query.one("orderby") or ""
    if text not in _ORDERS:
        raise Unsupported({"orderby": shown(text)}, "orderby: expected none, timeasc or timedesc")
    return _ORDERS[text]


def _next(
    repository: RepositoryName, what: str, query: Query, n: int, cursor: str | None
) -> dict[str, str]:
    """2.2: a relative link; `orderby` is always there, and every part has a `=`."""
    if cursor is None:
        return {}
    path = f"{PREFIX}{quote(repository, safe='')}/{what}"
    digest = query.one("digest") or None
    return next_link(path, last=cursor, n=n, orderby=query.one("orderby") or "", digest=digest)


async def _changes(context: Context, request: Request) -> AttributeChanges:
    """The body of a PATCH: a JSON object with any of the four; null and unknown ones are left out.

    Raises Unsupported, BodyTooLarge.
    """
    try:
        async with context.bodies.whole(request, MAX_CHANGES_BYTES) as raw:
            body = loads(raw)
    except ManifestTooLarge:
        raise BodyTooLarge(
            message=f"the attributes are longer than {MAX_CHANGES_BYTES} bytes"
        ) from None
    except JSONInvalid as error:
        raise Unsupported(message=f"attributes: {error}") from None
    if not isinstance(body, dict):
        raise Unsupported(message="attributes: expected a JSON object")
    return AttributeChanges(
        **{column: _switch(word, body.get(word)) for word, column in _CHANGEABLE.items()}
    )


def _switch(word: str, value: JSONValue) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise Unsupported({"attribute": word}, f"{word}: expected true or false")


ROUTES = (
    Route("acr-catalog", "GET", "/acr/v1/_catalog", list_repositories, CATALOG),
    Route("acr-repository", "GET", "/acr/v1/{name}", get_repository, METADATA_READ),
    Route("acr-repository", "PATCH", "/acr/v1/{name}", update_repository, METADATA_WRITE),
    Route("acr-repository", "DELETE", "/acr/v1/{name}", delete_repository, DELETE),
    Route("acr-tags", "GET", "/acr/v1/{name}/_tags", list_tags, METADATA_READ),
    Route("acr-tag", "GET", "/acr/v1/{name}/_tags/{tag}", get_tag, METADATA_READ),
    Route("acr-tag", "PATCH", "/acr/v1/{name}/_tags/{tag}", update_tag, METADATA_WRITE),
    Route("acr-tag", "DELETE", "/acr/v1/{name}/_tags/{tag}", delete_tag, DELETE),
    Route("acr-manifests", "GET", "/acr/v1/{name}/_manifests", list_manifests, METADATA_READ),
    Route("acr-manifest", "GET", "/acr/v1/{name}/_manifests/{digest}", get_manifest, METADATA_READ),
    Route(
        "acr-manifest",
        "PATCH",
        "/acr/v1/{name}/_manifests/{digest}",
        update_manifest,
        METADATA_WRITE,
    ),
)

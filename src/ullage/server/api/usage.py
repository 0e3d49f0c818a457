"""`/api/v1/usage` and `/api/v1/why`: what takes the space, and what keeps it."""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from ullage.authorization import Action
from ullage.documents import UNSET, changed
from ullage.oci.digest import parse_digest
from ullage.oci.errors import BlobUnknown, NameUnknown, ValueInvalid
from ullage.oci.reference import RepositoryName
from ullage.server.http.context import Context, principal_of, query_of
from ullage.server.http.json_bodies import require
from ullage.server.http.operations import Operation, Parameter, page
from ullage.server.http.parameters import Query, next_link, page_size
from ullage.server.http.permissions import ALL_REPOSITORIES, KNOWN
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route
from ullage.usage import usage, why
from ullage.usage.bill import bill, listed
from ullage.usage.overview import LINES, is_small, take_overview
from ullage.usage.ranking import LINE_SORTINGS, Sorting, name_of, place_behind, ranked


async def get_usage(context: Context, request: Request) -> Response:
    """What there is on the disk and whose it is; or of one repository, its images or tags.

    Of a large registry as it was counted last, `as_of` then, unless `fresh` or `check` is asked.
    """
    query, principal = query_of(request), principal_of(request)
    by, top = query.one("by") or "repository", _top(query.one("top"))
    name = query.one("repository")
    if name is not None:
        repository = context.name(name)
        require(principal, [repository], Action.METADATA_READ)
        return await _usage_of(context, repository, by, top, query)
    given = [word for word in _OF_LINES if query.one(word) is not None]
    if given:
        raise ValueInvalid({"parameters": given}, f"{', '.join(given)}: of a repository's lines")
    if by not in LINES:
        raise ValueInvalid({"by": by[:40]}, "by: without a repository, repository or namespace")
    if by == "namespace":
        require(principal, [ALL_REPOSITORIES], Action.METADATA_READ)
    check = query.one("check") == "true"
    if (check or query.one("fresh") == "true") and not await context.threads.submit(
        is_small, context.registry
    ):
        taken = partial(context.threads.submit, take_overview, context.registry)
        await context.counting_bill.run(taken)
    found = await context.threads.submit(bill, context.registry, principal, by, top)
    if check and found.registry is not UNSET:
        stored, unexplained = await context.threads.submit(usage.unexplained, context.registry)
        sums = changed(found.registry, store_bytes=stored, unexplained_bytes=unexplained)
        found = changed(found, registry=sums)
    return json_response(found)


async def _usage_of(
    context: Context, repository: RepositoryName, by: str, top: int | None, query: Query
) -> Response:
    if by not in ("repository", "image", "tag"):
        raise ValueInvalid({"by": by[:40]}, "by: of a repository, repository, image or tag")
    found = await context.threads.submit(usage.of_repository, context.registry, repository)
    if by == "repository":
        return json_response(usage.Usage(repository=found))
    lines = await context.threads.submit(
        usage.by_image, context.registry, repository, tags=by == "tag"
    )
    text = query.one("q") or ""
    lines = ranked(lines, _sorting(query.one("sort")), text)
    lines = lines[place_behind(lines, query.one("last")) :]
    more: dict[str, str] = {}
    if query.one("n") is not None:
        top = page_size(query, context.registry.limits.max_page_size)
        if 0 < top < len(lines):
            same = {
                "repository": repository,
                "by": by,
                "sort": query.one("sort"),
                "q": text or None,
            }
            more = next_link("/api/v1/usage", **same, n=top, last=name_of(lines[top - 1]))
    return json_response(usage.Usage(repository=found, **listed(by, lines, top)), headers=more)


def _sorting(text: str | None) -> Sorting:
    if text is None:
        return Sorting.SHARE
    if text not in LINE_SORTINGS:
        raise ValueInvalid({"sort": text[:40]}, f"sort: expected {', '.join(LINE_SORTINGS)}")
    return Sorting(text)


def _top(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueInvalid({"top": text[:40]}, "top: expected a whole number")
    return int(text)


async def get_why(context: Context, request: Request, reference: str) -> Response:
    """Everything that keeps a manifest or blob, or what its bytes wait for."""
    return json_response(
        await context.threads.submit(
            why.explain, context.registry, parse_digest(reference), principal_of(request)
        )
    )


_BY = {"type": "string", "enum": ["repository", "namespace", "image", "tag"]}
_SORT = {"type": "string", "enum": [*LINE_SORTINGS]}
# What is asked of the lines of one repository only.
_OF_LINES = ("sort", "q", "n", "last")
_USAGE = Operation(
    {200: usage.Usage},
    query=(
        Parameter("by", "repository or namespace; of a repository, image or tag", _BY),
        Parameter("repository", "only this one", example="app"),
        Parameter("sort", "the order of images or tags, share without it", _SORT),
        Parameter("q", "only images or tags with this in a tag or the digest", example="v1"),
        *page("all"),
        Parameter("top", "the first so many lines", {"type": "integer", "minimum": 0}),
        Parameter("check", "true also lists the store", example="true"),
        Parameter("fresh", "true counts anew", example="true"),
    ),
    errors=(NameUnknown,),
    headers=("Link",),
)
_WHY = Operation({200: why.Reasons}, errors=(BlobUnknown,))
ROUTES = (
    Route("usage", "GET", "/api/v1/usage", get_usage, KNOWN, _USAGE),
    Route("why", "GET", "/api/v1/why/{digest}", get_why, KNOWN, _WHY),
)

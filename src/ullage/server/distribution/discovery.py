"""distribution-spec, "Content Discovery": tags, referrers (end-8, end-12), and the catalog."""

from __future__ import annotations

from starlette.responses import Response

from ullage.oci.digest import parse_digest
from ullage.oci.manifest.media_type import OCI_INDEX
from ullage.registry.pull import read
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response


async def list_tags(context: Context, request: Request, name: str) -> Response:
    """distribution-spec, "Listing Tags"."""
    repository, query = context.name(name), query_of(request)
    n = page_size(query, context.registry.limits.max_page_size)
    page = await context.reads.tags(repository, n, query.one("last"))
    more = page.more and page.items
    link = next_link(f"/v2/{repository}/tags/list", n=n, last=page.items[-1]) if more else {}
    return json_response({"name": repository, "tags": page.items}, headers=link)


async def list_repositories(context: Context, request: Request) -> Response:
    """Docker's catalog, which the OCI specification leaves out; paged like tags."""
    query = query_of(request)
    n = page_size(query, context.registry.limits.max_page_size)
    page = await context.threads.read(
        read.list_repositories, context.registry, n, query.one("last"), principal_of(request)
    )
    more = page.more and page.items
    link = next_link("/v2/_catalog", n=n, last=page.items[-1]) if more else {}
    names = page.items
    if not names and caller_of(request).is_azure:
        # azure.md section 0, rule 5: acr asks here, too, and takes the last of any list.
        return json_response({"repositories": None}, headers=link)
    return json_response({"repositories": names}, headers=link)


async def list_referrers(context: Context, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Listing Referrers": always an index, empty if there are none."""
    repository, digest, query = context.name(name), parse_digest(reference), query_of(request)
    artifact_type = query.one("artifactType")
    n = page_size(query, context.registry.limits.max_page_size) or 1
    page = await context.threads.read(
        read.list_referrers,
        context.registry,
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

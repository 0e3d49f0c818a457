"""distribution-spec, "Pushing Manifests": end-7, under a tag or by digest with tags beside it."""

from __future__ import annotations

from starlette.responses import Response

from ullage.oci.errors import TagInvalid
from ullage.oci.reference import Tag, parse_reference, parse_tag
from ullage.registry.push.manifests import prepare_manifest
from ullage.server.http.context import Context, caller_of, query_of
from ullage.server.http.request import Request
from ullage.server.http.responses import empty_response


async def put_manifest(context: Context, request: Request, name: str, reference: str) -> Response:
    """distribution-spec, "Pushing Manifests"; with `tag` parameters, end-7b."""
    repository, target = context.name(name), parse_reference(reference)
    tags = [parse_tag(tag) for tag in query_of(request).all("tag")]
    if tags and isinstance(target, Tag):
        raise TagInvalid(
            {"tag": tags[0]}, "tag parameters are for pushing by digest; this push names a tag"
        )
    media_type, caller = request.headers.get("content-type"), caller_of(request)
    async with context.bodies.whole(request, context.registry.limits.max_manifest_bytes) as raw:
        result = await context.write_batches.run(
            lambda: prepare_manifest(
                context.registry, repository, target, raw, media_type, caller, tags
            ),
            len(raw),
        )
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

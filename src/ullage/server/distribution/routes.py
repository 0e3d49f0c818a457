"""OCI Distribution 1.1 and what is newer on the specification's main branch: `/v2/`, in spec order.

Every handler reads: parse, call one service, shape the response. `ROUTES` is the protocol; the
modules here are the specification's workflows: pull, push, discovery, management.
"""

from __future__ import annotations

from starlette.responses import Response

from ullage import __version__
from ullage.server.distribution.discovery import list_referrers, list_repositories, list_tags
from ullage.server.distribution.management import delete_blob, delete_manifest
from ullage.server.distribution.pull import get_blob, get_manifest, head_blob
from ullage.server.distribution.push_blobs import (
    cancel_upload,
    finish_upload,
    get_upload,
    patch_upload,
    start_upload,
)
from ullage.server.distribution.push_manifests import put_manifest
from ullage.server.http.context import Context
from ullage.server.http.permissions import ANYBODY, CATALOG, DELETE, KNOWN, PULL, PUSH
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route


async def get_base(context: Context, request: Request) -> Response:
    """distribution-spec, "Determining Support"."""
    return json_response({})


async def get_root(context: Context, request: Request) -> Response:
    """What this is, for balancers that ask whether it answers, and for people who open it."""
    return json_response({"name": "ullage", "version": __version__, "paths": PATHS})


# What a reader of `/` may want next.
PATHS = {
    "distribution": "/v2/",
    "repositories": "/v2/_catalog",
    "azure": "/acr/v1/_catalog",
    "ullage": "/api/v1/openapi.json",
}
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
    Route("root", "GET", "/", get_root, ANYBODY),
)

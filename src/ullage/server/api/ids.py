"""`/api/v1/ids`: what begins with a few digits, so that people need not type all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.responses import Response

from ullage.cleanup.job.jobs import jobs_beginning
from ullage.cleanup.plan.plan import plans_beginning
from ullage.documents import Document
from ullage.oci.errors import ValueInvalid
from ullage.restore.deleted import operations_beginning
from ullage.server.http.context import Context, principal_of
from ullage.server.http.operations import Operation
from ullage.server.http.permissions import KNOWN
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route
from ullage.usage.why import PlacedDigest, digests_beginning

# With fewer digits a registry would answer with much of what it has.
LEAST_DIGITS = 7
_PREFIX = re.compile(rf"(?:(sha256|sha512):)?([0-9a-f]{{{LEAST_DIGITS},128}})")


class Beginning(Document, frozen=True):
    """All that begins with some digits, of what the caller may see."""

    manifests: Sequence[PlacedDigest]
    blobs: Sequence[str]
    plans: Sequence[str]
    jobs: Sequence[str]
    operations: Sequence[str]


async def get_ids(context: Context, request: Request, prefix: str) -> Response:
    """The digests, plans, jobs and operations whose names begin with these digits."""
    found = _PREFIX.fullmatch(prefix)
    if found is None:
        raise ValueInvalid({"prefix": prefix[:64]}, f"expected {LEAST_DIGITS} digits of 0-9a-f")
    algorithm, digits = found.groups()
    prefixes = [f"{each}:{digits}" for each in ([algorithm] if algorithm else ("sha256", "sha512"))]
    registry, principal = context.registry, principal_of(request)
    manifests, blobs = await context.threads.submit(
        digests_beginning, registry, prefixes, principal
    )
    ids: list[Sequence[str]] = [(), (), ()]
    if not algorithm:
        ids = [
            await context.threads.submit(find, registry, digits, principal)
            for find in (plans_beginning, jobs_beginning, operations_beginning)
        ]
    return json_response(Beginning(manifests, blobs, *ids))


ROUTES = (Route("ids", "GET", "/api/v1/ids/{prefix}", get_ids, KNOWN, Operation({200: Beginning})),)

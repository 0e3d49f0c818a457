"""Finding a repository by a part of its name, and what has a digest."""

from __future__ import annotations

from starlette.responses import Response

from ullage.oci.digest import parse_digest
from ullage.oci.errors import BlobUnknown, DigestInvalid
from ullage.server.http.permissions import CATALOG
from ullage.server.http.routes import Route
from ullage.server.ui.bill import bill_of
from ullage.server.ui.formats import address
from ullage.server.ui.visit import Visit
from ullage.usage import why

MAX_SHOWN = 50


async def search(visit: Visit) -> Response:
    """Repositories with this in their names; of a whole digest, where it is and what keeps it."""
    text = (visit.query.one("q") or "").strip()
    reasons = None
    try:
        digest = parse_digest(text)
        reasons = await visit.run(why.explain, visit.registry, digest, visit.principal)
    except (DigestInvalid, BlobUnknown):
        pass
    name, _, tag = text.partition(":")
    bill = await visit.run(bill_of, visit.registry, visit.principal)
    lines = [line for line in bill.lines if name and name in line.name] if reasons is None else []
    return await visit.page(
        "search.html",
        q=text,
        lines=lines[:MAX_SHOWN],
        more=max(0, len(lines) - MAX_SHOWN),
        tag=tag,
        tag_query=f"?q={address(tag)}" if tag else "",
        reasons=reasons,
        places=_places(reasons) if reasons is not None else (),
    )


def _places(reasons: why.Reasons) -> list[tuple[why.ManifestPlace, str]]:
    """Where a manifest is, each with the page about it there."""
    return [
        (place, f"images/{address(place.repository)}/{address(reasons.digest)}")
        for place in reasons.manifest or ()
        if not place.operation
    ]


ROUTES = (Route("ui-search", "GET", "/ui/search", search, CATALOG),)

"""Finding repositories, tags and manifests, and what has a digest."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response

from ullage.documents import UNSET
from ullage.oci.digest import parse_digest
from ullage.oci.errors import BlobUnknown, DigestInvalid
from ullage.server.http.permissions import CATALOG
from ullage.server.http.routes import Route
from ullage.server.ui.formats import address
from ullage.server.ui.visit import Visit
from ullage.usage import search as find
from ullage.usage import why
from ullage.usage.search import Found, Hit

MAX_SHOWN = 50


async def search(visit: Visit) -> Response:
    """What has this in its name; of a whole digest, where it is and what keeps it."""
    text = (visit.query.one("q") or "").strip()
    reasons = None
    try:
        digest = parse_digest(text)
        reasons = await visit.run(why.explain, visit.registry, digest, visit.principal)
    except (DigestInvalid, BlobUnknown):
        pass
    found = Found((), None)
    if reasons is None:
        last = visit.query.one("last")
        found = await visit.run(find.search, visit.registry, text, visit.principal, MAX_SHOWN, last)
    return await visit.page(
        "search.html",
        q=text,
        hits=[(hit, _path(hit)) for hit in found.hits],
        next="?" + urlencode({"q": text, "last": found.next}) if found.next else None,
        reasons=reasons,
        places=_places(reasons) if reasons is not None else (),
    )


def _path(hit: Hit) -> str:
    """The page about it."""
    name = address(hit.repository)
    if hit.digest is UNSET:
        return f"repositories/{name}"
    return f"images/{name}/{address(hit.tag or hit.digest)}"


def _places(reasons: why.Reasons) -> list[tuple[why.ManifestPlace, str]]:
    """Where a manifest is, each with the page about it there."""
    return [
        (place, f"images/{address(place.repository)}/{address(reasons.digest)}")
        for place in reasons.manifest or ()
        if not place.operation
    ]


ROUTES = (Route("ui-search", "GET", "/ui/search", search, CATALOG),)

"""Style sheet, script and icon, to be kept by browsers for as long as they like."""

from __future__ import annotations

from starlette.responses import Response

from ullage.server.http.errors import NotFound
from ullage.server.http.permissions import ANYBODY
from ullage.server.http.responses import FixedResponse
from ullage.server.http.routes import Route
from ullage.server.ui.assets import assets
from ullage.server.ui.rendering import SECURITY
from ullage.server.ui.visit import Visit


async def get_file(visit: Visit, digits: str, name: str) -> Response:
    """A file under the hash of its bytes. Raises NotFound for any other hash."""
    asset = assets().get(name)
    if asset is None or asset.hash != digits:
        raise NotFound
    headers = {
        "ETag": f'"{asset.hash}"',
        "Cache-Control": "public, max-age=31536000, immutable",
        **SECURITY,
    }
    if visit.request.headers.get("if-none-match") == headers["ETag"]:
        return FixedResponse(304, headers)
    return FixedResponse(200, {"Content-Type": asset.media_type, **headers}, asset.body)


ROUTES = (Route("ui-static", "GET", "/ui/static/{hash}/{file}", get_file, ANYBODY),)

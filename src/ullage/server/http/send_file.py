"""Large blobs that nginx in front sends itself: the kernel moves the bytes from file to client.

https://nginx.org/en/docs/http/ngx_http_proxy_module.html, X-Accel-Redirect: an answer with that
field has no body, and nginx sends the file that its value names in place of it, also the part that
the client's Range asks for. docs/guides/access.md has nginx's side of it.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response

from ullage.oci.digest import Digest
from ullage.server.http.blob_response import SMALL_BYTES, blob_headers
from ullage.server.http.proxies import PROXIED
from ullage.server.http.request import Request
from ullage.server.http.responses import API_VERSION, FixedResponse

# By which a proxy asks for the bytes themselves. Its own clients may, too: they get what they ask.
SEND_FILE = b"ullage-send-file"


class SendFile:
    """`prefix` is the location of nginx's below which it finds the store's files, "/files/";
    `path_of` gives the path of a storage key's file below the store's folder."""

    def __init__(self, prefix: str, path_of: Callable[[str], str]) -> None:
        self._prefix = prefix
        self._path_of = path_of

    def serves(self, request: Request, size: int) -> bool:
        """Whether nginx asks, for a blob of `size` bytes: anybody else would get an empty body.

        What is small is sent sooner than it is opened twice.
        """
        if size <= SMALL_BYTES or not request.scope.get(PROXIED):
            return False
        return request.fields.first.get(SEND_FILE) != b"off"

    def response(self, digest: Digest, size: int, key: str) -> Response:
        """What has nginx send the file of this storage key, whole or the range it is asked for."""
        headers = API_VERSION | blob_headers(digest, size)
        # nginx says of itself that it takes ranges.
        del headers["Accept-Ranges"]
        headers["Content-Length"] = "0"
        headers["X-Accel-Redirect"] = self._prefix + self._path_of(key)
        return FixedResponse(200, headers)

"""Defects of ours: the log has what happened, the client the request's id to report."""

from __future__ import annotations

import logging

from ullage.oci.errors import RegistryError
from ullage.server.http.access_log import printable
from ullage.server.http.request import Request

log = logging.getLogger(__name__)


class InternalError(RegistryError):
    """Something failed that no client has to do with."""

    code = "UNKNOWN"
    message = "internal error; the registry's log has more"


def noted(request: Request, error: Exception) -> InternalError:
    """Write a defect to the log; what is told of it."""
    request_id = request.scope["ullage.request_id"]
    log.error(
        "500 %s %s: internal error in request %s",
        printable(request.method),
        printable(request.scope["path"]),
        request_id,
        exc_info=error,
    )
    return InternalError({"request_id": request_id})

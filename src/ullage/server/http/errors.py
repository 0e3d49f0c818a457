"""How errors travel over HTTP: one map from kinds of errors to statuses, one envelope."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ullage.accounts.audit_log import TimeInvalid
from ullage.accounts.names import AccountConflict, AccountInvalid, AccountUnknown
from ullage.authorization import ScopeInvalid
from ullage.oci import errors
from ullage.oci.errors import (
    RangeInvalid,
    RegistryError,
    Unsupported,
)
from ullage.registry.errors import SHORT_OF_FILES
from ullage.server.http.responses import API_VERSION, json_response


class RangeNotSatisfiable(RegistryError):
    """RFC 9110, section 15.5.17. Not to be confused with a chunk that does not go on."""

    code = RangeInvalid.code
    message = "no byte of the blob is in the range that is asked for"


class NotFound(RegistryError):
    """No endpoint has this path."""

    code = "NOT_FOUND"
    message = "no such endpoint; see the OCI distribution specification for those there are"


class MethodNotAllowed(Unsupported):
    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(
            {"method": method, "allowed": allowed}, f"{method} is not supported here, {allowed} is"
        )
        self.allowed = allowed


class ContentRangeMalformed(RegistryError):
    """Not to be confused with a well-formed range in the wrong place, which is a 416."""

    code = RangeInvalid.code
    message = "the Content-Range header is malformed"


class UriTooLong(Unsupported):
    message = "the path or the query string is too long"


class HeadersTooLarge(Unsupported):
    message = "the request's headers are too long"


class EncodingUnsupported(Unsupported):
    message = "the body is encoded"


class FormTooLarge(Unsupported):
    """A token request longer than any client's."""


class MediaTypeUnsupported(Unsupported):
    """A body of another kind, such as any web page can send to any host without being asked."""

    message = "send the body as application/json"


class BodyTooLarge(Unsupported):
    """A body of a few words that is longer than any client's."""

    message = "the request's body is too long"


class BodyTimeout(RegistryError):
    """The client stopped sending."""

    code = "REQUEST_TIMEOUT"
    message = "the request's body stopped arriving"


# distribution-spec, "Error Codes". The first class in an error's ancestry named here counts.
STATUS: Mapping[type[RegistryError], int] = {
    errors.BlobUnknown: 404,
    errors.BlobUploadInvalid: 400,
    errors.BlobUploadUnknown: 404,
    errors.DigestInvalid: 400,
    errors.ManifestBlobUnknown: 400,
    errors.ManifestTooLarge: 413,
    errors.ManifestInvalid: 400,
    errors.ManifestUnknown: 404,
    errors.NameInvalid: 400,
    errors.NameUnknown: 404,
    errors.SizeInvalid: 400,
    errors.TagInvalid: 400,
    errors.TagUnknown: 404,
    errors.Unauthorized: 401,
    errors.Denied: 403,
    errors.Unsupported: 400,
    errors.TooManyRequests: 429,
    errors.RangeInvalid: 416,
    errors.PaginationNumberInvalid: 400,
    errors.OperationDisallowed: 405,
    errors.PlanUnknown: 404,
    errors.JobUnknown: 404,
    errors.LockUnknown: 404,
    errors.SourceUnknown: 404,
    errors.SourceEmpty: 409,
    errors.PlanInvalid: 400,
    errors.OperationUnknown: 404,
    errors.RestoreConflict: 409,
    errors.PlanChanged: 409,
    errors.PlanRefused: 409,
    errors.ValueInvalid: 400,
    errors.StorageFull: 507,
    errors.Unavailable: 503,
    AccountInvalid: 400,
    AccountUnknown: 404,
    AccountConflict: 409,
    TimeInvalid: 400,
    # What only HTTP knows.
    NotFound: 404,
    MethodNotAllowed: 405,
    ContentRangeMalformed: 400,
    RangeNotSatisfiable: 416,
    ScopeInvalid: 400,
    BodyTimeout: 408,
    FormTooLarge: 413,
    BodyTooLarge: 413,
    UriTooLong: 414,
    EncodingUnsupported: 415,
    MediaTypeUnsupported: 415,
    HeadersTooLarge: 431,
}


def status_of(error: RegistryError) -> int:
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    raise LookupError(f"{type(error).__name__} has no status")


def error_response(error: RegistryError, headers: Mapping[str, str] | None = None) -> Response:
    """The one place that writes an error body (distribution-spec, "Error Codes")."""
    status = status_of(error)
    entry: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.detail is not None:
        entry["detail"] = error.detail
    extra = {**API_VERSION, **(headers or {})}
    if error.retry_after is not None:
        # RFC 9110, section 10.2.3: whole seconds.
        extra["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.message == SHORT_OF_FILES:
        # The connection's own descriptor is one that others wait for.
        extra["Connection"] = "close"
    if isinstance(error, MethodNotAllowed):
        extra["Allow"] = error.allowed
    if isinstance(error, EncodingUnsupported):
        # RFC 9110, section 12.5.3: what would have been taken.
        extra["Accept-Encoding"] = "identity"
    return json_response({"errors": [entry]}, status=status, headers=extra)

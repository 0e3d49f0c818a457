"""How facts and errors travel over HTTP: envelopes, statuses, ranges, pages, query strings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ullage.authorization import ScopeInvalid
from ullage.oci import errors
from ullage.oci.errors import (
    DigestInvalid,
    PaginationNumberInvalid,
    RangeInvalid,
    RegistryError,
    SizeInvalid,
    Unsupported,
)

API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}

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
    errors.HoldUnknown: 404,
    errors.PlanInvalid: 400,
    errors.OperationUnknown: 404,
    errors.RestoreConflict: 409,
    errors.PlanChanged: 409,
    errors.PlanRefused: 409,
    errors.ValueInvalid: 400,
    errors.StorageFull: 507,
    errors.Unavailable: 503,
}
# Worth trying again, after this many seconds.
_RETRY_AFTER = {429: "5", 503: "1", 507: "60"}

MAX_QUERY_BYTES = 8 * 1024
_DECIMAL = re.compile(r"[0-9]{1,19}")
_BYTE_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_CONTENT_RANGE = re.compile(r"(?:bytes )?([0-9]{1,19})-([0-9]{1,19})(?:/(?:\*|[0-9]{1,19}))?")


class RangeNotSatisfiable(Exception):
    """No byte of the blob is in the asked range."""


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


class BodyTooLarge(Unsupported):
    """A body of a few words that is longer than any client's."""

    message = "the request's body is too long"


class BodyTimeout(RegistryError):
    """The client stopped sending."""

    code = "REQUEST_TIMEOUT"
    message = "the request's body stopped arriving"


_FACE_STATUS: Mapping[type[RegistryError], int] = {
    NotFound: 404,
    MethodNotAllowed: 405,
    ContentRangeMalformed: 400,
    ScopeInvalid: 400,
    BodyTimeout: 408,
    FormTooLarge: 413,
    BodyTooLarge: 413,
    UriTooLong: 414,
    EncodingUnsupported: 415,
    HeadersTooLarge: 431,
}


def status_of(error: RegistryError) -> int:
    for kind in type(error).__mro__:
        status = STATUS.get(kind) or _FACE_STATUS.get(kind)
        if status is not None:
            return status
    raise LookupError(f"{type(error).__name__} has no status")


@lru_cache(maxsize=256)
def _field_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Header fields as they travel."""
    return [(_field_name(name), value.encode("latin-1")) for name, value in headers.items()]


class Answer(Response):
    """An answer that is all there: its headers are those given, and Content-Length.

    Starlette's takes three times as long to make, most of it for what we never ask of it.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = encoded(headers)
        # RFC 9110, section 8.6: these two have none.
        if status not in (204, 304) and "Content-Length" not in headers:
            self.raw_headers.append((b"content-length", b"%d" % len(body)))

    @classmethod
    def ready(cls, status: int, head: list[tuple[bytes, bytes]], body: bytes = b"") -> Answer:
        """With headers that were encoded before."""
        answer = cls.__new__(cls)
        answer.status_code = status
        answer.background = None
        answer.raw_headers = head
        answer.body = body
        return answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body})


def error_response(error: RegistryError, headers: Mapping[str, str] | None = None) -> Response:
    """The one place that writes an error body (distribution-spec, "Error Codes")."""
    status = status_of(error)
    entry: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.detail is not None:
        entry["detail"] = error.detail
    extra = {**API_VERSION, **(headers or {})}
    if status in _RETRY_AFTER:
        extra["Retry-After"] = _RETRY_AFTER[status]
    if isinstance(error, MethodNotAllowed):
        extra["Allow"] = error.allowed
    if isinstance(error, EncodingUnsupported):
        # RFC 9110, section 12.5.3: what would have been taken.
        extra["Accept-Encoding"] = "identity"
    return json_response({"errors": [entry]}, status=status, headers=extra)


# json.dumps would make an encoder each time.
_in_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def json_response(
    content: object,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    body = _in_json(content).encode("ascii")
    head = {**API_VERSION, **headers} if headers else API_VERSION
    return Answer(status, {"Content-Type": media_type, **head}, body)


def empty_response(status: int, headers: Mapping[str, str]) -> Response:
    return Answer(status, {**API_VERSION, **headers})


# --- ranges ---------------------------------------------------------------------------------------


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Turn a Range header into the half-open span [start, stop) of a blob of `size` bytes.

    RFC 9110 §14.1.2: "bytes=500-1499", "bytes=500-" and "bytes=-500" are all legal, and a last byte
    past the end is clipped. None means: serve the whole blob; so do several ranges at once, other
    units and malformed headers, which §14.2 lets a server ignore.
    Raises RangeNotSatisfiable when no byte of the blob is asked for.
    """
    match = _BYTE_RANGE.fullmatch(header) if header and len(header) <= 64 else None
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start = int(first)
        stop = min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise RangeNotSatisfiable
    return start, stop


def content_range(header: str | None, content_length: int | None) -> tuple[int, int] | None:
    """The half-open span [start, stop) that an upload's chunk says it covers; None if it does not.

    distribution-spec, "Pushing a blob in chunks": `^[0-9]+-[0-9]+$`; RFC 9110's "bytes a-b/size" is
    taken as well. Raises ContentRangeMalformed, or SizeInvalid if it contradicts the length.
    """
    if header is None:
        return None
    match = _CONTENT_RANGE.fullmatch(header)
    first, last = (int(match.group(1)), int(match.group(2))) if match else (1, 0)
    if last < first:
        raise ContentRangeMalformed(
            message="Content-Range: expected <first byte>-<last byte>, such as 0-1048575"
        )
    if content_length is not None and content_length != last + 1 - first:
        raise SizeInvalid(
            {"content_range": header, "content_length": content_length},
            f"Content-Range covers {last + 1 - first} bytes, the body has {content_length}",
        )
    return first, last + 1


def held_range(offset: int) -> str:
    """The Range header of a session that holds `offset` bytes: inclusive, and 0-0 for none."""
    return f"0-{max(0, offset - 1)}"


# --- query strings --------------------------------------------------------------------------------


class Query:
    """A query string, read strictly: UTF-8 without NUL, and what is single-valued is given once."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) > MAX_QUERY_BYTES:
            raise UriTooLong(message=f"the query string is longer than {MAX_QUERY_BYTES} bytes")
        self._values: dict[str, list[str]] = {}
        for part in raw.split(b"&") if raw else ():
            name, _, value = part.partition(b"=")
            self._values.setdefault(_decoded(name), []).append(_decoded(value))

    def one(self, name: str) -> str | None:
        """The parameter's value, None if it is absent."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            kind = DigestInvalid if name == "digest" else Unsupported
            raise kind({"parameter": name}, f"the parameter {name} is given {len(values)} times")
        return values[0]

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])


def _decoded(text: bytes) -> str:
    try:
        decoded = unquote_to_bytes(text.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise Unsupported(message="the query string is not UTF-8") from None
    if "\0" in decoded:
        # PostgreSQL has no such text, so nothing could be found with it.
        raise Unsupported(message="there is a NUL character in the query string")
    return decoded


def decoded_path(text: str) -> str:
    """One captured part of a raw path, percent-decoded once."""
    if "%" not in text:
        return text
    # What is not UTF-8 becomes a character that no grammar allows.
    return unquote_to_bytes(text).decode("utf-8", "replace")


# --- pages ----------------------------------------------------------------------------------------


def page_size(query: Query, largest: int, default: int | None = None) -> int:
    """How many items a listing may show: `n`, or `default`, but never more than `largest`.

    distribution-spec, "Listing Tags". Raises PaginationNumberInvalid unless `n` is decimal.
    """
    text = query.one("n")
    if text is None:
        return largest if default is None else min(default, largest)
    if not _DECIMAL.fullmatch(text):
        raise PaginationNumberInvalid({"n": text[:40]}, "n: expected a decimal number")
    return min(int(text), largest)


def next_link(path: str, **parameters: str | int | None) -> dict[str, str]:
    """RFC 8288: a relative Link to the next page."""
    query = "&".join(
        f"{name}={quote(str(value), safe='')}"
        for name, value in parameters.items()
        if value is not None
    )
    return {"Link": f'<{path}?{query}>; rel="next"'}


def decimal_header(value: str | None) -> int | None:
    """A header that holds a length; None if it is absent or says nothing usable."""
    return int(value) if value is not None and _DECIMAL.fullmatch(value) else None

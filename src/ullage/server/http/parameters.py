"""What a request carries beside its body: ranges, pages, query strings, decimal headers."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from ullage.oci.errors import (
    DigestInvalid,
    PaginationNumberInvalid,
    SizeInvalid,
    Unsupported,
)
from ullage.server.http.errors import ContentRangeMalformed, RangeNotSatisfiable, UriTooLong

MAX_QUERY_BYTES = 8 * 1024
_DECIMAL = re.compile(r"[0-9]{1,19}")
_BYTE_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_CONTENT_RANGE = re.compile(r"(?:bytes )?([0-9]{1,19})-([0-9]{1,19})(?:/(?:\*|[0-9]{1,19}))?")


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
        raise RangeNotSatisfiable({"size": size})
    return start, stop


def content_range(header: str | None, content_length: int | None) -> tuple[int, int] | None:
    """The half-open span [start, stop) of an upload's chunk in Content-Range; None without one.

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


def received_range(offset: int) -> str:
    """The Range header of a session that received `offset` bytes: inclusive, and 0-0 for none."""
    return f"0-{max(0, offset - 1)}"


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
    """The length in a header; None if it is absent or no number."""
    return int(value) if value is not None and _DECIMAL.fullmatch(value) else None

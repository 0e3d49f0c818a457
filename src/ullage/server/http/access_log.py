"""One line per request: JSON for machines, or short and readable on a terminal.

Everything a client sent is escaped, so that no name or user agent can forge a line or move a
terminal's cursor. Query strings and credentials are never written.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO

# Lines wait this long for others: one write for many requests.
FLUSH_SECONDS = 0.1
MAX_VALUE = 300
# Texts whose escaped form is remembered: the same few clients request the same few paths.
SHOWN_KEPT = 512
IDS_AT_ONCE = 64
_json = json.encoder.encode_basestring_ascii
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Control characters, what a log viewer takes for a line end, and what turns a line's direction.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _random_ids() -> Iterator[str]:
    """RFC 9562, version 4, many at a time: uuid.uuid4 takes ten times as long.

    They tell requests apart, and no more.
    """
    while True:
        digits = os.urandom(16 * IDS_AT_ONCE).hex()
        for at in range(0, len(digits), 32):
            one = digits[at : at + 32]
            yield f"{one[:8]}-{one[8:12]}-4{one[13:16]}-a{one[17:20]}-{one[20:]}"


_next_id = _random_ids().__next__


def request_id_of(header: bytes | None) -> str:
    """The client's own id if it is harmless, so that both sides' logs meet; else a new one."""
    if header is not None and _REQUEST_ID.fullmatch(header):
        return header.decode("ascii")
    return _next_id()


def printable(text: str) -> str:
    """Text from outside on one line: escaped, and at most MAX_VALUE characters of it."""
    if len(text) <= MAX_VALUE and text.isascii() and text.isprintable():
        return text
    short = text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", short)


@lru_cache(SHOWN_KEPT)
def _quoted(text: str) -> str:
    """Text from outside as a JSON string."""
    return _json(printable(text))


@lru_cache(4)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()[:-6]


class RequestLog:
    """Writes lines from the event loop, a batch at a time."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._readable = self._stream.isatty()
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(
        self,
        *,
        at: float,
        request_id: str,
        address: str,
        subject: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        agent: str,
    ) -> None:
        """Note a request that was answered `at`, in seconds since 1970, after so many `seconds`.

        `request_id` is one of `request_id_of`.
        """
        time = _second(int(at))
        if self._readable:
            user = f"{printable(subject)}@" if subject else ""
            line = (
                f"{time[-8:]} {status} {printable(method):<6} {printable(path)} "
                f"{seconds * 1000:.1f} ms {user}{address}"
            )
        else:
            # What json.dumps would write, in a tenth of the time: it is a line for each request.
            line = (
                f'{{"time": "{time}.{int(at % 1 * 1000):03}+00:00", '
                f'"request_id": "{request_id}", "address": {_quoted(address)}, '
                f'"subject": {_quoted(subject)}, "method": {_quoted(method)}, '
                f'"path": {_quoted(path)}, "status": {status}, '
                f'"ms": {seconds * 1000:.2f}, "agent": {_quoted(agent)}}}'
            )
        self._lines.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what waits. Called by the timer, and once more when the server stops."""
        self._timer = None
        lines, self._lines = self._lines, []
        if lines:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()

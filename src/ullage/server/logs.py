"""One line per request: JSON for machines, or short and readable on a terminal.

Everything a client sent is escaped, so that no name or user agent can forge a line or move a
terminal's cursor. Query strings and credentials are never written.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from datetime import datetime
from typing import TextIO

# Lines wait this long for company; one write for many requests.
FLUSH_SECONDS = 0.1
MAX_VALUE = 300
_json = json.encoder.encode_basestring_ascii
# A UUID's version and variant, and everything else in it.
_VERSION_4 = 0x4 << 76 | 0x2 << 62
_NOT_FIXED = ~(0xF << 76 | 0x3 << 62)
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Control characters, what a log viewer takes for a line end, and what turns a line's direction.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def request_id_of(header: str | None) -> str:
    """The client's own id if it is harmless, so that both sides' logs meet; else a new one."""
    if header is not None and _REQUEST_ID.fullmatch(header):
        return header
    # RFC 9562, version 4; uuid.uuid4 takes ten times as long. It tells requests apart, and no more.
    digits = f"{random.getrandbits(128) & _NOT_FIXED | _VERSION_4:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def printable(text: str) -> str:
    """Text from outside on one line: escaped, and not longer than anybody would read."""
    if len(text) <= MAX_VALUE and text.isascii() and text.isprintable():
        return text
    short = text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", short)


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
        at: datetime,
        request_id: str,
        address: str,
        subject: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        agent: str,
    ) -> None:
        if self._readable:
            who = f"{printable(subject)}@" if subject else ""
            line = (
                f"{at:%H:%M:%S} {status} {printable(method):<6} {printable(path)} "
                f"{seconds * 1000:.1f} ms {who}{address}"
            )
        else:
            # What json.dumps would write, in a third of the time: it is a line for each request.
            line = (
                f'{{"time": "{at.isoformat(timespec="milliseconds")}", '
                f'"request_id": {_json(request_id)}, "address": {_json(address)}, '
                f'"subject": {_json(printable(subject))}, "method": {_json(printable(method))}, '
                f'"path": {_json(printable(path))}, "status": {status}, '
                f'"ms": {seconds * 1000:.2f}, "agent": {_json(printable(agent))}}}'
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

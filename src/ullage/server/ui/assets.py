"""Style sheet, script and icon: served from addresses that change with their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HASH_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the UI, with the hash that stands in its address."""

    name: str
    hash: str
    media_type: str
    body: bytes

    @property
    def path(self) -> str:
        """Below the UI's own address."""
        return f"static/{self.hash}/{self.name}"


@cache
def assets() -> Mapping[str, Asset]:
    """All of them by name; read when a page is viewed first."""
    found = {}
    for path in FOLDER.iterdir():
        body = path.read_bytes()
        digits = hashlib.sha256(body).hexdigest()[:_HASH_DIGITS]
        found[path.name] = Asset(path.name, digits, _TYPES[path.suffix], body)
    return found

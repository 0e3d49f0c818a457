"""Which store keeps the bytes, by its URL."""

from __future__ import annotations

from pathlib import Path

from ullage.blobs.protocol import BlobStore


def open_blob_store(url: str) -> BlobStore:
    """Open `file:/path/to/store` (made if missing) or `memory:` (gone with the process).

    Raises ValueError when the URL names no store, StoreUnusable when the store cannot be opened.
    """
    # A driver is imported when it is asked for: some bring an SDK along.
    match url.partition(":"):
        case ("memory", ":", ""):
            from ullage.blobs.memory import MemoryBlobStore

            return MemoryBlobStore()
        case ("file", ":", place) if place and not _names_a_host(place):
            from ullage.blobs.files.store import FileBlobStore

            return FileBlobStore(Path(place))
    raise ValueError(f"{url!r} is not a blob store: expected file:/path/to/store or memory:")


def _names_a_host(place: str) -> bool:
    """RFC 8089: file://host/path lies on another machine, file:///path on this one."""
    return place.startswith("//") and not place.startswith("///")

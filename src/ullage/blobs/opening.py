"""Which store keeps the bytes, by its URL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ullage.blobs.protocol import BlobStore, StoreUnusable, validate_key

_EXPECTED = (
    "file:/path/to/store, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or memory:"
)


def open_blob_store(url: str) -> BlobStore:
    """Open `file:/path/to/store` (made if missing), `memory:` (gone with the process), or a bucket.

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
        case ("s3" | "gs" | "az" as scheme, ":", place) if place.startswith("//"):
            return _open_in_cloud(scheme, url)
    raise ValueError(f"{url!r} is not a blob store: expected {_EXPECTED}")


def _open_in_cloud(scheme: str, url: str) -> BlobStore:
    try:
        if scheme in ("s3", "gs"):
            from ullage.blobs.s3.store import open_gs, open_s3

            return open_s3(url) if scheme == "s3" else open_gs(url)
        from ullage.blobs.azure.store import open_azure

        return open_azure(url)
    except ModuleNotFoundError as error:
        raise StoreUnusable(
            f"{scheme}: needs the package {error.name} - install it with pip install "
            "'ullage[cloud]'"
        ) from error


def lasting(url: str) -> str:
    """The same store by a URL that does not depend on where a process runs."""
    place = _file_path(url)
    return url if place is None else f"file:{place.resolve()}"


def is_made(url: str) -> bool:
    """False if opening this URL would make a store where there is nothing."""
    place = _file_path(url)
    return place is None or (place / "blobs").is_dir()


def blob_files(url: str) -> Callable[[str], Path] | None:
    """Where a store of files has the bytes of a storage key; None for any other store."""
    root = _file_path(url)
    if root is None:
        return None
    from ullage.blobs.files.paths import blob_path

    return lambda key: root / blob_path(validate_key(key))


def lies_within(url: str, outer: str) -> bool:
    """Whether two URLs of files are of one place, or the first of one below the second."""
    place, top = _file_path(url), _file_path(outer)
    return place is not None and top is not None and place.resolve().is_relative_to(top.resolve())


def _file_path(url: str) -> Path | None:
    scheme, _, place = url.partition(":")
    return Path(place) if scheme == "file" and place and not _names_a_host(place) else None


def _names_a_host(place: str) -> bool:
    """RFC 8089: file://host/path lies on another machine, file:///path on this one."""
    return place.startswith("//") and not place.startswith("///")

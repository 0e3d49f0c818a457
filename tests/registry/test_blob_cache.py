"""The bytes of short blobs are kept in memory, those that were asked for last."""

from __future__ import annotations

import pytest

from ullage.registry.pull import blob_cache
from ullage.registry.pull.blob_cache import BlobCache


def test_what_was_asked_for_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_cache, "TOGETHER_BYTES", 8)
    blobs = BlobCache()
    blobs.keep("a", b"1234")
    blobs.keep("b", b"1234")
    assert blobs.get("a") == b"1234"
    blobs.keep("c", b"1234")
    assert [blobs.get(key) for key in "abc"] == [b"1234", None, b"1234"]


@pytest.mark.parametrize("data", [b"", bytes(blob_cache.LARGEST_BYTES + 1)])
def test_only_short_ones_are(data: bytes) -> None:
    blobs = BlobCache()
    blobs.keep("a", data)
    assert blobs.get("a") is None


def test_one_is_counted_once_however_often_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_cache, "TOGETHER_BYTES", 8)
    blobs = BlobCache()
    for _ in range(5):
        blobs.keep("a", b"1234")
    blobs.keep("b", b"1234")
    assert blobs.get("a") == blobs.get("b") == b"1234"

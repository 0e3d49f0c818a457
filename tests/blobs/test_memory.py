from __future__ import annotations

import pytest

from tests.blobs.contract import LocalStoreContract, MiB, put
from ullage.blobs.memory import MemoryBlobStore
from ullage.blobs.opening import open_blob_store
from ullage.blobs.protocol import BlobStore, StoreFull


class TestMemoryBlobStore(LocalStoreContract):
    @pytest.fixture
    def store(self) -> BlobStore:
        return open_blob_store("memory:")

    @pytest.fixture
    def small_store(self) -> BlobStore:
        return MemoryBlobStore(capacity=3 * MiB // 2)


def test_room_is_counted_to_the_byte() -> None:
    store = MemoryBlobStore(capacity=10)
    key = put(store, b"1234567")
    assert store.free_bytes() == 3
    with pytest.raises(StoreFull):
        put(store, b"4567")
    store.delete([key])
    assert store.free_bytes() == 10


def test_a_store_without_a_capacity_does_not_know_its_room() -> None:
    assert open_blob_store("memory:").free_bytes() is None

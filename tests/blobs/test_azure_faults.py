"""Answers that are lost, and services that refuse (docs/design/azure-storage.md section 4)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.blobs.contract import KEPT, MiB, content, fresh_key, listed, put, upload
from tests.support.containers import ACCOUNT, Azurite
from tests.support.proxies import Fault, FaultyProxy
from ullage.blobs.protocol import BlobStore, KeyUnknown, NotDeleted, StoreFull

pytestmark = pytest.mark.client

BLOCK = 8 * MiB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with Azurite(tmp_path_factory.mktemp("azure") / "containers") as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(server: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def proxy(server: Azurite) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def store(server: Azurite, proxy: FaultyProxy) -> BlobStore:
    """One that asks once, so that a test sees what a fault does."""
    return opened(server, proxy, retries=0)


def opened(server: Azurite, proxy: FaultyProxy, *, retries: int) -> BlobStore:
    from ullage.blobs.azure.container import Container
    from ullage.blobs.azure.options import parse_azure_url
    from ullage.blobs.azure.store import AzureBlobStore

    endpoint = f"http://127.0.0.1:{proxy.port}/{ACCOUNT}"
    url = server.url(server.fresh_bucket(), endpoint=endpoint)
    return AzureBlobStore(Container(parse_azure_url(url), retries=retries))


def once(method: str, part: str, fault: Fault) -> Callable[[str, str], Fault | None]:
    """The first request of this kind meets a fault."""
    met: list[str] = []

    def meet(asked: str, path: str) -> Fault | None:
        if asked != method or part not in path or met:
            return None
        met.append(path)
        return fault

    return meet


@pytest.mark.parametrize(
    ("size", "part"), [(5, "/"), (2 * BLOCK + 5, "comp=blocklist")], ids=["whole", "blocks"]
)
def test_a_commit_whose_answer_is_lost_is_found_out_by_the_next_one(
    store: BlobStore, proxy: FaultyProxy, size: int, part: str
) -> None:
    """azure-storage.md section 4, O2: the same Append commits once more."""
    data = secrets.token_bytes(size)
    with store.begin(key := fresh_key()) as append:
        append.write(data)
        proxy.fault = once("PUT", part, Fault(lost=True))
        with pytest.raises(OSError, match="Put B"):
            append.commit()
        append.commit()
    assert content(store, key) == data


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("size", "part"),
    [(5, "/"), (2 * BLOCK + 5, "comp=blocklist"), (2 * BLOCK + 5, "comp=block&")],
    ids=["whole", "list", "block"],
)
def test_a_request_whose_answer_is_lost_is_repeated_within_one_call(
    server: Azurite, proxy: FaultyProxy, size: int, part: str
) -> None:
    """azure-storage.md section 4, O2."""
    store = opened(server, proxy, retries=2)
    data = secrets.token_bytes(size)
    proxy.fault = once("PUT", part, Fault(lost=True))
    with store.begin(key := fresh_key()) as append:
        append.write(data)
        append.commit()
    assert content(store, key) == data


def test_a_commit_that_another_request_made_of_other_bytes_is_not_taken_for_ones_own(
    store: BlobStore, proxy: FaultyProxy
) -> None:
    """azure-storage.md section 4, O2: the size is the same."""
    key = upload(store, b"first ")
    offset, state = KEPT[key]
    proxy.fault = once("PUT", "comp=blocklist", Fault(lost=True))
    with store.resume(key, offset, state) as append:
        append.write(b"one")
        with pytest.raises(OSError, match="Put Block List"):
            append.commit()
    late = pytest.raises(KeyUnknown)
    with late, store.resume(key, offset, state) as append:
        append.write(b"two")
        append.commit()
    assert content(store, key) == b"first one"


def test_a_block_that_does_not_arrive_fails_the_upload_and_nothing_else(
    store: BlobStore, proxy: FaultyProxy
) -> None:
    """What was synced before stays, and the session goes on from there."""
    key = upload(store, b"kept|")
    offset, state = KEPT[key]
    proxy.fault = once("PUT", "comp=block", Fault(status=500))
    with store.resume(key, offset, state) as append:
        append.write(b"lost")
        with pytest.raises(OSError, match="Put Block"):
            append.sync()
        with pytest.raises(OSError, match="an earlier block failed"):
            append.commit()
    with store.resume(key, offset, state) as append:
        append.write(b"sent again")
        append.commit()
    assert content(store, key) == b"kept|sent again"


def test_a_full_service_says_so(store: BlobStore, proxy: FaultyProxy) -> None:
    """reliability.md F15."""
    full = Fault(status=507, headers={"x-ms-error-code": "InsufficientStorage"})
    proxy.fault = once("PUT", "/", full)
    with store.begin(fresh_key()) as append:
        append.write(b"bytes")
        with pytest.raises(StoreFull):
            append.commit()


def test_a_deletion_that_may_not_be_is_an_error_of_its_key(
    store: BlobStore, proxy: FaultyProxy
) -> None:
    """azure-storage.md section 4, O12 and O13: the batch itself answers 202."""
    keys = sorted(put(store) for _ in range(2))
    body = (
        b"--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n"
        b"HTTP/1.1 202 Accepted\r\nx-ms-request-id: 1\r\n\r\n"
        b"--b\r\nContent-Type: application/http\r\nContent-ID: 1\r\n\r\n"
        b"HTTP/1.1 409 no\r\nx-ms-error-code: BlobImmutableDueToPolicy\r\n\r\n--b--"
    )
    proxy.fault = once(
        "POST",
        "comp=batch",
        Fault(status=202, headers={"Content-Type": "multipart/mixed; boundary=b"}, body=body),
    )
    with pytest.raises(NotDeleted, match=f"{keys[1]}: BlobImmutableDueToPolicy") as refused:
        store.delete(keys)
    assert set(refused.value.failures) == {keys[1]}
    store.delete(keys)
    assert listed(store) == {}


def test_a_batch_that_is_refused_is_an_error(store: BlobStore, proxy: FaultyProxy) -> None:
    """azure-storage.md section 4, O12."""
    key = put(store)
    denied = Fault(status=403, headers={"x-ms-error-code": "AuthorizationPermissionMismatch"})
    proxy.fault = once("POST", "comp=batch", denied)
    with pytest.raises(NotDeleted, match="AuthorizationPermissionMismatch") as refused:
        store.delete([key])
    assert set(refused.value.failures) == {key}
    assert content(store, key) == b"bytes"


def test_a_deletion_whose_answer_is_lost_is_done_once_more(
    store: BlobStore, proxy: FaultyProxy
) -> None:
    """azure-storage.md section 4, O3."""
    keys = [put(store), put(store)]
    proxy.fault = once("POST", "comp=batch", Fault(lost=True))
    with pytest.raises(OSError, match="Blob Batch"):
        store.delete(keys)
    store.delete(keys)
    assert listed(store) == {}

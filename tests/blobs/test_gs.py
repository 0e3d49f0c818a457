"""The store in a bucket of Google Cloud Storage (docs/design/buckets.md section 6).

The service is tests/support/google_storage.py: what Google documents, in front of a real S3 server.
"""

from __future__ import annotations

import secrets
import urllib.request
from collections.abc import Iterator

import pytest

from tests.blobs.contract import (
    KEPT,
    BlobStoreContract,
    MiB,
    content,
    fresh_key,
    listed,
    put,
    upload,
)
from tests.support import faulty_s3
from tests.support.buckets import S3Server
from tests.support.faulty_s3 import FaultyS3
from tests.support.google_storage import GoogleStorage
from tests.support.s3_proxy import S3Proxy
from ullage.blobs.protocol import BlobStore, KeyUnknown, NotDeleted

pytestmark = pytest.mark.client

PART = 5 * MiB


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("gs") / "buckets") as server:
        if not server.strict:
            pytest.skip("moto answers 500 to a part of an upload that has ended")
        yield server


@pytest.fixture
def google(upstream: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleStorage]:
    with GoogleStorage(upstream) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def faulty(google: GoogleStorage) -> Iterator[FaultyS3]:
    with FaultyS3(google) as server:
        yield server


@pytest.fixture
def store(google: GoogleStorage) -> BlobStore:
    return opened(google)


def opened(server: S3Proxy, *, attempts: int = 3) -> BlobStore:
    """Without the probe of a start, which has tests of its own."""
    from ullage.blobs.s3.bucket import Bucket
    from ullage.blobs.s3.options import parse_gs_url
    from ullage.blobs.s3.store import S3BlobStore

    options = parse_gs_url(server.url(server.fresh_bucket(), "below/here", part="5MiB"))
    return S3BlobStore(Bucket(options, attempts=attempts))


@pytest.mark.thorough
class TestGoogleBlobStore(BlobStoreContract):
    """The contract of all stores."""


def push(store: BlobStore, data: bytes) -> str:
    with store.begin(key := fresh_key()) as append:
        append.write(data)
        append.commit()
    return key


@pytest.mark.parametrize("size", [5, 2 * PART + 5])
def test_a_late_request_replaces_nothing(store: BlobStore, size: int) -> None:
    """buckets.md section 1: also where a condition is ignored, or has no place."""
    data = secrets.token_bytes(size)
    key = push(store, data)
    late = pytest.raises(KeyUnknown)
    with late, store.begin(key) as append:
        append.write(data[::-1])
        append.commit()
    assert content(store, key) == data
    assert {each.committed for each in store.list()} == {True}


def test_a_small_object_is_stored_under_googles_own_condition(
    google: GoogleStorage, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed as AWS does it, the same request would replace what is there."""
    import dataclasses

    from ullage.blobs.s3.bucket import Bucket
    from ullage.blobs.s3.dialects import GOOGLE
    from ullage.blobs.s3.options import parse_gs_url

    options = parse_gs_url(google.url(google.fresh_bucket()))
    plain = dataclasses.replace(options, dialect=dataclasses.replace(GOOGLE, put_signature=None))
    for each in (Bucket(plain), Bucket(options)):
        each.put("place", b"first")
        refused = None
        try:
            each.put("place", b"second")
        except OSError as error:
            refused = error
        assert (each.get("place"), bool(refused)) == (
            (b"second", False) if each.options is plain else (b"first", True)
        )
        each.delete(["place"])


@pytest.mark.parametrize("fault", [faulty_s3.answer_lost, faulty_s3.slow_down, faulty_s3.reset])
@pytest.mark.parametrize("operation", ["PutObject", "UploadPart", "CompleteMultipartUpload"])
@pytest.mark.thorough
def test_a_push_is_done_whatever_happens_to_a_request(
    faulty: FaultyS3, operation: str, fault: faulty_s3.Fault
) -> None:
    """buckets.md section 4, O2: each try is signed anew."""
    store = opened(faulty)
    data = b"small" if operation == "PutObject" else secrets.token_bytes(2 * PART + 5)
    faulty.due[operation] = [fault]
    key = push(store, data)
    assert faulty.asked.count(operation) > 1
    assert content(store, key) == data
    assert [(each.key, each.size) for each in store.list()] == [(key, len(data))]


def test_a_completion_whose_answer_was_lost_is_proven_by_the_bytes(faulty: FaultyS3) -> None:
    """buckets.md section 4, O2: the object's ETag tells nothing of its parts."""
    store = opened(faulty)
    data = secrets.token_bytes(2 * PART + 5)
    faulty.due["CompleteMultipartUpload"] = [faulty_s3.answer_lost]
    key = push(store, data)
    assert faulty.asked.count("CompleteMultipartUpload") == 2
    assert "GetObject" in faulty.asked
    assert content(store, key) == data


def test_other_bytes_of_the_same_size_are_not_taken_for_those(store: BlobStore) -> None:
    """Their digest was proven by what was sent, and what is stored has another one."""
    data = secrets.token_bytes(PART + 5)
    key = upload(store, data)
    offset, state = KEPT[key]
    with store.resume(key, offset, state) as append:
        append.write(data)
        append.commit()
    late = pytest.raises(KeyUnknown)
    with late, store.resume(key, offset, state) as append:
        append.write(data[::-1])
        append.commit()
    assert content(store, key) == data + data


@pytest.mark.parametrize("at_once", [False, True])
def test_objects_are_deleted_one_by_one_only_where_many_cannot_be(
    google: GoogleStorage, store: BlobStore, *, at_once: bool
) -> None:
    """A service without a request for many is asked for it once."""
    google.deletes_many = at_once
    keys = [push(store, b"bytes") for _ in range(5)]
    google.asked.clear()
    store.delete([*keys[:3], fresh_key()])
    store.delete([*keys[3:], fresh_key()])
    assert listed(store) == {}
    asked = {each: google.asked.count(each) for each in ("DeleteObjects", "DeleteObject")}
    expected = {"DeleteObjects": 2, "DeleteObject": 0}
    assert asked == (expected if at_once else {"DeleteObjects": 1, "DeleteObject": 7})


def test_what_cannot_be_deleted_stays_and_the_others_go(faulty: FaultyS3) -> None:
    """buckets.md section 4, O12: one by one, too."""
    store = opened(faulty)
    keys = [push(store, b"bytes") for _ in range(4)]
    name = f"below/here/{keys[2][:2]}/{keys[2]}"
    faulty.stuck = {name}
    # The request for many is for the service to refuse.
    faulty.due["DeleteObjects"] = [lambda request: request.refuse(501, "NotImplemented")]
    with pytest.raises(NotDeleted, match=f"{name}: .*AccessDenied") as caught:
        store.delete(keys)
    assert caught.value.failures.keys() == {keys[2]}
    assert set(listed(store)) == {keys[2]}
    faulty.stuck = set()
    store.delete(keys)
    assert listed(store) == {}


def test_a_refused_deletion_is_no_reason_to_delete_one_by_one(faulty: FaultyS3) -> None:
    store = opened(faulty)
    key = push(store, b"bytes")
    faulty.due["DeleteObjects"] = [faulty_s3.denied]
    with pytest.raises(NotDeleted, match="AccessDenied"):
        store.delete([key])
    assert "DeleteObject" not in faulty.asked
    assert set(listed(store)) == {key}


def test_a_link_reads_the_object_and_says_what_it_is(store: BlobStore) -> None:
    """buckets.md section 5."""
    link = store.link(put(store, b"linked"), 60)
    assert link is not None
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"linked"
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Cache-Control"] == "private, max-age=60"

"""A service that fails: what was acknowledged stays, and what is asked once more is done once.

docs/design/buckets.md section 4, by tests/support/faulty_s3.py in front of a real server.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.blobs.contract import KEPT, MiB, commit, content, fresh_key, keep, put, resume, upload
from tests.support import faulty_s3
from tests.support.buckets import CREDENTIALS, S3Server
from tests.support.faulty_s3 import FaultyS3
from tests.support.server import UllageServer, run_ullage
from ullage.blobs.protocol import BlobStore, NotDeleted, StoreFull
from ullage.blobs.s3 import append as s3_append
from ullage.blobs.s3.bucket import Bucket
from ullage.blobs.s3.options import parse_s3_url
from ullage.blobs.s3.store import S3BlobStore

pytestmark = pytest.mark.client

PART = 5 * MiB
Fault = Callable[[Any], None]
# Both kinds of upload, by what they ask for.
SMALL, LARGE = b"small", b"x" * (2 * PART + 12345)
OF_SMALL = ("PutObject",)
OF_LARGE = ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "buckets") as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def faulty(server: S3Server) -> Iterator[FaultyS3]:
    with FaultyS3(server) as faulty:
        yield faulty


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.fresh_bucket()


@pytest.fixture
def store(faulty: FaultyS3, bucket: str) -> BlobStore:
    return S3BlobStore(Bucket(parse_s3_url(faulty.url(bucket, part="5MiB"))))


@pytest.fixture
def impatient(faulty: FaultyS3, bucket: str) -> BlobStore:
    """One that asks once and does not wait."""
    return S3BlobStore(Bucket(parse_s3_url(faulty.url(bucket, part="5MiB")), attempts=1))


def push_at_once(store: BlobStore, data: bytes) -> str:
    with store.begin(key := fresh_key()) as append:
        append.write(data)
        append.commit()
    return key


@pytest.mark.parametrize("fault", [faulty_s3.slow_down, faulty_s3.reset, faulty_s3.answer_lost])
@pytest.mark.parametrize("operation", [*OF_SMALL, *OF_LARGE])
@pytest.mark.thorough
def test_a_push_is_done_whatever_happens_to_a_request(
    faulty: FaultyS3, store: BlobStore, operation: str, fault: Fault
) -> None:
    """Race O2: also where it was executed, and the answer lost."""
    data = SMALL if operation in OF_SMALL else LARGE
    faulty.due[operation] = [fault]
    key = push_at_once(store, data)
    assert faulty.asked.count(operation) > 1
    assert content(store, key) == data
    strays = [each for each in store.list() if not each.committed]
    # Only a multipart upload whose id never came is left, and can be told.
    lost_id = operation == "CreateMultipartUpload" and fault is faulty_s3.answer_lost
    assert len(strays) == lost_id
    store.drop(strays)
    assert [(each.key, each.size) for each in store.list()] == [(key, len(data))]


@pytest.mark.parametrize("fault", [faulty_s3.error_in_200, faulty_s3.done_and_error_in_200])
def test_a_completion_that_fails_within_an_answer_of_200_is_repeated(
    faulty: FaultyS3, store: BlobStore, fault: Fault
) -> None:
    """Race O13."""
    faulty.due["CompleteMultipartUpload"] = [fault]
    key = push_at_once(store, LARGE)
    assert faulty.asked.count("CompleteMultipartUpload") == 2
    assert content(store, key) == LARGE


def test_a_commit_waits_until_the_object_is_there_whatever_it_is_told(
    faulty: FaultyS3, store: BlobStore
) -> None:
    """Race O2, where the first completion is still at work when the second one is answered."""
    faulty_s3.SlowCompletion(faulty, looks=3)
    key = push_at_once(store, LARGE)
    assert not faulty.due["HeadObject"]
    assert content(store, key) == LARGE


def test_an_object_that_never_comes_is_no_commit(
    faulty: FaultyS3, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Race O2: nothing is acknowledged that is not there."""
    monkeypatch.setattr(s3_append, "COMPLETE_SECONDS", 0)
    faulty_s3.SlowCompletion(faulty, looks=100)
    key = fresh_key()
    with store.begin(key) as append:
        append.write(LARGE)
        with pytest.raises(OSError, match="not there yet"):
            append.commit()


@pytest.mark.parametrize("operation", ["GetObject", "HeadObject", "DeleteObjects", "List"])
@pytest.mark.parametrize("fault", [faulty_s3.slow_down, faulty_s3.reset])
@pytest.mark.thorough
def test_reads_and_deletions_are_repeated(
    faulty: FaultyS3, store: BlobStore, operation: str, fault: Fault
) -> None:
    key = push_at_once(store, SMALL)
    faulty.due[operation] = [fault]
    assert store.size(key) == len(SMALL)
    assert content(store, key) == SMALL
    assert [each.key for each in store.list()] == [key]
    store.delete([key])
    assert not faulty.due[operation]
    assert store.size(key) is None


@pytest.mark.parametrize("pieces", [256 * 1024, len(LARGE)])
def test_a_body_that_breaks_off_is_read_on(faulty: FaultyS3, store: BlobStore, pieces: int) -> None:
    data = secrets.token_bytes(len(LARGE))
    key = push_at_once(store, data)
    faulty.due["GetObject"] = [faulty_s3.half_a_body, faulty_s3.half_a_body]
    with store.open(key, len(data)) as reader:
        read = b"".join(reader.read_at(at, pieces) for at in range(0, len(data), pieces))
    assert read == data
    assert not faulty.due["GetObject"]


def test_what_cannot_be_deleted_stays_and_the_others_go(faulty: FaultyS3, store: BlobStore) -> None:
    """Race O12: errors of a request for many are of single keys."""
    keys = [push_at_once(store, SMALL) for _ in range(5)]
    name = f"{keys[2][:2]}/{keys[2]}"
    faulty.stuck = {name}
    with pytest.raises(NotDeleted, match=f"{name}: AccessDenied") as caught:
        store.delete(keys)
    assert caught.value.failures.keys() == {keys[2]}
    assert [each.key for each in store.list()] == [keys[2]]
    faulty.stuck = set()
    store.delete(keys)
    assert list(store.list()) == []


def test_a_failed_batch_does_not_keep_the_next_one(faulty: FaultyS3, impatient: BlobStore) -> None:
    keys = sorted(fresh_key() for _ in range(1500))
    for key in (keys[0], keys[-1]):
        with impatient.begin(key) as append:
            append.write(SMALL)
            append.commit()
    faulty.due["DeleteObjects"] = [faulty_s3.slow_down]
    with pytest.raises(OSError, match="SlowDown"):
        impatient.delete(keys)
    assert [each.key for each in impatient.list()] == [keys[0]]


@pytest.mark.parametrize(
    ("operation", "data"), [("PutObject", SMALL), ("UploadPart", LARGE)], ids=["small", "large"]
)
def test_a_full_bucket_says_so_and_the_upload_goes_on_later(
    faulty: FaultyS3, store: BlobStore, operation: str, data: bytes
) -> None:
    """reliability.md F15: of a quota, say."""
    key = upload(store, b"kept")
    faulty.due[operation] = [faulty_s3.full]
    no_room = pytest.raises(StoreFull)
    with no_room, resume(store, key, 4) as append:
        append.write(data)
        append.commit()
    with resume(store, key, 4) as append:
        append.write(data)
        keep(append, key)
    assert commit(store, key) == 4 + len(data)
    assert content(store, key) == b"kept" + data


def test_credentials_that_end_too_soon_are_read_again(faulty: FaultyS3, store: BlobStore) -> None:
    """Race O11."""
    faulty.due["PutObject"] = [faulty_s3.expired]
    assert content(store, put(store, SMALL)) == SMALL
    faulty.due["PutObject"] = [faulty_s3.expired] * 2
    with pytest.raises(OSError, match="ExpiredToken"):
        put(store, SMALL)


@pytest.mark.parametrize("fault", [faulty_s3.slow_down, faulty_s3.reset])
def test_a_service_that_is_away_fails_an_upload_and_loses_nothing(
    faulty: FaultyS3, impatient: BlobStore, fault: Fault
) -> None:
    key = upload(impatient, LARGE)
    offset, state = KEPT[key]
    append = resume(impatient, key, offset)
    faulty.always = fault
    with pytest.raises(OSError):  # noqa: PT011 - the word is the service's
        append.write(LARGE * 3)
    with pytest.raises(OSError, match="an earlier part failed"):
        append.sync()
    append.close()
    for call in (lambda: impatient.size(key), lambda: list(impatient.list())):
        with pytest.raises(OSError):  # noqa: PT011
            call()
    faulty.always = None
    with impatient.resume(key, offset, state) as again:
        again.write(b"more")
        again.commit()
    assert content(impatient, key) == LARGE + b"more"


@pytest.mark.thorough
def test_a_registry_whose_service_is_away_says_so_and_goes_on_afterwards(
    faulty: FaultyS3, bucket: str, tmp_path: Path
) -> None:
    """reliability.md F15: no answer of 500, and everything adds up in the end."""
    where = faulty.url(bucket, part="5MiB")
    digest = f"sha256:{hashlib.sha256(LARGE).hexdigest()}"
    with (
        UllageServer(tmp_path / "data", "--storage", where, env=CREDENTIALS) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):

        def push(data: bytes) -> httpx.Response:
            named = {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}
            return client.post("/v2/app/blobs/uploads/", params=named, content=data)

        assert push(LARGE).status_code == 201
        location = client.post("/v2/app/blobs/uploads/").headers["location"]
        location = client.patch(location, content=b"one, ").headers["location"]
        faulty.always = faulty_s3.reset
        assert push(SMALL).status_code == 503, server.log
        assert client.get(f"/v2/app/blobs/{digest}").status_code == 503
        assert client.patch(location, content=b"lost").status_code == 503
        faulty.always = None
        assert push(SMALL).status_code == 201
        assert client.get(f"/v2/app/blobs/{digest}").content == LARGE
        done = client.put(
            location,
            content=b"two",
            params={"digest": f"sha256:{hashlib.sha256(b'one, two').hexdigest()}"},
        )
        assert done.status_code == 201, done.text
        check = run_ullage("check", "--data", server.data, env=CREDENTIALS)
        assert "Everything is as it should be" in check.stdout, check.stdout + check.stderr
        server.assert_no_500()

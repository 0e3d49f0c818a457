"""What a start finds out about a bucket of Google Cloud Storage (docs/design/buckets.md section 6).

What it has in common with a bucket of S3 is tried in test_s3_start.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blobs.contract import content, put
from tests.support import faulty_s3
from tests.support.buckets import S3Server
from tests.support.faulty_s3 import FaultyS3
from tests.support.google_storage import CREDENTIALS, SECRET, GoogleStorage
from tests.support.s3_proxy import ProxiedRequest
from ullage.blobs.opening import open_blob_store
from ullage.blobs.protocol import StoreUnusable

pytestmark = pytest.mark.client


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("gs") / "buckets") as server:
        yield server


@pytest.fixture
def google(upstream: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleStorage]:
    for name in [name for name in os.environ if name.startswith(("AWS_", "GCS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with GoogleStorage(upstream) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def faulty(google: GoogleStorage) -> Iterator[FaultyS3]:
    with FaultyS3(google) as server:
        yield server


def refusal(url: str) -> str:
    with pytest.raises(StoreUnusable) as refused:
        open_blob_store(url)
    (line,) = str(refused.value).splitlines()
    assert " - " in line, "it does not say what to change"
    assert SECRET not in line
    return line


@pytest.mark.parametrize("deletes_many", [False, True])
def test_a_bucket_that_can_be_used_is_left_as_it_was(
    google: GoogleStorage, *, deletes_many: bool
) -> None:
    google.deletes_many = deletes_many
    bucket = google.fresh_bucket()
    store = open_blob_store(google.url(bucket, "below"))
    assert (google.sizes(bucket), google.unfinished_bytes(bucket)) == ({}, 0)
    assert content(store, put(store)) == b"bytes"


def test_keys_may_be_in_the_variables_of_aws(
    google: GoogleStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for name, (own, value) in zip(variables, CREDENTIALS.items(), strict=True):
        monkeypatch.delenv(own)
        monkeypatch.setenv(name, value)
    open_blob_store(google.url(google.fresh_bucket()))


@pytest.mark.parametrize("name", CREDENTIALS)
def test_wrong_keys(google: GoogleStorage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "wrong")
    line = refusal(google.url(google.fresh_bucket()))
    assert "does not take these keys" in line
    assert "check GCS_HMAC_ACCESS_ID and GCS_HMAC_SECRET" in line


@pytest.mark.parametrize("name", CREDENTIALS)
def test_half_a_key(google: GoogleStorage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    assert f"{name} is not set - " in refusal(google.url("books"))


def test_no_keys(google: GoogleStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "no keys to ask with - set GCS_HMAC_ACCESS_ID" in refusal(google.url("books"))


def test_no_bucket(google: GoogleStorage) -> None:
    assert refusal(google.url("no-such")).startswith("there is no bucket no-such - ")


@pytest.mark.parametrize(
    ("operation", "right"),
    [
        ("PutObject", "storage.objects.create"),
        ("GetObject", "storage.objects.get"),
        (
            "CreateMultipartUpload",
            "storage.objects.create and storage.multipartUploads.create",
        ),
        ("AbortMultipartUpload", "storage.multipartUploads.abort"),
        ("DeleteObject", "storage.objects.delete"),
        ("List", "storage.buckets.get"),
    ],
)
def test_a_right_that_is_missing_is_named_in_googles_words(
    google: GoogleStorage, faulty: FaultyS3, operation: str, right: str
) -> None:
    serve = faulty.serve

    def refusing(request: ProxiedRequest) -> None:
        if request.operation == operation:
            return faulty_s3.denied(request)
        return serve(request)

    faulty.serve = refusing  # type: ignore[method-assign]
    line = refusal(faulty.url(faulty.fresh_bucket()))
    assert f"these keys lack a right - grant {right}" in line


def test_a_bucket_that_keeps_versions(google: GoogleStorage, faulty: FaultyS3) -> None:
    """deletion.md section 1: what is deleted gives its bytes back."""
    said = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    faulty.due["List"] = [lambda request: request.answer(200, [], said)]
    assert "gives nothing back" in refusal(faulty.url(faulty.fresh_bucket()))


def test_a_service_that_ignores_the_condition_is_refused(
    google: GoogleStorage, faulty: FaultyS3
) -> None:
    """buckets.md section 1: no name is ever written twice."""
    faulty.due["PutObject"] = [
        lambda request: request.answer(*request.ask_upstream()),
        lambda request: request.answer(200, [], b""),
    ]
    assert "does not keep an object from being replaced" in refusal(
        faulty.url(faulty.fresh_bucket())
    )

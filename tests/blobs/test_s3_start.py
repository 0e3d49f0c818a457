"""What a start finds out about a bucket, in one line each (docs/design/buckets.md section 2)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.blobs.contract import content, put
from tests.support.buckets import CREDENTIALS, S3Server
from tests.support.server import run_ullage
from ullage.blobs.opening import open_blob_store
from ullage.blobs.protocol import StoreUnusable
from ullage.tls import self_signed

pytestmark = pytest.mark.client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("s3")
    # Accounts of its own, and a place for versions, which no other test wants.
    with S3Server(folder / "buckets", "--iam-dir", str(made(folder / "accounts"))) as server:
        yield server


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def refusal(url: str) -> str:
    with pytest.raises(StoreUnusable) as refused:
        open_blob_store(url)
    (line,) = str(refused.value).splitlines()
    assert " - " in line, "it does not say what to change"
    return line


def test_a_bucket_that_can_be_used_is_left_as_it_was(server: S3Server) -> None:
    bucket = server.fresh_bucket()
    open_blob_store(server.url(bucket, "below"))
    client = server.client()
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_no_bucket(server: S3Server) -> None:
    assert refusal(server.url("no-such-bucket")).startswith("there is no bucket no-such-bucket - ")


@pytest.mark.parametrize("name", list(CREDENTIALS))
def test_wrong_keys(server: S3Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "wrong")
    line = refusal(server.url(server.fresh_bucket()))
    assert "does not take these keys" in line
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in line


def test_no_keys(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    line = refusal(server.url(server.fresh_bucket()))
    assert "no keys to ask with - set AWS_ACCESS_KEY_ID" in line


def test_a_profile_that_is_not_there(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in refusal(server.url("books"))


def test_an_endpoint_that_is_away() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        line = refusal(f"s3://books?endpoint={endpoint}")
    assert line.startswith(f"{endpoint} does not answer")


def test_an_endpoint_without_tls_that_is_asked_with_it(server: S3Server) -> None:
    endpoint = server.endpoint.replace("http:", "https:")
    assert "ca=FILE" in refusal(f"s3://books?endpoint={endpoint}")


def test_a_certificate_of_an_authority_of_ones_own(tmp_path: Path) -> None:
    made_here = self_signed(tmp_path / "tls", [], datetime.now(UTC))
    tls = ("--cert", str(made_here.certificate), "--key", str(made_here.key))
    with S3Server(tmp_path / "buckets", *tls) as server:
        if not server.strict:
            pytest.skip("moto is asked without TLS")
        server.endpoint = server.endpoint.replace("http:", "https:")
        authority = str(made_here.authority)
        server.trusted = authority
        bucket = server.fresh_bucket()
        store = open_blob_store(server.url(bucket, ca=authority))
        assert content(store, put(store, b"behind TLS")) == b"behind TLS"
        assert "ca=FILE" in refusal(server.url(bucket))


def test_no_authority(server: S3Server, tmp_path: Path) -> None:
    line = refusal(server.url("books", ca=str(tmp_path / "ca.pem")))
    assert "there is no such file - name a PEM file with ca=" in line


def test_another_region_than_the_buckets_is_found_out(server: S3Server) -> None:
    """The service says which it is, and the client asks there."""
    open_blob_store(server.url(server.fresh_bucket(), region="eu-north-9"))


def test_a_clock_that_is_wrong(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    if not server.strict:
        pytest.skip("moto looks at no date")
    import botocore.auth

    bucket = server.fresh_bucket()
    now = botocore.auth.get_current_datetime

    def ahead(*args: object, **named: object) -> datetime:
        found: datetime = now(*args, **named)
        return found + timedelta(hours=1)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", ahead)
    assert "set the clock" in refusal(server.url(bucket))


def test_a_bucket_that_keeps_versions(tmp_path: Path) -> None:
    versions = made(tmp_path / "versions")
    with S3Server(
        tmp_path / "buckets", environment={"VGW_VERSIONING_DIR": str(versions)}
    ) as server:
        bucket = server.fresh_bucket()
        server.client().put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )
        assert "gives nothing back" in refusal(server.url(bucket))


def test_keys_without_a_right(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    if not server.strict:
        pytest.skip("moto has no accounts")
    bucket = server.fresh_bucket()
    server.add_account("reader", "readersecret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "readersecret")
    assert "these keys lack a right - grant s3:" in refusal(server.url(bucket))


@pytest.mark.thorough
def test_an_operator_is_told_in_one_line(server: S3Server, tmp_path: Path) -> None:
    for url, said in (
        (server.url("no-such-bucket"), "there is no bucket no-such-bucket - make it"),
        ("s3://books?endpoint=nowhere", "storage: the S3 URL cannot be used: endpoint is not"),
    ):
        done = run_ullage(
            "serve", "--listen", "127.0.0.1:0", "--data", tmp_path / "data", "--storage", url,
            env=CREDENTIALS,
        )  # fmt: skip
        assert done.returncode != 0
        (line,) = done.stderr.splitlines()
        assert said in line


def test_a_start_takes_little_time_where_nothing_answers() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        began = time.monotonic()
        refusal(f"s3://books?endpoint=http://127.0.0.1:{unused.getsockname()[1]}")
        assert time.monotonic() - began < 20

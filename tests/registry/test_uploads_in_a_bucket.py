"""Upload sessions on a real S3 server: at every moment the bucket adds up, to the byte.

docs/design/deletion.md section 1, promise 4; what a session's state does for it is tried in small
in test_uploads_in_parts.py.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.buckets import CREDENTIALS, S3Server
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import ALICE, settle
from tests.support.soundness import assert_sound
from ullage.blobs.opening import open_blob_store
from ullage.check.check import check
from ullage.check.findings import Mode
from ullage.database.transaction import Database
from ullage.deletion.reconcile import UNKNOWN_KEY_GRACE, reconcile
from ullage.oci.digest import digest_of
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.pull.read import open_blob
from ullage.registry.push.sessions import cancel_upload, start_upload
from ullage.registry.push.uploads import add_to_upload, append_upload, finish_upload
from ullage.registry.queries.upload_claims import CLAIM_PERIOD
from ullage.usage.usage import registry_totals, unexplained

APP = parse_repository_name("app")
PART = 5 * 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "buckets") as server:
        yield server


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.fresh_bucket()


@pytest.fixture
def registry(
    db: Database, server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """On the time of the server, which says when an upload was begun."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    store = open_blob_store(server.url(bucket, part="5MiB"))
    made = registry_on(db, store, FakeClock(datetime.now(UTC)))
    registry = replace(made, limits=replace(made.limits, max_unknown_percent=100))
    yield registry
    assert_sound(registry)


def another(registry: Registry) -> Registry:
    """Another process, which knows what the database knows."""
    made = registry_on(registry.db, registry.blobs, clock_of(registry))
    return replace(made, limits=registry.limits)


def clock_of(registry: Registry) -> FakeClock:
    assert isinstance(registry.now, FakeClock)
    return registry.now


def assert_adds_up(registry: Registry, server: S3Server, bucket: str) -> int:
    """What the bill says is what the bucket has; returns how much."""
    there = server.stored_bytes(bucket, beside=frozenset({"registry-id"}))
    assert registry_totals(registry).disk_bytes == there
    assert unexplained(registry) == (there, 0)
    return there


def test_the_bucket_adds_up_after_every_request_of_an_upload(
    registry: Registry, server: S3Server, bucket: str
) -> None:
    data = secrets.token_bytes(2 * PART + 12345)
    cuts = [0, 1000, PART - 1, PART + 5, 2 * PART, len(data) - 7]
    upload = start_upload(registry, APP, ALICE)
    assert assert_adds_up(registry, server, bucket) == 0
    for start, end in itertools.pairwise(cuts):
        add_to_upload(another(registry), APP, upload.id, ALICE, start, [data[start:end]])
        assert_adds_up(registry, server, bucket)
        settle(registry)
        assert assert_adds_up(registry, server, bucket) == end
    finish_upload(another(registry), APP, upload.id, ALICE, digest_of(data), [data[-7:]])
    assert_adds_up(registry, server, bucket)
    settle(registry)
    assert assert_adds_up(registry, server, bucket) == len(data)
    with closing(open_blob(registry, APP, digest_of(data))) as reader:
        assert reader.read_at(0, len(data)) == data
    assert check(registry, Mode.DEEP).findings == ()


def test_a_cancelled_upload_leaves_an_empty_bucket(
    registry: Registry, server: S3Server, bucket: str
) -> None:
    upload = start_upload(registry, APP, ALICE)
    add_to_upload(registry, APP, upload.id, ALICE, 0, [secrets.token_bytes(PART + 1000)])
    cancel_upload(registry, APP, upload.id, ALICE)
    assert assert_adds_up(registry, server, bucket) == PART + 1000
    settle(registry)
    assert assert_adds_up(registry, server, bucket) == 0


@pytest.mark.parametrize("by", ["check", "comparison"])
def test_what_a_killed_request_left_in_the_bucket_is_found_and_removed(
    registry: Registry, server: S3Server, bucket: str, by: str
) -> None:
    """I34: a part and a tail that no row ever named, under the key of what another one finished."""
    data = secrets.token_bytes(PART + 1000)
    upload = start_upload(registry, APP, ALICE)
    killed = append_upload(registry, APP, upload.id, ALICE)
    killed.write(data)
    killed._append.sync()
    assert check(registry, Mode.DEFAULT).findings == ()
    clock_of(registry).advance(CLAIM_PERIOD.total_seconds())
    registry.claims.release(registry.db, upload.id, killed._claim._token)
    finish_upload(another(registry), APP, upload.id, ALICE, digest_of(data), [data])
    settle(registry)
    found = check(registry, Mode.DEFAULT).findings
    assert [(each.invariant, each.severity) for each in found] == [("I34", "leak")] * 2
    assert server.stored_bytes(bucket, beside=frozenset({"registry-id"})) == 2 * len(data)
    assert unexplained(registry) == (2 * len(data), len(data))
    clock_of(registry).advance((UNKNOWN_KEY_GRACE + timedelta(minutes=1)).total_seconds())
    if by == "check":
        assert check(registry, Mode.DEFAULT, repair=True).repaired == 2
    else:
        assert reconcile(registry, registry.blobs.list()) == 2
    assert assert_adds_up(registry, server, bucket) == len(data)

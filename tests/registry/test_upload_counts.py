"""Limits of open uploads hold over all processes, and are not counted for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import ALICE
from tests.support.statements import listened
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.transaction import Database
from ullage.oci.errors import TooManyRequests
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Limits, Registry
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.upload_counts import (
    NEAR,
    RECOUNT_SECONDS,
    RECOUNT_STARTS,
    UploadCounts,
    is_far,
)
from ullage.registry.push.uploads import append_upload

APP = parse_repository_name("app")


def processes(
    db: Database, store: MemoryBlobStore, clock: FakeClock, limits: Limits
) -> Sequence[Registry]:
    """Two on one database and one store, whose counts never grow old by themselves."""
    return [
        replace(registry_on(db, store, clock), limits=limits, upload_counts=UploadCounts(lambda: 0))
        for _ in range(2)
    ]


def begin(registry: Registry, name: str = "app") -> None:
    """A session with a byte, which makes way for no other."""
    repository = parse_repository_name(name)
    upload = start_upload(registry, repository, ALICE)
    session = append_upload(registry, repository, upload.id, ALICE)
    session.write(b"x")
    session.close()


MOST, PLENTY = 2 * NEAR + 5, 1000


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_uploads=MOST, max_account_uploads=PLENTY, max_repository_uploads=PLENTY),
        Limits(max_uploads=PLENTY, max_account_uploads=MOST, max_repository_uploads=PLENTY),
        Limits(max_uploads=PLENTY, max_account_uploads=PLENTY, max_repository_uploads=MOST),
    ],
    ids=["all", "account", "repository"],
)
def test_two_processes_together_open_as_many_as_a_limit_says(
    postgres_db: Database, store: MemoryBlobStore, clock: FakeClock, limits: Limits
) -> None:
    """Although each sees what the other opens only when it counts."""
    two = processes(postgres_db, store, clock, limits)
    opened = 0
    with pytest.raises(TooManyRequests):  # noqa: PT012 - whichever is one too many
        while True:
            begin(two[opened % 2])
            opened += 1
    assert opened == MOST


@pytest.mark.postgresql
def test_a_start_far_from_all_limits_counts_nothing(
    postgres_db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    one, _ = processes(postgres_db, store, clock, Limits())
    with listened(postgres_db) as heard:
        for _ in range(RECOUNT_STARTS):
            start_upload(one, APP, ALICE)
    counting = [sql for sql in heard if "count(*)" in sql and "FROM uploads" in sql]
    assert len(counting) == 1


@pytest.mark.postgresql
def test_in_a_busy_registry_only_the_repository_s_are_counted(
    postgres_db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    one, other = processes(postgres_db, store, clock, Limits(max_account_uploads=PLENTY))
    for number in range(NEAR + 1):
        begin(other, f"repository-{number}")
    start_upload(one, APP, ALICE)
    with listened(postgres_db) as heard:
        start_upload(one, APP, ALICE)
    (counting,) = (sql for sql in heard if "count(*)" in sql and "FROM uploads" in sql)
    assert "repositories.name = " in counting


def test_a_count_is_of_a_moment_ago() -> None:
    now, counted = 0.0, 0
    counts = UploadCounts(lambda: now)

    def count() -> dict[str, int]:
        nonlocal counted
        counted += 1
        return {"alice": counted}

    assert [counts.by_account(count)["alice"] for _ in range(RECOUNT_STARTS)][-1] == 1
    assert counts.by_account(count) == {"alice": 2}
    now += RECOUNT_SECONDS
    assert counts.by_account(count) == {"alice": 3}


def test_a_small_limit_is_always_near() -> None:
    assert not is_far(0, NEAR - 1)
    assert is_far(0, NEAR)
    assert is_far(2500, 5000)
    assert not is_far(2501, 5000)

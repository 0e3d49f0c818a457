"""A database that is busy, full or broken: every use case says so in the protocol's words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.planting import image_manifest, plant_blobs, plant_image
from tests.support.registry import ALICE, push_blob, push_manifest
from tests.support.soundness import assert_sound
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.database import postgresql
from ullage.database.errors import DatabaseBusy
from ullage.database.opening import open_database
from ullage.database.schema import base
from ullage.database.transaction import Transaction
from ullage.deletion import reclaim
from ullage.deletion.delete import delete_blob, delete_manifest, delete_repository, delete_tag
from ullage.oci.digest import digest_of
from ullage.oci.errors import Unavailable
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Limits, Registry
from ullage.registry.pull.read import (
    get_manifest,
    list_referrers,
    list_repositories,
    list_tags,
    stat_blob,
    stat_blob_for_push,
)
from ullage.registry.push.append_session import AppendSession
from ullage.registry.push.links import mount_blob
from ullage.registry.push.sessions import cancel_upload, get_upload, start_upload
from ullage.registry.push.uploads import append_upload, finish_upload
from ullage.registry.queries.upload_claims import CLAIM_PERIOD, Claims

APP, OTHER = parse_repository_name("app"), parse_repository_name("other")
V1 = parse_tag("v1")
LAYER = b"a layer"
DIGEST, LOOSE = digest_of(LAYER), digest_of(b"loose")


class Site:
    """A registry with something of everything, so that every use case has something to do."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.image = plant_image(registry, APP, "v1", [LAYER])
        plant_blobs(registry, APP, [b"loose"])
        self.upload = start_upload(registry, APP, ALICE).id
        self._sessions = [self._session() for _ in range(2)]

    def _session(self) -> AppendSession:
        upload = start_upload(self.registry, APP, ALICE)
        session = append_upload(self.registry, APP, upload.id, ALICE, start=0)
        session.write(b"uploaded")
        return session

    def session(self) -> AppendSession:
        """One that is being worked on; each can be had once."""
        return self._sessions.pop()


Act = Callable[[Registry, Site], object]
READING: dict[str, Act] = {
    "get_manifest": lambda registry, _: get_manifest(registry, APP, V1),
    "stat_blob": lambda registry, _: stat_blob(registry, APP, DIGEST),
    "list_tags": lambda registry, _: list_tags(registry, APP, 10, None),
    "list_repositories": lambda registry, _: list_repositories(
        registry, 10, None, WITHOUT_ACCOUNTS
    ),
    "list_referrers": lambda registry, site: list_referrers(
        registry, APP, site.image, None, 10, None
    ),
    "get_upload": lambda registry, site: get_upload(registry, APP, site.upload, ALICE),
}
WRITING: dict[str, Act] = {
    "start_upload": lambda registry, _: start_upload(registry, APP, ALICE),
    "end": lambda _, site: site.session().close(),
    "finish": lambda _, site: site.session().commit(digest_of(b"uploaded")),
    "finish_upload": lambda registry, site: finish_upload(
        registry, APP, site.upload, ALICE, digest_of(b"")
    ),
    "cancel_upload": lambda registry, site: cancel_upload(registry, APP, site.upload, ALICE),
    "mount_blob": lambda registry, _: mount_blob(registry, OTHER, APP, DIGEST, ALICE),
    "put_manifest": lambda registry, _: push_manifest(registry, APP, "v2", image_manifest([LAYER])),
    "delete_tag": lambda registry, _: delete_tag(registry, APP, V1, ALICE),
    "delete_manifest": lambda registry, site: delete_manifest(registry, APP, site.image, ALICE),
    "delete_blob": lambda registry, _: delete_blob(registry, APP, LOOSE, ALICE),
    "delete_repository": lambda registry, _: delete_repository(registry, APP, ALICE),
    "review_due": lambda registry, _: reclaim.review_due(registry),
}
# What a process keeps in its memory on SQLite needs the database on PostgreSQL.
PROMISING: dict[str, Act] = {
    "stat_blob_for_push": lambda registry, _: stat_blob_for_push(registry, APP, DIGEST, ALICE),
    "append_upload": lambda registry, site: append_upload(registry, APP, site.upload, ALICE),
    "expire_leases": lambda registry, _: reclaim.expire_leases(registry),
}


# --- busy -----------------------------------------------------------------------------------------


@pytest.fixture
def impatient(
    emptied_postgres_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """On PostgreSQL, waiting for locks for a moment only."""
    monkeypatch.setattr(postgresql, "LOCK_TIMEOUT_MS", 30)
    db = open_database(emptied_postgres_url)
    try:
        registry = registry_on(db, MemoryBlobStore(), clock)
        yield Site(registry)
        assert_sound(registry)
    finally:
        db.close()


ALL = READING | WRITING | PROMISING


@pytest.mark.postgresql
@pytest.mark.parametrize("act", ALL.values(), ids=ALL.keys())
def test_a_database_that_is_busy_is_a_503(
    impatient: Site, emptied_postgres_url: str, act: Act
) -> None:
    """reliability.md F23, F25: a bounded wait, then "try again"; and nothing has happened."""
    names = ", ".join(table.name for table in base.metadata.sorted_tables)
    with psycopg.connect(emptied_postgres_url) as other:
        other.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE".encode())
        with pytest.raises(Unavailable):
            act(impatient.registry, impatient)
    assert get_manifest(impatient.registry, APP, V1).digest == impatient.image


@pytest.mark.postgresql
@pytest.mark.parametrize("act", PROMISING.values(), ids=PROMISING.keys())
def test_a_row_that_is_busy_is_a_503(impatient: Site, emptied_postgres_url: str, act: Act) -> None:
    """A large deletion locks the blobs it drops; what only looks does not wait for it."""
    push_blob(impatient.registry, APP, b"promised")
    with psycopg.connect(emptied_postgres_url) as other:
        other.execute("SELECT FROM blobs FOR UPDATE")
        other.execute("SELECT FROM uploads FOR UPDATE")
        other.execute("LOCK TABLE leases IN EXCLUSIVE MODE")
        assert stat_blob(impatient.registry, APP, DIGEST)  # type: ignore[truthy-bool]
        with pytest.raises(Unavailable):
            act(impatient.registry, impatient)


@pytest.mark.postgresql
def test_a_database_that_cannot_be_reached_is_not_said_to_be_busy(
    impatient: Site, emptied_postgres_url: str, clock: FakeClock
) -> None:
    """reliability.md F25: an operator looks for a server that is away, not for load."""
    registry = impatient.registry

    def cut_off(tx: Transaction) -> None:
        (backend,) = tx.execute_directly(sa.text("SELECT pg_backend_pid()")).scalars()
        with psycopg.connect(emptied_postgres_url, autocommit=True) as administrator:
            administrator.execute("SELECT pg_terminate_backend(%s, 10000)", [backend])
        tx.execute_directly(sa.text("SELECT 1"))

    with pytest.raises(Unavailable, match="database cannot be reached; try again") as lost:
        registry.write(cut_off)
    assert lost.value.retry_after == 1
    name = sa.make_url(emptied_postgres_url).database
    elsewhere = sa.make_url(emptied_postgres_url).set(database="postgres")
    with psycopg.connect(
        elsewhere.render_as_string(hide_password=False), autocommit=True
    ) as administrator:
        administrator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        try:
            with pytest.raises(Unavailable, match="database cannot be reached; try again"):
                list_repositories(registry, 10, None, WITHOUT_ACCOUNTS)
        finally:
            administrator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())


@pytest.mark.postgresql
def test_an_upload_that_cannot_be_kept_alive_goes_back_to_where_it_was(
    impatient: Site, emptied_postgres_url: str, clock: FakeClock
) -> None:
    registry = replace(impatient.registry, limits=Limits(upload_idle=timedelta(0)))
    session = append_upload(registry, APP, impatient.upload, ALICE, start=0)
    with psycopg.connect(emptied_postgres_url) as other:
        other.execute("SELECT FROM uploads FOR UPDATE")
        with pytest.raises(Unavailable):
            session.write(b"in vain")
    clock.advance(CLAIM_PERIOD.total_seconds())
    session = append_upload(registry, APP, impatient.upload, ALICE, start=0)
    session.write(b"uploaded")
    session.commit(digest_of(b"uploaded"))


@pytest.mark.postgresql
def test_a_session_that_stays_claimed_is_no_reason_to_refuse_what_was_done(
    impatient: Site, emptied_postgres_url: str
) -> None:
    """The bytes are stored; only the claim could not be released."""

    class Unreleased:
        """Claims of a database that goes away at the wrong moment."""

        def __init__(self, inner: Claims) -> None:
            self.claim, self.renew, self.fence = inner.claim, inner.renew, inner.fence
            self.forget, self.taken = inner.forget, inner.taken

        def release(self, *_: object) -> None:
            raise DatabaseBusy("gone")

    registry = replace(impatient.registry, claims=Unreleased(impatient.registry.claims))
    session = append_upload(registry, APP, impatient.upload, ALICE, start=0)
    session.write(b"uploaded")
    assert session.close().offset == 8


# --- broken ---------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path, clock: FakeClock) -> Iterator[Site]:
    """On SQLite, after a failed fsync."""

    def fails(_: Transaction) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise sa.exc.OperationalError("COMMIT", {}, error)

    db = open_database(f"sqlite:///{tmp_path / 'ullage.db'}")
    try:
        registry = registry_on(db, MemoryBlobStore(), clock)
        site = Site(registry)
        with pytest.raises(Unavailable):
            registry.write(fails)
        yield site
    finally:
        db.close()


def test_a_broken_database_takes_no_changes_and_can_be_read(broken: Site) -> None:
    """reliability.md F18: health red, pulls go on."""
    registry = broken.registry
    for act in WRITING.values():
        with pytest.raises(Unavailable, match="until it is restarted"):
            act(registry, broken)
    for name, act in READING.items():
        assert act(registry, broken), name
    with pytest.raises(Unavailable):
        push_blob(registry, APP, b"more")

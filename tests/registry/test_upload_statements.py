"""What a push costs PostgreSQL: each statement is a turn of the interpreter and of the network.

architecture.md, "What a request costs". A session is opened by one statement, claimed and read by
one, and its claim ends with its row.
"""

from __future__ import annotations

import threading
import time
from typing import LiteralString

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import (
    ALICE,
    plain_manifest,
    push_blob,
    push_image,
    push_manifest,
)
from tests.support.soundness import assert_sound
from tests.support.statements import listened
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.schema import content, space
from ullage.database.transaction import Database, Transaction
from ullage.oci.digest import digest_of
from ullage.oci.errors import BlobUploadUnknown
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.uploads import append_upload, finish_upload

pytestmark = pytest.mark.postgresql

APP = parse_repository_name("app")
WEB = parse_repository_name("web")


@pytest.fixture
def registry(postgres_db: Database, clock: FakeClock) -> Registry:
    registry = registry_on(postgres_db, MemoryBlobStore(), clock)
    for name in (APP, WEB):
        push_image(registry, name, "v1", [b"first"])
    return registry


def test_a_session_is_opened_by_one_statement(registry: Registry) -> None:
    with listened(registry.db) as heard:
        start_upload(registry, APP, ALICE)
    (statement,) = heard
    assert statement.startswith("INSERT INTO uploads")


def test_a_finished_upload_writes_nothing_more_about_its_claim(registry: Registry) -> None:
    """The claim is in the session's row, which the transaction that ends the session deletes."""
    upload = start_upload(registry, APP, ALICE)
    with listened(registry.db) as heard:
        finish_upload(registry, APP, upload.id, ALICE, digest_of(b"data"), [b"data"])
    about = [each for each in heard if "uploads" in each.split("WHERE")[0].split("\n")[0]]
    assert [each.split(" SET ")[0].split(" WHERE ")[0].split(" (")[0] for each in about] == [
        "UPDATE uploads",
        "DELETE FROM uploads",
        "INSERT INTO finished_uploads",
    ]
    assert heard[-1] == "COMMIT"


def test_a_session_is_claimed_only_in_its_own_repository(registry: Registry) -> None:
    upload = start_upload(registry, APP, ALICE)
    with pytest.raises(BlobUploadUnknown):
        append_upload(registry, WEB, upload.id, ALICE)
    claims = space.uploads.select().with_only_columns(space.uploads.c.claim)
    found = registry.read(lambda tx: tx.execute_directly(claims).scalar_one())
    assert found is None


def test_a_manifest_names_all_its_blobs_in_one_statement(registry: Registry) -> None:
    """And its totals in one, and one writes it to the audit log."""
    with listened(registry.db) as heard:
        digest = push_image(registry, APP, "v2", [b"%d" % number for number in range(5)])
    begins = [each.split(" (")[0].split()[-1] for each in heard if "INSERT INTO" in each]
    assert begins.count("manifest_blobs") == 1
    stored = content.manifest_blobs.join(content.manifests)
    named = sa.select(content.manifest_blobs.c.digest).select_from(stored)
    these = named.where(content.manifests.c.digest == digest)
    found = registry.read(lambda tx: tx.execute_directly(these).scalars().all())
    assert len(found) == 6
    # Six blobs and a manifest are counted; each change has one entry.
    assert begins.count("counters") == 7
    assert sum("INTO audit" in each for each in heard) == 7
    assert not [each for each in heard if each.startswith("SELECT pg_advisory")]
    assert_sound(registry)


def test_a_manifest_changes_its_repository_s_row_once_and_its_leases_at_once(
    registry: Registry,
) -> None:
    config = push_blob(registry, "app", b"a config")
    with listened(registry.db) as heard:
        push_manifest(registry, "app", "v3", plain_manifest(b"a config"))
    assert sum(each.startswith("UPDATE repositories") for each in heard) == 1
    assert sum("leases" in each for each in heard) == 1
    redeemed = sa.select(space.leases.c.grants).where(space.leases.c.digest == config)
    assert registry.read(lambda tx: tx.execute_directly(redeemed).all()) == []
    assert_sound(registry)


def test_an_audit_entry_gets_its_number_when_it_is_its_turn(
    registry: Registry, emptied_postgres_url: str
) -> None:
    """reliability.md I22: a number that is waited for would be smaller than that of a later one."""
    last_number = "SELECT last_value FROM pg_sequences WHERE sequencename = 'audit_id_seq'"
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"

    def enter() -> None:
        registry.write(lambda tx: registry.audit(tx, ALICE, "second"))

    second = threading.Thread(target=enter)
    with psycopg.connect(emptied_postgres_url, autocommit=True) as other:

        def ask(statement: LiteralString) -> int:
            row = other.execute(statement).fetchone()
            assert row is not None
            return int(row[0])

        def hold(tx: Transaction) -> None:
            registry.audit(tx, ALICE, "first")
            number = ask(last_number)
            second.start()
            deadline = time.monotonic() + 20
            while not ask(waiting):
                assert time.monotonic() < deadline
            assert ask(last_number) == number

        registry.write(hold)
        second.join()

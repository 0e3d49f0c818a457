"""Mending what can be mended from rows alone."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from ullage.check.queries.paging import Only
from ullage.check.queries.rows import blobs, repositories
from ullage.check.queries.totals import counted_totals, stored_totals
from ullage.database.schema import content, space
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.queries.counters import add_to_counters
from ullage.registry.queries.reclaim.tombstones import bury

_repositories = content.repositories
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_tombstones = space.tombstones


def recount_repository(tx: Transaction, repository_id: int) -> None:
    """Set a repository's counters to what there is."""
    row = sa.select(_repositories.c.id).where(_repositories.c.id == repository_id)
    # Whoever changes a repository holds its row: what the next statement counts holds still.
    tx.execute(row.with_for_update(key_share=True))
    for facts in repositories(tx, Only([repository_id])):
        tx.execute(
            _repositories.update()
            .where(_repositories.c.id == repository_id)
            .values(facts.counted._asdict())
        )


def recount_references(tx: Transaction, digest: str) -> None:
    """Set a blob's numbers of references and of links to what there is."""
    row = sa.select(_blobs.c.digest).where(_blobs.c.digest == digest)
    # Whoever adds or removes a reference or a link changes these numbers later in the same
    # transaction. If it did, this waits until the reference can be counted; if it will, it changes
    # the new number.
    tx.execute(row.with_for_update(key_share=True))
    for facts in blobs(tx, Only([digest])):
        tx.execute(
            _blobs.update()
            .where(_blobs.c.digest == digest)
            .values(manifest_refs=facts.counted_references, repository_count=facts.counted_links)
        )


def recount_totals(tx: Transaction) -> None:
    """Set the registry-wide counters to what there is."""
    if tx.dialect == "postgresql":
        # Everybody changes the counters last. Who has done so is waited for and then counted; who
        # has not comes after this, and adds to the new values.
        tx.execute(sa.text("LOCK TABLE counters IN SHARE ROW EXCLUSIVE MODE"))
    stored = stored_totals(tx)
    drift = {name: count - stored[name] for name, count in counted_totals(tx).items()}
    add_to_counters(tx, 0, **drift)


def quarantine(tx: Transaction, digest: str, storage_key: str, now: datetime) -> bool:
    """Stop serving a blob, so that a push that has it uploads it again. False if it has changed."""
    return _change_blob(
        tx, digest, storage_key, _blobs.c.damaged_at.is_(None), damaged_at=to_micros(now)
    )


def lift_quarantine(tx: Transaction, digest: str, storage_key: str) -> bool:
    """The bytes are right after all. False if the blob has changed."""
    return _change_blob(tx, digest, storage_key, _blobs.c.damaged_at.is_not(None), damaged_at=None)


def correct_size(tx: Transaction, digest: str, storage_key: str, size: int) -> bool:
    """The bytes are right, their recorded number is not. The counters have to be counted again."""
    return _change_blob(tx, digest, storage_key, _blobs.c.size != size, size=size)


def _change_blob(
    tx: Transaction,
    digest: str,
    storage_key: str,
    where: sa.ColumnElement[bool],
    **values: int | None,
) -> bool:
    # The bytes under a key never change, so whoever judged them judged what this row still names.
    same = sa.and_(_blobs.c.digest == digest, _blobs.c.storage_key == storage_key)
    return tx.execute(_blobs.update().where(same, where).values(**values)).rowcount == 1


def condemn_unlinked(tx: Transaction, digest: str, due_at: datetime) -> bool:
    """Give up a blob that no repository links and no manifest refers to. False if one does."""
    row = sa.select(_blobs.c.size, _blobs.c.storage_key).where(_blobs.c.digest == digest)
    found = tx.execute(row.with_for_update()).first()
    held = sa.or_(
        sa.exists().where(_repo_blobs.c.digest == digest),
        sa.exists().where(_manifest_blobs.c.digest == digest),
    )
    if found is None or tx.execute(sa.select(held)).scalar_one():
        return False
    tx.execute(_blobs.delete().where(_blobs.c.digest == digest))
    add_to_counters(tx, 0, blob_count=-1, blob_bytes=-found.size)
    bury(tx, 0, found.storage_key, found.size, due_at, Digest(digest))
    return True


def correct_tombstone(tx: Transaction, storage_key: str, recorded: int, size: int) -> bool:
    """Record how many bytes there really are to erase. False if the tombstone has changed."""
    changed = tx.execute(
        _tombstones.update()
        .where(_tombstones.c.storage_key == storage_key, _tombstones.c.size == recorded)
        .values(size=size)
    ).rowcount
    if changed:
        add_to_counters(tx, 0, pending_bytes=size - recorded)
    return bool(changed)

"""Mending what can be mended from rows alone."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.check.queries.paging import Only
from ullage.check.queries.rows import Counts, blobs, repositories
from ullage.check.queries.totals import counted_totals, stored_totals
from ullage.database.schema import content, space
from ullage.database.statements import Statement, given
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.queries.counters import add_to_counters
from ullage.registry.queries.reclaim.signed_reads import Due, keep_signed
from ullage.registry.queries.reclaim.tombstones import bury

_repositories = content.repositories
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_tombstones = space.tombstones


_REPOSITORY = _repositories.c.id == bindparam("repository_id")
_LOCK_REPOSITORY = Statement(
    sa.select(_repositories.c.id).where(_REPOSITORY).with_for_update(key_share=True)
)
_SET_COUNTS = Statement(
    _repositories.update()
    .where(_REPOSITORY)
    .values({name: bindparam(name) for name in Counts._fields})
)


def recount_repository(tx: Transaction, repository_id: int) -> None:
    """Set a repository's counters to what there is."""
    # Every change of a repository locks its row first: what the next statement counts stays so.
    tx.rows(_LOCK_REPOSITORY, repository_id=repository_id)
    for facts in repositories(tx, Only([repository_id])):
        tx.change(_SET_COUNTS, repository_id=repository_id, **facts.counted._asdict())


_BLOB = given(_blobs, "digest")
_LOCK_BLOB = Statement(sa.select(_blobs.c.digest).where(_BLOB).with_for_update(key_share=True))
_SET_REFERENCES = Statement(
    _blobs.update()
    .where(_BLOB)
    .values(manifest_refs=bindparam("references"), repository_count=bindparam("links"))
)


def recount_references(tx: Transaction, digest: str) -> None:
    """Set a blob's numbers of references and of links to what there is."""
    # A transaction that adds or removes a reference or a link changes these numbers later. If it
    # has done so, this waits until the reference can be counted; if it will, it changes the new
    # number.
    tx.rows(_LOCK_BLOB, digest=digest)
    for facts in blobs(tx, Only([digest])):
        counted = {"references": facts.counted_references, "links": facts.counted_links}
        tx.change(_SET_REFERENCES, digest=digest, **counted)


_LOCK_COUNTERS = Statement.text("LOCK TABLE counters IN SHARE ROW EXCLUSIVE MODE")


def recount_totals(tx: Transaction) -> None:
    """Set the registry-wide counters to what there is."""
    if tx.dialect == "postgresql":
        # Every transaction changes the counters last. One that has is waited for and then counted;
        # one that has not comes after this, and adds to the new values.
        tx.change(_LOCK_COUNTERS)
    stored = stored_totals(tx)
    drift = {name: count - stored[name] for name, count in counted_totals(tx).items()}
    add_to_counters(tx, 0, **drift)


# The bytes under a key never change, so a judgement of them is one of what this row still names.
_JUDGED = sa.and_(_BLOB, _blobs.c.storage_key == bindparam("key"))
_CORRECT_SIZE = Statement(
    _blobs.update()
    .where(_JUDGED, _blobs.c.size != bindparam("right_size"))
    .values(size=bindparam("right_size"))
)


def correct_size(tx: Transaction, digest: str, storage_key: str, size: int) -> bool:
    """The bytes are right, their recorded number is not. The counters have to be counted again."""
    return tx.change(_CORRECT_SIZE, digest=digest, key=storage_key, right_size=size) == 1


_LOCK_TO_DELETE = Statement(
    sa.select(_blobs.c.size, _blobs.c.storage_key).where(_BLOB).with_for_update()
)
_IS_NEEDED = Statement(
    sa.select(
        sa.or_(
            *(sa.exists().where(given(table, "digest")) for table in (_repo_blobs, _manifest_blobs))
        )
    )
)
_DELETE_BLOB = Statement(_blobs.delete().where(_BLOB))


def condemn_unlinked(tx: Transaction, digest: str, now: datetime, due: Due) -> bool:
    """Give up a blob that no repository links and no manifest refers to. False if one does."""
    found = tx.row(_LOCK_TO_DELETE, digest=digest)
    if found is None or tx.value(_IS_NEEDED, digest=digest):
        return False
    size, storage_key = found
    tx.change(_DELETE_BLOB, digest=digest)
    add_to_counters(tx, 0, blob_count=-1, blob_bytes=-size)
    bury(tx, 0, storage_key, size, due.at, Digest(digest))
    keep_signed(tx, [storage_key], now, due.signed_read)
    return True


_CORRECT_TOMBSTONE = Statement(
    _tombstones.update()
    .where(
        _tombstones.c.storage_key == bindparam("key"), _tombstones.c.size == bindparam("recorded")
    )
    .values(size=bindparam("right_size"))
)


def correct_tombstone(tx: Transaction, storage_key: str, recorded: int, size: int) -> bool:
    """Record how many bytes there really are to erase. False if the tombstone has changed."""
    changed = tx.change(_CORRECT_TOMBSTONE, key=storage_key, recorded=recorded, right_size=size)
    if changed:
        add_to_counters(tx, 0, pending_bytes=size - recorded)
    return bool(changed)

"""Bytes on their way in and out: uploads, promises to pushers, reviews, tombstones, totals."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.database.schema.base import Id, Moment, Name, metadata, unlogged

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), nullable=False),
    # The account that opened it; only it may go on with it.
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("storage_key", sa.Text, nullable=False, unique=True),
    sa.Column("algorithm", sa.Text, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    # What the store needs to go on with it (blobs/protocol.py); nobody else reads it.
    sa.Column("state", sa.Text, nullable=False, server_default=sa.text("''")),
    # The digest of its first `offset` bytes in the making; NULL where it could not be saved.
    sa.Column("hash", sa.LargeBinary),
    # Bytes that are in the store for it, acknowledged or not.
    sa.Column("stored", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    # Only on PostgreSQL, where several processes serve one session: which request of which process
    # works on it, until when.
    sa.Column("claim", sa.Text),
    sa.Column("claimed_by", sa.Text),
    sa.Column("claimed_until", Moment),
    sa.Index("ix_uploads_repository_id", "repository_id"),
    sa.Index("ix_uploads_expires_at", "expires_at"),
    sqlite_with_rowid=False,
)

reserved_keys = sa.Table(
    "reserved_keys",
    metadata,
    # Fresh storage keys that no other row names yet: there may be bytes under them.
    sa.Column("storage_key", sa.Text, primary_key=True),
    # Only on PostgreSQL: the process that has it in hand.
    sa.Column("reserved_by", sa.Text),
    sqlite_with_rowid=False,
)

key_lines = sa.Table(
    "key_lines",
    metadata,
    # Which storage keys this database has given out (registry/storage_keys.py). The one with the
    # highest number is open; a line is never removed.
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    # The last batch, and the last one that the store's label is known to have.
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("noted", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

finished_uploads = sa.Table(
    "finished_uploads",
    metadata,
    # Remembered for a while so that a client that lost the answer to its last PUT may ask again. On
    # PostgreSQL also the tickets that were spent (push/tickets.py), each by one request only.
    sa.Column("id", sa.Text, primary_key=True),
    # By name: the repository may be deleted, and pushed to again, before the client asks.
    sa.Column("repository", Name, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    # "" where the ticket was spent on a row, or cancelled.
    sa.Column("digest", Name, nullable=False),
    sa.Column("forget_at", Moment, nullable=False),
    sa.Index("ix_finished_uploads_forget_at", "forget_at"),
    sqlite_with_rowid=False,
)

reviews = sa.Table(
    "reviews",
    metadata,
    # A link that no manifest of its repository uses, to be looked at when its lease has ended.
    sa.Column("repository_id", Id, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("due_at", Moment, nullable=False),
    sa.Index("ix_reviews_due_at", "due_at"),
    sqlite_with_rowid=False,
)

tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("storage_key", sa.Text, primary_key=True),
    # What the bytes were; NULL for an upload that never became a blob.
    sa.Column("digest", Name),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("due_at", Moment, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # Of an upload that never became a blob: what is to go beside the key (uploads.state).
    sa.Column("state", sa.Text, nullable=False, server_default=sa.text("''")),
    # Which piece of work of which process erases it, until when; with a time alone, it failed, and
    # is tried again from then on.
    sa.Column("claim", sa.Text),
    sa.Column("claimed_by", sa.Text),
    sa.Column("claimed_until", Moment),
    sa.Index("ix_tombstones_due_at", "due_at"),
    sqlite_with_rowid=False,
)

counters = sa.Table(
    "counters",
    metadata,
    # Registry-wide totals. Spread over slots so that PostgreSQL's pushers do not queue for one row.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

overview = sa.Table(
    "overview",
    metadata,
    # The bill as it was taken last (usage/overview.py): the registry's sums, and a line for each
    # repository and namespace, so many in a page. JSON, which nothing but the bill looks into.
    sa.Column("part", sa.Text, primary_key=True),
    sa.Column("page", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("taken_at", Moment, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

leases = sa.Table(
    "leases",
    metadata,
    # Promises to pushers that are not redeemed yet. On PostgreSQL this is the live table, UNLOGGED;
    # on SQLite the process keeps them in memory, and saves them here at a clean stop only.
    sa.Column("repository_id", Id, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("holder", sa.Text, primary_key=True),
    sa.Column("grants", sa.Integer, nullable=False),
    sa.Column("until", Moment, nullable=False),
    sa.Column("confirm_until", Moment, nullable=False),
    sa.Index("ix_leases_until", "until"),
    sqlite_with_rowid=False,
)

lease_memory = sa.Table(
    "lease_memory",
    metadata,
    # One row: before this moment promises may have been forgotten, so everything counts as leased.
    # UNLOGGED as well, so that it vanishes together with the leases when PostgreSQL crashes.
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("complete_from", Moment, nullable=False),
    sqlite_with_rowid=False,
)

processes = sa.Table(
    "processes",
    metadata,
    # Which processes are at work, on PostgreSQL, where there may be several. UNLOGGED: each writes
    # its row again within a second.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("started_at", Moment, nullable=False),
    # The last sign of life. What a process has claimed is free when it gives none any more.
    sa.Column("beat_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

signed_reads = sa.Table(
    "signed_reads",
    metadata,
    # Until when a signed URL that was given out may read a blob's bytes, in whichever process.
    # UNLOGGED: a pull that is redirected waits for no disk.
    sa.Column("digest", Name, primary_key=True),
    sa.Column("until", Moment, nullable=False),
    sa.Index("ix_signed_reads_until", "until"),
    sqlite_with_rowid=False,
)

signed_memory = sa.Table(
    "signed_memory",
    metadata,
    # One row: before this moment signed URLs may have been forgotten, so everything counts as
    # signed. UNLOGGED as well, so that it vanishes together with them when PostgreSQL crashes.
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("complete_from", Moment, nullable=False),
)

backup_leases = sa.Table(
    "backup_leases",
    metadata,
    # Backups that run: until then no byte is erased that a snapshot may name. Not UNLOGGED: a crash
    # of the database ends no backup's copying.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("until", Moment, nullable=False),
    sqlite_with_rowid=False,
)

unlogged(leases, lease_memory, processes, signed_reads, signed_memory)

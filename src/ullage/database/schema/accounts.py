"""Accounts, their rights, keys, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.database.schema.base import Id, Moment, Name, metadata, unlogged

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", Name, primary_key=True),
    # argon2id in its own notation; never NULL: an account without a password cannot log in.
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("admin", sa.Boolean, nullable=False),
    # What a user that is no administrator may do; NULL: nothing.
    sa.Column("scope_map", Name, sa.ForeignKey("scope_maps.name")),
    # Counts changes that end what was signed before: password, enabling, rights.
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

tokens = sa.Table(
    "tokens",
    metadata,
    # Repository-scoped tokens: named credentials with a scope map and two passwords that rotate.
    sa.Column("name", Name, primary_key=True),
    sa.Column("scope_map", Name, sa.ForeignKey("scope_maps.name"), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

token_passwords = sa.Table(
    "token_passwords",
    metadata,
    sa.Column("token", Name, sa.ForeignKey("tokens.name"), primary_key=True),
    # "password1" or "password2", as az calls them.
    sa.Column("slot", sa.Text, primary_key=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

scope_maps = sa.Table(
    "scope_maps",
    metadata,
    sa.Column("name", Name, primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    # A JSON list of repositories/<pattern>/<action>.
    sa.Column("actions", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

signing_keys = sa.Table(
    "signing_keys",
    metadata,
    sa.Column("kid", sa.Text, primary_key=True),
    sa.Column("private_pem", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    # From then on it signs nothing; it verifies until everything it signed has expired.
    sa.Column("retired_at", Moment),
    sqlite_with_rowid=False,
)

registry_facts = sa.Table(
    "registry_facts",
    metadata,
    # What makes this registry this one: its id, which tokens name as their audience.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

login_failures = sa.Table(
    "login_failures",
    metadata,
    # Wrong passwords, on PostgreSQL, where several processes count together. UNLOGGED: what is
    # forgotten is forgiven.
    # A hash of an address and an account, or of an address alone.
    sa.Column("key", sa.Text, primary_key=True),
    # How many still counted at the last one.
    sa.Column("number", sa.Double, nullable=False),
    sa.Column("last_at", Moment, nullable=False),
    sa.Index("ix_login_failures_last_at", "last_at"),
    sqlite_with_rowid=False,
)
unlogged(login_failures)

sessions = sa.Table(
    "sessions",
    metadata,
    # People who are logged in at the web UI. Their cookie's secret is not here, only its hash.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("subject", Name, nullable=False),
    # The account's when it logged in: what ends its tokens ends its sessions.
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Index("ix_sessions_expires_at", "expires_at"),
    sa.Index("ix_sessions_subject", "subject"),
    sqlite_with_rowid=False,
)

audit = sa.Table(
    "audit",
    metadata,
    # Every acknowledged change, in commit order; written in the transaction that makes the change.
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("repository", Name),
    # What it was done to: a tag, a digest, an account.
    sa.Column("target", sa.Text),
    # JSON: digests, tags, bytes and what more the action has to say. Never a secret.
    sa.Column("detail", sa.Text, nullable=False),
    sa.Index("ix_audit_repository", "repository", "id"),
    sa.Index("ix_audit_subject", "subject", "id"),
    sqlite_autoincrement=True,
)

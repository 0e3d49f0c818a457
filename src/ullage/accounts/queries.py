"""Users, tokens, scope maps and signing keys."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ullage.database.schema import accounts
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction

_users = accounts.users
_tokens = accounts.tokens
_passwords = accounts.token_passwords
_scope_maps = accounts.scope_maps
_keys = accounts.signing_keys


@dataclass(frozen=True, slots=True)
class User:
    name: str
    password_hash: str
    enabled: bool
    admin: bool
    scope_map: str | None
    generation: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class TokenPassword:
    slot: str
    password_hash: str
    expires_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    scope_map: str
    enabled: bool
    expires_at: datetime | None
    generation: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ScopeMap:
    name: str
    description: str
    actions: tuple[str, ...]
    created_at: datetime


def _when(stored: int | None) -> datetime | None:
    return None if stored is None else from_micros(stored)


def _stored(when: datetime | None) -> int | None:
    return None if when is None else to_micros(when)


def _first_generation() -> int:
    """Where a new account's count of changes starts.

    Anywhere: tokens signed for a deleted account of the same name must not fit this one.
    """
    return secrets.randbelow(2**30)


# --- users ----------------------------------------------------------------------------------------


def list_users(tx: Transaction) -> list[User]:
    return [_user(row) for row in tx.execute(sa.select(_users).order_by(_users.c.name))]


def find_user(tx: Transaction, name: str) -> User | None:
    row = tx.execute(sa.select(_users).where(_users.c.name == name)).first()
    return _user(row) if row else None


def _user(row: sa.Row[Any]) -> User:
    return User(
        row.name,
        row.password_hash,
        row.enabled,
        row.admin,
        row.scope_map,
        row.generation,
        from_micros(row.created_at),
    )


def insert_user(
    tx: Transaction,
    name: str,
    password_hash: str,
    *,
    admin: bool,
    scope_map: str | None,
    now: datetime,
) -> None:
    tx.execute(
        _users.insert().values(
            name=name,
            password_hash=password_hash,
            enabled=True,
            admin=admin,
            scope_map=scope_map,
            generation=_first_generation(),
            created_at=to_micros(now),
        )
    )


def update_user(tx: Transaction, name: str, **changes: object) -> bool:
    """Change columns of a user."""
    return tx.execute(_users.update().where(_users.c.name == name).values(**changes)).rowcount == 1


def delete_user(tx: Transaction, name: str) -> bool:
    return tx.execute(_users.delete().where(_users.c.name == name)).rowcount == 1


# --- tokens ---------------------------------------------------------------------------------------


def list_tokens(tx: Transaction) -> list[Token]:
    return [_token(row) for row in tx.execute(sa.select(_tokens).order_by(_tokens.c.name))]


def find_token(tx: Transaction, name: str) -> Token | None:
    row = tx.execute(sa.select(_tokens).where(_tokens.c.name == name)).first()
    return _token(row) if row else None


def _token(row: sa.Row[Any]) -> Token:
    return Token(
        row.name,
        row.scope_map,
        row.enabled,
        _when(row.expires_at),
        row.generation,
        from_micros(row.created_at),
    )


def insert_token(
    tx: Transaction, name: str, scope_map: str, expires_at: datetime | None, now: datetime
) -> None:
    tx.execute(
        _tokens.insert().values(
            name=name,
            scope_map=scope_map,
            enabled=True,
            expires_at=_stored(expires_at),
            generation=_first_generation(),
            created_at=to_micros(now),
        )
    )


def update_token(tx: Transaction, name: str, **changes: object) -> bool:
    """Change columns of a token."""
    return (
        tx.execute(_tokens.update().where(_tokens.c.name == name).values(**changes)).rowcount == 1
    )


def delete_token(tx: Transaction, name: str) -> bool:
    tx.execute(_passwords.delete().where(_passwords.c.token == name))
    return tx.execute(_tokens.delete().where(_tokens.c.name == name)).rowcount == 1


def token_passwords(tx: Transaction, name: str) -> list[TokenPassword]:
    rows = tx.execute(
        sa.select(_passwords).where(_passwords.c.token == name).order_by(_passwords.c.slot)
    )
    return [
        TokenPassword(
            row.slot, row.password_hash, _when(row.expires_at), from_micros(row.created_at)
        )
        for row in rows
    ]


def set_token_password(
    tx: Transaction,
    name: str,
    slot: str,
    password_hash: str,
    expires_at: datetime | None,
    now: datetime,
) -> None:
    """Replace one of a token's two passwords; the other goes on working."""
    delete_token_password(tx, name, slot)
    tx.execute(
        _passwords.insert().values(
            token=name,
            slot=slot,
            password_hash=password_hash,
            expires_at=_stored(expires_at),
            created_at=to_micros(now),
        )
    )


def delete_token_password(tx: Transaction, name: str, slot: str) -> bool:
    where = (_passwords.c.token == name, _passwords.c.slot == slot)
    return tx.execute(_passwords.delete().where(*where)).rowcount == 1


# --- scope maps -----------------------------------------------------------------------------------


def list_scope_maps(tx: Transaction) -> list[ScopeMap]:
    query = sa.select(_scope_maps).order_by(_scope_maps.c.name)
    return [_scope_map(row) for row in tx.execute(query)]


def find_scope_map(tx: Transaction, name: str) -> ScopeMap | None:
    row = tx.execute(sa.select(_scope_maps).where(_scope_maps.c.name == name)).first()
    return _scope_map(row) if row else None


def _scope_map(row: sa.Row[Any]) -> ScopeMap:
    return ScopeMap(
        row.name, row.description, tuple(json.loads(row.actions)), from_micros(row.created_at)
    )


def put_scope_map(
    tx: Transaction, name: str, description: str, actions: Sequence[str], now: datetime
) -> None:
    """Make the scope map, or replace what it says."""
    values = {"description": description, "actions": json.dumps(sorted(set(actions)))}
    changed = tx.execute(
        _scope_maps.update().where(_scope_maps.c.name == name).values(**values)
    ).rowcount
    if not changed:
        tx.execute(_scope_maps.insert().values(name=name, created_at=to_micros(now), **values))


def end_tokens_of(tx: Transaction, name: str) -> None:
    """End all that was signed for an account, whichever kind it is."""
    for table in (_users, _tokens):
        tx.execute(
            table.update().where(table.c.name == name).values(generation=table.c.generation + 1)
        )


def delete_scope_map(tx: Transaction, name: str) -> bool:
    return tx.execute(_scope_maps.delete().where(_scope_maps.c.name == name)).rowcount == 1


def users_of_scope_map(tx: Transaction, name: str) -> list[str]:
    """Accounts that a scope map gives rights to."""
    found: list[str] = []
    for table in (_users, _tokens):
        found += tx.execute(sa.select(table.c.name).where(table.c.scope_map == name)).scalars()
    return sorted(found)


# --- signing keys and the registry's own facts ----------------------------------------------------


def signing_keys(tx: Transaction, not_retired_before: datetime) -> list[tuple[str, str]]:
    """(kid, private key) of every key that may still verify, the signing one first."""
    retired = _keys.c.retired_at
    query = (
        sa.select(_keys.c.kid, _keys.c.private_pem)
        .where(sa.or_(retired.is_(None), retired > to_micros(not_retired_before)))
        .order_by(retired.is_not(None), _keys.c.created_at.desc())
    )
    return [(row.kid, row.private_pem) for row in tx.execute(query)]


def add_signing_key(
    tx: Transaction, kid: str, private_pem: str, now: datetime, *, alone: bool = False
) -> None:
    """Sign with this key from now on; those before only verify, or are gone if it is `alone`."""
    if alone:
        tx.execute(_keys.delete())
    tx.execute(_keys.update().where(_keys.c.retired_at.is_(None)).values(retired_at=to_micros(now)))
    tx.execute(_keys.insert().values(kid=kid, private_pem=private_pem, created_at=to_micros(now)))


def registry_id(tx: Transaction, fresh: str) -> str:
    """What this registry is called in tokens; `fresh` becomes it if it has no id yet."""
    facts = accounts.registry_facts
    tx.execute(
        tx.insert(facts)
        .values(name="id", value=fresh)
        .on_conflict_do_nothing(index_elements=["name"])
    )
    return str(tx.execute(sa.select(facts.c.value).where(facts.c.name == "id")).scalar_one())

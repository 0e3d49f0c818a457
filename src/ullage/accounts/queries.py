"""Users, tokens, scope maps and signing keys."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import accounts
from ullage.database.setters import Setters
from ullage.database.statements import Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Row, Transaction

_users = accounts.users
_tokens = accounts.tokens
_passwords = accounts.token_passwords
_scope_maps = accounts.scope_maps
_keys = accounts.signing_keys
_failures = accounts.login_failures
_sessions = accounts.sessions


def _all(table: sa.Table) -> Statement:
    return Statement(sa.select(table).order_by(table.c.name))


def _one(table: sa.Table) -> Statement:
    return Statement(sa.select(table).where(given(table, "name")))


def _delete(table: sa.Table) -> Statement:
    return Statement(table.delete().where(given(table, "name")))


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


_USERS, _USER, _DELETE_USER = _all(_users), _one(_users), _delete(_users)
_INSERT_USER = Statement.insert(_users, _users.c.keys())
_SET_USER = Setters(_users)


def list_users(tx: Transaction) -> list[User]:
    return [_user(row) for row in tx.rows(_USERS)]


def find_user(tx: Transaction, name: str) -> User | None:
    row = tx.row(_USER, name=name)
    return _user(row) if row else None


def _user(row: Row) -> User:
    name, password_hash, enabled, admin, scope_map, generation, created_at = row
    rights = (bool(enabled), bool(admin), scope_map)
    return User(name, password_hash, *rights, generation, from_micros(created_at))


def insert_user(
    tx: Transaction,
    name: str,
    password_hash: str,
    *,
    admin: bool,
    scope_map: str | None,
    now: datetime,
) -> None:
    tx.change(
        _INSERT_USER,
        name=name,
        password_hash=password_hash,
        enabled=True,
        admin=admin,
        scope_map=scope_map,
        generation=_first_generation(),
        created_at=to_micros(now),
    )


def update_user(tx: Transaction, name: str, **changes: object) -> bool:
    """Change columns of a user."""
    return _SET_USER.set(tx, name, changes)


def delete_user(tx: Transaction, name: str) -> bool:
    return tx.change(_DELETE_USER, name=name) == 1


# --- tokens ---------------------------------------------------------------------------------------


_TOKENS, _TOKEN, _DELETE_TOKEN = _all(_tokens), _one(_tokens), _delete(_tokens)
_INSERT_TOKEN = Statement.insert(_tokens, _tokens.c.keys())
_SET_TOKEN = Setters(_tokens)


def list_tokens(tx: Transaction) -> list[Token]:
    return [_token(row) for row in tx.rows(_TOKENS)]


def find_token(tx: Transaction, name: str) -> Token | None:
    row = tx.row(_TOKEN, name=name)
    return _token(row) if row else None


def _token(row: Row) -> Token:
    name, scope_map, enabled, expires_at, generation, created_at = row
    return Token(
        name, scope_map, bool(enabled), _when(expires_at), generation, from_micros(created_at)
    )


def insert_token(
    tx: Transaction, name: str, scope_map: str, expires_at: datetime | None, now: datetime
) -> None:
    tx.change(
        _INSERT_TOKEN,
        name=name,
        scope_map=scope_map,
        enabled=True,
        expires_at=_stored(expires_at),
        generation=_first_generation(),
        created_at=to_micros(now),
    )


def update_token(tx: Transaction, name: str, **changes: object) -> bool:
    """Change columns of a token."""
    return _SET_TOKEN.set(tx, name, changes)


def delete_token(tx: Transaction, name: str) -> bool:
    tx.change(_DELETE_PASSWORDS, token=name)
    return tx.change(_DELETE_TOKEN, name=name) == 1


_OF_TOKEN = given(_passwords, "token")
_PASSWORDS = Statement(
    sa.select(*_passwords.c["slot", "password_hash", "expires_at", "created_at"])
    .where(_OF_TOKEN)
    .order_by(_passwords.c.slot)
)
_INSERT_PASSWORD = Statement.insert(_passwords, _passwords.c.keys())
_DELETE_PASSWORD = Statement(_passwords.delete().where(given(_passwords, "token", "slot")))
_DELETE_PASSWORDS = Statement(_passwords.delete().where(_OF_TOKEN))


def token_passwords(tx: Transaction, name: str) -> list[TokenPassword]:
    return [
        TokenPassword(slot, password_hash, _when(expires_at), from_micros(created_at))
        for slot, password_hash, expires_at, created_at in tx.rows(_PASSWORDS, token=name)
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
    tx.change(
        _INSERT_PASSWORD,
        token=name,
        slot=slot,
        password_hash=password_hash,
        expires_at=_stored(expires_at),
        created_at=to_micros(now),
    )


def delete_token_password(tx: Transaction, name: str, slot: str) -> bool:
    return tx.change(_DELETE_PASSWORD, token=name, slot=slot) == 1


# --- scope maps -----------------------------------------------------------------------------------


_SCOPE_MAPS, _SCOPE_MAP = _all(_scope_maps), _one(_scope_maps)
_DELETE_SCOPE_MAP = _delete(_scope_maps)
_PUT_SCOPE_MAP = Statement.insert(
    _scope_maps,
    _scope_maps.c.keys(),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["name"],
        set_={"description": insert.excluded.description, "actions": insert.excluded.actions},
    ),
)


def list_scope_maps(tx: Transaction) -> list[ScopeMap]:
    return [_scope_map(row) for row in tx.rows(_SCOPE_MAPS)]


def find_scope_map(tx: Transaction, name: str) -> ScopeMap | None:
    row = tx.row(_SCOPE_MAP, name=name)
    return _scope_map(row) if row else None


def _scope_map(row: Row) -> ScopeMap:
    name, description, actions, created_at = row
    return ScopeMap(name, description, tuple(json.loads(actions)), from_micros(created_at))


def put_scope_map(
    tx: Transaction, name: str, description: str, actions: Sequence[str], now: datetime
) -> None:
    """Make the scope map, or replace what it says."""
    tx.change(
        _PUT_SCOPE_MAP,
        name=name,
        description=description,
        actions=json.dumps(sorted(set(actions))),
        created_at=to_micros(now),
    )


_END_TOKENS_OF = tuple(
    Statement(table.update().where(given(table, "name")).values(generation=table.c.generation + 1))
    for table in (_users, _tokens)
)
_USING_SCOPE_MAP = tuple(
    Statement(sa.select(table.c.name).where(given(table, "scope_map")))
    for table in (_users, _tokens)
)


def end_tokens_of(tx: Transaction, name: str) -> None:
    """End all that was signed for an account, whichever kind it is."""
    for statement in _END_TOKENS_OF:
        tx.change(statement, name=name)


def delete_scope_map(tx: Transaction, name: str) -> bool:
    return tx.change(_DELETE_SCOPE_MAP, name=name) == 1


def users_of_scope_map(tx: Transaction, name: str) -> list[str]:
    """Accounts that a scope map gives rights to."""
    return sorted(
        account
        for statement in _USING_SCOPE_MAP
        for account in tx.values(statement, scope_map=name)
    )


# --- signing keys and the registry's own facts ----------------------------------------------------


_SIGNING_KEYS = Statement(
    sa.select(_keys.c.kid, _keys.c.private_pem)
    .where(sa.or_(_keys.c.retired_at.is_(None), _keys.c.retired_at > bindparam("moment")))
    .order_by(_keys.c.retired_at.is_not(None), _keys.c.created_at.desc())
)
_DELETE_KEYS = Statement(_keys.delete())
_RETIRE_KEYS = Statement(
    _keys.update().where(_keys.c.retired_at.is_(None)).values(retired_at=bindparam("retired_at"))
)
_INSERT_KEY = Statement.insert(_keys, ("kid", "private_pem", "created_at"))


def signing_keys(tx: Transaction, not_retired_before: datetime) -> list[tuple[str, str]]:
    """(kid, private key) of every key that may still verify, the signing one first."""
    rows = tx.rows(_SIGNING_KEYS, moment=to_micros(not_retired_before))
    return [(kid, private_pem) for kid, private_pem in rows]


_KEYS = Statement(
    sa.select(_keys.c.kid, _keys.c.created_at, _keys.c.retired_at).order_by(
        _keys.c.retired_at.is_not(None), _keys.c.created_at.desc()
    )
)
_DELETE_KEY = Statement(_keys.delete().where(given(_keys, "kid")))


class KeyFacts(NamedTuple):
    """A signing key without its secret. The one that is not retired signs."""

    kid: str
    created_at: datetime
    retired_at: datetime | None


def key_facts(tx: Transaction) -> list[KeyFacts]:
    """Every key, the signing one first."""
    return [
        KeyFacts(kid, from_micros(made), None if retired is None else from_micros(retired))
        for kid, made, retired in tx.rows(_KEYS)
    ]


def delete_signing_key(tx: Transaction, kid: str) -> bool:
    """What it signed is good for nothing any more; False if there is no such key."""
    return tx.change(_DELETE_KEY, kid=kid) > 0


def add_signing_key(
    tx: Transaction, kid: str, private_pem: str, now: datetime, *, alone: bool = False
) -> None:
    """Sign with this key from now on; those before only verify, or are gone if it is `alone`."""
    if alone:
        tx.change(_DELETE_KEYS)
    tx.change(_RETIRE_KEYS, retired_at=to_micros(now))
    tx.change(_INSERT_KEY, kid=kid, private_pem=private_pem, created_at=to_micros(now))


# --- failed logins --------------------------------------------------------------------------------

_FAILURES_OF = Statement(
    sa.select(*_failures.c["key", "number", "last_at"]).where(among(_failures.c.key, "keys"))
)
# Those that still count, less what is forgiven for the time since, and one more.
_COUNT_FAILURE = Statement.text(
    "INSERT INTO login_failures (key, number, last_at) VALUES (:key, 1, :now)"
    " ON CONFLICT (key) DO UPDATE SET last_at = excluded.last_at, number = 1 + CASE"
    " WHEN excluded.last_at - login_failures.last_at > :forget THEN 0"
    " WHEN login_failures.number <= (excluded.last_at - login_failures.last_at) * :drain THEN 0"
    " ELSE login_failures.number - (excluded.last_at - login_failures.last_at) * :drain END"
)
_FORGET_FAILURES = Statement(_failures.delete().where(given(_failures, "key")))
_DROP_FAILURES = Statement(_failures.delete().where(_failures.c.last_at <= bindparam("before")))


def login_failures(tx: Transaction, keys: Sequence[str]) -> dict[str, tuple[float, float]]:
    """How many failed logins count for a key, and when the last one was, in seconds since 1970."""
    rows = tx.rows(_FAILURES_OF, keys=keys)
    return {key: (float(number), from_micros(last_at).timestamp()) for key, number, last_at in rows}


def count_login_failure(
    tx: Transaction, key: str, now: datetime, forget: timedelta, drain: float
) -> None:
    """One more; `drain` are forgiven in a second, and all after `forget` without another one."""
    tx.change(
        _COUNT_FAILURE,
        key=key,
        now=to_micros(now),
        forget=forget // timedelta(microseconds=1),
        drain=drain / 1e6,
    )


def forget_login_failures(tx: Transaction, key: str) -> None:
    tx.change(_FORGET_FAILURES, key=key)


def drop_login_failures(tx: Transaction, before: datetime) -> None:
    """Those of which none came since then."""
    tx.change(_DROP_FAILURES, before=to_micros(before))


# --- sessions of the web UI -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A person who is logged in; `id` is a hash of the secret that says so."""

    id: str
    subject: str
    generation: int
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    agent: str
    address: str


_INSERT_SESSION = Statement.insert(_sessions, _sessions.c.keys())
_SESSION = Statement(sa.select(_sessions).where(given(_sessions, "id")))
_SEEN = Statement(
    _sessions.update()
    .where(given(_sessions, "id"))
    .values(seen_at=bindparam("at"), expires_at=bindparam("until"))
)
_END_SESSION = Statement(_sessions.delete().where(given(_sessions, "id")))
_END_SESSIONS_OF = Statement(_sessions.delete().where(given(_sessions, "subject")))
_FORGET_SESSIONS = Statement(
    _sessions.delete().where(_sessions.c.expires_at <= bindparam("now", type_=sa.BigInteger))
)


def insert_session(tx: Transaction, session: SessionRow) -> None:
    tx.change(
        _INSERT_SESSION,
        id=session.id,
        subject=session.subject,
        generation=session.generation,
        created_at=to_micros(session.created_at),
        seen_at=to_micros(session.seen_at),
        expires_at=to_micros(session.expires_at),
        agent=session.agent,
        address=session.address,
    )


def find_session(tx: Transaction, session_id: str) -> SessionRow | None:
    row = tx.row(_SESSION, id=session_id)
    if row is None:
        return None
    id_, subject, generation, *moments, agent, address = row
    created_at, seen_at, expires_at = map(from_micros, moments)
    return SessionRow(id_, subject, generation, created_at, seen_at, expires_at, agent, address)


def note_session_seen(tx: Transaction, session_id: str, at: datetime, until: datetime) -> None:
    """It was used; it ends `until` then unless it is used again."""
    tx.change(_SEEN, id=session_id, at=to_micros(at), until=to_micros(until))


def end_session(tx: Transaction, session_id: str) -> None:
    tx.change(_END_SESSION, id=session_id)


def end_sessions_of(tx: Transaction, subject: str) -> None:
    tx.change(_END_SESSIONS_OF, subject=subject)


def forget_sessions(tx: Transaction, now: datetime) -> None:
    """Those that have ended by themselves."""
    tx.change(_FORGET_SESSIONS, now=to_micros(now))

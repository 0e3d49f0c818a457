"""The accounts that can log in: users and repository-scoped tokens, as they are now."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Protocol

from ullage.accounts import queries
from ullage.accounts.jwt import Bearer
from ullage.accounts.passwords import verify_password
from ullage.authorization import Grant, Principal, everything, merged, parse_scope_map_action
from ullage.database.transaction import Transaction
from ullage.registry.context import Registry


@dataclass(frozen=True, slots=True)
class Account:
    """An account that can log in, and what it may do now."""

    principal: Principal
    # A password must match one of these (argon2id or, from an htpasswd file, bcrypt).
    hashes: tuple[str, ...]
    generation: int
    # Which of its passwords was shown, once one was.
    credential: str = ""
    # Where a refresh token was shown: when that one ends, in seconds since 1970.
    refresh_until: int | None = None
    # A repository-scoped token, which is for programs.
    is_token: bool = False

    @property
    def bearer(self) -> Bearer:
        return Bearer(self.principal.subject, self.generation, self.credential)


class Accounts(Protocol):
    """Where accounts are looked up: the database, or an htpasswd file."""

    def find(self, name: str, now: datetime) -> Account | None:
        """The account if it exists, is enabled and has not expired."""

    def verify(self, hashed: str, password: str) -> bool: ...

    def unrestricted_account(self) -> str | None:
        """The name of an account that may do everything with repositories, if there is one."""


class StoredAccounts:
    """Users and tokens in the registry's database."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def find(self, name: str, now: datetime) -> Account | None:
        return self._registry.read(lambda tx: _find_account(tx, name, now))

    def verify(self, hashed: str, password: str) -> bool:
        return verify_password(hashed, password)

    def unrestricted_account(self) -> str | None:
        users = [user for user in self._registry.read(queries.list_users) if user.enabled]
        return next((user.name for user in users if user.admin), None)


def _find_account(tx: Transaction, name: str, now: datetime) -> Account | None:
    user = queries.find_user(tx, name)
    if user is not None:
        if not user.enabled:
            return None
        if user.admin:
            principal = everything(name, admin=True)
        else:
            principal = Principal(name, _scope_map_grants(tx, user.scope_map))
        return Account(principal, (user.password_hash,), user.generation)
    token = queries.find_token(tx, name)
    if token is None or not token.enabled or _over(token.expires_at, now):
        return None
    hashes = tuple(
        password.password_hash
        for password in queries.token_passwords(tx, name)
        if not _over(password.expires_at, now)
    )
    principal = Principal(name, _scope_map_grants(tx, token.scope_map))
    return Account(principal, hashes, token.generation, is_token=True)


def _scope_map_grants(tx: Transaction, name: str | None) -> tuple[Grant, ...]:
    scope_map = queries.find_scope_map(tx, name) if name else None
    return _grants(scope_map.actions) if scope_map else ()


@lru_cache(maxsize=256)
def _grants(actions: tuple[str, ...]) -> tuple[Grant, ...]:
    """The same few scope maps are read with every password that is shown."""
    return merged(map(parse_scope_map_action, actions))


def _over(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is not None and expires_at <= now


def credential_of(hashed: str) -> str:
    """A password's name in tokens: it says nothing about it, and no other has the same."""
    return hashlib.sha256(hashed.encode()).hexdigest()[:16]

"""Users: people and programs that log in with a password.

Each command is one transaction, with its audit entry in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ullage.accounts import queries
from ullage.accounts.documents import UserDocument, user_document
from ullage.accounts.names import (
    AccountConflict,
    AccountInvalid,
    enabled,
    known,
    require_changes,
    require_free,
    require_name,
)
from ullage.accounts.passwords import MAX_PASSWORD_BYTES, hash_password, new_password
from ullage.accounts.queries import User
from ullage.accounts.scope_maps import require_scope_map
from ullage.database.transaction import Transaction
from ullage.documents import changed
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.push.end_sessions import end_uploads_of

MIN_PASSWORD = 8
# Never accepted: what a default password would be (CVE-2026-4404).
_KNOWN_DEFAULTS = {"password", "password1", "12345678", "admin123", "harbor12345", "changeme"}


def ensure_admin(
    registry: Registry, caller: Caller, first_password: Callable[[], str] = new_password
) -> str | None:
    """Make the first account, `admin`, if there is none; returns its password, once.

    `first_password` is asked for it only then. Raises AccountInvalid for one that is too weak.
    """
    if registry.db.read(_has_accounts):
        return None
    password = _chosen(first_password())
    hashed = hash_password(password)

    def make(tx: Transaction) -> bool:
        if _has_accounts(tx):
            return False
        queries.insert_user(tx, "admin", hashed, admin=True, scope_map=None, now=registry.now())
        registry.audit(tx, caller, "user.create", target="admin", detail={"admin": True})
        return True

    return password if registry.write(make) else None


def _has_accounts(tx: Transaction) -> bool:
    return bool(queries.list_users(tx) or queries.list_tokens(tx))


def create_user(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    admin: bool = False,
    scope_map: str | None = None,
    password: str | None = None,
) -> UserDocument:
    """A new user; its password is made here, and shown once, unless one is given."""
    require_name(name)
    secret = _chosen(password)
    hashed = hash_password(secret)

    def make(tx: Transaction) -> UserDocument:
        require_free(tx, name)
        require_scope_map(tx, scope_map)
        queries.insert_user(tx, name, hashed, admin=admin, scope_map=scope_map, now=registry.now())
        detail = {"admin": admin, "scopeMap": scope_map}
        registry.audit(tx, caller, "user.create", target=name, detail=detail)
        return user_document(_user(tx, name))

    user = registry.write(make)
    return user if password is not None else changed(user, password=secret)


def list_users(registry: Registry) -> list[UserDocument]:
    return [user_document(user) for user in registry.read(queries.list_users)]


def show_user(registry: Registry, name: str) -> UserDocument:
    return user_document(registry.read(lambda tx: _user(tx, name)))


def update_user(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    status: str | None = None,
    admin: bool | None = None,
    scope_map: str | None = None,
) -> UserDocument:
    """Enable or disable a user, or change what it may do.

    Tokens signed for it before end with its status; other rights are theirs at once.
    """
    changes: dict[str, Any] = {}
    if status is not None:
        changes["enabled"] = enabled(status)
    if admin is not None:
        changes["admin"] = admin
    if scope_map is not None:
        changes["scope_map"] = scope_map or None
    require_changes(changes)

    def change(tx: Transaction) -> UserDocument:
        require_scope_map(tx, changes.get("scope_map"))
        before = _user(tx, name)
        queries.update_user(tx, name, **changes)
        if status is not None:
            queries.end_tokens_of(tx, name)
        if before.admin and before.enabled:
            _require_an_admin(tx)
        registry.audit(tx, caller, "user.update", target=name, detail=changes)
        return user_document(_user(tx, name))

    document = registry.write(change)
    if changes.get("enabled") is False:
        end_uploads_of(registry, name)
    return document


def set_password(
    registry: Registry, caller: Caller, name: str, password: str | None = None
) -> UserDocument:
    """Give a user another password; the old one and tokens signed for it end at once."""
    secret = _chosen(password)
    hashed = hash_password(secret)

    def change(tx: Transaction) -> UserDocument:
        user = user_document(_user(tx, name))
        queries.update_user(tx, name, password_hash=hashed)
        queries.end_tokens_of(tx, name)
        registry.audit(tx, caller, "user.password", target=name)
        return user

    user = registry.write(change)
    return user if password is not None else changed(user, password=secret)


def delete_user(registry: Registry, caller: Caller, name: str) -> None:
    def remove(tx: Transaction) -> None:
        user = _user(tx, name)
        queries.delete_user(tx, name)
        if user.admin and user.enabled:
            _require_an_admin(tx)
        registry.audit(tx, caller, "user.delete", target=name)

    registry.write(remove)
    end_uploads_of(registry, name)


def _require_an_admin(tx: Transaction) -> None:
    if not any(user.admin and user.enabled for user in queries.list_users(tx)):
        raise AccountConflict(message="this is the last administrator; make another one first")


def _chosen(password: str | None) -> str:
    if password is None:
        return new_password()
    size = len(password.encode("utf-8", "surrogatepass"))
    if not MIN_PASSWORD <= size <= MAX_PASSWORD_BYTES or password.lower() in _KNOWN_DEFAULTS:
        raise AccountInvalid(
            message=f"a password has {MIN_PASSWORD} to {MAX_PASSWORD_BYTES} bytes and is none of "
            "those that everybody tries first"
        )
    return password


def _user(tx: Transaction, name: str) -> User:
    return known(queries.find_user(tx, name), f"there is no user called {name}")

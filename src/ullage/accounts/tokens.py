"""Repository-scoped tokens: limited rights and two passwords that may expire.

Each command is one transaction, with its audit entry in it, and answers in the shape az acr shows
(`ullage token create` reads like `az acr token create`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from ullage.accounts import queries
from ullage.accounts.documents import TokenDocument, token_document
from ullage.accounts.names import (
    AccountConflict,
    AccountInvalid,
    enabled,
    known,
    require_changes,
    require_free,
    require_name,
)
from ullage.accounts.passwords import hash_password, new_password
from ullage.accounts.queries import Token
from ullage.accounts.scope_maps import actions_of, require_scope_map
from ullage.database.transaction import Transaction
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.push.end_sessions import end_uploads_of

SLOTS = ("password1", "password2")


def create_token(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    scope_map: str | None = None,
    repositories: Sequence[Sequence[str]] = (),
    status: str = "enabled",
    expires_in_days: int | None = None,
    no_passwords: bool = False,
) -> TokenDocument:
    """A repository-scoped token with two passwords, shown once.

    Its rights come from a scope map, or from `repositories` ([repository, action …] each), for
    which a scope map of its own is made, as az does.
    """
    require_name(name)
    if (scope_map is None) == (not repositories):
        raise AccountInvalid(message="give either a scope map or repositories with actions")
    now = registry.now()
    expires_at = _expiry(now, expires_in_days)
    secrets = {} if no_passwords else {slot: new_password() for slot in SLOTS}
    hashes = {slot: hash_password(secret) for slot, secret in secrets.items()}
    actions = actions_of(repositories)
    own_map = f"{name}-scope-map"

    def make(tx: Transaction) -> TokenDocument:
        require_free(tx, name)
        if scope_map is None:
            _require_no_other(tx, own_map, actions)
            queries.put_scope_map(tx, own_map, f"Made for token {name}", actions, now)
        require_scope_map(tx, scope_map)
        queries.insert_token(tx, name, scope_map or own_map, None, now)
        if status != "enabled":
            queries.update_token(tx, name, enabled=enabled(status))
        for slot, hashed in hashes.items():
            queries.set_token_password(tx, name, slot, hashed, expires_at, now)
        registry.audit(
            tx, caller, "token.create", target=name, detail={"scopeMap": scope_map or own_map}
        )
        return token_document(_token(tx, name), queries.token_passwords(tx, name), secrets)

    return registry.write(make)


def list_tokens(registry: Registry) -> list[TokenDocument]:
    def find(tx: Transaction) -> list[TokenDocument]:
        return [
            token_document(token, queries.token_passwords(tx, token.name))
            for token in queries.list_tokens(tx)
        ]

    return registry.snapshot(find)


def show_token(registry: Registry, name: str) -> TokenDocument:
    return registry.snapshot(
        lambda tx: token_document(_token(tx, name), queries.token_passwords(tx, name))
    )


def update_token(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    status: str | None = None,
    scope_map: str | None = None,
) -> TokenDocument:
    changes: dict[str, Any] = {}
    if status is not None:
        changes["enabled"] = enabled(status)
    if scope_map is not None:
        changes["scope_map"] = scope_map
    require_changes(changes)

    def change(tx: Transaction) -> TokenDocument:
        require_scope_map(tx, scope_map)
        _token(tx, name)
        queries.update_token(tx, name, **changes)
        if status is not None:
            queries.end_tokens_of(tx, name)
        registry.audit(tx, caller, "token.update", target=name, detail=changes)
        return token_document(_token(tx, name), queries.token_passwords(tx, name))

    document = registry.write(change)
    if changes.get("enabled") is False:
        end_uploads_of(registry, name)
    return document


def delete_token(registry: Registry, caller: Caller, name: str) -> None:
    def remove(tx: Transaction) -> None:
        token = _token(tx, name)
        queries.delete_token(tx, name)
        if token.scope_map == f"{name}-scope-map" and not queries.users_of_scope_map(
            tx, token.scope_map
        ):
            queries.delete_scope_map(tx, token.scope_map)
        registry.audit(tx, caller, "token.delete", target=name)

    registry.write(remove)
    end_uploads_of(registry, name)


def generate_credentials(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    slots: Sequence[str] = SLOTS,
    expires_in_days: int | None = None,
) -> TokenDocument:
    """New passwords for a token, one or both; what was bought with the old ones ends.

    The other password and what was bought with it go on working.
    """
    chosen = tuple(slots) or SLOTS
    now = registry.now()
    expires_at = _expiry(now, expires_in_days)
    secrets = {slot: new_password() for slot in chosen}
    hashes = {slot: hash_password(secret) for slot, secret in secrets.items()}

    def change(tx: Transaction) -> TokenDocument:
        token = _token(tx, name)
        for slot, hashed in hashes.items():
            queries.set_token_password(tx, name, slot, hashed, expires_at, now)
        detail = {"passwords": sorted(chosen)}
        registry.audit(tx, caller, "token.credential.generate", target=name, detail=detail)
        return token_document(token, queries.token_passwords(tx, name), secrets)

    return registry.write(change)


def delete_credentials(
    registry: Registry, caller: Caller, name: str, slots: Sequence[str]
) -> TokenDocument:
    """Take passwords from a token; what was bought with them ends."""

    def change(tx: Transaction) -> TokenDocument:
        _token(tx, name)
        for slot in slots or SLOTS:
            queries.delete_token_password(tx, name, slot)
        detail = {"passwords": sorted(slots or SLOTS)}
        registry.audit(tx, caller, "token.credential.delete", target=name, detail=detail)
        return token_document(_token(tx, name), queries.token_passwords(tx, name))

    return registry.write(change)


# --- what may be asked for ------------------------------------------------------------------------


def _require_no_other(tx: Transaction, name: str, actions: Sequence[str]) -> None:
    """A scope map of this name that others use, and that says something else, must stay."""
    found = queries.find_scope_map(tx, name)
    if found is not None and list(found.actions) != list(actions):
        raise AccountConflict(
            {"scopeMap": name},
            f"there is a scope map called {name} with other rights already; "
            f"use it with --scope-map {name}, or choose another name for the token",
        )


def _expiry(now: datetime, days: int | None) -> datetime | None:
    if days is None:
        return None
    if not 1 <= days <= 36_500:
        raise AccountInvalid({"days": days}, "expiration: expected 1 to 36500 days")
    return now + timedelta(days=days)


def _token(tx: Transaction, name: str) -> Token:
    return known(queries.find_token(tx, name), f"there is no token called {name}")

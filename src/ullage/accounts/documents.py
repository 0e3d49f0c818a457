"""Accounts as JSON, in the shape that az acr shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ullage.accounts.queries import KeyFacts, ScopeMap, Token, TokenPassword, User
from ullage.documents import UNSET, Document, Time, UnsetType
from ullage.registry.queries.audit import AuditEntry


class UserDocument(Document, frozen=True, rename="camel"):
    """A user; with its password only where that was made just now."""

    name: str
    status: str
    admin: bool
    scope_map: str | None
    creation_date: Time
    password: str | UnsetType = UNSET


class PasswordDocument(Document, frozen=True, rename="camel"):
    """A token's password; with its value only where that was made just now."""

    name: str
    value: str | None
    creation_time: Time
    expiry: Time | None


class CredentialsDocument(Document, frozen=True):
    username: str
    passwords: list[PasswordDocument]


class TokenDocument(Document, frozen=True, rename="camel"):
    """A repository-scoped token."""

    name: str
    status: str
    scope_map: str | None
    creation_date: Time
    credentials: CredentialsDocument


class ScopeMapDocument(Document, frozen=True, rename="camel"):
    """A named set of rights on repositories."""

    name: str
    description: str
    actions: Sequence[str]
    creation_date: Time


class KeyDocument(Document, frozen=True, rename="camel"):
    """A key that signs access tokens or, once it is retired, only verifies them."""

    kid: str
    signs: bool
    creation_date: Time
    retirement_date: Time | None


class AuditDocument(Document, frozen=True):
    """An entry of the audit log. What `detail` has depends on the action."""

    id: int
    at: Time
    subject: str
    address: str
    request_id: str
    action: str
    repository: str | None
    target: str | None
    detail: dict[str, Any] | None


def user_document(user: User) -> UserDocument:
    return UserDocument(
        user.name, _status(user.enabled), user.admin, user.scope_map, user.created_at.isoformat()
    )


def token_document(
    token: Token, passwords: Sequence[TokenPassword], secrets: dict[str, str] | None = None
) -> TokenDocument:
    documents = [
        PasswordDocument(
            password.slot,
            (secrets or {}).get(password.slot),
            password.created_at.isoformat(),
            password.expires_at.isoformat() if password.expires_at else None,
        )
        for password in passwords
    ]
    return TokenDocument(
        token.name,
        _status(token.enabled),
        token.scope_map,
        token.created_at.isoformat(),
        CredentialsDocument(token.name, documents),
    )


def scope_map_document(scope_map: ScopeMap) -> ScopeMapDocument:
    return ScopeMapDocument(
        scope_map.name,
        scope_map.description,
        scope_map.actions,
        scope_map.created_at.isoformat(),
    )


def key_document(facts: KeyFacts) -> KeyDocument:
    retired = facts.retired_at.isoformat() if facts.retired_at else None
    return KeyDocument(facts.kid, retired is None, facts.created_at.isoformat(), retired)


def audit_document(entry: AuditEntry) -> AuditDocument:
    return AuditDocument(
        entry.id,
        entry.at.isoformat(),
        entry.subject,
        entry.address,
        entry.request_id,
        entry.action,
        entry.repository,
        entry.target,
        entry.detail,
    )


def _status(enabled: bool) -> str:
    return "enabled" if enabled else "disabled"

"""Managing users, tokens, scope maps and keys.

Each function is one command and one transaction, with its audit entry in it. They answer in the
shape az acr shows (`ullage token create` reads like `az acr token create`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from ullage.metadata import accounts
from ullage.metadata.accounts import ScopeMap, Token, TokenPassword, User
from ullage.metadata.database import Transaction
from ullage.oci.errors import RegistryError
from ullage.services import Caller, Registry
from ullage.services.access import SCOPE_MAP_ACTIONS, parse_pattern
from ullage.services.audit import list_audit
from ullage.services.passwords import MAX_PASSWORD_BYTES, hash_password, new_password
from ullage.services.tokens import new_signing_key

T = TypeVar("T")

ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
SLOTS = ("password1", "password2")
MIN_PASSWORD = 8
MAX_ACTIONS = 500
# Never accepted, whoever chooses them: what a default password would be (CVE-2026-4404).
_KNOWN_DEFAULTS = {"password", "password1", "12345678", "admin123", "harbor12345", "changeme"}


class AccountInvalid(RegistryError):
    code = "ACCOUNT_INVALID"
    message = "the account cannot be made or changed like this"


class AccountUnknown(RegistryError):
    code = "ACCOUNT_UNKNOWN"
    message = "there is no such account"


# --- users ----------------------------------------------------------------------------------------


def ensure_admin(registry: Registry, caller: Caller) -> str | None:
    """Make the first account, `admin`, if there is none; returns its password, once."""
    password = new_password()
    hashed = hash_password(password)

    def make(tx: Transaction) -> bool:
        if accounts.list_users(tx) or accounts.list_tokens(tx):
            return False
        accounts.insert_user(tx, "admin", hashed, admin=True, scope_map=None, now=registry.now())
        registry.audit(tx, caller, "user.create", target="admin", detail={"admin": True})
        return True

    return password if registry.write(make) else None


def create_user(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    admin: bool = False,
    scope_map: str | None = None,
    password: str | None = None,
) -> dict[str, Any]:
    """A new user; its password is made here, and shown once, unless one is given."""
    _require_name(name)
    secret = _chosen(password)
    hashed = hash_password(secret)

    def make(tx: Transaction) -> dict[str, Any]:
        _require_free(tx, name)
        _require_scope_map(tx, scope_map)
        accounts.insert_user(tx, name, hashed, admin=admin, scope_map=scope_map, now=registry.now())
        detail = {"admin": admin, "scopeMap": scope_map}
        registry.audit(tx, caller, "user.create", target=name, detail=detail)
        return _shown_user(_user(tx, name))

    shown = registry.write(make)
    return shown if password is not None else {**shown, "password": secret}


def list_users(registry: Registry) -> list[dict[str, Any]]:
    return [_shown_user(user) for user in registry.read(accounts.list_users)]


def show_user(registry: Registry, name: str) -> dict[str, Any]:
    return _shown_user(registry.read(lambda tx: _user(tx, name)))


def update_user(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    status: str | None = None,
    admin: bool | None = None,
    scope_map: str | None = None,
) -> dict[str, Any]:
    """Enable or disable a user, or change what it may do.

    Tokens signed for it before end with its status; other rights are theirs at once.
    """
    changes: dict[str, Any] = {}
    if status is not None:
        changes["enabled"] = _enabled(status)
    if admin is not None:
        changes["admin"] = admin
    if scope_map is not None:
        changes["scope_map"] = scope_map or None
    _require_changes(changes)

    def change(tx: Transaction) -> dict[str, Any]:
        _require_scope_map(tx, changes.get("scope_map"))
        before = _user(tx, name)
        accounts.update_user(tx, name, **changes)
        if status is not None:
            accounts.end_tokens_of(tx, name)
        if before.admin and before.enabled:
            _require_an_admin(tx)
        registry.audit(tx, caller, "user.update", target=name, detail=changes)
        return _shown_user(_user(tx, name))

    return registry.write(change)


def set_password(
    registry: Registry, caller: Caller, name: str, password: str | None = None
) -> dict[str, Any]:
    """Give a user another password; the old one and tokens signed for it end at once."""
    secret = _chosen(password)
    hashed = hash_password(secret)

    def change(tx: Transaction) -> dict[str, Any]:
        shown = _shown_user(_user(tx, name))
        accounts.update_user(tx, name, password_hash=hashed)
        accounts.end_tokens_of(tx, name)
        registry.audit(tx, caller, "user.password", target=name)
        return shown

    shown = registry.write(change)
    return shown if password is not None else {**shown, "password": secret}


def delete_user(registry: Registry, caller: Caller, name: str) -> None:
    def remove(tx: Transaction) -> None:
        user = _user(tx, name)
        accounts.delete_user(tx, name)
        if user.admin and user.enabled:
            _require_an_admin(tx)
        registry.audit(tx, caller, "user.delete", target=name)

    registry.write(remove)


def _require_an_admin(tx: Transaction) -> None:
    if not any(user.admin and user.enabled for user in accounts.list_users(tx)):
        raise AccountInvalid(message="this is the last administrator; make another one first")


# --- tokens ---------------------------------------------------------------------------------------


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
) -> dict[str, Any]:
    """A repository-scoped token with two passwords, shown once.

    Its rights come from a scope map, or from `repositories` ([repository, action …] each), for
    which a scope map of its own is made, as az does.
    """
    _require_name(name)
    if (scope_map is None) == (not repositories):
        raise AccountInvalid(message="give either a scope map or repositories with actions")
    now = registry.now()
    expires_at = _expiry(now, expires_in_days)
    secrets = {} if no_passwords else {slot: new_password() for slot in SLOTS}
    hashes = {slot: hash_password(secret) for slot, secret in secrets.items()}
    actions = _actions(repositories)
    own_map = f"{name}-scope-map"

    def make(tx: Transaction) -> dict[str, Any]:
        _require_free(tx, name)
        if scope_map is None:
            _require_no_other(tx, own_map, actions)
            accounts.put_scope_map(tx, own_map, f"Made for token {name}", actions, now)
        _require_scope_map(tx, scope_map)
        accounts.insert_token(tx, name, scope_map or own_map, None, now)
        if status != "enabled":
            accounts.update_token(tx, name, enabled=_enabled(status))
        for slot, hashed in hashes.items():
            accounts.set_token_password(tx, name, slot, hashed, expires_at, now)
        registry.audit(
            tx, caller, "token.create", target=name, detail={"scopeMap": scope_map or own_map}
        )
        return _shown_token(_token(tx, name), accounts.token_passwords(tx, name), secrets)

    return registry.write(make)


def list_tokens(registry: Registry) -> list[dict[str, Any]]:
    def find(tx: Transaction) -> list[dict[str, Any]]:
        return [
            _shown_token(token, accounts.token_passwords(tx, token.name))
            for token in accounts.list_tokens(tx)
        ]

    return registry.snapshot(find)


def show_token(registry: Registry, name: str) -> dict[str, Any]:
    return registry.snapshot(
        lambda tx: _shown_token(_token(tx, name), accounts.token_passwords(tx, name))
    )


def update_token(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    status: str | None = None,
    scope_map: str | None = None,
) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if status is not None:
        changes["enabled"] = _enabled(status)
    if scope_map is not None:
        changes["scope_map"] = scope_map
    _require_changes(changes)

    def change(tx: Transaction) -> dict[str, Any]:
        _require_scope_map(tx, scope_map)
        _token(tx, name)
        accounts.update_token(tx, name, **changes)
        if status is not None:
            accounts.end_tokens_of(tx, name)
        registry.audit(tx, caller, "token.update", target=name, detail=changes)
        return _shown_token(_token(tx, name), accounts.token_passwords(tx, name))

    return registry.write(change)


def delete_token(registry: Registry, caller: Caller, name: str) -> None:
    def remove(tx: Transaction) -> None:
        token = _token(tx, name)
        accounts.delete_token(tx, name)
        if token.scope_map == f"{name}-scope-map" and not accounts.users_of_scope_map(
            tx, token.scope_map
        ):
            accounts.delete_scope_map(tx, token.scope_map)
        registry.audit(tx, caller, "token.delete", target=name)

    registry.write(remove)


def generate_credentials(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    slots: Sequence[str] = SLOTS,
    expires_in_days: int | None = None,
) -> dict[str, Any]:
    """New passwords for a token, one or both; what was bought with the old ones ends.

    The other password and what was bought with it go on working.
    """
    chosen = tuple(slots) or SLOTS
    now = registry.now()
    expires_at = _expiry(now, expires_in_days)
    secrets = {slot: new_password() for slot in chosen}
    hashes = {slot: hash_password(secret) for slot, secret in secrets.items()}

    def change(tx: Transaction) -> dict[str, Any]:
        token = _token(tx, name)
        for slot, hashed in hashes.items():
            accounts.set_token_password(tx, name, slot, hashed, expires_at, now)
        detail = {"passwords": sorted(chosen)}
        registry.audit(tx, caller, "token.credential.generate", target=name, detail=detail)
        return _shown_token(token, accounts.token_passwords(tx, name), secrets)

    return registry.write(change)


def delete_credentials(
    registry: Registry, caller: Caller, name: str, slots: Sequence[str]
) -> dict[str, Any]:
    """Take passwords from a token; what was bought with them ends."""

    def change(tx: Transaction) -> dict[str, Any]:
        _token(tx, name)
        for slot in slots or SLOTS:
            accounts.delete_token_password(tx, name, slot)
        detail = {"passwords": sorted(slots or SLOTS)}
        registry.audit(tx, caller, "token.credential.delete", target=name, detail=detail)
        return _shown_token(_token(tx, name), accounts.token_passwords(tx, name))

    return registry.write(change)


# --- scope maps -----------------------------------------------------------------------------------


def create_scope_map(
    registry: Registry,
    caller: Caller,
    name: str,
    repositories: Sequence[Sequence[str]],
    description: str = "",
) -> dict[str, Any]:
    _require_name(name)
    actions = _actions(repositories)

    def make(tx: Transaction) -> dict[str, Any]:
        if accounts.find_scope_map(tx, name) is not None:
            raise AccountInvalid(message=f"there is a scope map called {name} already")
        accounts.put_scope_map(tx, name, description, actions, registry.now())
        registry.audit(tx, caller, "scope-map.create", target=name, detail={"actions": actions})
        return _shown_scope_map(_scope_map(tx, name))

    return registry.write(make)


def list_scope_maps(registry: Registry) -> list[dict[str, Any]]:
    return [_shown_scope_map(found) for found in registry.read(accounts.list_scope_maps)]


def show_scope_map(registry: Registry, name: str) -> dict[str, Any]:
    return _shown_scope_map(registry.read(lambda tx: _scope_map(tx, name)))


def update_scope_map(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    add: Sequence[Sequence[str]] = (),
    remove: Sequence[Sequence[str]] = (),
    description: str | None = None,
) -> dict[str, Any]:
    added, removed = _actions(add), _actions(remove)

    def change(tx: Transaction) -> dict[str, Any]:
        found = _scope_map(tx, name)
        actions = sorted((set(found.actions) - set(removed)) | set(added))
        _require_few(actions)
        text = found.description if description is None else description
        accounts.put_scope_map(tx, name, text, actions, registry.now())
        detail = {"added": added, "removed": removed}
        registry.audit(tx, caller, "scope-map.update", target=name, detail=detail)
        return _shown_scope_map(_scope_map(tx, name))

    return registry.write(change)


def delete_scope_map(registry: Registry, caller: Caller, name: str) -> None:
    def remove(tx: Transaction) -> None:
        _scope_map(tx, name)
        holders = accounts.users_of_scope_map(tx, name)
        if holders:
            raise AccountInvalid(
                {"accounts": holders[:20]},
                f"scope map {name} is used by {', '.join(holders[:5])}; give them another first",
            )
        accounts.delete_scope_map(tx, name)
        registry.audit(tx, caller, "scope-map.delete", target=name)

    registry.write(remove)


# --- keys -----------------------------------------------------------------------------------------


def rotate_key(registry: Registry, caller: Caller, *, revoke: bool = False) -> dict[str, Any]:
    """Sign with a new key from now on; the old one verifies until what it signed has expired.

    With `revoke` it verifies nothing any more, and every token there is ends.
    """
    key = new_signing_key()

    def rotate(tx: Transaction) -> None:
        accounts.add_signing_key(tx, key.kid, key.private_pem, registry.now(), alone=revoke)
        registry.audit(tx, caller, "key.rotate", target=key.kid, detail={"revoke": revoke})

    registry.write(rotate)
    return {"kid": key.kid}


# --- what may be asked for ------------------------------------------------------------------------


def _require_name(name: str) -> None:
    if not ACCOUNT_NAME.fullmatch(name):
        raise AccountInvalid(
            {"name": name[:100]},
            "a name has 1-64 letters, digits and . _ @ -, and starts with a letter or digit",
        )


def _require_free(tx: Transaction, name: str) -> None:
    if accounts.find_user(tx, name) or accounts.find_token(tx, name):
        raise AccountInvalid({"name": name}, f"there is an account called {name} already")


def _require_scope_map(tx: Transaction, name: str | None) -> None:
    if name is not None:
        _scope_map(tx, name)


def _require_no_other(tx: Transaction, name: str, actions: Sequence[str]) -> None:
    """A scope map of this name that others use, and that says something else, must stay."""
    found = accounts.find_scope_map(tx, name)
    if found is not None and list(found.actions) != list(actions):
        raise AccountInvalid(
            {"scopeMap": name},
            f"there is a scope map called {name} with other rights already; "
            f"use it with --scope-map {name}, or choose another name for the token",
        )


def _require_changes(changes: Mapping[str, Any]) -> None:
    if not changes:
        raise AccountInvalid(message="nothing to change")


def _require_few(actions: Sequence[str]) -> None:
    if len(actions) > MAX_ACTIONS:
        raise AccountInvalid(message=f"a scope map holds at most {MAX_ACTIONS} actions")


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


def _enabled(status: str) -> bool:
    if status not in ("enabled", "disabled"):
        raise AccountInvalid({"status": status[:40]}, "status: expected enabled or disabled")
    return status == "enabled"


def _expiry(now: datetime, days: int | None) -> datetime | None:
    if days is None:
        return None
    if not 1 <= days <= 36_500:
        raise AccountInvalid({"days": days}, "expiration: expected 1 to 36500 days")
    return now + timedelta(days=days)


def _actions(repositories: Iterable[Sequence[str]]) -> list[str]:
    """[repository, action …] lists as scope map actions."""
    actions = []
    for repository, *verbs in repositories:
        pattern = parse_pattern(repository)
        if not verbs:
            raise AccountInvalid(
                {"repository": pattern},
                f"no action for {pattern}; one or more of " + ", ".join(SCOPE_MAP_ACTIONS),
            )
        for verb in verbs:
            if verb not in SCOPE_MAP_ACTIONS:
                raise AccountInvalid(
                    {"repository": pattern, "action": verb[:100]},
                    f"{verb[:100]!r} for {pattern} is no action; one or more of "
                    + ", ".join(SCOPE_MAP_ACTIONS),
                )
            actions.append(f"repositories/{pattern}/{verb}")
    _require_few(actions)
    return sorted(set(actions))


def _user(tx: Transaction, name: str) -> User:
    return _known(accounts.find_user(tx, name), f"there is no user called {name}")


def _token(tx: Transaction, name: str) -> Token:
    return _known(accounts.find_token(tx, name), f"there is no token called {name}")


def _scope_map(tx: Transaction, name: str) -> ScopeMap:
    return _known(accounts.find_scope_map(tx, name), f"there is no scope map called {name}")


def _known(found: T | None, message: str) -> T:
    if found is None:
        raise AccountUnknown(message=message)
    return found


def _shown_user(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "status": "enabled" if user.enabled else "disabled",
        "admin": user.admin,
        "scopeMap": user.scope_map,
        "creationDate": user.created_at.isoformat(),
    }


def _shown_token(
    token: Token, passwords: Sequence[TokenPassword], secrets: Mapping[str, str] | None = None
) -> dict[str, Any]:
    shown = [
        {
            "name": password.slot,
            "value": (secrets or {}).get(password.slot),
            "creationTime": password.created_at.isoformat(),
            "expiry": password.expires_at.isoformat() if password.expires_at else None,
        }
        for password in passwords
    ]
    return {
        "name": token.name,
        "status": "enabled" if token.enabled else "disabled",
        "scopeMap": token.scope_map,
        "creationDate": token.created_at.isoformat(),
        "credentials": {"username": token.name, "passwords": shown},
    }


def _shown_scope_map(scope_map: ScopeMap) -> dict[str, Any]:
    return {
        "name": scope_map.name,
        "description": scope_map.description,
        "actions": list(scope_map.actions),
        "creationDate": scope_map.created_at.isoformat(),
    }


Command = Callable[..., Any]
# What a command line may ask a running server to do: each name with its function, and whether that
# changes something (and so is told who asks).
COMMANDS: dict[str, tuple[Command, bool]] = {
    "user create": (create_user, True),
    "user list": (list_users, False),
    "user show": (show_user, False),
    "user update": (update_user, True),
    "user password": (set_password, True),
    "user delete": (delete_user, True),
    "token create": (create_token, True),
    "token list": (list_tokens, False),
    "token show": (show_token, False),
    "token update": (update_token, True),
    "token delete": (delete_token, True),
    "token credential generate": (generate_credentials, True),
    "token credential delete": (delete_credentials, True),
    "scope-map create": (create_scope_map, True),
    "scope-map list": (list_scope_maps, False),
    "scope-map show": (show_scope_map, False),
    "scope-map update": (update_scope_map, True),
    "scope-map delete": (delete_scope_map, True),
    "key rotate": (rotate_key, True),
    "audit list": (list_audit, False),
}


def run_command(registry: Registry, caller: Caller, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the command a request names; {"result": …} or {"error": …, "code": …}."""
    name = str(request.get("command"))
    if name not in COMMANDS:
        return _not_understood(f"there is no command {name[:100]}")
    command, changes = COMMANDS[name]
    who = (registry, caller) if changes else (registry,)
    try:
        call = inspect.signature(command).bind(*who, **dict(request.get("arguments", {})))
    except TypeError as error:
        return _not_understood(f"{name}: {error}")
    try:
        return {"result": command(*call.args, **call.kwargs)}
    except RegistryError as error:
        return {"error": error.message, "code": error.code}


def _not_understood(why: str) -> dict[str, Any]:
    """The client is of another version, or is none of ours."""
    return {"error": why, "code": "COMMAND_INVALID"}

"""What is true of every account, user or token: its name, its status, and how it is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ullage.accounts import queries
from ullage.database.transaction import Transaction
from ullage.oci.errors import RegistryError

T = TypeVar("T")
ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class AccountInvalid(RegistryError):
    code = "ACCOUNT_INVALID"
    message = "the account cannot be made or changed like this"


class AccountConflict(AccountInvalid):
    code = "ACCOUNT_CONFLICT"
    message = "the name is taken, or something still needs this"


class AccountUnknown(RegistryError):
    code = "ACCOUNT_UNKNOWN"
    message = "there is no such account"


def require_name(name: str) -> None:
    if not ACCOUNT_NAME.fullmatch(name):
        raise AccountInvalid(
            {"name": name[:100]},
            "a name has 1-64 letters, digits and . _ @ -, and starts with a letter or digit",
        )


def require_free(tx: Transaction, name: str) -> None:
    if queries.find_user(tx, name) or queries.find_token(tx, name):
        raise AccountConflict({"name": name}, f"there is an account called {name} already")


def require_changes(changes: Mapping[str, Any]) -> None:
    if not changes:
        raise AccountInvalid(message="nothing to change")


def enabled(status: str) -> bool:
    if status not in ("enabled", "disabled"):
        raise AccountInvalid({"status": status[:40]}, "status: expected enabled or disabled")
    return status == "enabled"


def known(found: T | None, message: str) -> T:
    if found is None:
        raise AccountUnknown(message=message)
    return found

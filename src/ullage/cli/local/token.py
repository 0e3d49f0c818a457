"""`ullage token`: repository-scoped tokens and their passwords, with az acr's names."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from ullage.cli.local.accounts import NAME, SCOPE_MAP, STATUS, manage, rights, rights_flag
from ullage.cli.local.places import PLACE
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import age


def create(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = without_none(
        name=given.name,
        scope_map=given.scope_map,
        repositories=rights(given.repository),
        status=given.status or "enabled",
        expires_in_days=given.expiration_in_days,
        no_passwords=given.no_passwords,
    )
    return manage(invocation, "token create", arguments, _rows)


def list_all(invocation: Invocation) -> Result:
    return manage(invocation, "token list", {}, _rows)


def show(invocation: Invocation) -> Result:
    return manage(invocation, "token show", {"name": invocation.given.name}, _rows)


def update(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = without_none(name=given.name, status=given.status, scope_map=given.scope_map)
    return manage(invocation, "token update", arguments, _rows)


def delete(invocation: Invocation) -> Result:
    return manage(invocation, "token delete", {"name": invocation.given.name}, _rows)


def generate_passwords(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = without_none(
        name=given.name, slots=_slots(given) or None, expires_in_days=given.expiration_in_days
    )
    return manage(invocation, "token credential generate", arguments, _rows)


def delete_passwords(invocation: Invocation) -> Result:
    arguments = {"name": invocation.given.name, "slots": _slots(invocation.given)}
    return manage(invocation, "token credential delete", arguments, _rows)


def _slots(given: argparse.Namespace) -> list[str]:
    return [slot for slot in ("password1", "password2") if getattr(given, slot)]


def _rows(tokens: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The passwords that were just made, which cannot be looked up later; else the tokens."""
    made = [row for token in tokens for row in _made(token)]
    return made or [
        {
            "Name": token["name"],
            "Status": token["status"],
            "Scope map": token["scopeMap"],
            "Passwords": ", ".join(password["name"] for password in _passwords(token)),
            "Created": age(token["creationDate"]),
        }
        for token in tokens
    ]


def _made(token: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "Token": token["name"],
            "Password": password["name"],
            "Value": password["value"],
            "Expiry": password["expiry"] or "never",
        }
        for password in _passwords(token)
        if password["value"] is not None
    ]


def _passwords(token: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = token["credentials"]["passwords"]
    return found


_DAYS = Flag(
    ("--expiration-in-days",), "Passwords end after this many days.", "DAYS", kind=int
)  # fmt: skip
_SLOTS = (
    Flag(("--password1",), "The first password."),
    Flag(("--password2",), "The second password."),
)

COMMANDS = (
    Command(
        ("token", "create"),
        "Make a token with two passwords, shown only now.",
        (
            NAME,
            rights_flag("--repository", "What it may do, if no scope map says it."),
            SCOPE_MAP,
            STATUS,
            _DAYS,
            Flag(("--no-passwords",), "Make passwords later."),
            *PLACE,
        ),
        create,
        examples=(
            "ullage token create --name ci --repository 'team/*' content/read content/write",
        ),
        exits=MISSING,
    ),
    Command(("token", "list"), "List the tokens.", PLACE, list_all),
    Command(("token", "show"), "Show a token.", (NAME, *PLACE), show, exits=MISSING),
    Command(
        ("token", "update"),
        "Enable or disable a token, or change what it may do.",
        (NAME, STATUS, SCOPE_MAP, *PLACE),
        update,
        examples=("ullage token update --name ci --status disabled",),
        exits=MISSING,
    ),
    Command(("token", "delete"), "Delete a token.", (NAME, *PLACE), delete, exits=MISSING),
    Command(
        ("token", "credential", "generate"),
        "Make new passwords, one or both, shown only now. The other goes on working.",
        (NAME, *_SLOTS, _DAYS, *PLACE),
        generate_passwords,
        examples=("ullage token credential generate --name ci --password1",),
        exits=MISSING,
    ),
    Command(
        ("token", "credential", "delete"),
        "Take passwords from a token, one or both.",
        (NAME, *_SLOTS, *PLACE),
        delete_passwords,
        exits=MISSING,
    ),
)

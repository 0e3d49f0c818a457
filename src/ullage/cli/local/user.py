"""`ullage user`: people and programs that log in with a password."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ullage.cli.local.accounts import (
    NAME,
    PASSWORD_STDIN,
    SCOPE_MAP,
    STATUS,
    manage,
    password_of,
)
from ullage.cli.local.places import PLACE
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.errors import UsageError
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import age


def create(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = without_none(
        name=given.name,
        admin=given.admin,
        scope_map=given.scope_map,
        password=password_of(invocation),
    )
    return manage(invocation, "user create", arguments, _rows)


def list_all(invocation: Invocation) -> Result:
    return manage(invocation, "user list", {}, _rows)


def show(invocation: Invocation) -> Result:
    return manage(invocation, "user show", {"name": invocation.given.name}, _rows)


def update(invocation: Invocation) -> Result:
    given = invocation.given
    if given.admin and given.no_admin:
        raise UsageError("--admin and --no-admin exclude each other", "ullage user update")
    admin = True if given.admin else False if given.no_admin else None
    arguments = without_none(
        name=given.name, status=given.status, admin=admin, scope_map=given.scope_map
    )  # fmt: skip
    return manage(invocation, "user update", arguments, _rows)


def change_password(invocation: Invocation) -> Result:
    arguments = without_none(name=invocation.given.name, password=password_of(invocation))
    return manage(invocation, "user password", arguments, _rows)


def delete(invocation: Invocation) -> Result:
    return manage(invocation, "user delete", {"name": invocation.given.name}, _rows)


def _rows(users: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_row(user) for user in users]


def _row(user: Mapping[str, Any]) -> dict[str, Any]:
    password = {"Password": user["password"]} if "password" in user else {}
    about = {
        "Status": user.get("status"),
        "Admin": "yes" if user.get("admin") else "",
        "Scope map": user.get("scopeMap"),
        "Created": age(user.get("creationDate")),
    }
    return {"Name": user["name"], **password, **about}


_ADMIN = Flag(("--admin",), "May do everything.")

COMMANDS = (
    Command(
        ("user", "create"),
        "Make a user. Its password is made too, and shown only now.",
        (NAME, _ADMIN, SCOPE_MAP, PASSWORD_STDIN, *PLACE),
        create,
        examples=("ullage user create --name anna --admin",),
        exits=MISSING,
    ),
    Command(("user", "list"), "List the users.", PLACE, list_all),
    Command(("user", "show"), "Show a user.", (NAME, *PLACE), show, exits=MISSING),
    Command(
        ("user", "update"),
        "Enable or disable a user, or change what it may do.",
        (
            NAME,
            STATUS,
            _ADMIN,
            Flag(("--no-admin",), "May do what its scope map says."),
            SCOPE_MAP,
            *PLACE,
        ),
        update,
        examples=("ullage user update --name anna --status disabled",),
        exits=MISSING,
    ),
    Command(
        ("user", "password"),
        "Give a user another password, shown only now. Its tokens end.",
        (NAME, PASSWORD_STDIN, *PLACE),
        change_password,
        exits=MISSING,
    ),
    Command(
        ("user", "delete"),
        "Delete a user. The last administrator stays.",
        (NAME, *PLACE),
        delete,
        exits=MISSING,
    ),
)

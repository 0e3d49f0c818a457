"""`ullage scope-map`: named sets of rights, with az acr's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ullage.cli.local.accounts import NAME, manage, rights, rights_flag
from ullage.cli.local.places import PLACE
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import age


def create(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = {
        "name": given.name,
        "repositories": rights(given.repository),
        "description": given.description or "",
    }
    return manage(invocation, "scope-map create", arguments, _rows)


def list_all(invocation: Invocation) -> Result:
    return manage(invocation, "scope-map list", {}, _rows)


def show(invocation: Invocation) -> Result:
    return manage(invocation, "scope-map show", {"name": invocation.given.name}, _rows)


def update(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = without_none(
        name=given.name,
        add=rights(given.add_repository),
        remove=rights(given.remove_repository),
        description=given.description,
    )
    return manage(invocation, "scope-map update", arguments, _rows)


def delete(invocation: Invocation) -> Result:
    return manage(invocation, "scope-map delete", {"name": invocation.given.name}, _rows)


def _rows(maps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "Name": one["name"],
            "Actions": " ".join(one["actions"]),
            "Description": one["description"],
            "Created": age(one["creationDate"]),
        }
        for one in maps
    ]


_DESCRIPTION = Flag(("--description",), "What it is for.", "TEXT")

COMMANDS = (
    Command(
        ("scope-map", "create"),
        "Make a scope map.",
        (NAME, rights_flag("--repository", "What it allows.", required=True), _DESCRIPTION, *PLACE),
        create,
        examples=("ullage scope-map create --name readers --repository 'team/*' content/read",),
        exits=MISSING,
    ),
    Command(("scope-map", "list"), "List the scope maps.", PLACE, list_all),
    Command(("scope-map", "show"), "Show a scope map.", (NAME, *PLACE), show, exits=MISSING),
    Command(
        ("scope-map", "update"),
        "Add rights to a scope map or take some away.",
        (
            NAME,
            rights_flag("--add-repository", "Rights to add."),
            rights_flag("--remove-repository", "Rights to take away."),
            _DESCRIPTION,
            *PLACE,
        ),
        update,
        exits=MISSING,
    ),
    Command(
        ("scope-map", "delete"),
        "Delete a scope map that is not in use.",
        (NAME, *PLACE),
        delete,
        exits=MISSING,
    ),
)

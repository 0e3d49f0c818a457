"""What commands about accounts share: their flags, and having them carried out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ullage.cli.local.places import place_of
from ullage.cli.shell.commands import Flag
from ullage.cli.shell.invocation import Invocation, Result

NAME = Flag(("--name", "-n"), "Its name.", "NAME", required=True)
STATUS = Flag(
    ("--status",), "Whether it may log in.", "STATUS", choices=("enabled", "disabled")
)  # fmt: skip
SCOPE_MAP = Flag(("--scope-map",), "What it may do.", "SCOPE_MAP")
PASSWORD_STDIN = Flag(("--password-stdin",), "Read the password instead of making one.")

Rows = Callable[[Any], Sequence[Mapping[str, Any]]]


def rights_flag(name: str, help: str, *, required: bool = False) -> Flag:
    """A flag such as `--repository team/app content/read content/write`, any number of times."""
    more = "A repository or prefix/*, and actions on it; may be given several times."
    return Flag(
        (name,),
        f"{help} {more}",
        "REPOSITORY ACTION...",
        required=required,
        repeatable=True,
        several=True,
    )


def rights(given: Sequence[Sequence[str]] | None) -> list[list[str]]:
    """What such a flag was given, as [repository, action …] each.

    `team/app=content/read,content/write` is understood, too.
    """
    found = []
    for first, *rest in given or ():
        repository, _, joined = first.partition("=")
        found.append([repository, *filter(None, joined.split(",")), *rest])
    return found


def password_of(invocation: Invocation) -> str | None:
    """The one on stdin, if it is to be read there."""
    return sys.stdin.readline().rstrip("\r\n") if invocation.given.password_stdin else None


def manage(
    invocation: Invocation, command: str, arguments: Mapping[str, Any], rows: Rows
) -> Result:
    """Have a command carried out; `rows` are its answer as a table. Raises Failure."""
    result = place_of(invocation).manage(command, arguments)
    return Result(result, rows=lambda: rows(result if isinstance(result, list) else [result]))

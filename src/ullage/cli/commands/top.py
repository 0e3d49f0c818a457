"""`ullage top`: what takes the space, walked through like a disk in ncdu.

What is shown comes from the bill (`ullage usage`), in levels: namespaces, their repositories, and
of a repository its images. How it looks on a terminal is top_screen's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ullage.cli.client.scopes import READ_ALL
from ullage.cli.commands.plan import make_screen
from ullage.cli.commands.top_walk import USAGE, Walk, bar
from ullage.cli.shell import flags
from ullage.cli.shell.commands import Command
from ullage.cli.shell.console import working
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import grouped, size

# Lines where there is no terminal to walk on.
_SHOWN = 20


def top(invocation: Invocation) -> Result | None:
    registry = invocation.registry(READ_ALL)
    terminal = invocation.table and sys.stdin.isatty() and sys.stdout.isatty()
    if not terminal:
        data = registry.get(USAGE, {"top": str(_SHOWN)}).data["entries"]
        return Result(data, lambda: _plain_rows(data))
    try:
        from ullage.cli.commands.top_screen import walk
    except ModuleNotFoundError as error:
        if error.name != "urwid":
            raise
        raise Failure(
            "`ullage top` needs a library for terminals: pip install 'ullage[tui]'. Without it: "
            "ullage usage"
        ) from None
    with working("Counting"):
        entries = registry.get(USAGE).data["entries"]
    here = Walk(registry, entries)
    request = walk(here)
    return None if request is None else make_screen(invocation, registry, request)


def _plain_rows(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    most = max((int(entry["fair_share_bytes"]) for entry in entries), default=0)
    return [
        {
            "Size": size(entry["fair_share_bytes"]),
            "Frees": size(entry["exclusive_bytes"]),
            "": bar(int(entry["fair_share_bytes"]), most),
            "Manifests": grouped(entry["manifest_count"]),
            "Repository": entry["name"],
        }
        for entry in entries
        if entry["name"] is not None
    ]


COMMANDS = (
    Command(
        ("top",),
        "Walk through what takes the space, see what deleting frees, mark, and plan.",
        flags.REGISTRY,
        top,
        more="The keys are ncdu's: arrows or h j k l move, Enter goes in, Left goes back, Space "
        "marks, p leaves with a plan of what is marked, q quits. Nothing is deleted: `ullage "
        "apply` carries the plan out. Where there is no terminal it prints the largest "
        "repositories. Needs `pip install 'ullage[tui]'`.",
        examples=("ullage top",),
    ),
)

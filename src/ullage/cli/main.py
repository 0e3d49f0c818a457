"""The command line: `ullage …`. Commands that open a data folder import that late."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; its exit code."""
    first = arguments[0] if arguments else "--help"
    if first == "__complete":
        from ullage.cli.candidates import print_candidates

        return print_candidates(arguments[1:])
    if first in ("--help", "-h"):
        return _overview()
    if first == "help":
        return run([*arguments[1:], "--help"])
    if first == "--version":
        return run(["version"])
    from ullage.cli import table

    for length in range(len(arguments), 0, -1):
        command = table.find(tuple(arguments[:length]))
        if command is not None:
            from ullage.cli.shell.run import run as run_command

            return run_command(command, arguments[length:])
    return _group(arguments)


def _overview() -> int:
    from ullage.cli import table
    from ullage.cli.shell import groups
    from ullage.cli.shell.help import overview

    parts = {"On a registry": table.below(()), "To run and manage one": groups.LOCAL}
    sys.stdout.write(overview(groups.TITLE, parts))
    return 0


def _group(arguments: Sequence[str]) -> int:
    """Help for a group, or what is wrong with a line that is no command."""
    from ullage.cli import table
    from ullage.cli.shell import groups
    from ullage.cli.shell.help import group_help

    words: list[str] = []
    for word in arguments:
        if not table.below((*words, word)):
            break
        words.append(word)
    rest = arguments[len(words) :]
    if words and (not rest or rest[0] in ("--help", "-h")):
        sys.stdout.write(group_help(groups.GROUPS[words[-1]], words, table.below(tuple(words))))
        return 0 if rest else 2
    from difflib import get_close_matches

    known = [*table.below(tuple(words)), *([] if words else groups.LOCAL)]
    close = get_close_matches(rest[0], known, 1)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    sys.stderr.write(f"ERROR: '{rest[0]}' is misspelled or not recognized by the system.{guess}\n")
    sys.stderr.write(f"See: {' '.join(('ullage', *words))} --help\n")
    return 2

"""Help: of a command, of a group, of everything. Made from the commands, as the reference is."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from ullage.cli.shell.commands import Command, Flag

_WIDEST = 100
_COLUMN, _CODE_COLUMN = 28, 6


def command_help(command: Command) -> str:
    """Usage, what it does, every flag, examples, and how it ends."""
    parts = [f"Usage: ullage {command.name}{usage(command)}", _paragraph(command.help)]
    if command.more:
        parts.append(_paragraph(command.more))
    given = [flag for flag in command.flags if not flag.hidden]
    positional = [flag for flag in given if flag.positional]
    if positional:
        parts.append(_section("Arguments", ((placeholder(f), f.help) for f in positional)))
    named = [flag for flag in given if not flag.positional]
    if named:
        parts.append(_section("Flags", ((spelled(f), described(f)) for f in named)))
    common = ((spelled(flag), described(flag)) for flag in command.common)
    parts.append(_section("Every command's flags", common))
    if command.examples:
        parts.append("\n".join(["Examples:", *(f"  {line}" for line in command.examples)]))
    codes = ((str(code), text) for code, text in command.exit_status.items())
    parts.append(_section("Exit status", codes, _CODE_COLUMN))
    return "\n\n".join(parts) + "\n"


def group_help(title: str, words: Sequence[str], entries: Mapping[str, str]) -> str:
    """The commands below some words, with what each does."""
    name = " ".join(("ullage", *words))
    parts = [f"Usage: {name} COMMAND", title, _section("Commands", entries.items())]
    parts.append(f"More about one: {name} COMMAND --help")
    return "\n\n".join(parts) + "\n"


def overview(title: str, groups: Mapping[str, Mapping[str, str]]) -> str:
    """All commands, under a headline for each kind."""
    parts = ["Usage: ullage COMMAND", title]
    parts += [_section(headline, entries.items()) for headline, entries in groups.items()]
    parts.append("More about one: ullage COMMAND --help")
    return "\n\n".join(parts) + "\n"


def usage(command: Command) -> str:
    """What follows the command's name on its usage line."""
    words = [
        placeholder(flag) if flag.positional else f"{flag.names[0]} {flag.value}"
        for flag in command.flags
        if flag.required
    ]
    optional = [f"[{placeholder(f)}]" for f in command.flags if f.positional and not f.required]
    return "".join(f" {word}" for word in (*words, *optional, "[FLAGS]"))


def placeholder(flag: Flag) -> str:
    name = flag.names[0].removeprefix("positional_").upper()
    return f"{name}..." if flag.repeatable else name


def spelled(flag: Flag) -> str:
    """`--name, -n REGISTRY`."""
    return " ".join(filter(None, (", ".join(flag.names), flag.value)))


def described(flag: Flag) -> str:
    notes = []
    if flag.required:
        notes.append("Required.")
    if flag.choices:
        notes.append(f"One of {', '.join(flag.choices)}.")
    return " ".join((flag.help, *notes))


def _width() -> int:
    return min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, _width(), break_on_hyphens=False)


def _section(headline: str, entries: Iterable[tuple[str, str]], column: int = _COLUMN) -> str:
    lines = [f"{headline}:"]
    room = max(_width() - column - 2, 30)
    for name, text in entries:
        first, *rest = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        if len(name) < column - 1:
            lines.append(f"  {name.ljust(column)}{first}")
        else:
            lines += [f"  {name}", f"  {' ' * column}{first}"]
        lines += [f"  {' ' * column}{line}" for line in rest]
    return "\n".join(line.rstrip() for line in lines)

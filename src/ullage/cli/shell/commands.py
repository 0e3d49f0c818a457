"""A command as data: its words, flags and exit codes; and reading a line by it.

Help, completion and docs/reference/cli.md come from the same data. The parser is argparse, which is
also az's, so what az accepts (`--repo=x`, unambiguous beginnings of flags, values with a space or
an equals sign) is accepted here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ullage.cli.shell.errors import UsageError

if TYPE_CHECKING:
    from ullage.cli.shell.invocation import Invocation

OUTPUTS = ("json", "jsonc", "yaml", "yamlc", "table", "tsv", "none")


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag, or a positional argument if its name has no dash.

    `value` is its value's placeholder in help ("" for a switch). `choices` are matched whatever
    their case. A `three_state` flag is true alone and takes true or false. The value of one with
    `several` is a list of words; that of a `repeatable` one a list of what it was given each time.
    """

    names: tuple[str, ...]
    help: str
    value: str = ""
    choices: tuple[str, ...] = ()
    kind: Callable[[str], Any] | None = None
    required: bool = False
    repeatable: bool = False
    several: bool = False
    three_state: bool = False
    hidden: bool = False
    dest: str = ""

    @property
    def positional(self) -> bool:
        return not self.names[0].startswith("-")

    @property
    def variable(self) -> str:
        """Where argparse puts its value."""
        return self.dest or self.names[0].lstrip("-").replace("-", "_")


HELP = Flag(("--help", "-h"), "Show this help.")
GLOBAL = (
    Flag(
        ("--output", "-o"),
        "Output format. Default: table on a terminal, else json.",
        "FORMAT",
        choices=OUTPUTS,
    ),
    Flag(("--query",), "JMESPath query of the result, see https://jmespath.org.", "JMESPATH"),
    Flag(("--only-show-errors",), "No warnings."),
    Flag(("--verbose",), "Tell which requests are made."),
    Flag(("--debug",), "Tell all about them, and where an error comes from."),
    HELP,
)

# azure.md section 3.2.
NOT_FOUND, INTERRUPTED = 3, 130
EXITS = {
    0: "Success.",
    1: "Any other error.",
    2: "The command line or a setting cannot be used.",
    INTERRUPTED: "Interrupted.",
}
MISSING = {NOT_FOUND: "Not found."}


@dataclass(frozen=True, slots=True)
class Command:
    """A command: `words` as in ("repository", "list"), and what carries it out.

    `run` returns None if there is nothing to print. `exits` are the exit codes of its own: what the
    registry does not find is a 3 if it has one, else a 1. `more` is help below the first line.
    `common` are flags that other commands have, too. `on_failure` makes what a shell that evaluates
    the output is to be told when the command fails, usage errors included.
    """

    words: tuple[str, ...]
    help: str
    flags: tuple[Flag, ...]
    run: Callable[[Invocation], Any]
    more: str = ""
    examples: tuple[str, ...] = ()
    warning: str = ""
    exits: Mapping[int, str] = field(default_factory=dict)
    hidden: bool = False
    common: tuple[Flag, ...] = GLOBAL
    on_failure: Callable[[], str] | None = None

    @property
    def name(self) -> str:
        return " ".join(self.words)

    @property
    def exit_status(self) -> Mapping[int, str]:
        """Every code that it ends with, and when."""
        return dict(sorted({**EXITS, **self.exits}.items()))


_UNRECOGNIZED = "unrecognized arguments: "


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message + self._guess(message), self.prog)

    def _guess(self, message: str) -> str:
        """For a flag that is misspelt, the one that it looks like."""
        first = message.removeprefix(_UNRECOGNIZED).partition(" ")[0].partition("=")[0]
        if not message.startswith(_UNRECOGNIZED) or not first.startswith("--"):
            return ""
        from difflib import get_close_matches

        known = [name for name in self._option_string_actions if name.startswith("--")]
        close = get_close_matches(first, known, 1, cutoff=0.75)
        return f". Did you mean {close[0]}?" if close else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = next(iter(action.option_strings), action.dest)
            allowed = ", ".join(map(str, action.choices))
            raise UsageError(
                f"{self.prog}: '{value}' is not a valid value for '{name}'. "
                f"Allowed values: {allowed}.",
                self.prog,
            )


def parse(command: Command, arguments: Sequence[str]) -> argparse.Namespace:
    """The values of a command's flags. Raises UsageError with az's text.

    `help` is set when help was asked for; then nothing else has been checked.
    """
    if any(argument in HELP.names for argument in arguments):
        return argparse.Namespace(help=True)
    parser = _Parser(prog=f"ullage {command.name}", add_help=False)
    for flag in (*command.flags, *command.common):
        _add(parser, flag)
    # What the runner looks for, also where a command has no such flag.
    defaults = argparse.Namespace(output=None, query=None)
    found: argparse.Namespace = parser.parse_args(list(arguments), defaults)
    return found


def _add(parser: argparse.ArgumentParser, flag: Flag) -> None:
    if flag.positional:
        many = "+" if flag.repeatable else None
        parser.add_argument(flag.names[0], nargs=many if flag.required else "?")
        return
    extra: dict[str, Any] = {"dest": flag.variable}
    if flag.required:
        extra["required"] = True
    if flag.three_state:
        parser.add_argument(
            *flag.names, nargs="?", const="true", choices=("true", "false"), type=str.lower, **extra
        )
    elif not flag.value:
        parser.add_argument(*flag.names, action="store_true", **extra)
    else:
        if flag.repeatable:
            extra["action"] = "append"
        if flag.several:
            extra["nargs"] = "+"
        if flag.choices:
            extra["choices"] = flag.choices
            extra["type"] = str.lower
        elif flag.kind is not None:
            extra["type"] = flag.kind
        parser.add_argument(*flag.names, **extra)

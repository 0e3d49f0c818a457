"""From a command's arguments to its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing

from ullage.cli.client.saved import Unreadable
from ullage.cli.shell.commands import INTERRUPTED, NOT_FOUND, Command, parse
from ullage.cli.shell.console import Console, Level
from ullage.cli.shell.errors import Failure, Refused
from ullage.cli.shell.groups import LOCAL
from ullage.cli.shell.invocation import Invocation


def run(command: Command, arguments: Sequence[str]) -> int:
    """Carry a command out and print its result. azure.md section 3.2 has the codes."""
    console = Console(_level(arguments))
    code = _outcome(command, arguments, console)
    if code and command.on_failure is not None:
        sys.stdout.write(command.on_failure())
    return code


def _outcome(command: Command, arguments: Sequence[str], console: Console) -> int:
    try:
        return _run(command, arguments, console)
    except Failure as failure:
        if console.level is Level.DEBUG:
            import traceback

            traceback.print_exc()
        console.error(str(failure))
        if failure.hint:
            print(failure.hint, file=sys.stderr)
        missing = isinstance(failure, Refused) and failure.status == 404
        return NOT_FOUND if missing and NOT_FOUND in command.exits else failure.code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has enough, as `head`. Nothing may be flushed to it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(command: Command, arguments: Sequence[str], console: Console) -> int:
    given = parse(command, arguments)
    if getattr(given, "help", False):
        from ullage.cli.shell.help import command_help

        sys.stdout.write(command_help(command))
        return 0
    query = None
    if given.query is not None:
        from ullage.cli.shell.output import query_of

        query = query_of(given.query, f"ullage {command.name}")
    with closing(Invocation(given, console)) as invocation:
        output = given.output or _saved_output(command, invocation) or _usual_output()
        invocation.table = output == "table" and query is None
        if command.warning:
            console.warning(command.warning)
        result = command.run(invocation)
    if result is None:
        return 0
    from ullage.cli.shell.output import show

    show(result, output, query)
    sys.stdout.flush()
    for line in result.after:
        console.note(line)
    return int(result.code)


def _saved_output(command: Command, invocation: Invocation) -> str | None:
    """What `ullage config` has set. Work on this machine goes on where that cannot be read."""
    try:
        return invocation.defaults.get("output")
    except Unreadable:
        if command.words[0] not in LOCAL:
            raise
        return None


def _usual_output() -> str:
    return "table" if sys.stdout.isatty() else "json"


def _level(arguments: Sequence[str]) -> Level:
    """Known before anything is parsed, because parsing may fail."""
    if "--debug" in arguments:
        return Level.DEBUG
    if "--verbose" in arguments:
        return Level.INFO
    return Level.ERROR if "--only-show-errors" in arguments else Level.WARNING

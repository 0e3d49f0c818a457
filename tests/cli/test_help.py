"""Help: every command and every flag is explained, here and in docs/reference/cli.md."""

import importlib
import pkgutil
from dataclasses import replace

import pytest

from tests.cli.conftest import Ullage
from ullage.cli import commands, local, table
from ullage.cli.shell import groups
from ullage.cli.shell.commands import INTERRUPTED, NOT_FOUND, Command
from ullage.cli.shell.errors import (
    Cancelled,
    Failure,
    Refused,
    Unauthenticated,
    Unreachable,
    UsageError,
)
from ullage.cli.shell.invocation import Invocation
from ullage.cli.shell.run import run


@pytest.mark.parametrize("command", table.every(), ids=lambda command: command.name)
def test_every_flag_of_a_command_is_in_its_help(ullage: Ullage, command: Command) -> None:
    done = ullage(*command.words, "--help")
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    assert command.help in text
    for flag in (*command.flags, *command.common):
        assert flag.help
        if not flag.hidden and not flag.positional:
            assert ", ".join(flag.names) in text
            assert flag.help in text
    assert all(len(line) <= 100 for line in done.out.partition("Examples:")[0].splitlines())


@pytest.mark.parametrize("command", table.every(), ids=lambda command: command.name)
def test_help_ends_with_every_exit_code_and_what_it_means(ullage: Ullage, command: Command) -> None:
    status = ullage(*command.words, "--help").out.partition("Exit status:\n")[2]
    found = {int(line[:8]): line[8:] for line in status.splitlines()}
    assert found == command.exit_status
    assert {0, 1, 2, INTERRUPTED} <= found.keys()
    assert all(text.endswith(".") for text in found.values())


@pytest.mark.parametrize("command", table.every(), ids=lambda command: command.name)
def test_whatever_stops_a_command_its_exit_code_is_in_its_help(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """azure.md section 3.2: 3 only where `az` has it, and the commands that show one thing."""
    missing = NOT_FOUND if NOT_FOUND in command.exits else 1
    for stopped, code in (
        (Failure("no"), 1),
        (UsageError("no", "ullage"), 2),
        (Cancelled(), 1),
        (Refused("no", 404), missing),
        (Refused("no", 409), 1),
        (Unreachable("no"), 1),
        (Unauthenticated("no"), 1),
        (KeyboardInterrupt(), INTERRUPTED),
    ):

        def stop(_: Invocation, stopped: BaseException = stopped) -> None:
            raise stopped

        assert run(replace(command, run=stop), _required(command)) == code
        assert code in command.exit_status
    assert run(command, ["--no-such-flag"]) == 2
    capsys.readouterr()


def _required(command: Command) -> list[str]:
    """The shortest line that is understood."""
    line: list[str] = []
    for flag in command.flags:
        if flag.required:
            value = flag.choices[0] if flag.choices else "x"
            line += [value] if flag.positional else [flag.names[0], value]
    return line


def test_help_of_everything_and_of_a_group_names_each_command(ullage: Ullage) -> None:
    overview, group = ullage("--help"), ullage("manifest", "--help")
    for name in (*groups.GROUPS.keys() & table.below(()), *groups.LOCAL, "login", "az-env"):
        assert f"\n  {name} " in overview.out
    assert [line.split()[0] for line in group.out.splitlines() if line.startswith("  ")] == [
        command.words[1] for command in table.remote() if command.words[0] == "manifest"
    ]
    assert (overview.code, group.code) == (0, 0)
    assert ullage("manifest").out == group.out


def test_every_command_is_in_the_overview() -> None:
    """Those of this machine are named beside their modules, so that help need not import those."""
    assert {command.words[0] for command in table.every()} == {*table.below(()), *groups.LOCAL}
    assert all(table.below((word,)) or table.find((word,)) for word in groups.LOCAL)


def test_no_command_of_a_module_is_left_out_of_the_table() -> None:
    """Only the modules that a line's first word names are imported for it."""
    modules = [
        importlib.import_module(each.name)
        for package in (commands, local)
        for each in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    known = {command.words for each in modules for command in getattr(each, "COMMANDS", ())}
    assert {command.words for command in table.every()} == known
    assert all(table.find(words) for words in known)


def test_the_examples_in_help_are_commands_that_are_understood() -> None:
    """Each first part is read by its own parser; nothing is run."""
    import shlex

    from ullage.cli.shell.commands import parse

    for command in table.every():
        for example in command.examples:
            for part in example.split("|"):
                line = shlex.split(part)
                if line[0] != "ullage":
                    continue
                found = next(
                    one for n in range(4, 0, -1) if (one := table.find(tuple(line[1 : 1 + n])))
                )
                parse(found, line[1 + len(found.words) :])

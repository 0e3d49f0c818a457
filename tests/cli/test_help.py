"""Help: every command and every flag is explained, here and in docs/reference/cli.md."""

import pytest

from tests.cli.conftest import Ullage
from ullage.cli import table
from ullage.cli.shell import groups
from ullage.cli.shell.commands import Command


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

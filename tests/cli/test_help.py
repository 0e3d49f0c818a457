"""Help: every command and every flag is explained, here and in docs/reference/cli.md."""

import pytest

from tests.cli.conftest import Ullage
from ullage.cli import local, table
from ullage.cli.local import LOCAL
from ullage.cli.remote.grammar import GLOBAL, Command


@pytest.mark.parametrize("command", table.REMOTE, ids=lambda command: command.name)
def test_every_flag_of_a_command_is_in_its_help(ullage: Ullage, command: Command) -> None:
    done = ullage(*command.words, "--help")
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    assert command.help in text
    for flag in (*command.flags, *GLOBAL):
        assert flag.help
        if not flag.hidden and not flag.positional:
            assert ", ".join(flag.names) in text
            assert flag.help in text
    assert all(len(line) <= 100 for line in done.out.partition("Examples:")[0].splitlines())


def test_help_of_everything_and_of_a_group_names_each_command(ullage: Ullage) -> None:
    overview, group = ullage("--help"), ullage("manifest", "--help")
    for name in (*table.GROUPS.keys() & table.below(()), *LOCAL, "login", "az-env"):
        assert f"\n  {name} " in overview.out
    assert [line.split()[0] for line in group.out.splitlines() if line.startswith("  ")] == [
        command.words[1] for command in table.REMOTE if command.words[0] == "manifest"
    ]
    assert (overview.code, group.code) == (0, 0)
    assert ullage("manifest").out == group.out


def test_what_the_overview_says_of_typers_commands_is_what_they_say() -> None:
    """It stands in two places so that help need not import Typer."""
    assert dict(local.entries(())) == LOCAL


def test_the_examples_in_help_are_commands_that_are_understood() -> None:
    """Each first part is read by its own parser; nothing is run."""
    import shlex

    from ullage.cli.remote.grammar import parse

    for command in table.REMOTE:
        for example in command.examples:
            for part in example.split("|"):
                line = shlex.split(part)
                if line[0] != "ullage":
                    continue
                found = next(
                    one for n in range(4, 0, -1) if (one := table.find(tuple(line[1 : 1 + n])))
                )
                parse(found, line[1 + len(found.words) :])

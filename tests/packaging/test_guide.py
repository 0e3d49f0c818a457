"""docs/guides/running.md: its commands are understood, its settings taken, its files there."""

import re
import shlex
from pathlib import Path

import pytest

from tests.support.packages import ROOT
from ullage import __version__
from ullage.cli import table
from ullage.cli.shell.commands import parse
from ullage.config.loading import load_settings

PAGES = [ROOT / "docs/guides" / name for name in ("running.md", "upgrading.md")]
TEXT = "".join(page.read_text(encoding="utf-8") for page in PAGES)
COMMANDS = re.findall(r"^    (\S.*)$", TEXT, re.MULTILINE)
OURS = [line for line in COMMANDS if re.search(r"(^| |/)ullage [a-z]", line)]


@pytest.mark.parametrize("line", OURS)
def test_a_command_of_ours_is_understood(line: str) -> None:
    words = shlex.split(line.partition(">")[0])
    start = next(place for place, word in enumerate(words) if word.rpartition("/")[2] == "ullage")
    words = words[start + 1 :]
    length = next(n for n in range(3, 0, -1) if table.find(tuple(words[:n])))
    command = table.find(tuple(words[:length]))
    assert command is not None
    parse(command, words[length:])


def test_the_settings_are_taken(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    file = tmp_path / "ullage.toml"
    file.write_text(block, encoding="utf-8")
    assert load_settings({}, {}, file).auth


def test_what_is_named_is_there_and_of_this_version() -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]*\w", TEXT))
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert set(re.findall(r"\b\d+\.\d+\.\d+(?=\.tgz|$| )", "\n".join(COMMANDS))) == {__version__}
    assert len(OURS) >= 7

"""The man pages: all that the commands say of themselves, in a form that `man` takes."""

import re
import subprocess
import zipfile

import pytest

from tests.support.generate_docs import FOLDER
from tests.support.packages import Packages
from tests.support.require import require_command
from ullage.cli import table
from ullage.cli.shell.help import placeholder, spelled
from ullage.config.settings import SETTINGS

PAGES = {"ullage.1": 1, "ullage-serve.8": 8}


def shown(name: str) -> str:
    """The page as a reader sees it, its white space made one blank. No warning is allowed."""
    command = [require_command("groff"), "-man", "-ww", "-Tutf8", "-P-cbou"]
    done = subprocess.run(
        [*command, str(FOLDER / name)], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stderr == ""
    return " ".join(done.stdout.replace("\u2010", "-").replace("\u2212", "-").split())


@pytest.mark.client
def test_every_command_and_every_flag_of_it_is_in_the_manual() -> None:
    text = shown("ullage.1")
    for command in table.every():
        if command.hidden or command.words == ("serve",):
            continue
        assert f"ullage {command.name}" in text
        assert command.help in text
        for flag in command.flags:
            name = placeholder(flag) if flag.positional else spelled(flag)
            assert flag.hidden or f"{name} {flag.help}" in text, (command.name, name)


@pytest.mark.client
def test_every_setting_is_in_the_manual_of_serve() -> None:
    text = shown("ullage-serve.8")
    for setting in SETTINGS:
        assert f"{setting.flag} {setting.kind} {setting.help}" in text
        assert f"[{setting.variable}]" in text


def test_nothing_that_roff_would_take_as_a_request_is_in_the_text() -> None:
    """What begins a line with a dot is one of ours."""
    requests = {"TH", "SH", "SS", "TP", "PP", "B", "I", "BR", "RS", "RE", "nf", "fi", "nh", '\\"'}
    for name in PAGES:
        page = (FOLDER / name).read_text(encoding="ascii")
        assert {found.split()[0] for found in re.findall(r"^\.(\S+)", page, re.M)} <= requests
        assert not re.search(r"^'", page, re.M)


@pytest.mark.thorough
def test_the_wheel_brings_the_pages_where_man_looks(packages: Packages) -> None:
    with zipfile.ZipFile(packages.wheel) as archive:
        for name, section in PAGES.items():
            (path,) = [each for each in archive.namelist() if each.endswith(f"/{name}")]
            assert path.endswith(f".data/data/share/man/man{section}/{name}")
            assert archive.read(path) == (FOLDER / name).read_bytes()

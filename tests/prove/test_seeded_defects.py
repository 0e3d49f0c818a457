"""The tests are tested: each defect that somebody could make is caught by the test that names it.

The defects are data (defects.toml). Each is put into a copy of this checkout, made of hard links,
and the one test named there is run on it; it must fail. ULLAGE_DEFECTS=all also tries those that
take long.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.support.server import command_environment

ROOT = Path(__file__).resolve().parents[2]
DEFECTS = tomllib.loads(Path(__file__).with_name("defects.toml").read_text())["defect"]
ALL = os.environ.get("ULLAGE_DEFECTS", "") == "all"
TRIED = [defect for defect in DEFECTS if ALL or not defect.get("slow")]
# pytest's last line, where a test failed rather than pytest itself or a fixture.
_FAILED = re.compile(r"^1 failed\b.* in [0-9.]+s", re.MULTILINE)
_COPIED = ("src", "tests", "docs", "bench", "pyproject.toml", "README.md")


@dataclass
class Workshop:
    """A copy of the checkout that may be damaged, and a process that runs tests in it."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        for name in _COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.folder / name, copy_function=os.link)
            else:
                os.link(ROOT / name, self.folder / name)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py"))],
            env=command_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the tests; they end it when they are done.
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, *nodes: str) -> tuple[int, str]:
        """pytest's exit code for these tests, and what it said."""
        log = self.folder / "said.txt"
        request = {"folder": str(self.folder), "nodes": nodes, "log": str(log)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())["code"], log.read_text()

    def change(self, file: str, old: str, new: str) -> None:
        """In the copy only: a new file takes the place of the link."""
        require_one_place(file, old)
        self._replace(file, (ROOT / file).read_text().replace(old, new))

    def mend(self, file: str) -> None:
        self._replace(file, (ROOT / file).read_text())

    def _replace(self, file: str, text: str) -> None:
        fresh = self.folder / f"{file}.new"
        fresh.write_text(text)
        fresh.rename(self.folder / file)


def require_one_place(file: str, old: str) -> None:
    """What a defect changes is there, and only once."""
    count = (ROOT / file).read_text().count(old)
    assert count == 1, f"{file} has {count} places that read\n{old}"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("defects") / "copy"
    try:
        with Workshop(folder) as workshop:
            yield workshop
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("defect", TRIED, ids=lambda defect: defect["name"])
def test_a_defect_is_caught(
    workshop: Workshop, defect: dict[str, str], record_property: Callable[[str, object], None]
) -> None:
    workshop.change(defect["file"], defect["old"], defect["new"])
    try:
        code, said = workshop.run(defect["red"])
    finally:
        workshop.mend(defect["file"])
    assert code == 1, f"{defect['red']} ended with {code}:\n{said}"
    assert _FAILED.search(said), said
    record_property("defects", 1)


def test_without_a_defect_the_same_tests_are_green(workshop: Workshop) -> None:
    """Or else everything would seem to be caught."""
    code, said = workshop.run(*sorted({defect["red"] for defect in TRIED}))
    assert code == 0, said


def test_each_defect_is_another_one() -> None:
    assert len({defect["name"] for defect in DEFECTS}) == len(DEFECTS)
    assert len(TRIED) >= 25
    assert len({(defect["file"], defect["old"]) for defect in DEFECTS}) == len(DEFECTS)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect["name"])
def test_a_defect_has_its_place(defect: dict[str, str]) -> None:
    """Also one that takes long, and is not tried each time: the code moves on."""
    require_one_place(defect["file"], defect["old"])

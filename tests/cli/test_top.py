"""`ullage top` as a person uses it, on a real pseudo terminal of 80 x 24."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Ullage
from tests.cli.walking import LINES, Walker
from tests.server.pushing import push_image
from tests.support.server import SOURCE, UllageServer

pytestmark = pytest.mark.thorough
DOWN, LEFT = "\x1b[B", "\x1b[D"


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    """Two namespaces and a repository beside them; the largest is team/large."""
    with (
        UllageServer(tmp_path_factory.mktemp("stocked") / "data") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        for name, count in (("team/large", 9000), ("team/small", 1000), ("ci/app", 4000)):
            push_image(client, name, "v1", (name.encode().ljust(count),))
        push_image(client, "team/large", "v2", (b"v2".ljust(2000),))
        for number in range(30):
            push_image(client, f"lone{number}", "v1", (f"lone {number}".encode(),))
        yield server


def names(lines: list[str]) -> list[str]:
    """What stands behind the bars."""
    return [line.rpartition("]")[2].split()[0] for line in lines if "]" in line]


def walking(server: UllageServer) -> Walker:
    return Walker(("top",), {"ULLAGE_REGISTRY": server.host})


def test_one_goes_in_sees_what_deleting_frees_marks_and_plans(
    stocked: UllageServer, ullage: Ullage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with walking(stocked) as person:
        lines = person.until(lambda lines: "ci/" in names(lines))
        assert lines[0].startswith("ullage top  registry  ")
        assert names(lines)[:2] == ["team/", "ci/"]
        assert len(lines) == LINES
        assert "[############]" in lines[1]
        assert lines[-1] == "Enter in  Left back  Space mark  p plan  q quit"
        person.press("\r")
        lines = person.until(lambda lines: "large" in names(lines))
        assert names(lines) == ["large", "small"]
        assert "2 manifests" in lines[1]
        person.press("\r")
        lines = person.until(lambda lines: "v1" in names(lines))
        assert names(lines) == ["v1", "v2"]
        assert lines[1].split()[2:4] == ["8.8", "KiB"]
        person.press(DOWN)
        person.press(" ")
        lines = person.until(lambda lines: "1 image marked" in lines[-1])
        assert lines[2].startswith("*")
        assert "frees at least 2.0 KiB" in lines[-1]
        person.press("p")
        code, lines = person.end()
    assert code == 0
    shown = "\n".join(lines)
    assert "Frees 2.0 KiB (2,000 bytes)." in shown
    found = re.search(r"ullage apply ([0-9a-f]{8})", shown)
    assert found is not None
    monkeypatch.setenv("ULLAGE_REGISTRY", stocked.host)
    plan = json.loads(ullage("apply", found[1], "--yes").out)
    assert plan["freed_bytes"] == 2000


def test_a_namespace_is_marked_with_all_that_is_in_it_and_left_again(
    stocked: UllageServer,
) -> None:
    with walking(stocked) as person:
        person.until(lambda lines: "ci/" in names(lines))
        person.press(" ")
        person.until(lambda lines: "2 repositories marked" in lines[-1])
        person.press("k\r")
        lines = person.until(lambda lines: "small" in names(lines))
        assert [line[0] for line in lines[1:3]] == ["*", "*"]
        person.press(" ")
        person.until(lambda lines: "1 repository marked" in lines[-1])
        person.press(LEFT)
        lines = person.until(lambda lines: "ci/" in names(lines))
        assert lines[1].startswith(" ")
        person.press("q")
        code, lines = person.end()
    assert (code, "apply" in "\n".join(lines)) == (0, False)


def test_what_makes_no_plan_is_said_and_one_may_go_on(stocked: UllageServer) -> None:
    with walking(stocked) as person:
        person.until(lambda lines: "ci/" in names(lines))
        person.press("p")
        person.until(lambda lines: lines[-1].startswith("A plan is of repositories, or"))
        person.press("jj")
        person.until(lambda lines: lines[-1].startswith("Enter in"))
        person.press("q")
        assert person.end()[0] == 0


def test_where_there_is_no_terminal_it_is_a_table(
    stocked: UllageServer, ullage: Ullage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULLAGE_REGISTRY", stocked.host)
    # Neither can be imported here, so that it is seen to do without them.
    monkeypatch.setitem(sys.modules, "urwid", None)
    monkeypatch.setitem(sys.modules, "ullage.cli.commands.top_screen", None)
    lines = ullage("top", "-o", "table").out.splitlines()
    assert lines[0].split() == ["Size", "Frees", "Manifests", "Repository"]
    assert lines[2].split()[-1] == "team/large"
    assert len(lines) == 2 + 20
    assert json.loads(ullage("top").out)[0]["name"] == "team/large"


def test_without_the_library_it_says_how_to_get_it(stocked: UllageServer, tmp_path: Path) -> None:
    (tmp_path / "urwid.py").write_text("raise ModuleNotFoundError('no', name='urwid')")
    place = {"ULLAGE_REGISTRY": stocked.host, "PYTHONPATH": f"{tmp_path}{os.pathsep}{SOURCE}"}
    with Walker(("top",), place) as person:
        code, lines = person.end()
    assert code == 1
    said = " ".join(line for line in lines if line)
    assert said.startswith("ERROR: `ullage top` needs a library for terminals: pip install")

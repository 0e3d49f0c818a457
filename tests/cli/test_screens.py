"""What a person sees who must free a lot: one screen of 80 x 24, the question never in vain.

faults B37, B40, B42 and B43.
"""

import io
import json
import re
import sys
import time
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.cli.terminal import at_terminal
from tests.server.pushing import push_image
from tests.support.server import UllageServer
from ullage.cli.commands import job
from ullage.cli.commands.plan import screen
from ullage.cli.shell import console
from ullage.cli.shell.console import Gauge, working
from ullage.cli.shell.tables import table

pytestmark = [pytest.mark.usefixtures("here"), pytest.mark.thorough]
SMALL = {"COLUMNS": "80", "LINES": "24"}


def rows_on(screen: str) -> list[str]:
    """The lines that are left on a terminal: what was drawn over is gone."""
    lines = screen.removesuffix("\n").split("\n")
    return [line.rpartition("\x1b[K")[2].rpartition("\r")[2] for line in lines]


def fits(lines: list[str]) -> bool:
    """One line of 24 is the prompt's. Text may wrap, tables may not."""
    return sum(max(1, -(-len(line) // 80)) for line in lines) <= 23


@pytest.fixture
def many(client: httpx.Client, name: str) -> list[str]:
    """More repositories than a screen has lines, with long names; their only tags are pr-…"""
    names = [f"{name}/{'long' * 10}/{number:02}" for number in range(30)]
    for number, repository in enumerate(names):
        push_image(client, repository, f"pr-{number}", (repository.encode().ljust(1000 + number),))
    return names


def test_a_large_plan_is_one_screen_that_ends_with_the_next_command(
    server: UllageServer, many: list[str], name: str
) -> None:
    """B37: a table by repository, then warnings, then bytes, then what to type."""
    line = ("plan", "--filter", f"{name}/.*:^pr-", "--ago", "0d", "--untagged")
    code, shown = at_terminal(line, (), SMALL | {"ULLAGE_REGISTRY": server.host})
    lines = rows_on(shown)
    assert code == 0
    assert fits(lines), shown
    assert all(len(line) <= 80 for line in lines[:13])
    assert lines[0].split() == ["Repository", "Manifests", "Tags", "Bytes", "Oldest", "Newest"]
    # Those that give back the most come first, and the sums are of all.
    assert lines[2].split()[1:5] == ["1", "1", "1.0", "KiB"]
    assert any(line.startswith("(21 more repositories)") for line in lines)
    assert any(line.startswith("(all of them)") and " 30 " in line for line in lines)
    order = [
        next(at for at, line in enumerate(lines) if line.startswith(start))
        for start in ("(all of them)", "Refused: ", "Deletes 30 manifests", "Frees ", "Until ")
    ]
    assert order == sorted(order)
    assert re.search(r": ullage apply [0-9a-f]{8} --allow ", lines[-1]), lines[-1]


def test_rows_of_all_that_goes_come_only_when_asked_for(
    ullage: Ullage, many: list[str], name: str
) -> None:
    line = ("plan", "--filter", f"{name}/.*:^pr-", "--ago", "0d", "--untagged")
    assert len(ullage(*line, "-o", "table").out.splitlines()) < 16
    everything = ullage(*line, "-o", "table", "--all").out.splitlines()
    assert len(everything) == 2 + 30
    assert all("its last tag goes" in row for row in everything[2:])
    assert len(json.loads(ullage(*line, "-o", "json").out)["items"]) == 30
    assert ullage(*line, "--query", "length(items)").out == "30\n"


def test_what_was_suggested_says_why_it_was(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    """B37: nobody asked for this image."""
    push_image(client, name, "v1", (name.encode().ljust(500),))
    push_image(client, name, "v1", (b"new",))
    shown = ullage("suggest", "--free", "400", "--repository", name, "-o", "table", "--all").out
    assert "nothing leads to it, never pulled" in shown
    assert "asked for" not in shown


def test_thousands_of_warnings_are_a_few_lines() -> None:
    """B37: those that refuse first, counted by what they are about."""
    warnings = [
        {"rail": f"rail-{number % 7}", "message": f"does {number}", "refuses": number % 7 == 6}
        for number in range(3000)
    ]
    found: dict[str, Any] = {
        "id": "0" * 32,
        "expires": "2026-11-30T12:05:42.123456+00:00",
        "warnings": warnings,
    }
    shares = [{"repository": f"r{number}"} for number in range(20)]
    found |= {"repositories": shares, "stays": [], "notes": ["there is not so much that may go"]}
    found |= {"freed_bytes": 2048, "freed_later_bytes": 0, "kept_bytes": 1}
    found |= {"manifest_count": 3000, "tag_count": 1}
    lines = screen(found)
    assert len(lines) == 7
    assert lines[1] == "Refused: does 6 (rail-6), and 427 more like this."
    assert lines[3] == "… and 5 more notes: -o json has them."
    assert lines[-1] == "Until 2026-11-30 12:05Z: ullage apply 00000000 --allow rail-6"


# --- while it works -------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard error that is one."""

    def isatty(self) -> bool:
        return True


def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What is drawn from now on, on 80 columns."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    return terminal


def test_a_job_that_is_planned_says_how_much_it_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """B40: there is nothing to fill a bar of."""
    terminal = at_a_terminal(monkeypatch)
    state = {"state": "planning", "tag_count": 1, "manifest_count": 12_344}
    job.draw(Gauge(), state)
    assert terminal.getvalue() == "\rPlanning … 12,345 items so far\x1b[K"


def test_a_deletion_has_a_bar_bytes_and_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """B40."""
    terminal = at_a_terminal(monkeypatch)
    clock = iter((0.0, 0.0, 30.0))
    gauge = Gauge(lambda: next(clock))
    deleting: dict[str, Any] = {
        "state": "running",
        "tag_count": 0,
        "manifest_count": 1000,
        "tags_deleted": 0,
    }
    deleting |= {"planned_bytes": 4096, "planned_later_bytes": 0, "freed_later_bytes": 0}
    for done, freed in ((0, 0), (250, 1024)):
        job.draw(gauge, deleting | {"manifests_deleted": done, "freed_bytes": freed})
    drawn = terminal.getvalue().split("\r")[-1]
    assert drawn == (
        "Deleting [#####---------------] 250/1,000  1.0 KiB of 4.0 KiB  1m 30s left\x1b[K"
    )
    assert len(drawn) < 80


def test_who_waits_for_a_plan_is_told_so_within_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """B37: 25 seconds of silence. What is said is gone when the wait is over."""
    assert console.FIRST_TELL_SECONDS < 0.5
    monkeypatch.setattr(console, "FIRST_TELL_SECONDS", 0.0)
    terminal = at_a_terminal(monkeypatch)
    deadline = time.monotonic() + 10
    with working("Looking for what may go"):
        while not terminal.getvalue() and time.monotonic() < deadline:
            pass
    assert terminal.getvalue() == "\rLooking for what may go … 0 s\x1b[K\r\x1b[K"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_of_a_table_is_wider_than_the_terminal(width: int) -> None:
    """B48: what has to give way is the ends of long texts, never a number or a header."""
    rows = [
        {"Repository": f"team/{'x' * number}", "Digest": "sha256:" + "0" * 64, "Tags": 1_000_000}
        for number in range(0, 120, 20)
    ]
    lines = table(rows, width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(line.endswith("1000000") for line in lines[2:])
    assert table(rows).splitlines()[2].split()[1] == "sha256:" + "0" * 64


# --- no question in vain --------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["tag", "repository", "reason"])
def test_what_is_locked_is_refused_before_anything_is_asked(
    ullage: Ullage, client: httpx.Client, name: str, server: UllageServer, what: str
) -> None:
    """B42: it asked "gives back 0 B. Are you sure?" and then refused; the reason comes first."""
    push_image(client, name, "v1", (b"locked",))
    if what == "reason":
        assert ullage("lock", f"{name}:v1", "--reason", "audit 114").code == 0
        reason = "held by anonymous: audit 114"
    elif what == "tag":
        flags = ("--image", f"{name}:v1", "--delete-enabled", "false")
        assert ullage("repository", "update", *flags).code == 0
        reason = f"deleteEnabled is false on tag 'v1' of repository '{name}'"
    else:
        flags = ("--repository", name, "--delete-enabled", "false")
        assert ullage("repository", "update", *flags).code == 0
        reason = f"deleteEnabled is false on repository '{name}'"
    plan = json.loads(ullage("plan", "--repository", name).out)
    for line in (
        ("repository", "delete", "--repository", name),
        ("repository", "delete", "--image", f"{name}:v1"),
        ("manifest", "delete", "--name", f"{name}:v1"),
        ("apply", plan["id"]),
    ):
        code, shown = at_terminal(line, (), {"ULLAGE_REGISTRY": server.host})
        assert (code, "Are you sure" in shown) == (1, False), shown
        (said,) = [row for row in rows_on(shown) if row]
        assert reason in said
        assert len(said) < 200
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["v1"]


def test_a_plan_that_would_be_refused_is_not_asked_about(
    ullage: Ullage, many: list[str], name: str, server: UllageServer
) -> None:
    """B42, the kind: the plan knows what its apply would say."""
    line = ("plan", "--filter", f"{name}/.*:^pr-", "--ago", "0d", "--untagged")
    plan = json.loads(ullage(*line, "-o", "json").out)
    code, shown = at_terminal(("apply", plan["id"]), (), {"ULLAGE_REGISTRY": server.host})
    assert (code, "Are you sure" in shown) == (1, False)
    assert "ERROR: Nothing was deleted: the plan deletes everything in" in shown
    assert "To do so all the same: --allow empty-repository" in shown


def test_a_plan_that_was_applied_says_when_and_asks_nothing(
    ullage: Ullage, client: httpx.Client, name: str, server: UllageServer
) -> None:
    """B43."""
    push_image(client, name, "v1", (b"only in v1",))
    push_image(client, name, "v2", (b"v2",))
    plan = json.loads(ullage("plan", "--image", f"{name}:v1").out)
    first: Done = ullage("apply", plan["id"], "--yes")
    assert first.code == 0
    code, shown = at_terminal(("apply", plan["id"]), (), {"ULLAGE_REGISTRY": server.host})
    assert (code, "Are you sure" in shown) == (0, False)
    applied = json.loads(first.out)["applied"]
    said = f"This plan was applied already, at {applied[:10]} {applied[11:16]}Z."
    assert said in ullage("apply", plan["id"]).err.replace(" It:", "")
    assert said in shown.replace(" It:", "")

"""`ullage lock`, `unlock` and `lock list` on a real server."""

import json
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.server.pushing import push_image

pytestmark = pytest.mark.usefixtures("here")


def answer(done: Done) -> Any:
    assert done.code == 0, done
    return json.loads(done.out)


def test_a_lock_says_why_wherever_it_keeps_something(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    digest = push_image(client, name, "v1", (b"x",))
    assert ullage("lock", f"{name}:v1").code == 1
    line = ("lock", f"{name}:v1", "--reason", "audit 7", "--until", "30d", "--owner", "ops")
    placed = answer(ullage(*line))
    assert (placed["tag"], placed["owner"]) == ("v1", "ops")
    assert answer(ullage("lock", "list", "--repository", name)) == [placed]
    assert "audit 7" in ullage("lock", "list", "-o", "table").out
    done = ullage("repository", "delete", "--image", f"{name}@{digest}", "--yes")
    assert done.code == 1
    plan = answer(ullage("plan", "--image", f"{name}:v1", "-o", "json"))
    assert "audit 7" in plan["stays"][0]["held_by"][0]["by"]
    done = ullage("purge", "--filter", f"{name}:.*", "--ago", "0d", "--include-locked")
    assert (done.code, f"{name}:v1 stays: held by ops" in done.err) == (0, True), done
    done = ullage("unlock", f"{name}:v1")
    assert (done.code, "Lifted: audit 7 (ops)" in done.err) == (0, True)
    assert ullage("unlock", f"{name}:v1").code == 3
    answered = ullage("repository", "delete", "--image", f"{name}@{digest}", "--yes")
    assert answered.code == 0


def test_a_repository_and_a_digest_are_locked_too(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    digest = push_image(client, name, "v1", (b"x",))
    assert answer(ullage("lock", name, "--reason", "a"))["digest"] is None
    assert answer(ullage("lock", f"{name}@{digest}", "--reason", "b"))["digest"] == digest
    assert len(answer(ullage("lock", "list", "--repository", name))) == 2
    assert len(answer(ullage("unlock", name))) == 1
    assert len(answer(ullage("unlock", f"{name}@{digest}"))) == 1
    assert ullage("lock", "team/absent", "--reason", "x").code == 3

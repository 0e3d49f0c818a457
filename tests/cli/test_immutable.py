"""`ullage immutable set`, `list` and `remove` on a real server."""

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


def test_a_rule_is_named_wherever_it_keeps_a_tag(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    digest = push_image(client, name, "v1", (b"x",))
    push_image(client, name, "v1-rc1", (b"y",))
    rule = {"pattern": f"{name}:v*", "except": ["v*-rc*", "dev"]}
    line = ("immutable", "set", f"{name}:v*", "--except", "v*-rc*", "--except", "dev")
    assert answer(ullage(*line)) == rule
    try:
        assert rule in answer(ullage("immutable", "list"))
        assert "v*-rc*, dev" in ullage("immutable", "list", "-o", "table").out
        said = f"tag 'v1' is immutable by the rule '{name}:v*'"
        for tried in (
            ("repository", "untag", "--image", f"{name}:v1"),
            ("repository", "delete", "--image", f"{name}@{digest}", "--yes"),
            ("repository", "delete", "--repository", name, "--yes"),
        ):
            done = ullage(*tried)
            assert (done.code, said in done.err) == (1, True), done
        plan = answer(ullage("plan", "--image", f"{name}:v1", "-o", "json"))
        assert plan["stays"][0]["held_by"] == [{"kind": "immutable", "by": said}]
        done = ullage("purge", "--filter", f"{name}:.*", "--ago", "0d", "--include-locked")
        assert (done.code, f"{name}:v1 stays: {said}" in done.err) == (0, True), done
        assert said in ullage("why", f"{name}:v1", "-o", "table").out
    finally:
        assert answer(ullage("immutable", "remove", f"{name}:v*")) == rule
    assert ullage("immutable", "remove", f"{name}:v*").code == 3
    assert ullage("immutable", "set", name).code == 1
    assert ullage("repository", "untag", "--image", f"{name}:v1").code == 0

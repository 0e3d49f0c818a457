"""`ullage plan --filter`, `apply` of a job, `suggest` and `show-usage` on a real server."""

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


def test_a_plan_of_a_filter_says_what_the_dry_run_says_and_is_applied(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    digest = push_image(client, name, "pr-1", (b"only in pr-1",))
    push_image(client, name, "v1", (b"v1",))
    line = ("--filter", f"{name}:^pr-", "--ago", "0d", "--untagged")
    plan = answer(ullage("plan", *line, "-o", "json"))
    assert [(each["digest"], each["tags"]) for each in plan["items"]] == [(digest, ["pr-1"])]
    dry = answer(ullage("purge", *line, "--dry-run", "-o", "json"))
    assert (dry["planned_bytes"], dry["manifest_count"], dry["tag_count"]) == (
        *(plan["freed_bytes"], plan["manifest_count"], plan["tag_count"]),
    )
    done = ullage("apply", plan["id"], "--yes")
    receipt = answer(done)
    assert (receipt["freed_bytes"], receipt["tag_count"]) == (plan["freed_bytes"], 1)
    assert "Deleted 1 manifest and 1 tag" in done.err
    assert answer(ullage("job", "show", receipt["job"]))["kind"] == "plan"
    # Asked again it is the same, and nothing is deleted twice.
    assert answer(ullage("apply", plan["id"], "--yes")) == receipt
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["v1"]


def test_a_plan_that_the_world_overtook_is_refused_with_the_difference(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    push_image(client, name, "pr-1", (b"one",))
    push_image(client, name, "v1", (b"v1",))
    line = ("--filter", f"{name}:^pr-", "--ago", "0d", "--untagged")
    plan = answer(ullage("plan", *line))
    push_image(client, name, "pr-1", (b"two",))
    done = ullage("apply", plan["id"], "--yes")
    assert (done.code, "the registry has changed since the plan was made" in done.err) == (1, True)
    left = answer(ullage("apply", plan["id"], "--yes", "--allow-smaller"))
    assert left["difference"]["counts"]["tags_gone"] == 1
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["pr-1", "v1"]


def test_apply_returns_at_once_where_it_is_told_to(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    push_image(client, name, "pr-1", (b"one",))
    push_image(client, name, "v1", (b"v1",))
    plan = answer(ullage("plan", "--filter", f"{name}:^pr-", "--ago", "0d"))
    done = ullage("apply", plan["id"], "--yes", "--no-wait")
    receipt = answer(done)
    assert f"ullage job watch {receipt['job']}" in done.err
    assert answer(ullage("job", "watch", receipt["job"]))["tags_deleted"] == 1


@pytest.mark.parametrize(
    "line",
    [(), ("--image", "a:b", "--filter", "a:b"), ("--repository", "a", "--untagged-only")],
)
def test_a_plan_is_of_one_kind_of_thing(ullage: Ullage, line: tuple[str, ...]) -> None:
    assert ullage("plan", *line).code == 1


def test_a_suggestion_is_a_plan(ullage: Ullage, client: httpx.Client, name: str) -> None:
    old = push_image(client, name, "v1", (b"x" * 500,))
    push_image(client, name, "v1", (b"new",))
    plan = answer(ullage("suggest", "--free", "400", "--repository", name))
    assert [each["digest"] for each in plan["items"]] == [old]
    assert answer(ullage("apply", plan["id"], "--yes"))["freed_bytes"] == 500
    nothing = ullage("suggest", "--free", "50GB", "--repository", name)
    assert (nothing.code, "there is not so much that may go" in nothing.err) == (0, True)
    assert ullage("suggest", "--free", "much").code == 1


def test_show_usage_has_the_shape_of_azs(ullage: Ullage, client: httpx.Client, name: str) -> None:
    """azure.md section 3.5."""
    push_image(client, name, "v1", (b"x",))
    shown = answer(ullage("show-usage"))["value"]
    assert set(shown[0]) == {"name", "limit", "currentValue", "unit"}
    assert (shown[0]["name"], shown[0]["unit"], shown[0]["currentValue"] > 0) == (
        *("Size", "Bytes", True),
    )
    table = ullage("show-usage", "-o", "table").out.splitlines()
    assert table[0].split() == ["NAME", "LIMIT", "CURRENT", "VALUE", "UNIT"]

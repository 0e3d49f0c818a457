"""Cleaning up by size, by a filter and by rules: each is seen before it is done."""

import re

import httpx
import pytest

from tests.server.pushing import push_image
from tests.ui.visitors import Visitor, text_of


def card(place: int, **fields: str) -> dict[str, str]:
    """What a card of the editor sends."""
    empty = dict.fromkeys(("name", "repositories", "tags", "older_than", "not_pulled_for"), "")
    given = {"about": "tags", "effect": "delete", "keep_newest": "", **empty, **fields}
    return {f"{name}-{place}": value for name, value in given.items()}


FIRST = card(0, name="old", repositories="rules/.*", tags="^pr-", older_than="30d")
SECOND = card(1, name="releases", repositories="rules/.*", tags="^v", effect="keep")
BOTH = {"count": "2", "since": "90d", **FIRST, **SECOND}


def names(page: httpx.Response) -> list[str]:
    return re.findall(r'name="name-\d" value="([^"]*)"', page.text)


def test_cards_are_added_moved_and_removed_without_setting_anything(
    client: httpx.Client, visitor: Visitor
) -> None:
    before = client.get("/api/v1/policies/retention").json()["rules"]
    assert names(visitor.post("/ui/retention", BOTH | {"do": "up 1"})) == ["releases", "old"]
    assert names(visitor.post("/ui/retention", BOTH | {"do": "down 0"})) == ["releases", "old"]
    assert names(visitor.post("/ui/retention", BOTH | {"do": "remove 0"})) == ["releases"]
    page = visitor.post("/ui/retention", BOTH | {"do": "add 0"})
    assert names(page) == ["old", "releases", ""]
    assert "Not set yet" in text_of(page)
    assert client.get("/api/v1/policies/retention").json()["rules"] == before


def test_rules_are_tried_before_they_are_set(client: httpx.Client, visitor: Visitor) -> None:
    push_image(client, "rules/app", "pr-1")
    page = visitor.post("/ui/retention", BOTH | {"do": "test"})
    assert "What they would have done" in text_of(page)
    assert '<svg class="plot"' in page.text
    wrong = visitor.post("/ui/retention", BOTH | {"do": "test", "tags-0": "("})
    assert wrong.status_code == 400
    assert names(wrong) == ["old", "releases"]
    page = visitor.post("/ui/retention", BOTH | {"do": "save", "every": "1d", "enabled": "1"})
    assert "The rules are set." in text_of(page)
    set_now = client.get("/api/v1/policies/retention").json()["rules"]
    assert [rule["name"] for rule in set_now] == ["old", "releases"]
    assert set_now[1] == {
        "name": "releases",
        "repositories": "rules/.*",
        "tags": "^v",
        "keep": True,
    }
    asked = visitor.get("/ui/retention?repository=rules/app&tag=pr-1")
    assert "It stays." in text_of(asked)
    trial = visitor.post("/ui/retention/run", {"trial": "1"})
    assert trial.url.path.startswith("/ui/jobs/")
    client.put("/api/v1/policies/retention", json={"rules": []}).raise_for_status()


def test_a_filter_and_a_size_lead_to_a_plan(client: httpx.Client, visitor: Visitor) -> None:
    push_image(client, "filtered/app", "pr-1", (b"one",))
    push_image(client, "filtered/app", "pr-2", (b"two",))
    assert "By a filter" in text_of(visitor.get("/ui/cleanup"))
    fields = {"filter": "filtered/.*:^pr-", "ago": "0d", "keep": "1", "untagged": "with"}
    plan = visitor.post("/ui/plans", fields)
    assert "/ui/plans/" in str(plan.url)
    assert "pr-1" in text_of(plan)
    assert "pr-2" not in text_of(plan)
    size = visitor.post("/ui/plans", {"free": "1kB"})
    assert "If you delete this" in text_of(size)


@pytest.mark.parametrize(
    "fields",
    [{"free": "much"}, {"free": ""}, {"filter": "(:x", "ago": "1d"}, {"filter": "a:b", "ago": "x"},
     {"filter": "a:b", "ago": "1d", "keep": "-1"}, {"repository": "Bad"},
     {"repository": "app", "digest": "md5:1"}],
)  # fmt: skip
def test_what_is_not_understood_plans_nothing(visitor: Visitor, fields: dict[str, str]) -> None:
    assert visitor.post("/ui/plans", fields).status_code == 400

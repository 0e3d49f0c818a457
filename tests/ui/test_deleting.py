"""From choosing to the receipt and back, as forms: what a browser without JavaScript sends."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.access.house import House
from tests.server.pushing import push_image
from tests.support.server import UllageServer
from tests.ui.visitors import Visitor, text_of


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    """A registry with soft delete."""
    with UllageServer(tmp_path_factory.mktemp("keeping") / "data") as server:
        with httpx.Client(base_url=server.url) as client:
            policy = {"status": "enabled", "retentionDays": 7}
            client.patch("/api/v1/policies/soft-delete", json=policy)
        yield server
        server.assert_no_500()


def exact(number: int) -> str:
    return f"{number:,}".replace(",", "\u2009")


def test_choosing_leads_to_a_plan_and_the_button_does_it(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    digest = push_image(client, name, "old", (b"old" * 1000,))
    push_image(client, name, "new", (b"new" * 1000,))
    plan = visitor.post("/ui/plans", {"repository": name, "digest": [digest]})
    assert "/ui/plans/" in str(plan.url)
    text = text_of(plan)
    assert "If you delete this" in text
    assert f"{exact(3000)} bytes come back in seconds" in text
    assert "Delete 1 manifest, free 3.0" in text
    receipt = visitor.post(f"{plan.url.path}/apply")
    assert receipt.url.path == plan.url.path
    assert "1 manifest deleted." in text_of(receipt)
    assert "soft delete is off" in text_of(receipt)
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["new"]


def test_what_a_cluster_runs_stays_and_says_so(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    """deletion.md section 9."""
    digest = push_image(client, name, "v1", (b"deployed",))
    path = f"/api/v1/deployments/{name.replace('/', '.')}"
    client.put(path, json={"images": [{"image_id": digest, "where": "shop/deployment/app"}]})
    plan = visitor.post("/ui/plans", {"repository": name, "digest": [digest]})
    assert "a cluster runs it: deployed in" in text_of(plan)
    image = visitor.get(f"/ui/images/{name}/{digest}")
    assert "shop/deployment/app" in text_of(image)
    client.delete(path, params={"confirm": 1})


def test_tags_and_whole_repositories_are_planned_too(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    push_image(client, name, "v1", (b"one",))
    plan = visitor.post("/ui/plans", {"repository": name, "tag": ["v1"]})
    assert "only-tag" in text_of(plan)
    whole = visitor.post("/ui/plans", {"repository": name, "whole": "1"})
    assert "Delete 1 manifest" in text_of(whole)
    nothing = visitor.post("/ui/plans", {"repository": name})
    assert nothing.url.path == f"/ui/repositories/{name}"


def test_a_tag_is_taken_away_and_its_image_stays(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    """ui.md section 3: it frees nothing, and says where the image is."""
    digest = push_image(client, name, "v1", (b"layer",))
    push_image(client, name, "v2", (b"layer",))
    assert 'name="untag" value="v1"' in visitor.get(f"/ui/repositories/{name}?tab=tags").text
    page = visitor.post(f"/ui/repositories/{name}", {"repository": name, "untag": "v1"})
    assert (page.url.path, page.url.params["tab"]) == (f"/ui/repositories/{name}", "tags")
    assert "The tag is gone; its image stays" in text_of(page)
    assert f"images/{name}/{digest}" in page.text
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["v2"]
    assert client.head(f"/v2/{name}/manifests/{digest}").status_code == 200
    assert visitor.post(f"/ui/repositories/{name}", {"untag": "v1"}).status_code == 404
    assert visitor.post(f"/ui/repositories/{name}", {"untag": "-"}).status_code == 400
    lock = {"repository": name, "tag": "v2", "reason": "kept"}
    client.post("/api/v1/locks", json=lock).raise_for_status()
    refused = visitor.post(f"/ui/repositories/{name}", {"untag": "v2"})
    assert refused.status_code == 405
    assert "It is locked, or something needs it." in text_of(refused)
    assert "kept" in text_of(refused)


def test_a_tag_that_was_taken_away_can_be_put_back(keeping: UllageServer) -> None:
    with httpx.Client(base_url=keeping.url) as client, Visitor(keeping.url) as visitor:
        push_image(client, "untagged", "v1", (b"layer",))
        page = visitor.post("/ui/repositories/untagged", {"untag": "v1"})
        operation = re.search(r'href="[./]*(deleted/[0-9a-f]{32})">Undo', page.text)
        assert operation is not None
        visitor.post(f"/ui/{operation[1]}/restore")
        assert client.get("/v2/untagged/tags/list").json()["tags"] == ["v1"]


def test_a_push_in_between_deletes_nothing_and_shows_the_difference(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    """409, with what would be different now and a button to plan again."""
    push_image(client, name, "v1", (b"first",))
    plan = visitor.post("/ui/plans", {"repository": name, "whole": "1"})
    push_image(client, name, "v2", (b"second",))
    refused = visitor.post(f"{plan.url.path}/apply")
    assert refused.status_code == 409
    assert "Nothing was deleted." in text_of(refused)
    assert "would go too:" in text_of(refused)
    fields = dict(re.findall(r'name="(repositories)" value="([^"]+)"', refused.text))
    again = visitor.post("/ui/plans", fields)
    assert "Delete 2 manifests" in text_of(again)
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["v1", "v2"]


def test_a_rail_asks_to_be_read_first(client: httpx.Client, visitor: Visitor, name: str) -> None:
    push_image(client, name, "v1", (b"only",))
    computed = client.post("/api/v1/plans", json={"repositories": [name], "computed": True}).json()
    plan = visitor.get(f"/ui/plans/{computed['id']}")
    rails = re.findall(r'name="allow" value="([^"]+)" required', plan.text)
    assert "empty-repository" in rails
    refused = visitor.post(f"{plan.url.path}/apply")
    assert refused.status_code == 409
    done = visitor.post(f"{plan.url.path}/apply", {"allow": rails})
    assert "1 manifest deleted." in text_of(done)


def test_a_deletion_is_undone_or_given_up(keeping: UllageServer) -> None:
    with Visitor(keeping.url) as visitor, httpx.Client(base_url=keeping.url) as client:
        for name, end in (("undone", "restore"), ("given-up", "free")):
            push_image(client, name, "v1", (name.encode() * 1000,))
            plan = visitor.post("/ui/plans", {"repository": name, "whole": "1"})
            assert "it can be taken back until" in text_of(plan)
            receipt = visitor.post(f"{plan.url.path}/apply")
            found = re.search(r'action="[./]*(deleted/\w+)/restore"', receipt.text)
            assert found is not None
            assert name in text_of(visitor.get("/ui/deleted"))
            assert name in text_of(visitor.get(f"/ui/{found[1]}"))
            page = visitor.post(f"/ui/{found[1]}/{end}")
            assert page.url.path == "/ui/deleted"
            there = client.get(f"/v2/{name}/tags/list").status_code
            assert there == (200 if end == "restore" else 404)
            said = "1 manifest is back." if end == "restore" else "Freed for good:"
            assert said in text_of(page)
            assert visitor.get(f"/ui/{found[1]}").status_code == 404


def test_what_points_elsewhere_by_now_is_asked_about(keeping: UllageServer) -> None:
    with Visitor(keeping.url) as visitor, httpx.Client(base_url=keeping.url) as client:
        first = push_image(client, "moved", "v1", (b"first",))
        plan = visitor.post("/ui/plans", {"repository": "moved", "tag": ["v1"]})
        receipt = visitor.post(f"{plan.url.path}/apply")
        push_image(client, "moved", "v1", (b"second",))
        path = re.search(r'action="[./]*(deleted/\w+)/restore"', receipt.text)
        assert path is not None
        asked = visitor.post(f"/ui/{path[1]}/restore")
        assert asked.status_code == 409
        assert "Nothing was restored." in text_of(asked)
        visitor.post(f"/ui/{path[1]}/restore", {"force": "1"})
        found = client.head("/v2/moved/manifests/v1").headers["Docker-Content-Digest"]
        assert found == first


def test_a_job_shows_its_progress_and_its_items(client: httpx.Client, visitor: Visitor) -> None:
    for number in range(3):
        push_image(client, "jobs/app", f"pr-{number}", (b"%d" % number,))
    body = {"filters": ["jobs/app:^pr-"], "ago": "0d", "untagged": True}
    job = client.post("/api/v1/purge", json=body).json()["id"]
    while client.get(f"/api/v1/jobs/{job}").json()["finished"] is None:
        pass
    page = visitor.get(f"/ui/jobs/{job}")
    assert "deleted so far: 3 manifests" in text_of(page)
    assert "jobs/app" in text_of(page)
    part = visitor.get(f"/ui/jobs/{job}?part=progress")
    assert "<html" not in part.text
    assert 'data-state="done"' in part.text
    assert "purge" in text_of(visitor.get("/ui/jobs"))
    assert visitor.post(f"/ui/jobs/{job}/cancel").url.path == f"/ui/jobs/{job}"


def test_buttons_are_there_for_those_who_may_press_them(house: House) -> None:
    """And whoever sends the form all the same is told no (ui.md section 4)."""
    house.push_image("team/app", "v1", b"layer")
    house.push_image("rival/app", "v1", b"layer")
    rights = {"reader": ["metadata/read"], "deleter": ["metadata/read", "content/delete"]}
    for who, actions in rights.items():
        house.manage("scope-map create", name=f"{who}s", repositories=[["team/*", *actions]])
        made = house.manage("user create", name=who, scope_map=f"{who}s")
        with Visitor(house.server.url) as visitor:
            visitor.log_in(who, made["password"])
            page = visitor.get("/ui/repositories/team/app")
            assert page.status_code == 200
            assert ("Plan deleting" in page.text) == (who == "deleter")
            tags = visitor.get("/ui/repositories/team/app?tab=tags")
            assert ('name="untag"' in tags.text) == (who == "deleter")
            untagged = visitor.post("/ui/repositories/rival/app", {"untag": "v1"})
            assert untagged.status_code == 403
            assert visitor.get("/ui/repositories/rival/app").status_code == 403
            assert visitor.get("/ui/repositories/rival/absent").status_code == 403
            assert "on the disk" not in text_of(visitor.get("/ui/"))
            assert "rival" not in visitor.get("/ui/").text
            plan = visitor.post("/ui/plans", {"repository": "team/app", "tag": ["v1"]})
            assert ("Delete 1 manifest" in plan.text) == (who == "deleter")
            assert visitor.post("/ui/plans", {"repository": "rival/app"}).status_code == 403
            applied = visitor.post(f"{plan.url.path}/apply")
            assert applied.status_code == (200 if who == "deleter" else 403)

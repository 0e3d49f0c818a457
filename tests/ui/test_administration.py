"""Accounts, the audit log, uploads, locks and the search (ui.md section 3)."""

import html
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.access.house import House
from tests.server.pushing import push_image, start_upload
from tests.ui.visitors import Visitor, text_of

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def admin(house: House) -> Iterator[Visitor]:
    with Visitor(house.server.url) as visitor:
        visitor.log_in("admin", house.ADMIN_PASSWORD)
        yield visitor


def test_an_administrator_makes_changes_and_deletes_users(house: House, admin: Visitor) -> None:
    made = admin.post("/ui/accounts", {"do": "create", "name": "zoe", "admin": "1"})
    found = re.search(r"<code[^>]*>([A-Za-z0-9]{27})</code>", made.text)
    assert found is not None, made.text
    assert found[1] not in admin.get("/ui/accounts").text
    with Visitor(house.server.url) as zoe:
        assert zoe.log_in("zoe", found[1]).url.path == "/ui/"
        admin.post("/ui/accounts", {"do": "disabled", "name": "zoe"})
        assert zoe.get("/ui/").url.path == "/ui/login"
    assert "disabled" in text_of(admin.get("/ui/accounts"))
    assert "zoe" not in text_of(admin.post("/ui/accounts", {"do": "delete", "name": "zoe"}))
    last = admin.post("/ui/accounts", {"do": "delete", "name": "admin"})
    assert last.status_code == 409
    assert "last administrator" in text_of(last)
    audit = text_of(admin.get("/ui/audit?action=user.create"))
    assert "zoe" in audit
    assert "user.delete" not in audit


def test_others_see_nothing_of_it(house: House) -> None:
    house.manage("scope-map create", name="few", repositories=[["team/*", "metadata/read"]])
    password = house.manage("user create", name="bob", scope_map="few")["password"]
    with Visitor(house.server.url) as bob:
        assert "Accounts" not in bob.log_in("bob", password).text
        for path in ("accounts", "audit", "uploads", "retention"):
            assert bob.get(f"/ui/{path}").status_code == 403, path
        assert bob.post("/ui/accounts", {"do": "delete", "name": "admin"}).status_code == 403
        assert bob.post("/ui/retention/run").status_code == 403


def test_a_registry_without_accounts_takes_none(visitor: Visitor) -> None:
    assert "asks for no accounts" in text_of(visitor.get("/ui/accounts"))
    answer = visitor.post("/ui/accounts", {"do": "create", "name": "eve", "admin": "1"})
    assert answer.status_code == 403
    assert "eve" not in text_of(visitor.get("/ui/accounts"))


def test_an_upload_is_ended(client: httpx.Client, visitor: Visitor, name: str) -> None:
    session = start_upload(client, name).rpartition("/")[2]
    assert name in text_of(visitor.get("/ui/uploads"))
    assert name not in text_of(visitor.post("/ui/uploads", {"upload": session}))
    assert client.get(f"/v2/{name}/blobs/uploads/{session}").status_code == 404


def test_a_lock_is_placed_shown_and_lifted(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    push_image(client, name, "v1")
    fields = {"repository": name, "reference": "v1", "reason": f"audit {EVIL}", "until": "90d"}
    page = visitor.post("/ui/locks", fields)
    assert f"audit {EVIL}" in text_of(page).replace("&lt;", "<")
    assert EVIL not in page.text
    assert "locked" in text_of(visitor.get(f"/ui/repositories/{name}"))
    plan = visitor.post("/ui/plans", {"repository": name, "tag": ["v1"]})
    assert "Nothing goes." in text_of(plan)
    visitor.post("/ui/locks", {"repository": name, "reference": "v1", "do": "lift"})
    assert name not in text_of(visitor.get("/ui/locks"))
    assert visitor.post("/ui/locks", fields | {"reason": " "}).status_code == 400


def test_what_a_rule_keeps_is_said_with_the_rule(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    """docs/guides/immutable.md: plans and pages of images say so, and a deletion is refused."""
    digest = push_image(client, name, "v1", (b"fixed",))
    rules, rule = "/api/v1/policies/immutable-tags", f"{name}:v*"
    client.post(rules, json={"pattern": rule}).raise_for_status()
    try:
        said = f"tag 'v1' is immutable by the rule '{rule}'"
        page = visitor.get(f"/ui/images/{name}/{digest}")
        assert (page.status_code, said in html.unescape(text_of(page))) == (200, True)
        rows = visitor.get(f"/ui/repositories/{name}").text
        assert said in html.unescape(rows)
        plan = visitor.post("/ui/plans", {"repository": name, "tag": ["v1"]})
        assert "Nothing goes." in text_of(plan)
        assert said in html.unescape(text_of(plan))
    finally:
        client.delete(rules, params={"pattern": rule}).raise_for_status()


def test_a_name_and_a_digest_are_found(client: httpx.Client, visitor: Visitor, name: str) -> None:
    digest = push_image(client, name, "v1", (b"found",))
    assert name in text_of(visitor.get(f"/ui/search?q={name[3:]}"))
    by_digest = visitor.get(f"/ui/search?q={digest}")
    assert name in text_of(by_digest)
    assert f"images/{name}/{digest}" in by_digest.text
    assert "Nothing has this" in text_of(visitor.get("/ui/search?q=%3Cscript%3E"))

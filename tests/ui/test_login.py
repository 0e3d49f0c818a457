"""Logging in and out (ui.md section 4): a cookie for these pages, and for nothing else."""

import hashlib
import sqlite3
from collections.abc import Iterator

import httpx
import pytest

from tests.access.house import House
from tests.ui.visitors import Visitor, address, text_of
from ullage.server.http.permissions import ANYBODY
from ullage.server.ui.routes import ROUTES


@pytest.fixture
def admin(house: House) -> Iterator[Visitor]:
    with Visitor(house.server.url) as visitor:
        assert visitor.log_in("admin", house.ADMIN_PASSWORD).status_code == 200
        yield visitor


def test_a_page_is_shown_once_its_visitor_is_known(house: House) -> None:
    with Visitor(house.server.url) as visitor:
        form = visitor.get("/ui/?ns=a")
        assert form.url.path == "/ui/login"
        assert form.url.params["next"] == "/ui/?ns=a"
        assert 'value="/ui/?ns=a"' in form.text
        wrong = visitor.log_in("admin", "wrong password")
        assert wrong.status_code == 401
        assert "wrong" in text_of(wrong)
        fields = {"name": "admin", "password": house.ADMIN_PASSWORD, "next": "/ui/?ns=a"}
        page = visitor.post("/ui/login", fields)
        assert (page.status_code, str(page.url.query, "ascii")) == (200, "ns=a")
        assert "Logged in as" in page.text


def test_without_a_session_no_page_is_shown_but_the_form(house: House) -> None:
    """Every page and every form, whether what it is about exists or not (ui.md section 4)."""
    house.push_image("absent", "v1", b"layer")
    closed = [route for route in ROUTES if route.permission is not ANYBODY]
    assert len(closed) > 20
    with Visitor(house.server.url) as visitor:
        for route in closed:
            path = address(route.path)
            if route.method == "POST":
                answer = visitor.post(path, follow=False)
            else:
                answer = visitor.client.get(path)
            assert answer.status_code == 303, path
            assert answer.headers["Location"].lstrip("./").startswith("login"), path
            assert answer.content == b""


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A registry with accounts in which all may pull `open/…`."""
    with House(tmp_path_factory.mktemp("open") / "data", "--anonymous-pull", "open/*") as house:
        house.push_image("open/app", "v1", b"for all")
        house.push_image("closed/app", "v1", b"for some")
        yield house


def test_what_all_may_pull_is_shown_without_an_account(open_house: House) -> None:
    """ui.md section 4: those repositories, no sums, no buttons."""
    with Visitor(open_house.server.url) as visitor:
        for path in (
            *("", "repositories", "repositories/open/app", "repositories/open/app?tab=tags"),
            *("images/open/app/v1", "search?q=app"),
        ):
            page = visitor.get(f"/ui/{path}")
            assert (page.status_code, page.url.path.endswith("login")) == (200, False), path
            assert "app" in text_of(page), path
            assert "closed" not in page.text, path
            assert "on the disk" not in text_of(page), path
            for button in ('type="checkbox"', "data-plan", 'class="danger', 'name="untag"'):
                assert button not in page.text, (path, button)
            assert "Log in" in page.text, path


def test_sums_are_for_accounts_even_where_all_may_pull_everything(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("wide") / "data"
    with House(data, "--anonymous-pull", "*") as house, Visitor(house.server.url) as visitor:
        house.push_image("app", "v1", b"layer")
        assert "on the disk" not in text_of(visitor.get("/ui/"))
        assert "app" in text_of(visitor.get("/ui/"))
        visitor.log_in("admin", house.ADMIN_PASSWORD)
        assert "on the disk" in text_of(visitor.get("/ui/"))


def test_without_an_account_the_rest_asks_for_one(open_house: House) -> None:
    """Also where it does not exist: its name is nothing to be found out."""
    with Visitor(open_house.server.url) as visitor:
        for path in (
            *("repositories/closed/app", "images/closed/app/v1", "repositories/absent"),
            *("jobs", "deleted", "cleanup", "locks", "retention", "audit", "accounts"),
        ):
            page = visitor.get(f"/ui/{path}")
            assert page.url.path == "/ui/login", path
        for path in ("plans", "locks", "retention"):
            answer = visitor.post(f"/ui/{path}", {"repository": "open/app", "whole": "1"})
            assert answer.url.path == "/ui/login", path


def test_an_account_sees_what_all_may_see(open_house: House) -> None:
    rights = [["closed/app", "metadata/read"]]
    password = "long enough narrow"
    open_house.manage("scope-map create", name="narrow", repositories=rights)
    open_house.manage("user create", name="narrow", password=password, scope_map="narrow")
    with Visitor(open_house.server.url) as visitor:
        visitor.log_in("narrow", password)
        shown = text_of(visitor.get("/ui/repositories"))
        assert ("open/app" in shown, "closed/app" in shown) == (True, True)
        assert visitor.get("/ui/repositories/open/app").status_code == 200


def test_a_reason_for_a_lock_is_for_accounts(open_house: House) -> None:
    lock = {"repository": "open/app", "tag": "v1", "reason": "a secret matter"}
    admin = open_house.basic("admin")
    open_house.client.post("/api/v1/locks", json=lock, headers=admin).raise_for_status()
    with Visitor(open_house.server.url) as visitor:
        for path in ("repositories/open/app", "images/open/app/v1"):
            assert "secret matter" not in visitor.get(f"/ui/{path}").text
        visitor.log_in("admin", open_house.ADMIN_PASSWORD)
        assert "secret matter" in visitor.get("/ui/images/open/app/v1").text


def test_a_rule_for_tags_is_for_accounts(open_house: House) -> None:
    """Its pattern may name what a visitor must not know of (docs/guides/immutable.md)."""
    rules, rule, admin = "/api/v1/policies/immutable-tags", "*:v1", open_house.basic("admin")
    done = open_house.client.post(rules, json={"pattern": rule}, headers=admin)
    done.raise_for_status()
    try:
        with Visitor(open_house.server.url) as visitor:
            for path in ("repositories/open/app", "images/open/app/v1"):
                assert "immutable by" not in visitor.get(f"/ui/{path}").text
            visitor.log_in("admin", open_house.ADMIN_PASSWORD)
            assert "immutable by" in visitor.get("/ui/images/open/app/v1").text
    finally:
        open_house.client.delete(rules, params={"pattern": rule}, headers=admin)


def test_the_cookie_is_out_of_the_reach_of_scripts_and_other_sites(house: House) -> None:
    with Visitor(house.server.url) as visitor:
        fields = {"name": "admin", "password": house.ADMIN_PASSWORD}
        cookie = visitor.post("/ui/login", fields, follow=False).headers["Set-Cookie"]
        assert cookie.startswith("ullage=")
        assert {"Path=/", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
        fields["name"] = "nobody"
        assert "Set-Cookie" not in visitor.post("/ui/login", fields, follow=False).headers


def test_behind_tls_the_cookie_is_for_this_host_only(house: House) -> None:
    """RFC 6265bis, section 4.1.3.2."""
    with Visitor(house.server.url) as visitor:
        fields = {"name": "admin", "password": house.ADMIN_PASSWORD}
        forwarded = {
            "Origin": house.server.url.replace("http:", "https:"),
            "X-Forwarded-Proto": "https",
        }
        answer = visitor.post("/ui/login", fields, follow=False, headers=forwarded)
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-ullage=")
        assert cookie.endswith("; Secure")


def test_no_password_is_taken_over_an_unencrypted_network(house: House) -> None:
    with Visitor(house.server.url) as visitor:
        there = {"Host": "registry.example", "Origin": "http://registry.example"}
        fields = {"name": "admin", "password": house.ADMIN_PASSWORD}
        answer = visitor.post("/ui/login", fields, follow=False, headers=there)
        assert answer.status_code == 400
        assert "HTTPS" in text_of(answer)


@pytest.mark.parametrize(
    "wanted",
    ["//evil.example/", "https://evil.example/", "/ui//evil.example", "\\evil", "/ui/\\evil",
     "javascript:alert(1)", "/v2/", "/ui/a\r\nb"],
)  # fmt: skip
def test_after_logging_in_nothing_leads_elsewhere(house: House, wanted: str) -> None:
    with Visitor(house.server.url) as visitor:
        fields = {"name": "admin", "password": house.ADMIN_PASSWORD, "next": wanted}
        assert visitor.post("/ui/login", fields, follow=False).headers["Location"] == "./"


def test_the_cookie_is_worth_nothing_elsewhere(house: House, admin: Visitor) -> None:
    """And Authorization nothing here: so no other page can use either."""
    for path in ("/v2/", "/v2/_catalog", "/acr/v1/_catalog", "/api/v1/usage"):
        assert admin.client.get(path).status_code == 401, path
    with httpx.Client(base_url=house.server.url) as client:
        page = client.get("/ui/", headers=house.basic("admin"))
        assert (page.status_code, page.headers["Location"][:8]) == (303, "./login?")


def test_logging_out_ends_the_session_everywhere_if_asked(house: House, admin: Visitor) -> None:
    with Visitor(house.server.url) as second:
        second.log_in("admin", house.ADMIN_PASSWORD)
        stolen = dict(second.client.cookies)
        assert second.post("/ui/logout").url.path == "/ui/login"
        second.client.cookies.update(stolen)
        assert second.get("/ui/").url.path == "/ui/login"
        assert admin.get("/ui/").url.path == "/ui/"
        second.client.cookies.clear()
        second.log_in("admin", house.ADMIN_PASSWORD)
        second.post("/ui/logout", {"everywhere": "1"})
        assert admin.get("/ui/").url.path == "/ui/login"


def test_what_ends_tokens_ends_sessions(house: House) -> None:
    """Another password, disabling, deleting: at once."""
    for number, end in enumerate(("password", "disable", "delete")):
        name = f"anna-{number}"
        password = house.manage("user create", name=name, admin=True)["password"]
        with Visitor(house.server.url) as visitor:
            assert visitor.log_in(name, password).url.path == "/ui/"
            if end == "password":
                house.manage("user password", name=name, password="another password")
            elif end == "disable":
                house.manage("user update", name=name, status="disabled")
            else:
                house.manage("user delete", name=name)
            assert visitor.get("/ui/").url.path == "/ui/login", end


def test_tokens_are_for_programs(house: House) -> None:
    password = house.token("program", ["app", "content/read", "metadata/read"])
    with Visitor(house.server.url) as visitor:
        page = visitor.log_in("program", password)
        assert page.status_code == 401
        assert "Tokens are for programs" in text_of(page)


def test_the_database_cannot_be_used_to_log_in(house: House, admin: Visitor) -> None:
    """What it keeps of a session is a hash of its secret."""
    secret = admin.client.cookies["ullage"]
    database = sqlite3.connect(house.server.data / "ullage.db")
    try:
        ids = {row[0] for row in database.execute("SELECT id FROM sessions")}
    finally:
        database.close()
    assert hashlib.sha256(secret.encode()).hexdigest() in ids
    assert secret not in ids

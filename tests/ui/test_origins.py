"""Every form from every origin: only a page of the registry's own changes anything."""

import pytest

from tests.access.house import House
from tests.support.server import UllageServer
from tests.ui.visitors import Visitor
from ullage.server.ui.routes import ROUTES

POSTS = sorted({route.path for route in ROUTES if route.method not in ("GET", "HEAD")})
EVIL = "http://evil.example"
FOREIGN = {
    "another origin": {"Origin": EVIL},
    "an opaque origin": {"Origin": "null"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
    "another origin, as if typed": {"Origin": EVIL, "Sec-Fetch-Site": "none"},
    "no word of it": {},
}


def address(path: str) -> str:
    """A page's path, filled with what does not exist."""
    for word in ("name", "plan", "operation", "job", "user", "upload", "digest"):
        path = path.replace(f"{{{word}}}", "0" * 32 if word != "name" else "absent")
    return path


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("path", POSTS)
def test_a_form_of_another_page_is_refused(
    server: UllageServer, path: str, foreign: dict[str, str]
) -> None:
    with Visitor(server.url) as visitor:
        answer = visitor.post(address(path), headers=foreign)
        assert answer.status_code == 403, answer.text
        assert "another" in answer.text


@pytest.mark.parametrize("path", POSTS)
def test_a_form_of_its_own_page_is_read(server: UllageServer, path: str) -> None:
    for own in ({"Origin": server.url}, {"Sec-Fetch-Site": "same-origin"}):
        with Visitor(server.url) as visitor:
            answer = visitor.post(address(path), headers=own, follow=False)
            assert "from another site" not in answer.text


def test_an_open_registry_has_pages_under_its_own_names_only(server: UllageServer) -> None:
    """DNS rebinding: then Origin and Host say the same."""
    with Visitor(server.url) as visitor:
        rebound = {"Host": "evil.example", "Origin": EVIL}
        assert visitor.client.get("/ui/", headers=rebound).status_code == 403
        assert visitor.post("/ui/logout", headers=rebound).status_code == 403


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_with_accounts_it_is_the_same(house: House, foreign: dict[str, str]) -> None:
    """SameSite=Lax keeps the cookie back in most cases; this holds where it does not."""
    with Visitor(house.server.url) as visitor:
        visitor.log_in("admin", house.ADMIN_PASSWORD)
        for path in POSTS:
            assert visitor.post(address(path), headers=foreign).status_code == 403, path
        assert visitor.get("/ui/").url.path == "/ui/"

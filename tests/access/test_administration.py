"""Administration over HTTP: what commands on the registry's own machine do, for administrators.

Who may is in test_matrix.py; here is what comes of it, that it is in the audit log, and that no
secret is anywhere but in the one answer that made it.
"""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
from starlette.requests import ClientDisconnect

from tests.access.house import House, basic
from tests.support.server import UllageServer, run_ullage
from tests.support.shared_server import client, server
from ullage.server.api import operating
from ullage.server.app import ROUTES
from ullage.server.http.permissions import Audience

__all__ = ["client", "server"]

RIGHTS = [["team/*", "content/read"]]


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A registry whose accounts are changed."""
    with House(tmp_path_factory.mktemp("managed") / "data") as house:
        yield house


def ask(house: House, method: str, path: str, status: int = 200, **options: Any) -> Any:
    """An administrator's request; the JSON of its answer."""
    response = house.client.request(
        method, f"/api/v1/{path}", headers=house.basic("admin"), **options
    )
    assert response.status_code == status, response.text
    return response.json() if response.content else None


def entries(house: House, **filters: str | int) -> list[Any]:
    found: list[Any] = ask(house, "GET", "audit", params=filters)["entries"]
    return found


def logs_in(house: House, name: str, password: str) -> bool:
    return house.client.get("/v2/", headers=basic(name, password)).status_code == 200


# --- accounts -------------------------------------------------------------------------------------


def test_a_user_is_made_changed_and_deleted(managed: House) -> None:
    made = ask(managed, "POST", "users", 201, json={"name": "ada", "admin": True})
    password = made.pop("password")
    assert made.items() >= {"name": "ada", "admin": True, "status": "enabled"}.items()
    assert logs_in(managed, "ada", password)
    assert ask(managed, "GET", "users/ada") == made
    assert made in ask(managed, "GET", "users")["users"]
    ask(managed, "PATCH", "users/ada", json={"status": "disabled"})
    assert not logs_in(managed, "ada", password)
    ask(managed, "PATCH", "users/ada", json={"status": "enabled", "admin": False})
    chosen = ask(managed, "POST", "users/ada/password", json={"password": "a chosen one"})
    assert "password" not in chosen
    assert (logs_in(managed, "ada", password), logs_in(managed, "ada", "a chosen one")) == (
        False,
        True,
    )
    assert ask(managed, "DELETE", "users/ada", 204) is None
    assert ask(managed, "GET", "users/ada", 404)["errors"][0]["code"] == "ACCOUNT_UNKNOWN"


@pytest.mark.parametrize("body", ["[]", "{"])
def test_an_account_that_is_no_object_is_a_malformed_value(managed: House, body: str) -> None:
    headers = managed.basic("admin") | {"Content-Type": "application/json"}
    for path in ("users", "tokens", "scope-maps"):
        response = managed.client.post(f"/api/v1/{path}", content=body, headers=headers)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (
            400,
            "VALUE_INVALID",
        )


def test_a_token_is_made_changed_and_deleted(managed: House) -> None:
    made = ask(managed, "POST", "tokens", 201, json={"name": "ci", "repositories": RIGHTS})
    first, second = (each["value"] for each in made["credentials"]["passwords"])
    assert logs_in(managed, "ci", first)
    listed = ask(managed, "GET", "tokens")["tokens"]
    assert [each["value"] for each in listed[0]["credentials"]["passwords"]] == [None, None]
    again = ask(managed, "POST", "tokens/ci/credentials", json={"slots": ["password1"]})
    values = [each["value"] for each in again["credentials"]["passwords"]]
    assert values[1] is None
    assert [logs_in(managed, "ci", each) for each in (first, second, values[0])] == [
        False,
        True,
        True,
    ]
    left = ask(managed, "DELETE", "tokens/ci/credentials?slot=password2")
    assert [each["name"] for each in left["credentials"]["passwords"]] == ["password1"]
    ask(managed, "PATCH", "tokens/ci", json={"status": "disabled"})
    assert not logs_in(managed, "ci", values[0])
    ask(managed, "DELETE", "tokens/ci", 204)
    assert ask(managed, "GET", "tokens") == {"tokens": []}


def test_a_scope_map_stays_while_an_account_uses_it(managed: House) -> None:
    body = {"name": "readers", "repositories": RIGHTS, "description": "all that read"}
    made = ask(managed, "POST", "scope-maps", 201, json=body)
    assert made["actions"] == ["repositories/team/*/content/read"]
    ask(managed, "POST", "users", 201, json={"name": "eve", "scopeMap": "readers"})
    change = {"add": [["b", "content/read"]], "remove": RIGHTS}
    changed = ask(managed, "PATCH", "scope-maps/readers", json=change)
    assert changed["actions"] == ["repositories/b/content/read"]
    assert ask(managed, "GET", "scope-maps/readers") == changed
    refused = ask(managed, "DELETE", "scope-maps/readers", 409)
    assert refused["errors"][0]["code"] == "ACCOUNT_CONFLICT"
    # An empty name takes it away.
    ask(managed, "PATCH", "users/eve", json={"scopeMap": ""})
    ask(managed, "DELETE", "scope-maps/readers", 204)
    ask(managed, "DELETE", "users/eve", 204)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "users", {}, 400, "a name has 1-64 letters"),
        ("POST", "users", {"name": "admin"}, 409, "there is an account called admin already"),
        ("POST", "users", {"name": "x", "password": "password"}, 400, "a password has 8 to"),
        ("POST", "users", {"name": "x", "isAdmin": True}, 400, "unknown: isAdmin"),
        ("POST", "users", {"name": "x", "password": 7}, 400, "password: expected a text"),
        ("POST", "users", {"name": "x", "scopeMap": "none"}, 404, "there is no scope map"),
        ("PATCH", "users/admin", {"admin": False}, 409, "this is the last administrator"),
        ("PATCH", "users/admin", {"status": "no"}, 400, "status"),
        ("PATCH", "users/admin", {}, 400, "nothing to change"),
        ("DELETE", "users/admin", None, 409, "this is the last administrator"),
        ("GET", "users/%00", None, 404, "there is no such account"),
        ("POST", "tokens", {"name": "t", "repositories": [["a"]]}, 400, "repositories"),
        ("POST", "tokens", {"name": "t", "repositories": [["a", "b"]]}, 400, "is no action"),
        ("POST", "tokens", {"name": "t"}, 400, "give either a scope map or repositories"),
        ("POST", "tokens/t/credentials", {"slots": ["password3"]}, 400, "slots"),
        ("DELETE", "tokens/t/credentials?slot=x", None, 400, "expected password1 or password2"),
        ("DELETE", "keys/0", None, 404, "there is no such signing key"),
        ("GET", "audit?since=yesterday", None, 400, "expected a time"),
        ("DELETE", "uploads", None, 400, "say which: upload, repository or account"),
        ("DELETE", "uploads?upload=x", None, 404, "there is no such upload"),
        ("POST", "check", {"mode": "slow"}, 400, "mode"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(
    managed: House, method: str, path: str, body: object, status: int, message: str
) -> None:
    options = {} if body is None else {"json": body}
    answer = ask(managed, method, path, status, **options)
    assert message in answer["errors"][0]["message"]


# --- signing keys ---------------------------------------------------------------------------------


def test_revoking_the_key_that_signs_ends_its_tokens_at_once_and_no_others(managed: House) -> None:
    before = bearer_of(managed)
    ask(managed, "POST", "keys", 201, json={})
    after = bearer_of(managed)
    newest, older = ask(managed, "GET", "keys")["keys"][:2]
    assert (newest["signs"], older["signs"]) == (True, False)
    assert "private" not in str(ask(managed, "GET", "keys"))
    left = ask(managed, "DELETE", f"keys/{newest['kid']}")["keys"]
    assert newest["kid"] not in [key["kid"] for key in left]
    assert [key["signs"] for key in left] == [True] + [False] * (len(left) - 1)
    assert [status(managed, each) for each in (before, after)] == [200, 401]
    assert status(managed, bearer_of(managed)) == 200
    ask(managed, "POST", "keys", 201, json={"revoke": True})
    assert status(managed, before) == 401
    assert len(ask(managed, "GET", "keys")["keys"]) == 1


def bearer_of(house: House) -> dict[str, str]:
    return house.bearer("admin", "registry:admin:*")


def status(house: House, headers: dict[str, str]) -> int:
    return house.client.get("/api/v1/users", headers=headers).status_code


def test_a_token_is_an_administrators_only_if_that_was_asked_for(managed: House) -> None:
    """CVE-2025-68944, the other way round: what a token was made for is all that it is good for."""
    for scopes in ((), ("registry:catalog:*", "repository:*:*")):
        refused = managed.client.get("/api/v1/users", headers=managed.bearer("admin", *scopes))
        assert refused.status_code == 401
        assert 'scope="registry:admin:*"' in refused.headers["www-authenticate"]


# --- the audit log --------------------------------------------------------------------------------


def test_every_change_is_in_the_audit_log_with_its_request(managed: House) -> None:
    headers = managed.basic("admin") | {"X-Request-Id": "by-hand"}
    response = managed.client.post("/api/v1/users", json={"name": "bob"}, headers=headers)
    assert response.status_code == 201
    [entry] = [each for each in entries(managed) if each["request_id"] == "by-hand"]
    expected = {"subject": "admin", "address": "127.0.0.1", "action": "user.create"}
    assert entry.items() >= (expected | {"target": "bob"}).items()
    ask(managed, "DELETE", "users/bob", 204)
    ask(managed, "POST", "check", json={"mode": "fast", "repair": True})
    assert [each["action"] for each in entries(managed, n=2)] == ["check.repair", "user.delete"]
    before = entries(managed, n=1)
    for path in ("users", "tokens", "scope-maps", "keys", "audit", "uploads"):
        ask(managed, "GET", path)
    ask(managed, "POST", "check", json={"mode": "fast"})
    assert entries(managed, n=1) == before


def test_the_log_is_read_page_by_page_with_its_filters(managed: House) -> None:
    for number in range(5):
        ask(managed, "POST", "users", 201, json={"name": f"paged-{number}"})
        ask(managed, "DELETE", f"users/paged-{number}", 204)
    query: str | None = "audit?n=2&action=user.create&since=1h&subject=admin"
    found: list[str] = []
    while query is not None:
        response = managed.client.get(f"/api/v1/{query}", headers=managed.basic("admin"))
        page = response.json()["entries"]
        assert len(page) <= 2
        found += [entry["target"] for entry in page]
        link = re.match(r"</api/v1/(.*)>", response.headers.get("link", ""))
        query = link[1] if link else None
    assert found[:5] == [f"paged-{number}" for number in (4, 3, 2, 1, 0)]
    listed = managed.manage("audit list", top=1000, action="user.create", subject="admin")
    assert found == [entry["target"] for entry in listed]
    assert entries(managed, n=0) == []


def test_no_secret_is_anywhere_but_in_the_answer_that_made_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """S57, S60: not in the log, the audit log, another answer or the database."""
    data = tmp_path_factory.mktemp("secrets") / "data"
    with House(data) as house:
        secrets = ["canary-first-password", "canary-next-password", "canary-refused"]
        ask(house, "POST", "users", 201, json={"name": "ada", "password": secrets[0]})
        ask(house, "POST", "users/ada/password", json={"password": secrets[1]})
        made = {"name": "ada", "password": secrets[2]}
        refused = [ask(house, "POST", "users", 409, json=made)]
        refused.append(ask(house, "POST", "users", 400, json={"nane": 1, "password": secrets[2]}))
        secrets.append(ask(house, "POST", "users/ada/password", json={})["password"])
        token = ask(house, "POST", "tokens", 201, json={"name": "ci", "repositories": RIGHTS})
        secrets += [each["value"] for each in token["credentials"]["passwords"]]
        shown = [ask(house, "GET", path) for path in ("users", "tokens/ci", "audit?n=1000", "keys")]
        stopped = house.server.terminate()
        written = house.server.log
    assert stopped == 0
    stored = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    for secret in secrets:
        assert secret not in f"{refused} {shown} {written}"
        assert secret.encode() not in stored


# --- uploads --------------------------------------------------------------------------------------


def test_the_uploads_of_others_are_listed_and_ended(managed: House) -> None:
    """Sessions in memory, and those that have bytes."""
    managed.token("pusher", ["team/*", "content/read", "content/write"])
    paths = {
        repository: managed.open_upload(repository, managed.basic("pusher"))
        for repository in ("team/a", "team/b")
    }
    written = managed.client.patch(
        paths["team/b"], content=b"12345", headers=managed.basic("pusher")
    )
    assert written.status_code == 202
    found = ask(managed, "GET", "uploads?account=pusher")["uploads"]
    facts = [(each["repository"], each["account"], each["bytes"]) for each in found]
    assert facts == [("team/a", "pusher", 0), ("team/b", "pusher", 5)]
    assert ask(managed, "GET", "uploads?repository=team/b")["uploads"] == found[1:]
    gone = ask(managed, "DELETE", f"uploads?upload={found[1]['upload']}")["uploads"]
    assert gone == found[1:]
    assert ask(managed, "DELETE", "uploads?account=pusher")["uploads"] == found[:1]
    assert ask(managed, "GET", "uploads?account=pusher") == {"uploads": []}
    for path in paths.values():
        told = managed.client.patch(path, content=b"6", headers=managed.basic("pusher"))
        assert told.status_code == 404
    log = entries(managed, action="upload.cancel", n=2)
    assert [(each["repository"], each["detail"]) for each in log] == [
        ("team/a", {"account": "pusher", "bytes": 0}),
        ("team/b", {"account": "pusher", "bytes": 5}),
    ]
    report = ask(managed, "POST", "check", json={})
    assert report["findings"] == []


# --- the check ------------------------------------------------------------------------------------


def test_a_check_over_http_reports_and_repairs(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("checked") / "data"
    with House(data) as house:
        house.push_image("team/app", "v1", b"a layer")
        # An entry of the store that is none of ours is named, and left alone.
        (data / "blobs" / "stray").mkdir()
        report = ask(house, "POST", "check", json={"mode": "deep"})
        assert report["checked"]["blobs"] == 2
        assert report["bytes"]["hashed"] == len(b"a layer") + len(b"{}")
        assert [each["invariant"] for each in report["findings"]] == ["I30"]
        assert (report["exit_code"], report["repair"]) == (1, False)
        assert ask(house, "POST", "check", json={"repair": True})["repair"] is True


def test_a_check_that_takes_long_is_answered_bit_by_bit() -> None:
    """A proxy gives up a connection on which nothing happens for a minute."""
    sent, _ = asyncio.run(_late_report({"exit_code": 0}, leaves=False))
    assert sent[0] == {"type": "http.response.start", "status": 200, "headers": sent[0]["headers"]}
    body = b"".join(each["body"] for each in sent[1:])
    assert re.fullmatch(rb'\n+\{"exit_code":0\}', body)
    assert [each.get("more_body", False) for each in sent[1:]][-2:] == [True, False]
    sent, _ = asyncio.run(_late_report({"error": "the store is away"}, leaves=False))
    assert b'"UNAVAILABLE","message":"the store is away"' in sent[-1]["body"]


def test_a_check_ends_with_the_connection_that_asked_for_it() -> None:
    _, stopped = asyncio.run(_late_report({}, leaves=True))
    assert stopped


async def _late_report(said: dict[str, Any], *, leaves: bool) -> tuple[list[Any], bool]:
    """What is sent by a check that is still under way, and whether it was told to stop."""
    making: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    stop, sent = asyncio.Event(), list[Any]()

    async def receive() -> dict[str, Any]:
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 2 and not leaves:
            making.set_result(said)

    response = operating._LateReport(making, stop)
    try:
        await response({}, receive, send)
    except ClientDisconnect:
        assert leaves
    return sent, stop.is_set()


@pytest.mark.thorough
def test_one_check_at_a_time(managed: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the registry goes on; a second check is told to wait."""

    async def both() -> list[int]:
        async with httpx.AsyncClient(
            base_url=managed.server.url, headers=managed.basic("admin"), timeout=60
        ) as client:
            asked = [client.post("/api/v1/check", json={"mode": "deep"}) for _ in range(20)]
            return [each.status_code for each in await asyncio.gather(*asked)]

    answers = asyncio.run(both())
    assert set(answers) <= {200, 429}
    assert 200 in answers
    # After all that none is left that keeps the next one out.
    ask(managed, "POST", "check", json={"mode": "fast"})


# --- a registry without accounts ------------------------------------------------------------------


def test_a_registry_without_accounts_takes_none_from_its_callers(
    server: UllageServer, client: httpx.Client
) -> None:
    """Any program on the machine could make the administrator of the day that --auth is added."""
    guarded = [route for route in ROUTES if route.permission.takes_accounts]
    assert len(guarded) == 14
    assert all(route.permission.audience is Audience.ADMINISTRATORS for route in guarded)
    for route in guarded:
        path = re.sub(r"\{\w+\}", "x", route.path)
        answer = client.request(route.method, path, json={"name": "x", "admin": True})
        assert answer.status_code == 403, route.path
        assert "this registry asks for no accounts" in answer.json()["errors"][0]["message"]
    for path in ("users", "tokens", "scope-maps", "keys", "audit", "uploads"):
        assert client.get(f"/api/v1/{path}").status_code == 200
    assert client.get("/api/v1/users").json() == {"users": []}


def test_accounts_of_a_file_are_no_administrators(tmp_path: Path) -> None:
    """They may do everything with repositories; making accounts would be one more thing."""
    hashed = bcrypt.hashpw(b"canary-password", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"ada:{hashed}\n")
    flags = ("--htpasswd", tmp_path / "htpasswd")
    with (
        UllageServer(tmp_path / "data", *flags) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        headers = basic("ada", "canary-password")
        assert client.get("/v2/_catalog", headers=headers).status_code == 200
        assert client.get("/api/v1/users", headers=headers).status_code == 401


# --- a first password that no log has -------------------------------------------------------------


@pytest.mark.thorough
def test_the_first_password_may_come_from_a_file_and_is_not_printed(tmp_path: Path) -> None:
    """docs/guides/running.md: a container's log is read by many."""
    file = tmp_path / "password"
    file.write_text("correct horse battery\n", encoding="utf-8")
    auth = ("--auth",)
    variables = {"ULLAGE_ADMIN_PASSWORD_FILE": str(file)}
    with UllageServer(tmp_path / "data", *auth, env=variables) as server:
        for password, status in (("correct horse battery", 200), ("another", 401)):
            answer = httpx.get(f"{server.url}/v2/", auth=("admin", password))
            assert answer.status_code == status
        assert "horse" not in server.log
        assert "Made the account" not in server.log
        # The first start has it; what becomes of the file afterwards changes nothing.
        file.unlink()
        server.restart()
        assert httpx.get(f"{server.url}/v2/", auth=("admin", "correct horse battery")).is_success


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (b"short\n", "a password has 8 to"),
        (b"changeme\n", "everybody tries first"),
        (b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8", "can't decode"),
    ],
)
def test_a_first_password_that_cannot_be_used_stops_the_start_in_one_line(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    place = ("--listen", "127.0.0.1:0", "--data", tmp_path / "data", "--auth")
    done = run_ullage("serve", *place, "--admin-password-file", file)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("ERROR: admin_password_file: ")
    assert why in done.stderr
    # Nothing was made that a right password would come too late for.
    file.write_bytes(b"correct horse battery")
    with UllageServer(tmp_path / "data", "--auth", "--admin-password-file", file) as server:
        assert httpx.get(f"{server.url}/v2/", auth=("admin", "correct horse battery")).is_success

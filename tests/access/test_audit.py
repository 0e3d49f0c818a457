"""Each change once, in order, with its account; no secret in it. reliability.md I22, S57, S60."""

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.access.house import CONFIG, MANIFEST, House, basic, bearer, digest_of, image
from tests.access.keep import OPERATOR, Keep
from tests.support.clock import FakeClock
from tests.support.registry import push_image
from tests.support.server import run_ullage
from ullage.accounts import scope_maps, signing_keys, tokens, users
from ullage.accounts.audit_log import TimeInvalid, list_audit
from ullage.accounts.names import AccountInvalid, AccountUnknown
from ullage.database.transaction import Transaction
from ullage.deletion import delete
from ullage.deletion.delete import delete_manifest
from ullage.documents import plain
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.queries import audit

PASSWORD = "a password that is long"


@pytest.fixture
def books(database_url: str, clock: FakeClock) -> Iterator[Keep]:
    """A registry without a server, on each engine in turn."""
    keep = Keep(database_url, clock)
    yield keep
    keep.registry.db.close()


def actions(keep: Keep) -> list[str]:
    """What the log says, oldest first."""
    return [entry.action for entry in reversed(list_audit(keep.registry))]


# --- one entry per change -------------------------------------------------------------------------


def test_each_command_leaves_one_entry(books: Keep) -> None:
    registry = books.registry
    books.user("ada", PASSWORD)
    users.set_password(registry, OPERATOR, "ada", PASSWORD + "!")
    users.update_user(registry, OPERATOR, "ada", status="disabled")
    scope_maps.create_scope_map(registry, OPERATOR, "map", [["a", "content/read"]])
    scope_maps.update_scope_map(registry, OPERATOR, "map", add=[["b", "content/read"]])
    books.token("ci", "content/read")
    tokens.update_token(registry, OPERATOR, "ci", status="disabled")
    tokens.generate_credentials(registry, OPERATOR, "ci")
    tokens.delete_credentials(registry, OPERATOR, "ci", ["password1"])
    tokens.delete_token(registry, OPERATOR, "ci")
    scope_maps.delete_scope_map(registry, OPERATOR, "map")
    users.delete_user(registry, OPERATOR, "ada")
    signing_keys.rotate_key(registry, OPERATOR)
    assert actions(books) == [
        "user.create",
        "user.password",
        "user.update",
        "scope-map.create",
        "scope-map.update",
        "token.create",
        "token.update",
        "token.credential.generate",
        "token.credential.delete",
        "token.delete",
        "scope-map.delete",
        "user.delete",
        "key.rotate",
    ]


def test_a_deleted_repository_is_described(books: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    """S57: how much went, and what, as far as a thousand manifests; here two."""
    registry = books.registry
    monkeypatch.setattr(delete, "MOST_AUDITED", 2)
    digests = sorted(push_image(registry, "a", f"v{n}", [f"layer {n}".encode()]) for n in range(3))
    delete.delete_repository(registry, RepositoryName("a"), OPERATOR)
    entry = list_audit(registry)[0]
    assert (entry.action, entry.repository) == ("repository.delete", "a")
    assert entry.detail == {
        "manifest_count": 3,
        "tag_count": 3,
        # One config for all.
        "bytes": len("{}") + 3 * len("layer 0"),
        "manifests": digests[:2],
    }


def test_an_entry_says_when_which_account_from_where_and_what(books: Keep) -> None:
    books.user("ada", PASSWORD, admin=True)
    [entry] = list_audit(books.registry)
    assert plain(entry) == {
        "id": entry.id,
        "at": books.clock().isoformat(),
        "subject": "operator",
        "address": "local",
        "request_id": "r-1",
        "action": "user.create",
        "repository": None,
        "target": "ada",
        "detail": {"admin": True, "scopeMap": None},
    }


def test_what_is_read_or_refused_leaves_none(books: Keep) -> None:
    registry = books.registry
    books.user("ada", PASSWORD, admin=True)
    users.list_users(registry)
    users.show_user(registry, "ada")
    for attempt, error in (
        (lambda: books.user("ada", PASSWORD), AccountInvalid),
        (lambda: books.user("bob", "short"), AccountInvalid),
        (lambda: books.user("b b", PASSWORD), AccountInvalid),
        (lambda: users.delete_user(registry, OPERATOR, "ada"), AccountInvalid),
        (lambda: tokens.delete_token(registry, OPERATOR, "none"), AccountUnknown),
        (lambda: users.update_user(registry, OPERATOR, "ada"), AccountInvalid),
    ):
        with pytest.raises(error):
            attempt()
    assert actions(books) == ["user.create"]


def test_an_entry_is_there_exactly_if_its_change_is(books: Keep) -> None:
    """In the same transaction: one that fails at its very end leaves neither."""
    books.user("ada", PASSWORD)
    write = books.registry.db.write

    class PowerCut(Exception):
        pass

    def cut(work: Any, **options: Any) -> Any:
        def work_and_fail(tx: Transaction) -> Any:
            work(tx)
            raise PowerCut

        return write(work_and_fail, **options)

    books.registry.db.write = cut  # type: ignore[method-assign]
    with pytest.raises(PowerCut):
        users.set_password(books.registry, OPERATOR, "ada", PASSWORD + "!")
    books.registry.db.write = write  # type: ignore[method-assign]
    assert actions(books) == ["user.create"]
    assert books.lets_in("ada", PASSWORD)


def test_entries_are_numbered_in_the_order_of_their_commits(books: Keep) -> None:
    """I22: also when many write at once, a reader of all up to a number has seen all before it."""
    seen: list[list[int]] = []
    stop = threading.Event()

    def write(number: int) -> None:
        for step in range(5):
            caller = Caller(f"w{number}", "192.0.2.1", "test", f"{number}-{step}")
            scope_maps.create_scope_map(
                books.registry, caller, f"map-{number}-{step}", [["a", "content/read"]]
            )

    def read() -> None:
        while not stop.is_set():
            found = books.registry.read(lambda tx: audit.entries(tx, limit=1000))
            seen.append(sorted(entry.id for entry in found))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    reader.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    final = sorted(entry.id for entry in list_audit(books.registry, top=1000))
    assert len(final) == 30
    for snapshot in seen:
        assert snapshot == final[: len(snapshot)], "an entry appeared behind a later one"


def test_the_list_is_filtered_by_everything_asked_for(books: Keep) -> None:
    registry = books.registry
    digest = push_image(registry, "team/app", "v1", [b"layer"])
    books.advance(3600)
    books.user("ada", PASSWORD)
    delete_manifest(registry, "team/app", digest, OPERATOR)  # type: ignore[arg-type]
    assert [e.action for e in list_audit(registry, subject="operator")] == [
        "manifest.delete",
        "user.create",
    ]
    assert {e.subject for e in list_audit(registry, repository="team/app")} == {
        "alice",
        "operator",
    }
    assert [e.target for e in list_audit(registry, action="manifest.push")] == [digest]
    assert len(list_audit(registry, since="30m")) == 2
    assert len(list_audit(registry, until="30m")) == len(list_audit(registry)) - 2
    assert list_audit(registry, since=books.clock().isoformat(), action="user.create")
    assert not list_audit(registry, subject="unknown")
    assert len(list_audit(registry, top=1)) == 1
    for wrong in ("yesterday", "", "1y", "2026-13-01"):
        with pytest.raises(TimeInvalid):
            list_audit(registry, since=wrong)


def test_each_acknowledged_request_leaves_one_entry_with_its_id(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """I22, end to end: pushes and deletions, and none for what was refused."""
    with House(tmp_path_factory.mktemp("audited") / "data") as house:
        house.token("writer", ["team/*", "content/read", "content/write"])
        done = _everything_a_client_does(house)
        log = house.manage("audit list", top=1000)
        by_request = [e["request_id"] for e in log if e["request_id"].startswith("do-")]
        assert sorted(by_request) == sorted(done)
        [deleted] = [e for e in log if e["request_id"] == "do-delete-manifest"]
        assert deleted["address"] == "127.0.0.1"
        assert deleted["subject"] == "admin"
        assert deleted["detail"]["freed_bytes"] > 0


def _everything_a_client_does(house: House) -> list[str]:
    """Every kind of change once, and a refusal of each; the request ids that must be there."""
    layer, other = b"the layer", uuid.uuid4().bytes
    raw = image(layer)
    done = []

    def do(what: str, method: str, path: str, status: int, **options: Any) -> None:
        kind = {"Content-Type": options.pop("kind", "application/octet-stream")}
        url = f"/v2/{path}"
        refused = house.client.request(
            method, url, headers=basic("writer", "no") | kind | {"X-Request-Id": "do-no"}, **options
        )
        assert refused.status_code in (401, 429)
        response = house.client.request(
            method, url, headers=house.basic("admin") | kind | {"X-Request-Id": what}, **options
        )
        assert response.status_code == status, response.text
        done.append(what)

    for number, data in enumerate((CONFIG, layer, other)):
        query = {"digest": digest_of(data)}
        path = "team/app/blobs/uploads/"
        do(f"do-blob-{number}", "POST", path, 201, params=query, content=data)
    mount = {"mount": digest_of(layer), "from": "team/app"}
    do("do-mount", "POST", "team/b/blobs/uploads/", 201, params=mount)
    do("do-manifest", "PUT", "team/app/manifests/v1", 201, content=raw, kind=MANIFEST)
    do("do-delete-blob", "DELETE", f"team/app/blobs/{digest_of(other)}", 202)
    do("do-delete-tag", "DELETE", "team/app/manifests/v1", 202)
    do("do-delete-manifest", "DELETE", f"team/app/manifests/{digest_of(raw)}", 202)
    return done


# --- secrets --------------------------------------------------------------------------------------


def test_no_secret_is_ever_written_anywhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """S57, S60, CVE-2025-48374: canaries in every place where a credential can be typed."""
    data = tmp_path_factory.mktemp("canary") / "data"
    with House(data) as house:
        canaries = _use_every_credential(house)
        shown = [
            str(house.manage(command, **arguments))
            for command, arguments in (
                ("audit list", {"top": 1000}),
                ("user list", {}),
                ("token list", {}),
                ("token show", {"name": "ci"}),
            )
        ]
        stopped = house.server.terminate()
        log = house.server.log
    assert stopped == 0
    listed = run_ullage("audit", "list", "--data", data, "-o", "json").stdout
    stored = b"".join(
        path.read_bytes()
        for path in data.rglob("*")
        if path.is_file() and "blobs" not in path.parts
    )
    for canary in canaries:
        assert canary not in log
        assert canary not in listed
        assert not any(canary in text for text in shown)
        assert canary.encode() not in stored


def _use_every_credential(house: House) -> list[str]:
    """Type secrets into every input there is, right and wrong ones; all of them."""
    client = house.client
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    house.manage("user create", name="ada", password="canary-user-password")
    house.manage("user password", name="ada", password="canary-next-password")
    made = house.manage("token create", name="ci", repositories=[["*", "content/read"]])
    secrets = [p["value"] for p in made["credentials"]["passwords"]]
    secrets += ["canary-user-password", "canary-next-password", house.ADMIN_PASSWORD]

    def bad(canary: str) -> str:
        secrets.append(canary)
        return canary

    def send(response: httpx.Response) -> None:
        assert not any(secret in response.text for secret in secrets if "canary" in secret)

    send(client.get("/v2/", headers=basic("ada", "canary-next-password")))
    send(client.get("/v2/", headers=basic("ada", bad("canary-wrong-basic"))))
    send(client.get("/v2/", headers=bearer(bad("canary-wrong-bearer"))))
    send(client.get("/v2/", headers={"Authorization": bad("canary-no-scheme")}))
    send(client.get("/v2/", headers={"Proxy-Authorization": bad("canary-proxy")}))
    send(client.get("/v2/", headers={"Cookie": bad("canary-cookie=1")}))
    send(client.get("/v2/", params={"token": bad("canary-query")}))
    send(client.get("/oauth2/token", params={"refresh_token": bad("canary-token-query")}))
    for number, fields in enumerate(
        (
            {"grant_type": "password", "username": "ada"},
            {"grant_type": "refresh_token"},
            {"grant_type": "password", "username": bad("canary-as-name")},
            {"grant_type": "nonsense"},
        )
    ):
        for field in ("password", "refresh_token", "access_token", "client_secret"):
            fields[field] = bad(f"canary-form-{number}-{field}")
        for path in ("/oauth2/token", "/oauth2/exchange"):
            send(client.post(path, content=urlencode(fields), headers=form))
    account = {"scope": "repository:a:pull", "offline_token": "true"}
    answer = client.get("/oauth2/token", params=account, headers=house.basic("admin")).json()
    secrets += [answer["access_token"], answer["refresh_token"]]
    client.get("/v2/a/tags/list", headers=bearer(answer["access_token"]))
    return secrets


def test_passwords_are_stored_as_argon2id_only(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """S60, for users and tokens alike."""
    data: Path = tmp_path_factory.mktemp("hashes") / "data"
    with House(data) as house:
        house.token("ci", ["*", "content/read"])
        house.server.terminate()
    with sqlite3.connect(data / "ullage.db") as database:
        hashes = [row[0] for row in database.execute("SELECT password_hash FROM users")]
        hashes += [row[0] for row in database.execute("SELECT password_hash FROM token_passwords")]
    database.close()
    assert len(hashes) == 3
    assert all(hashed.startswith("$argon2id$v=19$m=") for hashed in hashes)
    assert len(set(hashes)) == 3


def test_what_is_stored_is_for_the_owner_only(house: House) -> None:
    """S59: keys and hashes lie in the data folder."""
    found = (house.server.data, *house.server.data.rglob("*"))
    assert [path for path in found if _mode(path) & 0o077] == []


def _mode(path: Path) -> int:
    """0 for what has gone meanwhile: the registry gives space back while this looks."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def test_indexes_count_as_changes_too(house: House) -> None:
    before = len(house.manage("audit list", action="manifest.push", top=1000))
    house.push_index("team/audited")
    after = house.manage("audit list", action="manifest.push", top=1000)
    assert len(after) == before + 1
    assert after[0]["repository"] == "team/audited"

"""What went wrong in other registries and their libraries: reliability.md section 3.1, by name.

Each test shows that the same request does nothing here. More on each theme is in the tests next
door: test_matrix, test_isolation, test_token_fuzz, test_audit.
"""

import base64
import inspect
import json
import random
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

import ullage
from tests.access.house import (
    CONFIG,
    INDEX,
    MANIFEST,
    House,
    basic,
    bearer,
    digest_of,
    empty_index,
    image,
)
from tests.access.keep import OPERATOR, Keep
from tests.access.test_token_fuzz import Forger, b64, es256, forger_for
from ullage.accounts import authenticator as authenticator
from ullage.accounts import htpasswd, passwords, users
from ullage.accounts.jwt import TokenInvalid
from ullage.accounts.names import AccountInvalid
from ullage.control import ask_control
from ullage.server.app import ROUTES

MANIFEST_LIMIT = 4 * 1024 * 1024
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def put(house: House, raw: bytes, media_type: str, **headers: str) -> httpx.Response:
    return house.client.put(
        f"/v2/team/advisory/manifests/{digest_of(raw)}",
        content=raw,
        headers=house.basic("writer") | {"Content-Type": media_type} | headers,
    )


# --- CNCF distribution ----------------------------------------------------------------------------


def test_cve_2017_11468_a_manifest_is_not_read_without_bound(house: House) -> None:
    """4 MiB and no more, with a length and without one; the answer does not wait for the rest."""
    too_long = b" " * (MANIFEST_LIMIT + 1)
    assert put(house, too_long, INDEX).status_code == 413
    raw = empty_index()
    padded = raw + b" " * (MANIFEST_LIMIT - len(raw))
    assert put(house, padded, INDEX).status_code == 201
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 20
            yield b" " * (1 << 20)

    try:
        response = house.client.put(
            "/v2/team/advisory/manifests/v1",
            content=endless(),
            headers=house.basic("writer") | {"Content-Type": INDEX},
        )
        assert response.status_code == 413
    except httpx.HTTPError:
        pass  # It closed the connection in the middle, as it may.
    assert sent < 1 << 28


@pytest.mark.parametrize("media_type", [INDEX, MANIFEST])
def test_cve_2021_41190_what_is_both_manifest_and_index_is_refused(
    house: House, media_type: str
) -> None:
    """Two clients would read two different things under one digest."""
    house.push_image("team/advisory", "v1", b"layer", "writer")
    both = json.loads(image(b"layer")) | {"manifests": []}
    for claimed in (MANIFEST, INDEX, None):
        manifest = {k: v for k, v in both.items() if k != "mediaType"}
        if claimed:
            manifest["mediaType"] = claimed
        response = put(house, json.dumps(manifest).encode(), media_type)
        assert response.status_code == 400
        assert response.json()["errors"][0]["code"] == "MANIFEST_INVALID"
    mismatched = INDEX if media_type == MANIFEST else MANIFEST
    for raw in (image(b"layer"), empty_index()):
        own = json.loads(raw)["mediaType"]
        if own == mismatched:
            assert put(house, raw, media_type).status_code == 400


@pytest.mark.parametrize("n", ["2147483648", str(10**19 - 1), "10000000000000000000000000000000"])
def test_cve_2023_2253_a_huge_page_size_allocates_nothing(house: House, n: str) -> None:
    for path in ("/v2/_catalog", "/v2/team/app/tags/list"):
        began = time.perf_counter()
        response = house.client.get(path, params={"n": n}, headers=house.basic("admin"))
        assert response.status_code in (200, 400)
        assert time.perf_counter() - began < 2


@pytest.mark.parametrize("n", ["-1", "1e9", "\u0661", "0x10", " 1", "1_000", "", "NaN"])
def test_cve_2023_2253_what_is_no_page_size_is_refused(house: House, n: str) -> None:
    response = house.client.get("/v2/_catalog", params={"n": n}, headers=house.basic("admin"))
    assert response.status_code == 400
    assert response.json()["errors"][0]["code"] == "PAGINATION_NUMBER_INVALID"


def test_cve_2025_24976_a_key_in_the_tokens_own_header_proves_nothing(keep: Keep) -> None:
    """distribution's token authentication: `jwk` accepted without a trust check."""
    forger = forger_for(keep)
    stranger = forger.stranger.private
    numbers = stranger.public_key().public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": b64(numbers.x.to_bytes(32, "big")),
        "y": b64(numbers.y.to_bytes(32, "big")),
    }
    for header in (forger.header(jwk=jwk), {"alg": "ES256", "jwk": jwk}):
        token = forger.with_signature(header, forger.good, lambda text: es256(stranger, text))
        with pytest.raises(TokenInvalid):
            keep.door.bearer(token)


def test_cve_2026_35172_what_is_deleted_in_one_repository_stays_deleted_there(
    house: House,
) -> None:
    """A membership cache brought it back when a client read the same blob elsewhere."""
    layer = uuid.uuid4().bytes
    admin = house.basic("admin")
    for name in ("team/first", "rival/second"):
        house.push_image(name, "v1", layer)
    manifest, blob = digest_of(image(layer)), digest_of(layer)
    paths = (f"manifests/{manifest}", "manifests/v1", f"blobs/{blob}")
    deleted = house.client.delete(f"/v2/team/first/manifests/{manifest}", headers=admin)
    assert deleted.status_code == 202
    for _ in range(2):
        for path in paths:
            there = house.client.get(f"/v2/rival/second/{path}", headers=admin)
            gone = house.client.get(f"/v2/team/first/{path}", headers=admin)
            assert (there.status_code, gone.status_code) == (200, 404)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
@pytest.mark.parametrize(
    "who", ["reader", "writer", "metadata-reader", "metadata-writer", "other-tenant"]
)
def test_cve_2026_41888_no_way_of_deleting_forgets_the_right_to(
    house: House, who: str, kind: str
) -> None:
    """There, DELETE of a tag went round the switch that DELETE of a digest obeyed."""
    layer = f"{who} {kind}".encode()
    manifest = house.push_image("team/kept", "v1", layer)
    blob = house.push_blob("team/kept", uuid.uuid4().bytes)
    headers = house.basic(who) if kind == "basic" else house.bearer(who, "repository:team/kept:*")
    ways = [route.path for route in ROUTES if route.method == "DELETE"]
    assert sorted(ways) == [
        "/acr/v1/{name}",
        "/acr/v1/{name}/_tags/{tag}",
        # What these take is deleted already: S21, in the matrix.
        "/api/v1/deleted",
        "/api/v1/deleted/{operation}",
        # What a cluster reported, which protects images: the matrix.
        "/api/v1/deployments/{source}",
        # These cancel a job and lift a lock; nothing is deleted.
        "/api/v1/jobs/{job}",
        # Accounts and their rights, for administrators: the matrix.
        "/api/v1/keys/{key}",
        "/api/v1/locks",
        # A rule for tags that are written once: the rights of policies, in the matrix.
        "/api/v1/policies/immutable-tags",
        "/api/v1/scope-maps/{scope_map}",
        "/api/v1/tokens/{token}",
        "/api/v1/tokens/{token}/credentials",
        # Upload sessions of others, which are no images yet.
        "/api/v1/uploads",
        "/api/v1/users/{user}",
        "/v2/{name}/blobs/uploads/{session}",
        "/v2/{name}/blobs/{digest}",
        "/v2/{name}/manifests/{reference}",
    ], "a new way of deleting needs a line here"
    for path in (
        "/acr/v1/team/kept",
        "/acr/v1/team/kept/_tags/v1",
        f"/v2/team/kept/manifests/{manifest}",
        "/v2/team/kept/manifests/v1",
        f"/v2/team/kept/blobs/{blob}",
    ):
        assert house.client.delete(path, headers=headers).status_code == 401
        found = house.client.get(path, headers=house.basic("admin"))
        assert found.status_code == 200


# --- zot ------------------------------------------------------------------------------------------


def test_cve_2024_39897_a_digest_is_no_key_to_another_tenants_blob(house: House) -> None:
    """zot's deduplication cache answered HEAD, and mounts, from other tenants' repositories."""
    digest = digest_of(b"the layer of rival/app")
    writer = house.basic("writer")
    for name in ("team/app", "team/absent"):
        for method in ("HEAD", "GET"):
            path = f"/v2/{name}/blobs/{digest}"
            assert house.client.request(method, path, headers=writer).status_code == 404
    for query in ({"mount": digest}, {"mount": digest, "from": "rival/app"}):
        response = house.client.post("/v2/team/app/blobs/uploads/", params=query, headers=writer)
        assert response.status_code == 202


def test_cve_2026_31801_no_tag_is_special_to_a_caller_that_may_not_write(house: House) -> None:
    """zot: an account that could only create could overwrite `latest`."""
    house.push_image("team/special", "latest", b"the one")
    before = house.client.get("/v2/team/special/manifests/latest", headers=house.basic("admin"))
    for who in ("reader", "deleter", "metadata-writer", "other-tenant"):
        response = house.client.put(
            "/v2/team/special/manifests/latest",
            content=empty_index(),
            headers=house.basic(who) | {"Content-Type": INDEX},
        )
        assert response.status_code == 401
    after = house.client.get("/v2/team/special/manifests/latest", headers=house.basic("admin"))
    assert after.content == before.content


def test_cve_2025_48374_credentials_do_not_reach_the_log(house: House) -> None:
    """zot logged them. All inputs: test_audit, test_no_secret_is_ever_written_anywhere."""
    canary = f"canary-{uuid.uuid4().hex}"
    house.client.get("/v2/", headers=basic("reader", canary))
    house.client.get("/v2/", headers=bearer(canary))
    house.client.get("/v2/", params={"token": canary})
    form = urlencode({"grant_type": "password", "username": "reader", "password": canary})
    house.client.post("/oauth2/token", content=form, headers=FORM)
    time.sleep(0.3)
    assert "/oauth2/token" in house.server.log
    assert canary not in house.server.log


# --- Harbor ---------------------------------------------------------------------------------------


def test_cve_2019_16097_no_request_makes_its_sender_an_administrator(house: House) -> None:
    """Harbor took `has_admin_role` from the form of a new user."""
    form = {
        "grant_type": "password",
        "username": "reader",
        "password": house.passwords["reader"],
        "scope": "registry:admin:* repository:*:* registry:catalog:*",
        "admin": "true",
        "has_admin_role": "true",
        "access": '[{"type":"repository","name":"*","actions":["delete"]}]',
        "sub": "admin",
        "gen": "0",
    }
    response = house.client.post("/oauth2/token", content=urlencode(form), headers=FORM)
    payload = response.json()["access_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["sub"] == "reader"
    assert claims["access"] == [
        # Of all that the account may pull.
        {"type": "repository", "name": "*", "actions": ["pull"]},
        {"type": "registry", "name": "catalog", "actions": ["*"]},
    ]
    shown = bearer(response.json()["access_token"])
    assert house.client.get("/v2/team/app/tags/list", headers=shown).status_code == 200
    assert house.client.get("/v2/rival/app/tags/list", headers=shown).status_code == 401
    assert house.client.delete("/v2/team/app/manifests/v1", headers=shown).status_code == 401


def test_cve_2019_16097_commands_take_no_fields_that_they_do_not_have(house: House) -> None:
    """The control socket: strict arguments, and nothing of them is done."""
    for command, arguments in (
        ("user create", {"name": "mallory", "password": "long enough", "has_admin_role": True}),
        ("user create", {"name": "mallory", "password": "long enough", "generation": 1}),
        ("token create", {"name": "mallory", "repositories": [["*", "content/read"]], "sub": "x"}),
        ("user update", {"name": "reader", "password_hash": "x"}),
        ("user drop", {"name": "reader"}),
    ):
        request = {"do": "manage", "command": command, "arguments": arguments}
        answers = ask_control(house.server.data / "control.sock", request)
        assert answers is not None
        [answer] = answers
        assert answer["code"] == "COMMAND_INVALID"
    assert "mallory" not in {user["name"] for user in house.manage("user list")}
    assert "mallory" not in {token["name"] for token in house.manage("token list")}


@pytest.mark.parametrize(
    "path",
    [
        "/v2/_catalog/",
        "/v2//_catalog",
        "//v2/_catalog",
        "/v2/./_catalog",
        "/v2/x/../_catalog",
        "/v2/%5fcatalog",
        "/v2%2f_catalog",
        "/V2/_catalog",
        "/v2/_CATALOG",
        "/v2/_catalog;x=y",
        "/v2/_catalog%00",
        "/v2/_catalog%20",
        "/v2/_catalog%3fn=1",
        "/v2/_catalog/tags/list",
        "/v2/team%2fapp/tags/list",
        "/v2/team/app/tags/list/",
        "/v2/team/app/../../rival/app/tags/list",
        "/v2/rival%2fapp/tags/list",
    ],
)
def test_cve_2020_29662_no_other_spelling_of_a_path_is_open(house: House, path: str) -> None:
    """Harbor: `/v2/_catalog/` was served without authentication."""
    for headers in ({}, house.basic("reader")):
        # http.client: httpx would tidy the path up.
        status = house.status("GET", path, headers)
        allowed = bool(headers) and path == "/v2/team%2fapp/tags/list"
        assert (status == 200) == allowed, (status, headers)


@pytest.mark.parametrize("name", ["reader", "admin", "other-tenant", "unknown"])
def test_cve_2019_19030_cve_2020_13794_names_cannot_be_told_apart(house: House, name: str) -> None:
    """A wrong password of an account, and any of none: the same answer everywhere."""
    seen = set()
    for user in (name, "certainly-unknown"):
        wrong = basic(user, "wrong-" + uuid.uuid4().hex)
        form = urlencode({"grant_type": "password", "username": user, "password": "wrong"})
        answers = [
            house.client.get("/v2/", headers=wrong),
            house.client.get("/oauth2/token", headers=wrong),
            house.client.post("/oauth2/token", content=form, headers=FORM),
        ]
        seen.add(tuple((answer.status_code, answer.text) for answer in answers))
    # Unless one of the two was slowed for what another test got wrong.
    assert len(seen) == 1 or any(status == 429 for answers in seen for status, _ in answers)


def test_cve_2023_20902_cve_2025_59350_secrets_are_compared_in_constant_time() -> None:
    """Harbor and Dragonfly compared with ==. Here no secret is compared outside of libraries."""
    source = "".join(map(inspect.getsource, (authenticator, htpasswd, passwords)))
    for comparison in ("password ==", "== password", "hashed ==", "== hashed", "secret =="):
        assert comparison not in source
    for compared in ("_HASHER.verify", "bcrypt.checkpw", "hmac.new"):
        assert compared in source


@pytest.mark.parametrize(
    "password",
    ["", "admin", "password", "Harbor12345", "changeme", "short", "CHANGEME", "x" * 1025],
)
def test_cve_2026_4404_no_default_password_works_or_can_be_chosen(
    keep: Keep, password: str
) -> None:
    users.ensure_admin(keep.registry, OPERATOR)
    assert not keep.lets_in("admin", password)
    with pytest.raises(AccountInvalid):
        users.set_password(keep.registry, OPERATOR, "admin", password)


# --- Quay, Clair, Kraken, Gitea, AWS --------------------------------------------------------------


def test_cve_2026_32589_an_upload_of_another_repository_is_not_there(house: House) -> None:
    """Quay: its id was enough. By method and account: test_isolation."""
    location = house.open_upload("team/app", house.basic("writer"))
    session = location.rpartition("/")[2]
    foreign = f"/v2/rival/app/blobs/uploads/{session}"
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        path = foreign + f"?digest={digest_of(b'')}"
        response = house.client.request(method, path, headers=house.basic("other-tenant"))
        assert response.status_code == 404
    assert house.client.get(location, headers=house.basic("writer")).status_code == 204


@pytest.mark.parametrize(
    "path",
    [
        "/v2/team/app/blobs/sha256:../../../../etc/passwd",
        "/v2/team/app/blobs/sha256:..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/v2/team/app/blobs/..%2f..%2fullage.db",
        "/v2/team/app/blobs/uploads/..%2f..%2fullage.db",
        "/v2/team/app/blobs/uploads/../../ullage.db",
        "/v2/team/app/blobs/uploads/{0e3c7a1c-0000-4000-8000-000000000000}",
        "/v2/team/app/manifests/..%2f..%2fullage.db",
        "/v2/..%2f..%2fetc/manifests/passwd",
        "/v2/team/%2e%2e/rival/app/manifests/v1",
        "/v2/team%5c..%5crival/app/manifests/v1",
        "/v2/team/app%00/manifests/v1",
        "/v2/team/app/manifests/v1%00",
        "/..%2F..%2F..%2Fetc/passwd",
        "//..%2F..%2Fetc/passwd",
        "/static/../ullage.db",
    ],
)
def test_cve_2021_3762_cve_2022_47747_cve_2024_4956_no_name_leads_out_of_its_folder(
    house: House, path: str
) -> None:
    """claircore, kraken, Nexus: client strings that became paths of files."""
    for method in ("GET", "HEAD", "DELETE", "PUT"):
        status = house.status(method, path, house.basic("admin"))
        assert status in (400, 404, 405), (method, status)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_cve_2025_68944_a_scoped_token_is_scoped_however_it_is_shown(
    house: House, kind: str
) -> None:
    """Gitea forgot the scopes of tokens that came by Basic; and S9, repository-scoped tokens."""
    headers = (
        house.basic("reader")
        if kind == "basic"
        else house.bearer("reader", "repository:team/app:*", "repository:rival/app:*")
    )
    tries = {
        ("GET", "/v2/team/app/tags/list"): 200,
        ("GET", "/v2/rival/app/tags/list"): 401,
        ("POST", "/v2/team/app/blobs/uploads/"): 401,
        ("DELETE", "/v2/team/app/manifests/v1"): 401,
    }
    for (method, path), status in tries.items():
        assert house.client.request(method, path, headers=headers).status_code == status


def test_cve_2025_68944_a_bearer_of_an_administrator_is_as_narrow_as_it_was_asked_for(
    house: House,
) -> None:
    narrow = house.bearer("admin", "repository:team/app:pull")
    assert house.client.get("/v2/team/app/tags/list", headers=narrow).status_code == 200
    assert house.client.get("/v2/rival/app/tags/list", headers=narrow).status_code == 401
    deleted = house.client.delete("/v2/team/app/manifests/v1", headers=narrow)
    assert deleted.status_code == 401


def test_cve_2026_28740_an_object_that_exists_elsewhere_is_not_handed_over(house: House) -> None:
    """Gitea LFS: announcing a known digest linked another user's private object."""
    secret = digest_of(b"the layer of rival/app")
    writer = house.basic("writer")
    for query in ({"mount": secret}, {"digest": secret}, {"mount": secret, "digest": secret}):
        house.client.post("/v2/team/app/blobs/uploads/", params=query, headers=writer)
    raw = image(b"the layer of rival/app")
    house.push_blob("team/app", CONFIG, "writer")
    pushed = house.client.put(
        "/v2/team/app/manifests/mine",
        content=raw,
        headers=writer | {"Content-Type": MANIFEST},
    )
    assert pushed.status_code == 400
    assert house.client.get(f"/v2/team/app/blobs/{secret}", headers=writer).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/v2/team/app/blobs",
        "/v2/_uploads",
        "/v2/team/app/_layers",
        "/internal/replicate",
        "/api/v1/repositories",
        "/admin",
        "/debug/pprof",
        "/debug/vars",
        "/openapi.json",
        "/docs",
        "/health",
    ],
)
def test_ecr_public_2022_no_hidden_routes(house: House, path: str) -> None:
    """Lightspin, 2022: undocumented internal APIs deleted in foreign repositories.

    test_matrix compares the router with the documented list; this knocks at usual places. S66.
    """
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert house.status(method, path, house.basic("admin")) == 404


# --- libraries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "bytes=" + "0-0," * 500 + "0-0",
        "bytes=" + ",".join(f"{n}-" for n in range(300)),
        "bytes=" + "-" * 5000,
        "bytes=" + " " * 5000 + "0-1",
        "bytes=" + "9" * 5000 + "-",
        "bytes=0-" + "9" * 5000,
    ],
)
def test_cve_2025_62727_a_range_header_costs_nothing(house: House, header: str) -> None:
    """Starlette's FileResponse: quadratic in the length of Range. S38: one range, or all of it."""
    path = f"/v2/team/app/blobs/{digest_of(b'the layer of team/app')}"
    began = time.perf_counter()
    response = house.client.get(path, headers=house.basic("reader") | {"Range": header})
    assert time.perf_counter() - began < 2
    assert response.status_code in (200, 416)


def test_cve_2020_7694_nothing_a_client_sends_moves_the_terminal(house: House) -> None:
    """uvicorn logged escape sequences as they were. More: test_logs."""
    house.client.get("/v2/%1b%5b2J%1b%5d0;owned%07/tags/list")
    time.sleep(0.3)
    assert "\x1b" not in house.server.log
    assert "owned" in house.server.log


def test_cve_2020_7695_nothing_a_client_sends_splits_an_answer(house: House) -> None:
    """uvicorn: CR and LF in a path became headers."""
    hostile = "%0d%0aX-Injected:%20yes"
    for path in (
        f"/v2/team/app{hostile}/tags/list",
        f"/v2/team/app/manifests/v1{hostile}",
        f"/v2/_catalog?last=a{hostile}&n=1",
        f"/v2/team/app/blobs/uploads/{hostile}",
    ):
        response = house.client.get(path, headers=house.basic("admin"))
        assert "x-injected" not in response.headers


@pytest.mark.parametrize("trick", ["public_key_as_secret", "other_algorithm", "no_algorithm"])
def test_cve_2022_29217_cve_2017_11424_cve_2024_37568_cve_2016_7036_one_algorithm_per_key(
    keep: Keep, trick: str
) -> None:
    """PyJWT, Authlib, python-jose: the token chose the algorithm. The rest: test_token_fuzz."""
    forger: Forger = forger_for(keep)
    chance = random.Random(trick)
    for _ in range(300):
        with pytest.raises(TokenInvalid):
            keep.door.bearer(getattr(forger, trick)(chance))


def test_cve_2024_27454_nested_json_is_refused_before_it_is_parsed(house: House) -> None:
    """orjson recursed without a limit; so does a program that trusts a parser with depth."""
    for raw in (
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"schemaVersion":2,"annotations":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ):
        response = put(house, raw, INDEX)
        assert response.status_code == 400
        assert response.json()["errors"][0]["code"] == "MANIFEST_INVALID"
    deep = b64(b"[" * 5000)
    token = f"{deep}.{deep}.{deep}"[:15_000]
    assert house.client.get("/v2/", headers=bearer(token)).status_code == 401


def test_cve_2024_24762_no_multipart_parser_is_there_to_be_attacked() -> None:
    """python-multipart: not even installed with us, and never imported."""
    folder = Path(inspect.getfile(ullage)).parent
    for path in folder.rglob("*.py"):
        source = path.read_text()
        assert "import multipart" not in source, path
        assert "request.form(" not in source, path


def test_client_side_advisories_no_answer_sends_credentials_elsewhere(house: House) -> None:
    """CVE-2020-15157, CVE-2026-50151 and others: realm, Location and Link stay with us."""
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil"}
    writer = house.basic("writer")
    answers = [
        house.client.post("/v2/team/app/blobs/uploads/", headers=writer | evil),
        house.client.get("/v2/_catalog?n=1", headers=house.basic("admin") | evil),
    ]
    for answer in answers:
        for header in ("location", "link"):
            value = answer.headers.get(header, "/").lstrip("<")
            assert value.startswith("/")
            assert not value.startswith("//")
    forwarded = house.client.get("/v2/", headers={"X-Forwarded-Host": "evil.example"})
    assert "evil" not in forwarded.headers["www-authenticate"]

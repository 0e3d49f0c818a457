"""`/oauth2/`: every form that every client sends. azure.md sections 1.2 to 1.4 and 1.6."""

import base64
import json
import time
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.access.house import House, basic, bearer

NULL_USER = "00000000-0000-0000-0000-000000000000"
PULL = "repository:team/app:pull"


def claims(token: str) -> dict[str, Any]:
    """A token's payload, unverified, as acr-cli and Azure's SDK read it."""
    payload = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return decoded


def post(house: House, path: str = "/oauth2/token", **form: str | list[str]) -> httpx.Response:
    return house.client.post(
        path,
        content=urlencode(form, doseq=True),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )


def access(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = claims(response.json()["access_token"])["access"]
    return found


def refresh_token(house: House, name: str = "reader") -> str:
    response = house.client.get(
        "/oauth2/token", params={"offline_token": "true"}, headers=house.basic(name)
    )
    return str(response.json()["refresh_token"])


def may_pull(house: House, token: str) -> bool:
    response = house.client.get("/v2/team/app/manifests/v1", headers=bearer(token))
    return response.status_code == 200


# --- the caller ----------------------------------------------------------------------------------


def test_az_logs_in_with_the_password_grant(house: House) -> None:
    """azure.md section 1.2, az -u/-p."""
    response = post(
        house,
        service=house.server.host,
        grant_type="password",
        username="reader",
        password=house.passwords["reader"],
        scope=PULL,
    )
    assert access(response) == [{"type": "repository", "name": "team/app", "actions": ["pull"]}]
    assert may_pull(house, response.json()["access_token"])


def test_the_sdk_asks_as_anonymous_with_the_password_grant(house: House) -> None:
    """azure.md section 1.2, Python SDK anonymous: no user, no password, and an api-version."""
    response = post(
        house,
        "/oauth2/token?api-version=2021-07-01",
        service=house.server.host,
        scope="repository:open/app:pull",
        grant_type="password",
    )
    assert access(response) == [{"type": "repository", "name": "open/app", "actions": ["pull"]}]


def test_docker_asks_with_basic(house: House) -> None:
    """azure.md section 1.3, with repeated scopes."""
    response = house.client.get(
        "/oauth2/token",
        params={"service": house.server.host, "scope": [PULL, "repository:team/b:pull"]},
        headers=house.basic("reader"),
    )
    assert [entry["name"] for entry in access(response)] == ["team/app", "team/b"]


def test_docker_login_asks_without_a_scope(house: House) -> None:
    """azure.md section 1.3: a wrong password must be a 401 there."""
    query = {"account": "reader", "client_id": "docker", "offline_token": "true"}
    right = house.client.get("/oauth2/token", params=query, headers=house.basic("reader"))
    assert (right.status_code, access(right)) == (200, [])
    wrong = house.client.get("/oauth2/token", params=query, headers=basic("reader", "wrong"))
    assert wrong.status_code == 401
    assert wrong.json()["errors"][0]["code"] == "UNAUTHORIZED"


def test_docker_goes_on_with_the_identity_token_it_was_given(house: House) -> None:
    """azure.md section 1.2, docker with identity token."""
    response = post(
        house,
        grant_type="refresh_token",
        service=house.server.host,
        client_id="docker",
        scope=PULL,
        refresh_token=refresh_token(house),
    )
    assert may_pull(house, response.json()["access_token"])


def test_without_credentials_a_client_gets_a_token_that_allows_what_anonymous_callers_may(
    house: House,
) -> None:
    """azure.md section 1.3: without Authorization it is an anonymous token request."""
    scopes = ["repository:open/app:pull,push,delete", PULL, "registry:catalog:*"]
    response = house.client.get("/oauth2/token", params={"scope": scopes})
    assert access(response) == [{"type": "repository", "name": "open/app", "actions": ["pull"]}]
    assert claims(response.json()["access_token"])["sub"] == ""


@pytest.mark.parametrize("grant", ["access_token", "access_token_refresh_token", "refresh_token"])
def test_a_refresh_token_is_exchanged(house: House, grant: str) -> None:
    """azure.md section 1.4: az sends a tenant, the SDK does not; both send an access_token."""
    response = post(
        house,
        "/oauth2/exchange?api-version=2021-07-01",
        grant_type=grant,
        service=house.server.host,
        tenant="common",
        access_token=refresh_token(house),
    )
    assert response.status_code == 200
    again = post(
        house,
        grant_type="refresh_token",
        scope=PULL,
        refresh_token=response.json()["refresh_token"],
    )
    assert may_pull(house, again.json()["access_token"])


def test_name_and_password_are_exchanged(house: House) -> None:
    """azure.md section 1.4: there is no Entra, so a credential of this registry stands in."""
    shown = f"reader:{house.passwords['reader']}"
    response = post(house, "/oauth2/exchange", grant_type="access_token", access_token=shown)
    assert response.status_code == 200
    wrong = post(house, "/oauth2/exchange", grant_type="access_token", access_token="reader:no")
    assert wrong.status_code == 401


def test_the_null_user_shows_a_refresh_token_as_its_password(house: House) -> None:
    """azure.md sections 1.2 and 1.6: at the token endpoint in both forms, and Basic anywhere."""
    token = refresh_token(house)
    form = post(house, grant_type="password", username=NULL_USER, password=token, scope=PULL)
    assert may_pull(house, form.json()["access_token"])
    shown = basic(NULL_USER, token)
    query = house.client.get("/oauth2/token", params={"scope": PULL}, headers=shown)
    assert may_pull(house, query.json()["access_token"])
    assert house.client.get("/v2/team/app/tags/list", headers=shown).status_code == 200
    assert house.client.get("/v2/", headers=basic(NULL_USER, "nonsense")).status_code == 401


def test_az_writes_basic_in_latin_1_and_others_in_utf_8(house: House) -> None:
    """azure.md section 1.6."""
    house.manage("user create", name="zoe", password="Füße-über-Öl")
    for encoding in ("latin-1", "utf-8"):
        raw = base64.b64encode("zoe:Füße-über-Öl".encode(encoding)).decode()
        response = house.client.get("/v2/", headers={"Authorization": f"Basic {raw}"})
        assert response.status_code == 200, encoding


# --- what is granted ------------------------------------------------------------------------------


def test_a_token_carries_what_is_both_asked_for_and_allowed(house: House) -> None:
    """azure.md section 1.2, S4: the call does not fail for what is lacking."""
    scope = "repository:team/app:pull,push,delete repository:rival/app:pull"
    response = house.client.get(
        "/oauth2/token", params={"scope": scope}, headers=house.basic("writer")
    )
    assert access(response) == [
        {"type": "repository", "name": "team/app", "actions": ["pull", "push"]}
    ]


def test_acr_cli_asks_for_every_repository_at_once(house: House) -> None:
    """azure.md section 1.2, acr-cli: `registry:catalog:* repository:*:*`."""
    token = refresh_token(house, "writer")
    scope = "registry:catalog:* repository:*:*"
    response = post(house, grant_type="refresh_token", scope=scope, refresh_token=token)
    assert access(response) == [
        {"type": "registry", "name": "catalog", "actions": ["*"]},
        {"type": "repository", "name": "*", "actions": ["pull", "push"]},
    ]
    headers = bearer(response.json()["access_token"])
    assert house.client.get("/v2/team/app/tags/list", headers=headers).status_code == 200
    assert house.client.get("/v2/rival/app/tags/list", headers=headers).status_code == 401
    catalog = house.client.get("/v2/_catalog", headers=headers).json()["repositories"]
    assert catalog
    # All may pull what is open.
    assert all(name.startswith(("team/", "open/")) for name in catalog)


def test_a_token_for_all_of_500_repositories_is_short_and_allows_all_of_them(
    house: House,
) -> None:
    """azure.md section 6: 500 actions on 500 repositories are what a scope map may have."""
    repositories = [f"many/of-these-{number}-" + "x" * 200 for number in range(500)]
    rights = [[name, "content/read"] for name in repositories]
    house.token("many", *rights)
    scope = "registry:catalog:* repository:*:*"
    shown = house.bearer("many", scope)
    assert len(shown["Authorization"]) < 1000
    for name in (repositories[0], repositories[-1]):
        for headers in (shown, house.basic("many")):
            found = house.client.get(f"/v2/{name}/tags/list", headers=headers)
            # Nothing was pushed there, and this one may know it.
            assert found.status_code == 404
    for name in ("team/app", "many/of-these-1-" + "x" * 199, "many/" + "x" * 200):
        assert house.client.get(f"/v2/{name}/tags/list", headers=shown).status_code == 401
    catalog = house.client.get("/v2/_catalog", headers=shown).json()["repositories"]
    assert all(name.startswith("open/") for name in catalog)


def test_a_token_that_no_request_could_carry_is_not_made(house: House) -> None:
    """Else the client would be refused later, without a reason."""
    many = [f"repository:team/{'x' * 200}{number}:pull" for number in range(90)]
    last = many[29].split(":")[1]
    shown = house.bearer("reader", *many[:30])
    assert house.client.get(f"/v2/{last}/tags/list", headers=shown).status_code == 404
    response = post(
        house,
        grant_type="password",
        username="reader",
        password=house.passwords["reader"],
        scope=many,
    )
    assert response.status_code == 400
    assert "fewer" in response.json()["errors"][0]["message"]


def test_a_wildcard_in_a_name_is_granted_only_to_an_account_that_has_it_whole(house: House) -> None:
    """S22: asking for more than one has must not give it."""
    for scope in ("repository:te*:pull", "repository:rival/*:pull", "repository:t*:*"):
        asked = house.client.get(
            "/oauth2/token", params={"scope": scope}, headers=house.basic("reader")
        )
        assert access(asked) == []
    everything = house.bearer("reader", "repository:*:*")
    for name, status in (("team/app", 200), ("rival/app", 401), ("open/app", 200)):
        found = house.client.get(f"/v2/{name}/tags/list", headers=everything)
        assert found.status_code == status
    whole = house.client.get(
        "/oauth2/token", params={"scope": "repository:team/x/*:*"}, headers=house.basic("reader")
    )
    assert access(whole) == [{"type": "repository", "name": "team/x/*", "actions": ["pull"]}]


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        ("repository:team/app:pull,push,*", ["team/app"]),
        ("repository:team/a/b:pull repository:team/c:push", ["team/a/b", "team/c"]),
        ("  repository:team/app:pull   ", ["team/app"]),
        ("repository(plugin):team/app:pull", ["team/app"]),
        ("repository:team/app:", []),
        ("repository:team/app:fly", []),
        ("repository:team/app:PULL", []),
        ("repository:team/App:pull", []),
        ("repository:team/app:5000/x:pull", []),
        ("repository:team/app@sha256:pull", []),
        ("repository:team/../rival/app:pull", []),
        ("repository:team//app:pull", []),
        ("repository:team/*/x:pull", []),
        ("repository:team/app\n:pull", []),
        ("repository::pull", []),
        ("repository", []),
        (":::", []),
        ("\u202erepository:team/app:pull", []),
        ("repository:" + "team/" * 200 + "a:pull", []),
        ("registry:catalog:*", ["catalog"]),
        ("registry:everything:*", []),
        ("registry:admin:*", []),
        ("admin:team/app:*", []),
    ],
)
def test_scopes_are_read_strictly_and_nonsense_is_granted_nothing(
    house: House, scope: str, names: list[str]
) -> None:
    """S4."""
    response = house.client.get(
        "/oauth2/token", params={"scope": scope}, headers=house.basic("writer")
    )
    assert [entry["name"] for entry in access(response)] == names


def test_more_scopes_than_any_client_sends_are_refused(house: House) -> None:
    """S4: 10,000 scopes are capped."""
    many = " ".join(f"repository:team/a{number}:pull" for number in range(10_000))
    too_long = post(house, grant_type="password", scope=many)
    assert too_long.status_code == 413
    assert "form" in too_long.json()["errors"][0]["message"]
    assert post(house, grant_type="password", scope=many[:20_000]).status_code == 400
    assert post(house, grant_type="password", scope=["a:b:c"] * 1000).status_code == 400
    in_query = house.client.get("/oauth2/token", params={"scope": ["a:b:c"] * 101})
    assert in_query.status_code == 400
    assert in_query.json()["errors"][0]["code"] == "SCOPE_INVALID"


def test_an_access_token_says_when_it_ends_and_that_is_within_the_hour(house: House) -> None:
    """azure.md sections 1.2 and 1.5: a numeric exp for acr-cli; expires_in for docker."""
    for headers, longest in ((house.basic("reader"), 3600), ({}, 1200)):
        answer = house.client.get("/oauth2/token", headers=headers).json()
        found = claims(answer["access_token"])
        assert answer["token"] == answer["access_token"]
        assert 0 < answer["expires_in"] <= longest
        assert found["exp"] - found["iat"] == answer["expires_in"]
        assert abs(time.time() - found["iat"]) < 60


def test_a_refresh_tokens_payload_is_readable_in_the_standard_alphabet(house: House) -> None:
    """azure.md section 1.5: the SDK decodes it so; an aad_identity claim would mislead acr-cli."""
    payload = refresh_token(house).split(".")[1]
    found = json.loads(base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True))
    assert isinstance(found["exp"], int)
    assert "aad_identity" not in found


def test_no_cache_keeps_a_copy_of_a_token(house: House) -> None:
    """RFC 6749, section 5.1."""
    response = house.client.get("/oauth2/token", headers=house.basic("reader"))
    assert response.headers["cache-control"] == "no-store"


# --- what is refused ------------------------------------------------------------------------------


def test_a_refresh_token_is_no_bearer(house: House) -> None:
    """S5."""
    response = house.client.get("/v2/", headers=bearer(refresh_token(house, "admin")))
    assert response.status_code == 401
    assert 'error="invalid_token"' in response.headers["www-authenticate"]


def test_an_access_token_buys_no_other(house: House) -> None:
    """S5, the other way round."""
    token = house.bearer("admin", PULL)["Authorization"].partition(" ")[2]
    assert post(house, grant_type="refresh_token", refresh_token=token).status_code == 401
    exchanged = post(house, "/oauth2/exchange", grant_type="access_token", access_token=token)
    assert exchanged.status_code == 401
    assert house.client.get("/v2/", headers=basic(NULL_USER, token)).status_code == 401
    assert house.client.get("/oauth2/token", headers=bearer(token)).status_code == 401


def test_a_refresh_token_got_with_another_ends_when_that_one_would_have(
    house: House,
) -> None:
    """Else a client that once had a password would get in for ever."""
    first = refresh_token(house)
    ends = claims(first)["exp"]
    exchanged = post(house, "/oauth2/exchange", grant_type="refresh_token", refresh_token=first)
    assert claims(exchanged.json()["refresh_token"])["exp"] <= ends
    renewed = post(
        house, grant_type="refresh_token", refresh_token=first, access_type="offline"
    ).json()
    assert claims(renewed["refresh_token"])["exp"] <= ends


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/oauth2/token", {}, 400),
        ("/oauth2/token", {"grant_type": ""}, 400),
        ("/oauth2/token", {"grant_type": "client_credentials"}, 400),
        ("/oauth2/token", {"grant_type": "authorization_code", "code": "x"}, 400),
        ("/oauth2/token", {"grant_type": ["password", "refresh_token"]}, 400),
        ("/oauth2/token", {"grant_type": "refresh_token"}, 401),
        ("/oauth2/token", {"grant_type": "password", "username": "admin"}, 401),
        ("/oauth2/token", {"grant_type": "password", "password": "x"}, 401),
        ("/oauth2/token", {"grant_type": "password", "username": "a" * 9000, "password": "x"}, 401),
        ("/oauth2/token", {"grant_type": "password", "username": "a\0b", "password": "x"}, 400),
        ("/oauth2/token", {"grant_type": "password", "username": "x", "password": "\0"}, 400),
        ("/oauth2/token", {"grant_type": "password", "username": ["a", "b"]}, 400),
        ("/oauth2/exchange", {"grant_type": "password"}, 400),
        ("/oauth2/exchange", {"grant_type": "access_token"}, 401),
        ("/oauth2/exchange", {"grant_type": "access_token", "access_token": ":"}, 401),
        ("/oauth2/exchange", {"grant_type": "access_token", "access_token": "a\0:b"}, 400),
    ],
)
def test_bad_forms_are_refused(
    house: House, path: str, form: dict[str, str | list[str]], status: int
) -> None:
    response = post(house, path, **form)
    assert response.status_code == status
    assert response.json()["errors"][0]["code"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"grant_type":"password"}'),
        ("multipart/form-data; boundary=x", b"--x--"),
        ("", b"grant_type=password"),
        ("application/x-www-form-urlencoded", b"\xff\xfe"),
        ("application/x-www-form-urlencoded", b"grant_type=%ff"),
        ("application/x-www-form-urlencoded", b"a=b&" * 300),
    ],
)
def test_what_is_no_form_is_refused(house: House, kind: str, body: bytes) -> None:
    """And no other parser is ever started (CVE-2024-24762)."""
    response = house.client.post("/oauth2/token", content=body, headers={"Content-Type": kind})
    assert response.status_code == 400


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !!!!",
        "Basic YWRtaW4=",
        "Basic OnBhc3N3b3Jk",
        "Basic YWRtaW4AOng=",
        "Basic YTpi!!!!",
        "Basic " + "A" * 20_000,
        "basic",
        "Bearer",
        "Digest username=admin",
        "Negotiate abc",
        "admin:password",
        "\u00e9\u00e9",
    ],
)
def test_malformed_credentials_are_a_401(house: House, header: str) -> None:
    """S7: no colon, no name, not base64, much too long, another scheme."""
    shown = {b"Authorization": header.encode("latin-1")}
    for path in ("/v2/", "/v2/team/app/tags/list"):
        response = house.client.get(path, headers=shown)
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"].startswith("Bearer ")


def test_malformed_credentials_do_not_pass_for_anonymous(house: House) -> None:
    """What was meant as a login must not quietly be none."""
    for header in ("Basic !!!!", "Digest x", "Bearer x"):
        shown = {"Authorization": header}
        response = house.client.get("/v2/open/app/manifests/v1", headers=shown)
        assert response.status_code == 401
        assert house.client.get("/oauth2/token", headers=shown).status_code == 401


def test_an_enormous_authorization_header_is_refused(house: House) -> None:
    """S7: 1 MB; the HTTP library cuts that off."""
    try:
        response = house.client.get("/v2/", headers={"Authorization": "Basic " + "A" * 1_000_000})
    except httpx.HTTPError:
        return
    assert response.status_code in (400, 401, 431)

"""The 401 that tells a client where to ask, to the byte: azure.md section 1.1."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.access.house import House, basic, bearer

ACR_MESSAGE = (
    "authentication required, visit https://aka.ms/acr/authorization for more information."
)
D = "sha256:" + "0" * 64
# azure.md section 1.1, "Scope demanded per endpoint".
SCOPES = (
    ("GET", "/v2/_catalog", "registry:catalog:*"),
    ("GET", "/v2/team/app/manifests/v1", "repository:team/app:pull"),
    ("HEAD", f"/v2/team/app/blobs/{D}", "repository:team/app:pull"),
    ("GET", "/v2/team/app/tags/list", "repository:team/app:pull"),
    ("GET", f"/v2/team/app/referrers/{D}", "repository:team/app:pull"),
    ("POST", "/v2/team/app/blobs/uploads/", "repository:team/app:pull,push"),
    ("PUT", "/v2/team/app/manifests/v1", "repository:team/app:pull,push"),
    ("DELETE", f"/v2/team/app/manifests/{D}", "repository:team/app:delete"),
    ("DELETE", f"/v2/team/app/blobs/{D}", "repository:team/app:delete"),
)


def az_reads(challenge: str) -> dict[str, str]:
    """How azure-cli takes a challenge apart (`_handle_challenge_phase`): it must not raise."""
    parts = challenge.split(" ", 2)
    return {part.split("=", 2)[0]: part.split("=", 2)[1].strip('"') for part in parts[1].split(",")}


def sdk_reads(challenge: str) -> tuple[str, str]:
    """How Azure's Python SDK does (`_parse_challenge`): service and scope are both mandatory."""
    assert challenge.startswith("Bearer ")
    pairs = {}
    for part in challenge[len("Bearer ") :].split(","):
        name, _, value = part.partition("=")
        pairs[name] = value.strip('"')
    return pairs["service"], pairs["scope"]


def test_the_base_challenges_a_client_without_credentials(house: House) -> None:
    """azure.md section 1.1 and azure.md section 0, rule 1: no scope, no space behind the comma."""
    response = house.client.get("/v2/")
    host = house.server.host
    assert response.status_code == 401
    assert (
        response.headers["www-authenticate"]
        == f'Bearer realm="http://{host}/oauth2/token",service="{host}"'
    )
    assert response.headers["docker-distribution-api-version"] == "registry/2.0"
    assert az_reads(response.headers["www-authenticate"])["service"] == host


def test_the_base_challenges_even_where_anonymous_clients_may_pull(house: House) -> None:
    """azure.md section 0, rule 3: a 200 there is an error to az and to the SDK."""
    assert house.client.get("/v2/open/app/manifests/v1").status_code == 200
    assert house.client.get("/v2/").status_code == 401


@pytest.mark.parametrize(("method", "path", "scope"), SCOPES)
def test_each_endpoint_demands_its_scope(house: House, method: str, path: str, scope: str) -> None:
    """azure.md section 0, rule 2: the Python SDK cannot do without a scope."""
    response = house.client.request(method, path)
    host = house.server.host
    assert response.status_code == 401
    challenge = response.headers["www-authenticate"]
    # az splits at commas, so it would trip over the one in "pull,push"; it only asks /v2/.
    assert (
        challenge == f'Bearer realm="http://{host}/oauth2/token",service="{host}",scope="{scope}"'
    )
    if "," not in scope:
        assert sdk_reads(challenge) == (host, scope)


def test_the_body_lists_each_missing_action(house: House) -> None:
    """azure.md section 1.1: one `detail` element per missing action, with ACR's capitals."""
    response = house.client.post("/v2/team/app/blobs/uploads/")
    assert response.json() == {
        "errors": [
            {
                "code": "UNAUTHORIZED",
                "message": ACR_MESSAGE,
                "detail": [
                    {"Type": "repository", "Name": "team/app", "Action": "pull"},
                    {"Type": "repository", "Name": "team/app", "Action": "push"},
                ],
            }
        ]
    }


def test_only_what_is_missing_is_listed(house: House) -> None:
    response = house.client.post("/v2/team/app/blobs/uploads/", headers=house.basic("reader"))
    assert response.json()["errors"][0]["detail"] == [
        {"Type": "repository", "Name": "team/app", "Action": "push"}
    ]
    # What a client asks the token endpoint for is still all that the endpoint needs.
    assert 'scope="repository:team/app:pull,push"' in response.headers["www-authenticate"]


def test_the_catalog_is_missing_in_acrs_words(house: House) -> None:
    """azure.md section 1.1, last line."""
    [error] = house.client.get("/v2/_catalog").json()["errors"]
    assert error["detail"] == [{"Type": "registry", "Name": "catalog", "Action": "*"}]


def test_a_bad_token_is_invalid(house: House) -> None:
    response = house.client.get("/v2/team/app/tags/list", headers=bearer("nonsense"))
    assert response.status_code == 401
    assert response.headers["www-authenticate"].endswith(
        ',scope="repository:team/app:pull",error="invalid_token"'
    )


def test_a_weak_token_is_told_so(house: House) -> None:
    """A valid but too weak token: still a 401, never a 403."""
    weak = house.bearer("reader", "repository:team/app:pull")
    response = house.client.delete(f"/v2/team/app/manifests/{D}", headers=weak)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].endswith(
        ',scope="repository:team/app:delete",error="insufficient_scope"'
    )


def test_a_password_without_the_right_is_told_so_too(house: House) -> None:
    response = house.client.get("/v2/rival/app/tags/list", headers=house.basic("reader"))
    assert response.status_code == 401
    assert response.headers["www-authenticate"].endswith(',error="insufficient_scope"')


def test_an_anonymous_token_that_is_too_weak_is_told_so(house: House) -> None:
    """azure.md section 1.7: an anonymous DELETE gets 401 insufficient_scope."""
    headers = house.bearer(None, "repository:open/app:pull,delete")
    assert house.client.get("/v2/open/app/tags/list", headers=headers).status_code == 200
    response = house.client.delete(f"/v2/open/app/manifests/{D}", headers=headers)
    assert response.status_code == 401
    assert 'error="insufficient_scope"' in response.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("forwarded", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        # The first is what the client spoke.
        ("https, http", "https"),
        ("http", "http"),
        ("http, https", "http"),
        ("", "http"),
        ('https"', "http"),
        ("ftp", "http"),
    ],
)
def test_behind_a_proxy_with_tls_the_password_is_asked_for_over_tls(
    house: House, forwarded: str, scheme: str
) -> None:
    """X-Forwarded-Proto: else skopeo sends the password in clear, and crane none at all."""
    response = house.client.get("/v2/", headers={"X-Forwarded-Proto": forwarded})
    assert response.status_code == 401
    realm = f'Bearer realm="{scheme}://{house.server.host}/oauth2/token"'
    assert response.headers["www-authenticate"].startswith(realm + ",")


def test_a_wrong_password_is_a_challenge(house: House) -> None:
    response = house.client.get("/v2/", headers=basic("reader", "wrong"))
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer realm=")


@pytest.mark.parametrize(
    "host",
    [
        'evil.example",error="x',
        "evil.example/path",
        "evil.example?x=y",
        "user@evil.example",
        "evil example",
        "evil.example:port",
        "a,b=c",
        "ev\u00eel.example",
        "",
        "a" * 300,
    ],
)
def test_a_malformed_host_header_is_never_repeated(house: House, host: str) -> None:
    """S10: no injection into the challenge; clients would send their passwords there."""
    response = house.client.get("/v2/", headers={b"Host": host.encode("latin-1")})
    assert response.status_code in (400, 401)
    challenge = response.headers.get("www-authenticate", "")
    assert "evil" not in challenge
    assert not challenge or re.fullmatch(
        r'Bearer realm="http://[a-z0-9.:]+/oauth2/token",service="[a-z0-9.:]+"', challenge
    )


@pytest.fixture(scope="module")
def known_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A registry that is told under which URL clients know it."""
    data: Path = tmp_path_factory.mktemp("known") / "data"
    with House(data, "--external-url", "https://registry.example.com") as house:
        yield house


def test_with_an_external_url_no_host_header_counts(known_house: House) -> None:
    """S10: not even a well-formed one."""
    for host in ("evil.example", "registry.example.com", 'x"y'):
        response: httpx.Response = known_house.client.get("/v2/", headers={"Host": host})
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == (
            'Bearer realm="https://registry.example.com/oauth2/token"'
            ',service="registry.example.com"'
        )


def test_two_authorization_headers_are_refused(house: House) -> None:
    """A proxy in front might have looked at the other one."""
    both = [("Authorization", value["Authorization"]) for value in _two(house)]
    assert house.client.get("/v2/", headers=both).status_code == 400


def _two(house: House) -> tuple[dict[str, str], dict[str, str]]:
    return house.basic("admin"), house.basic("reader")

"""What one tenant can learn of another: nothing. reliability.md S12 to S19, S22, S23 and I27."""

import uuid
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from tests.access.house import (
    EVERY_ACTION,
    House,
    basic,
    bearer,
    digest_of,
    image,
    without_what_differs,
)

SECRET = b"the layer of rival/app"
ABSENT = b"a layer that was never pushed"


# --- what may not be read looks like what is not there --------------------------------------------


@pytest.mark.parametrize("kind", ["none", "basic", "bearer"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "tags/list"),
        ("GET", "tags/list?n=1&last=a"),
        ("GET", "manifests/v1"),
        ("HEAD", "manifests/v1"),
        ("GET", f"manifests/{digest_of(image(SECRET))}"),
        ("GET", f"blobs/{digest_of(SECRET)}"),
        ("HEAD", f"blobs/{digest_of(SECRET)}"),
        ("GET", f"referrers/{digest_of(image(SECRET))}"),
        ("POST", "blobs/uploads/"),
        ("GET", f"blobs/uploads/{'0' * 32}"),
        ("PUT", "manifests/v1"),
        ("DELETE", "manifests/v1"),
        ("DELETE", f"manifests/{digest_of(image(SECRET))}"),
        ("DELETE", f"blobs/{digest_of(SECRET)}"),
    ],
)
def test_a_repository_of_others_looks_like_none(
    house: House, kind: str, method: str, path: str
) -> None:
    """S17 and S23: the same status, headers and body for existing and absent ones."""
    seen = []
    for name in ("rival/app", "rival/abs"):
        headers = {}
        if kind == "basic":
            headers = house.basic("writer")
        elif kind == "bearer":
            headers = house.bearer("writer", f"repository:{name}:*")
        response = house.client.request(method, f"/v2/{name}/{path}", headers=headers)
        assert response.status_code == 401
        seen.append(without_what_differs(response, name, quote(name, safe="")))
    assert seen[0] == seen[1]


def test_a_token_says_nothing_about_what_exists(house: House) -> None:
    """CVE-2019-19030, CVE-2020-13794: the token endpoint must not be the oracle instead."""
    sizes = set()
    for name in ("rival/app", "rival/abs"):
        scope = f"repository:{name}:pull,push"
        answer = house.client.get(
            "/oauth2/token", params={"scope": scope}, headers=house.basic("writer")
        )
        sizes.add((answer.status_code, tuple(answer.json()), len(answer.json()["access_token"])))
    assert len(sizes) == 1


# --- mounting -------------------------------------------------------------------------------------


def mount(house: House, headers: dict[str, str], digest: str, source: str | None) -> httpx.Response:
    query = {"mount": digest} | ({} if source is None else {"from": source})
    return house.client.post("/v2/team/target/blobs/uploads/", params=query, headers=headers)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
@pytest.mark.parametrize("source", ["rival/app", "rival/abs", "team/absent", "Bad Name", "*", ""])
def test_mounting_what_may_not_be_read_looks_like_a_blob_that_is_not_there(
    house: House, kind: str, source: str
) -> None:
    """S12, CVE-2024-39897, CVE-2026-28740: knowing a digest is no right to read it."""
    headers = (
        house.basic("writer")
        if kind == "basic"
        else house.bearer("writer", "repository:team/target:pull,push", "repository:rival/app:pull")
    )
    seen = []
    for digest, from_repository in (
        (digest_of(SECRET), source),
        (digest_of(ABSENT), "team/app"),
    ):
        response = mount(house, headers, digest, from_repository)
        assert response.status_code == 202
        session = response.headers["docker-upload-uuid"]
        seen.append(without_what_differs(response, session))
        assert house.client.delete(response.headers["location"], headers=headers).status_code == 204
    assert seen[0] == seen[1]
    found = house.client.head(f"/v2/team/target/blobs/{digest_of(SECRET)}", headers=headers)
    assert found.status_code == 404


def test_mounting_without_a_source_searches_nowhere(house: House) -> None:
    """CVE-2024-39897: the specification allows it, but then a digest would be enough."""
    for digest in (digest_of(SECRET), digest_of(b"the layer of team/app")):
        assert mount(house, house.basic("writer"), digest, None).status_code == 202


def test_mounting_takes_the_right_to_read_that_the_token_carries(house: House) -> None:
    """The account may read both, the token only one of them."""
    target = "repository:team/target:pull,push"
    digest = digest_of(b"the layer of team/app")
    narrow = house.bearer("writer", target)
    assert mount(house, narrow, digest, "team/app").status_code == 202
    wide = house.bearer("writer", target, "repository:team/app:pull")
    assert mount(house, wide, digest, "team/app").status_code == 201


@pytest.mark.parametrize("kind", ["basic", "bearer", "another scope"])
def test_an_account_may_pull_what_all_may_pull(house: House, kind: str) -> None:
    """azure.md section 1.7: logging in takes no right away."""
    headers = {
        "basic": house.basic("writer"),
        "bearer": house.bearer("writer", "repository:open/app:pull"),
        "another scope": house.bearer("writer", "repository:team/app:pull,push"),
    }[kind]
    digest = digest_of(b"the layer of open/app")
    for path in ("manifests/v1", f"blobs/{digest}", "tags/list"):
        assert house.client.get(f"/v2/open/app/{path}", headers=headers).status_code == 200
    # Nothing more than that.
    assert house.client.post("/v2/open/app/blobs/uploads/", headers=headers).status_code == 401
    assert house.client.delete("/v2/open/app/manifests/v1", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "scopes",
    [
        [],
        ["repository:team/target:pull,push"],
        ["repository:team/target:pull,push", "repository:open/app:pull"],
    ],
)
def test_what_all_may_pull_is_a_source_of_mounts(house: House, scopes: list[str]) -> None:
    """As docker mounts a public base: with Basic, and with tokens for either or both."""
    headers = house.bearer("writer", *scopes) if scopes else house.basic("writer")
    digest = digest_of(b"the layer of open/app")
    assert mount(house, headers, digest, "open/app").status_code == 201
    deleted = house.client.delete(f"/v2/team/target/blobs/{digest}", headers=house.basic("admin"))
    assert deleted.status_code == 202


def test_bad_credentials_open_not_even_what_all_may_pull(house: House) -> None:
    """A client that means to be an account learns that it is not."""
    house.token("former", ["team/*", "content/read"])
    token = house.bearer("former", "repository:open/app:pull")
    assert house.client.get("/v2/open/app/manifests/v1", headers=token).status_code == 200
    house.manage("token update", name="former", status="disabled")
    for headers in (basic("writer", "wrong"), house.basic("former"), token, bearer("nonsense")):
        found = house.client.get("/v2/open/app/manifests/v1", headers=headers)
        assert found.status_code == 401


def test_a_manifest_refers_only_to_what_its_own_repository_has(house: House) -> None:
    """S14: else a push would import what the pusher may not read."""
    house.push_blob("team/new", b"{}", "writer")
    response = house.client.put(
        "/v2/team/new/manifests/stolen",
        content=image(SECRET),
        headers=house.basic("writer")
        | {"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
    )
    assert response.status_code == 400
    assert response.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"


def test_uploading_what_exists_elsewhere_takes_the_same_steps(house: House) -> None:
    """S15: no short cut without the bytes."""
    seen = []
    for data in (SECRET, uuid.uuid4().bytes):
        response = house.client.post(
            "/v2/team/oracle/blobs/uploads/",
            params={"digest": digest_of(data)},
            content=b"",
            headers=house.basic("writer"),
        )
        seen.append(without_what_differs(response, digest_of(data)))
    assert seen[0] == seen[1]
    assert seen[0][0] == 400


# --- sessions -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second_writer(house: House) -> str:
    """An account with the same rights as `writer`."""
    house.token("second-writer", ["team/*", "content/read", "content/write"])
    return "second-writer"


@pytest.mark.parametrize(
    ("who", "name"),
    [
        ("second-writer", "team/app"),
        ("admin", "team/app"),
        ("writer", "team/other"),
        ("admin", "rival/app"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
def test_an_upload_belongs_to_one_repository_and_one_account(
    house: House, second_writer: str, who: str, name: str, method: str
) -> None:
    """S19, CVE-2026-32589: another's session is one that is not there, in every way."""
    mine = house.basic("writer")
    location = house.open_upload("team/app", mine)
    session = location.rpartition("/")[2]
    data = b"mine"
    content = data if method in ("PATCH", "PUT") else None
    query = {"digest": digest_of(data)}
    seen = []
    for upload in (session, uuid.uuid4().hex):
        response = house.client.request(
            method,
            f"/v2/{name}/blobs/uploads/{upload}",
            params=query,
            content=content,
            headers=house.basic(who),
        )
        assert response.status_code == 404
        seen.append(without_what_differs(response, upload))
    assert seen[0] == seen[1]
    done = house.client.put(location, params=query, content=data, headers=mine)
    assert done.status_code == 201


# --- the catalog ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Repositories of neighbours whose names nearly match."""
    with House(tmp_path_factory.mktemp("crowded") / "data") as house:
        house.token("prefix", ["team/*", "content/read"])
        house.token("exact", ["team", "metadata/read"], ["teamx/b", "content/read"])
        house.token("blind", ["team/*", "content/delete"])
        house.token("all", ["*", *EVERY_ACTION])
        for name in ("team", "team/a", "team/a/b", "team/z", "team-x/a", "team.x/a", "team0/a"):
            house.push_index(name)
        for name in ("teamx/a", "teamx/b", "tea", "zzz"):
            house.push_index(name)
        yield house


def pages(house: House, who: str, n: int, kind: str) -> list[str]:
    """All pages of the catalog, by following Link."""
    headers = house.basic(who) if kind == "basic" else house.bearer(who, "registry:catalog:*")
    names: list[str] = []
    url = f"/v2/_catalog?n={n}"
    while url:
        response = house.client.get(url, headers=headers)
        assert response.status_code == 200
        names += response.json()["repositories"] or []
        link = response.headers.get("link", "")
        url = link.partition("<")[2].partition(">")[0]
    return names


@pytest.mark.parametrize("kind", ["basic", "bearer"])
@pytest.mark.parametrize("n", [1, 2, 100])
@pytest.mark.parametrize(
    ("who", "names"),
    [
        ("prefix", ["team/a", "team/a/b", "team/z"]),
        ("exact", ["team", "teamx/b"]),
        ("blind", []),
    ],
)
def test_the_catalog_lists_what_the_caller_may_read(
    crowded: House, kind: str, n: int, who: str, names: list[str]
) -> None:
    """S16 and S22: on every page, and no page is empty or short because of what is hidden."""
    assert pages(crowded, who, n, kind) == names


def test_who_may_read_everything_sees_everything(crowded: House) -> None:
    assert len(pages(crowded, "all", 3, "basic")) == 11
    assert pages(crowded, "admin", 3, "bearer") == pages(crowded, "all", 100, "basic")


def test_a_cursor_that_names_a_hidden_repository_tells_nothing(crowded: House) -> None:
    """S16: `last` need not exist, so it cannot show what does."""
    seen = []
    for last in ("team-x/a", "team-x/absent"):
        response = crowded.client.get(
            "/v2/_catalog", params={"n": 2, "last": last}, headers=crowded.basic("prefix")
        )
        seen.append(without_what_differs(response))
    assert seen[0] == seen[1]


def test_links_name_only_what_was_listed(crowded: House) -> None:
    response = crowded.client.get("/v2/_catalog", params={"n": 2}, headers=crowded.basic("prefix"))
    assert response.headers["link"] == '</v2/_catalog?n=2&last=team%2Fa%2Fb>; rel="next"'


def test_anonymous_never_lists(house: House) -> None:
    """S8: not even where it may pull, and not with a token that asked for it."""
    headers = house.bearer(None, "registry:catalog:*", "repository:open/app:pull")
    for shown in ({}, headers):
        assert house.client.get("/v2/_catalog", headers=shown).status_code == 401
    assert house.client.get("/v2/open/app/tags/list", headers=headers).status_code == 200


def test_anonymous_pull_ends_where_its_prefix_does(house: House) -> None:
    """S8: per repository prefix."""
    house.push_index("openly/app")
    assert house.client.get("/v2/open/app/manifests/v1").status_code == 200
    for name in ("openly/app", "team/app", "open", "open-x/app"):
        assert house.client.get(f"/v2/{name}/tags/list").status_code == 401

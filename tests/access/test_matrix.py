"""Every kind of caller at every route, in repositories of its own, of others, and in none.

What is expected is written down here and nowhere taken from the code: azure.md section 1.1,
"Scope demanded per endpoint"; reliability.md S11, S17 and G9.
"""

import inspect
import json
import uuid
from dataclasses import dataclass, replace

import httpx
import pytest

from tests.access.house import INDEX, House, digest_of, empty_index, image
from ullage.server.app import ROUTES
from ullage.server.http.permissions import Audience
from ullage.server.http.routes import Route

# The callers a route is for: "anybody", "known" (any account or token), of a "catalog",
# "administrators", or the rights that are needed on the repository in the path.
Permission = str | frozenset[str]
PULL: Permission = frozenset({"pull"})
PUSH: Permission = frozenset({"pull", "push"})
DELETE: Permission = frozenset({"delete"})
METADATA: frozenset[str] = frozenset({"metadata_read"})
DELETION: frozenset[str] = frozenset({"delete"})
DELETED_READ: frozenset[str] = frozenset({"deleted_read"})
RESTORE: frozenset[str] = frozenset({"deleted_restore"})
METADATA_CHANGE: frozenset[str] = frozenset({"metadata_write"})
READ: Permission = frozenset({"metadata_read"})
WRITE: Permission = frozenset({"metadata_write"})


@dataclass(frozen=True)
class Everywhere:
    """Rights on all repositories, also on those that there will be."""

    rights: frozenset[str]


@dataclass(frozen=True)
class Row:
    """A route, the callers it is for, and what it answers those it lets in."""

    method: str
    path: str
    need: Permission | Everywhere
    existing: int
    absent: int
    # Rights on the repository that the request is about without naming it in its path, and what
    # callers without them are told: 401 for a name that they gave, 404 for what they only guess.
    rights: frozenset[str] = frozenset()
    lacking: int = 401
    # Rights without which callers that may know of it are told 401.
    more: frozenset[str] = frozenset()


POLICIES = METADATA | DELETION | {"metadata_write"}
# distribution-spec "Endpoints" in its order; then the token endpoints (azure.md sections 1.2-1.4).
TABLE = (
    Row("GET", "/v2/", "known", 200, 200),
    Row("GET", "/v2/{name}/blobs/{digest}", PULL, 200, 404),
    Row("HEAD", "/v2/{name}/blobs/{digest}", PULL, 200, 404),
    Row("GET", "/v2/{name}/manifests/{reference}", PULL, 200, 404),
    Row("HEAD", "/v2/{name}/manifests/{reference}", PULL, 200, 404),
    Row("POST", "/v2/{name}/blobs/uploads/", PUSH, 202, 202),
    Row("PATCH", "/v2/{name}/blobs/uploads/{session}", PUSH, 202, 404),
    Row("PUT", "/v2/{name}/blobs/uploads/{session}", PUSH, 201, 404),
    Row("PUT", "/v2/{name}/manifests/{reference}", PUSH, 201, 400),
    Row("GET", "/v2/{name}/tags/list", PULL, 200, 404),
    Row("DELETE", "/v2/{name}/manifests/{reference}", DELETE, 202, 404),
    Row("DELETE", "/v2/{name}/blobs/{digest}", DELETE, 202, 404),
    Row("GET", "/v2/{name}/referrers/{digest}", PULL, 200, 200),
    Row("GET", "/v2/{name}/blobs/uploads/{session}", PUSH, 204, 404),
    Row("DELETE", "/v2/{name}/blobs/uploads/{session}", PUSH, 204, 404),
    Row("GET", "/v2/_catalog", "catalog", 200, 200),
    Row("GET", "/", "anybody", 200, 200),
    # azure.md sections 2.3-2.6.
    Row("GET", "/acr/v1/_catalog", "catalog", 200, 200),
    Row("GET", "/acr/v1/{name}", READ, 200, 404),
    Row("PATCH", "/acr/v1/{name}", WRITE, 200, 404),
    Row("DELETE", "/acr/v1/{name}", DELETE, 202, 404),
    Row("GET", "/acr/v1/{name}/_tags", READ, 200, 404),
    Row("GET", "/acr/v1/{name}/_tags/{tag}", READ, 200, 404),
    Row("PATCH", "/acr/v1/{name}/_tags/{tag}", WRITE, 200, 404),
    Row("DELETE", "/acr/v1/{name}/_tags/{tag}", DELETE, 202, 404),
    Row("GET", "/acr/v1/{name}/_manifests", READ, 200, 404),
    Row("GET", "/acr/v1/{name}/_manifests/{digest}", READ, 200, 404),
    Row("PATCH", "/acr/v1/{name}/_manifests/{digest}", WRITE, 200, 404),
    # azure.md section 2.9.
    Row("GET", "/acr/v1/_deleted/_catalog", "deleted_catalog", 200, 200),
    Row("GET", "/acr/v1/_deleted/{name}/_manifests", DELETED_READ, 200, 404),
    Row("GET", "/acr/v1/_deleted/{name}/_tags", DELETED_READ, 200, 404),
    Row("POST", "/acr/v1/_deleted/{name}/_manifests/{digest}", RESTORE, 200, 404),
    Row("GET", "/oauth2/token", "anybody", 200, 200),
    Row("POST", "/oauth2/token", "anybody", 200, 200),
    Row("POST", "/oauth2/exchange", "anybody", 401, 401),
    Row("POST", "/api/v1/plans", "known", 201, 404, METADATA),
    Row("POST", "/api/v1/suggest", "known", 201, 404, METADATA | DELETION),
    Row("GET", "/api/v1/plans/{plan}", "known", 200, 404, METADATA, 404),
    Row("POST", "/api/v1/plans/{plan}/apply", "known", 200, 404, METADATA, 404, DELETION),
    Row("GET", "/api/v1/status", Everywhere(METADATA), 200, 200),
    Row("GET", "/api/v1/usage", "known", 200, 404, METADATA),
    Row("GET", "/api/v1/why/{digest}", "known", 200, 404, METADATA, 404),
    Row("GET", "/api/v1/ids/{prefix}", "known", 200, 200),
    Row("GET", "/api/v1/search", "known", 200, 200),
    # A purge of a repository that is not there finds nothing to do.
    Row("POST", "/api/v1/purge", "known", 202, 202, METADATA | DELETION),
    Row("GET", "/api/v1/jobs", "known", 200, 200),
    Row("GET", "/api/v1/jobs/{job}", "known", 200, 404, METADATA, 404),
    Row("DELETE", "/api/v1/jobs/{job}", "known", 202, 404, METADATA, 404, DELETION),
    Row("GET", "/api/v1/jobs/{job}/items", "known", 200, 404, METADATA, 404),
    Row("GET", "/api/v1/policies/pullers", Everywhere(METADATA), 200, 200),
    Row("PUT", "/api/v1/policies/pullers", Everywhere(POLICIES), 200, 200),
    Row("GET", "/api/v1/policies/retention", Everywhere(METADATA), 200, 200),
    Row("PUT", "/api/v1/policies/retention", Everywhere(POLICIES), 200, 200),
    Row("GET", "/api/v1/policies/immutable-tags", Everywhere(METADATA), 200, 200),
    Row("POST", "/api/v1/policies/immutable-tags", Everywhere(POLICIES), 200, 200),
    Row("DELETE", "/api/v1/policies/immutable-tags", Everywhere(POLICIES), 404, 404),
    Row("GET", "/api/v1/policies/untagged", Everywhere(METADATA), 200, 200),
    Row("PATCH", "/api/v1/policies/untagged", Everywhere(POLICIES), 200, 200),
    Row("POST", "/api/v1/retention/runs", Everywhere(POLICIES), 202, 202),
    Row("POST", "/api/v1/retention/test", Everywhere(METADATA), 200, 200),
    Row("GET", "/api/v1/retention/explain", "known", 200, 404, METADATA),
    # S21: giving up for good what was deleted softly takes the right to restore as well.
    Row("GET", "/api/v1/deleted", "known", 200, 200),
    Row("DELETE", "/api/v1/deleted", "known", 202, 202, DELETION | RESTORE),
    Row("GET", "/api/v1/deleted/{operation}", "known", 200, 404, DELETED_READ, 404),
    Row(
        *("DELETE", "/api/v1/deleted/{operation}", "known", 202, 404),
        *(DELETED_READ, 404, DELETION | RESTORE),
    ),
    Row(
        *("POST", "/api/v1/deleted/{operation}/restore", "known", 200, 404),
        *(DELETED_READ, 404, RESTORE),
    ),
    Row("GET", "/api/v1/policies/soft-delete", "known", 200, 200),
    Row("PATCH", "/api/v1/policies/soft-delete", Everywhere(POLICIES), 200, 200),
    # B27: what is managed. Of accounts the first kind of status is of one that there is.
    Row("GET", "/api/v1/users", "administrators", 200, 200),
    Row("POST", "/api/v1/users", "administrators", 201, 201),
    Row("GET", "/api/v1/users/{user}", "administrators", 200, 404),
    Row("PATCH", "/api/v1/users/{user}", "administrators", 200, 404),
    Row("DELETE", "/api/v1/users/{user}", "administrators", 204, 404),
    Row("POST", "/api/v1/users/{user}/password", "administrators", 200, 404),
    Row("GET", "/api/v1/tokens", "administrators", 200, 200),
    Row("POST", "/api/v1/tokens", "administrators", 201, 201),
    Row("GET", "/api/v1/tokens/{token}", "administrators", 200, 404),
    Row("PATCH", "/api/v1/tokens/{token}", "administrators", 200, 404),
    Row("DELETE", "/api/v1/tokens/{token}", "administrators", 204, 404),
    Row("POST", "/api/v1/tokens/{token}/credentials", "administrators", 200, 404),
    Row("DELETE", "/api/v1/tokens/{token}/credentials", "administrators", 200, 404),
    Row("GET", "/api/v1/scope-maps", "administrators", 200, 200),
    Row("POST", "/api/v1/scope-maps", "administrators", 201, 201),
    Row("GET", "/api/v1/scope-maps/{scope_map}", "administrators", 200, 404),
    Row("PATCH", "/api/v1/scope-maps/{scope_map}", "administrators", 200, 404),
    Row("DELETE", "/api/v1/scope-maps/{scope_map}", "administrators", 204, 404),
    Row("GET", "/api/v1/keys", "administrators", 200, 200),
    Row("POST", "/api/v1/keys", "administrators", 201, 201),
    Row("DELETE", "/api/v1/keys/{key}", "administrators", 200, 404),
    Row("GET", "/api/v1/audit", "administrators", 200, 200),
    Row("GET", "/api/v1/uploads", "administrators", 200, 200),
    Row("DELETE", "/api/v1/uploads", "administrators", 200, 404),
    Row("POST", "/api/v1/check", "administrators", 200, 200),
    Row("GET", "/api/v1/openapi.json", "known", 200, 200),
    Row("GET", "/api/v1/locks", "known", 200, 200, METADATA),
    Row("POST", "/api/v1/locks", "known", 201, 404, METADATA_CHANGE),
    Row("DELETE", "/api/v1/locks", "known", 200, 404, METADATA_CHANGE),
    # deletion.md section 9: what a source names counts in every repository.
    Row("GET", "/api/v1/deployments", Everywhere(METADATA), 200, 200),
    Row("GET", "/api/v1/deployments/{source}", Everywhere(METADATA), 200, 404),
    Row("PUT", "/api/v1/deployments/{source}", Everywhere(frozenset({"guard_report"})), 200, 200),
    Row("DELETE", "/api/v1/deployments/{source}", "administrators", 200, 404),
    # observability.md section 1: one word for callers without rights.
    Row("GET", "/livez", "anybody", 200, 200),
    Row("GET", "/readyz", "anybody", 200, 200),
    Row("GET", "/startupz", "anybody", 200, 200),
    Row("GET", "/metrics", Everywhere(METADATA), 200, 200),
)
# RFC 9110 section 9.1: HEAD goes wherever GET goes, so it needs the same.
HEADS = tuple(
    replace(row, method="HEAD")
    for row in TABLE
    if row.method == "GET" and ("HEAD", row.path) not in {(r.method, r.path) for r in TABLE}
)

EVERYTHING = frozenset(
    {
        *("pull", "push", "delete", "metadata_read", "metadata_write"),
        *("deleted_read", "deleted_restore", "guard_report"),
    }
)
# What each may do, by the first component of a repository's name, on top of what all may.
RIGHTS: dict[str, dict[str, frozenset[str]]] = {
    "anonymous": {"open": frozenset({"pull"})},
    "reader": {"team": frozenset({"pull"})},
    "writer": {"team": frozenset({"pull", "push"})},
    "deleter": {"team": frozenset({"delete"})},
    "metadata-reader": {"team": frozenset({"metadata_read"})},
    "metadata-writer": {"team": frozenset({"metadata_write"})},
    "restorer": {"team": frozenset({"deleted_read", "deleted_restore"})},
    "admin": {"team": EVERYTHING, "rival": EVERYTHING, "open": EVERYTHING},
    "other-tenant": {"rival": EVERYTHING},
}
REPOSITORIES = ("team/app", "team/absent", "rival/app", "rival/absent", "open/app", "open/absent")
# "empty" is a valid token that carries no right of its account: what an account may do is not what
# a token made for something else allows (CVE-2025-68944, the other way round).
KINDS = ("none", "basic", "bearer", "empty")


def rights(role: str, kind: str, repository: str) -> frozenset[str]:
    """What these credentials allow in a repository."""
    area = repository.partition("/")[0]
    own = RIGHTS[role].get(area, frozenset()) if kind != "empty" else frozenset()
    return own | RIGHTS["anonymous"].get(area, frozenset())


def expected(role: str, kind: str, row: Row, repository: str) -> int:
    """The status that the tables above call for."""
    exists = repository.endswith("/app")
    allowed = row.existing if exists else row.absent
    if row.need == "anybody":
        if not row.path.startswith("/oauth2/"):
            return allowed
        # The token endpoint takes no tokens.
        return 401 if row.method in ("GET", "HEAD") and kind in ("bearer", "empty") else allowed
    if row.need == "known":
        if kind == "none":
            return 401
        granted = rights(role, kind, repository)
        if not row.rights <= granted:
            return row.lacking
        # On what does not exist no caller lacks a right.
        return allowed if row.more <= granted or not exists else 401
    if row.need == "administrators":
        # A token says so only if it was asked for, too.
        return allowed if role == "admin" and kind in ("basic", "bearer") else 401
    if isinstance(row.need, Everywhere):
        # A token for one repository says nothing about the others, whosever it is.
        return allowed if (role, kind) == ("admin", "basic") else 401
    if row.need in ("catalog", "deleted_catalog"):
        return 401 if role == "anonymous" or kind == "empty" else allowed
    return allowed if rights(role, kind, repository) >= set(row.need) else 401


CALLERS = sorted(
    {(role, kind) for role in RIGHTS for kind in KINDS}
    - {(role, "none") for role in RIGHTS if role != "anonymous"}
    - {("anonymous", "basic")}
)
CELLS = [
    (role, kind, row, repository)
    for role, kind in CALLERS
    for row in (*TABLE, *HEADS)
    for repository in REPOSITORIES
]


# Of no image that there is.
REPORT = json.dumps({"images": [{"image_id": f"sha256:{0:064x}"}]}).encode()


class Attempt:
    """The requests of one caller, each with everything that it needs to succeed if it may."""

    def __init__(self, house: House, role: str, kind: str) -> None:
        self.house = house
        self.role = role
        self.kind = kind
        self._headers: dict[str, dict[str, str]] = {}

    def headers(self, repository: str) -> dict[str, str]:
        """The caller's credentials, made for this repository."""
        if repository not in self._headers:
            self._headers[repository] = self._made(repository)
        return self._headers[repository]

    def _made(self, repository: str) -> dict[str, str]:
        account = None if self.role == "anonymous" else self.role
        if self.kind == "none":
            return {}
        if self.kind == "basic":
            return self.house.basic(self.role)
        if self.kind == "empty":
            return self.house.bearer(account)
        whole = [f"registry:{name}:*" for name in ("catalog", "deleted_catalog", "admin")]
        return self.house.bearer(account, f"repository:{repository}:*", *whole)

    def status(self, row: Row, repository: str, *, unused: bool) -> int:
        """What the server answers. Content to be used up is `unused` where that may succeed."""
        if row.path.startswith("/acr/"):
            return self._acr_status(row, repository, unused=unused)
        if row.need == "administrators":
            return self._administration_status(row, repository, unused=unused)
        headers, path, content = self.headers(repository), row.path, None
        there = repository.endswith("/app")
        fill = {"name": repository, "digest": _layer(repository), "reference": "v1"}
        match row.method, path.rpartition("/")[2]:
            case "DELETE", "{digest}" if there and unused:
                fill["digest"] = self.house.push_blob(repository, uuid.uuid4().bytes)
            case "DELETE", "{reference}" if there and unused:
                fill["reference"] = self.house.push_index(repository)
            case "PUT", "{reference}":
                content = empty_index() if there else INDEX_OF_NOTHING
                fill["reference"] = digest_of(content)
                headers = headers | {"Content-Type": INDEX}
            case method, "{session}":
                fill["session"] = self._session(repository, mine=unused) if there else BAIT
                content = b"some bytes" if method in ("PATCH", "PUT") else None
                path += f"?digest={digest_of(b'some bytes')}"
            case "POST", "plans":
                content = json.dumps({"repositories": [repository]}).encode()
            case "PUT" | "PATCH", "pullers" | "retention" | "untagged":
                content = b"{}"
            case "POST", "immutable-tags":
                content = b'{"pattern": "no/such:v*"}'
            case "DELETE", "immutable-tags":
                path += "?pattern=never:set"
            case "POST", "runs":
                content = b'{"dry_run": true}'
            case _, "explain":
                path += f"?repository={repository}&tag=v1"
            case "PUT", "{source}":
                content, fill["source"] = REPORT, "written"
            case _, "{source}":
                fill["source"] = self._source() if there else "absent"
            case "POST", "suggest":
                content = json.dumps({"free": 1, "repositories": [repository]}).encode()
            case "POST", "purge":
                content = json.dumps(_harmless_purge(repository)).encode()
            case _, "{job}" | "items":
                fill["job"] = self._job(repository) if there else BAIT
            case "POST", "apply":
                if there:
                    digests = [self.house.push_index(repository)]
                    fill["plan"] = self._plan({"repository": repository, "digests": digests})
                else:
                    fill["plan"] = BAIT
            case "PATCH", "soft-delete":
                content = b"{}"
            case "DELETE", "deleted":
                path += f"?repository={repository}"
            case _, "{operation}" | "restore":
                fill["operation"] = self._operation(repository)[0] if there else BAIT
            case "POST" | "DELETE", "locks":
                return self._lock_status(row.method, repository, placed=there and unused)
            case _, "locks":
                path += f"?repository={repository}"
            case _, "{prefix}":
                fill["prefix"] = _layer(repository).removeprefix("sha256:")[:7]
            case _, "usage":
                path += f"?repository={repository}"
            case _, "{plan}":
                fill["plan"] = self._plan({"repositories": [repository]}) if there else BAIT
            case "POST", "token" | "exchange" as endpoint:
                content = FORMS[endpoint]
                headers = headers | {"Content-Type": "application/x-www-form-urlencoded"}
        return self.house.status(row.method, path.format(**fill), headers, content)

    def _administration_status(self, row: Row, repository: str, *, unused: bool) -> int:
        """As status, at an account, key or upload that was made for it."""
        path, kind = row.path, row.path.split("/")[3]
        name, there = f"m-{uuid.uuid4().hex[:12]}", repository.endswith("/app") and unused
        fill = dict.fromkeys(("user", "token", "scope_map"), name) | {"key": "0" * 16}
        rights = [["team/app", "content/read"]]
        manage = self.house.manage
        content: dict[str, object] | None = None
        match kind:
            case "users" if there and "{" in path:
                manage("user create", name=name, password=f"long enough {name}")
            case "tokens" if there and "{" in path:
                manage("token create", name=name, repositories=rights, no_passwords=True)
            case "scope-maps" if there and "{" in path:
                manage("scope-map create", name=name, repositories=rights)
            case "keys" if there and "{" in path:
                # One that has signed nothing: other tests go on with their tokens.
                fill["key"] = manage("key rotate")["kid"]
                manage("key rotate")
            case "deployments":
                fill["source"] = self._source() if there else "absent"
                path += "?confirm=1"
            case "uploads" if row.method == "DELETE":
                session = self._session(repository, mine=False) if there else BAIT
                path += f"?upload={session}"
        match row.method, kind:
            case "POST", "users" if "{" not in path:
                content = {"name": name, "password": f"long enough {name}"}
            case "POST", "tokens" if "{" not in path:
                content = {"name": name, "repositories": rights, "noPasswords": True}
            case "POST", "scope-maps":
                content = {"name": name, "repositories": rights}
            case "POST", "users" | "tokens":
                content = {"slots": ["password1"]} if kind == "tokens" else {}
            case "PATCH", "scope-maps":
                content = {"description": "changed"}
            case "PATCH", _:
                content = {"status": "disabled"}
            case "POST", "check":
                content = {"mode": "fast"}
            case "POST", _:
                content = {}
        body = None if content is None else json.dumps(content).encode()
        return self.house.status(row.method, path.format(**fill), self.headers(repository), body)

    def _source(self) -> str:
        """A source of deployments, reported by the administrator."""
        name = f"m-{uuid.uuid4().hex[:12]}"
        path = f"/api/v1/deployments/{name}"
        self.house.status("PUT", path, self.house.basic("admin"), REPORT)
        return name

    def _plan(self, wanted: dict[str, object]) -> str:
        """A plan of the administrator's."""
        response = self.house.client.post(
            "/api/v1/plans", json=wanted, headers=self.house.basic("admin")
        )
        return str(response.json()["id"])

    def _job(self, repository: str) -> str:
        """A job of the administrator's."""
        response = self.house.client.post(
            "/api/v1/purge",
            json=_harmless_purge(repository),
            headers=self.house.basic("admin"),
        )
        return str(response.json()["id"])

    def _operation(self, repository: str) -> tuple[str, str]:
        """A deletion of the administrator's that can be taken back: its id, and what it took."""
        admin, client = self.house.basic("admin"), self.house.client
        path = "/api/v1/policies/soft-delete"
        client.patch(path, json={"status": "enabled"}, headers=admin)
        digest = self.house.push_index(repository)
        gone = client.delete(f"/v2/{repository}/manifests/{digest}", headers=admin)
        client.patch(path, json={"status": "disabled"}, headers=admin)
        return gone.headers["Ullage-Operation"], digest

    def _lock_status(self, method: str, repository: str, *, placed: bool) -> int:
        """As status; no lock is left behind that would keep others from deleting."""
        body = {"repository": repository, "tag": "v1", "reason": "the matrix"}
        place = ("POST", "/api/v1/locks", json.dumps(body).encode())
        lift = ("DELETE", f"/api/v1/locks?repository={repository}&tag=v1", None)
        admin, own = self.house.basic("admin"), self.headers(repository)
        if method == "POST":
            status = self.house.status(*place[:2], own, place[2])
            if placed:
                self.house.status(*lift[:2], admin, lift[2])
            return status
        if placed:
            self.house.status(*place[:2], admin, place[2])
        return self.house.status(*lift[:2], own, lift[2])

    def _acr_status(self, row: Row, repository: str, *, unused: bool) -> int:
        """As status; what was deleted is pushed again."""
        there, layer = repository.endswith("/app"), f"the layer of {repository}".encode()
        used_up = row.method == "DELETE" and there and unused
        fill = {"name": repository, "tag": "v1", "digest": digest_of(image(layer))}
        content = b'{"listEnabled": true}' if row.method == "PATCH" else None
        if row.method == "POST" and there:
            fill["digest"] = self._operation(repository)[1]
        status = self.house.status(
            row.method, row.path.format(**fill), self.headers(repository), content
        )
        if used_up:
            self.house.push_image(repository, "v1", layer)
        return status

    def _session(self, repository: str, *, mine: bool) -> str:
        """An open session: the caller's own, or the administrator's if it may have none."""
        headers = self.headers(repository) if mine else self.house.basic("admin")
        return self.house.open_upload(repository, headers).rpartition("/")[2]


def _harmless_purge(repository: str) -> dict[str, object]:
    return {"filters": [f"{repository}:.*"], "ago": "0d", "dry_run": True}


def _layer(repository: str) -> str:
    return digest_of(f"the layer of {repository}".encode())


# The id of an upload session that there is not.
BAIT = uuid.uuid4().hex
# An index that lists what is not there is refused to callers that get that far.
INDEX_OF_NOTHING = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{"mediaType": INDEX, "digest": digest_of(b"nowhere"), "size": 2}],
    }
).encode()
FORMS = {
    "token": b"grant_type=password",
    "exchange": b"grant_type=refresh_token&refresh_token=x",
}


@pytest.mark.parametrize(("role", "kind"), CALLERS)
def test_each_cell_of_the_matrix_has_the_status_that_the_tables_call_for(
    house: House, role: str, kind: str
) -> None:
    """S11: {caller} x every route x {existing, absent, another's} x {kind of credential}."""
    attempt = Attempt(house, role, kind)
    wrong = {}
    for row in (*TABLE, *HEADS):
        for repository in REPOSITORIES:
            wanted = expected(role, kind, row, repository)
            status = attempt.status(row, repository, unused=wanted < 400)
            if status != wanted:
                wrong[f"{row.method} {row.path} in {repository}"] = (status, "not", wanted)
    assert not wrong


def test_the_matrix_is_as_large_as_it_says() -> None:
    """G9: at least 1,500 cells."""
    assert len(CELLS) >= 1500


def test_every_route_of_the_application_is_in_the_table_and_no_other() -> None:
    """ECR Public 2022, S66: no undocumented route."""
    routed = sorted((route.method, route.path) for route in ROUTES)
    assert routed == sorted((row.method, row.path) for row in TABLE)


def test_every_route_declares_the_need_that_the_table_names() -> None:
    """azure.md section 1.1, "Scope demanded per endpoint"."""
    declared = {
        (route.method, route.path): (
            Everywhere(rights)
            if route.permission.audience is Audience.EVERYTHING
            else rights or route.permission.audience.value
        )
        for route in ROUTES
        for rights in [frozenset(map(str, route.permission.actions))]
    }
    assert declared == {(row.method, row.path): row.need for row in TABLE}


def test_a_route_without_a_permission_cannot_be_made() -> None:
    """One place decides: a route that does not say whose it is is an error, not open."""
    assert inspect.signature(Route).parameters["permission"].default is inspect.Parameter.empty

    async def handler() -> httpx.Response:
        raise AssertionError

    with pytest.raises(TypeError, match="permission"):
        Route("hidden", "GET", "/hidden", handler)  # type: ignore[call-arg, arg-type]

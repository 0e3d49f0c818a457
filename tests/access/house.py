"""A registry with accounts: the real server, people of every kind, and images to fight over."""

import base64
import hashlib
import http.client
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.server import UllageServer
from ullage.control import ask_control

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = b"{}"
EVERY_ACTION = (
    "content/read",
    "content/write",
    "content/delete",
    "metadata/read",
    "metadata/write",
    "deleted/read",
    "deleted/restore",
)
_numbers = itertools.count()


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def basic(name: str, password: str) -> dict[str, str]:
    """RFC 7617, as most clients write it."""
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def without_what_differs(response: httpx.Response, *names: str) -> tuple[int, Any, str]:
    """Status, headers and body, without the request's own id and the given names."""
    # Whether a refusal closes the connection depends on how much of a body had come by then.
    ids = ("x-request-id", "x-ms-correlation-request-id", "date", "connection")
    headers = {k: v for k, v in response.headers.items() if k not in ids}
    shown = json.dumps(headers, sort_keys=True)
    body = response.text
    for name in names:
        shown, body = shown.replace(name, "NAME"), body.replace(name, "NAME")
    return response.status_code, json.loads(shown), body


class House:
    """`ullage serve --auth` with an administrator `admin`, and one connection to it."""

    ADMIN_PASSWORD = "correct horse battery staple"

    def __init__(self, data: Path, *arguments: str, database: str = "") -> None:
        extra = ("--database", database) if database else ()
        self.server = UllageServer(data, "--auth", *extra, *arguments)
        self.passwords: dict[str, str] = {"admin": self.ADMIN_PASSWORD}

    def __enter__(self) -> Self:
        self.server.start()
        self.client = httpx.Client(base_url=self.server.url, timeout=30)
        self._connection = http.client.HTTPConnection(self.server.host, timeout=30)
        self.manage("user password", name="admin", password=self.ADMIN_PASSWORD)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._connection.close()
        self.server.__exit__()
        self.server.assert_no_500()

    def status(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> int:
        """One request's status, at a third of what httpx costs; for tests that make thousands."""
        kind = {"Content-Type": "application/json"} if path.startswith("/api/v1/") else {}
        return self._fast(method, path, {**kind, **headers}, body).status

    def _fast(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> http.client.HTTPResponse:
        try:
            self._connection.request(method, path, body, dict(headers))
            response = self._connection.getresponse()
        except ConnectionError:
            # After a refusal that left a body unread, the server closes the connection.
            self._connection.close()
            self._connection.request(method, path, body, dict(headers))
            response = self._connection.getresponse()
        response.read()
        return response

    # -- accounts

    def manage(self, command: str, **arguments: Any) -> Any:
        """What `ullage <command>` does: asked of the running server at its control socket."""
        answers = ask_control(
            self.server.data / "control.sock",
            {"do": "manage", "command": command, "arguments": arguments},
        )
        assert answers is not None
        answer = next(answers)
        answers.close()
        assert "error" not in answer, answer
        return answer["result"]

    def token(self, name: str, *rights: Sequence[str]) -> str:
        """Make a repository-scoped token with [repository, action …] each; its first password."""
        made = self.manage("token create", name=name, repositories=[list(r) for r in rights])
        self.passwords[name] = made["credentials"]["passwords"][0]["value"]
        return self.passwords[name]

    def basic(self, name: str) -> dict[str, str]:
        return basic(name, self.passwords[name])

    def bearer(self, name: str | None, *scopes: str) -> dict[str, str]:
        """An access token for an account, or for anonymous, with these scopes."""
        headers = self.basic(name) if name else {}
        response = self.client.get("/oauth2/token", params={"scope": scopes}, headers=headers)
        assert response.status_code == 200, response.text
        return bearer(response.json()["access_token"])

    # -- images

    def push_blob(self, repository: str, data: bytes, who: str = "admin") -> str:
        digest = digest_of(data)
        response = self.client.post(
            f"/v2/{repository}/blobs/uploads/",
            params={"digest": digest},
            content=data,
            headers=self.basic(who),
        )
        assert response.status_code == 201, response.text
        return digest

    def push_image(self, repository: str, tag: str, layer: bytes, who: str = "admin") -> str:
        """One layer and an empty config under a tag; the manifest's digest."""
        for data in (CONFIG, layer):
            self.push_blob(repository, data, who)
        raw = image(layer)
        self.put_manifest(repository, tag, raw, MANIFEST, who)
        return digest_of(raw)

    def push_index(self, repository: str, who: str = "admin") -> str:
        """An empty index that is not there yet, untagged; its digest."""
        raw = empty_index()
        self.put_manifest(repository, digest_of(raw), raw, INDEX, who)
        return digest_of(raw)

    def put_manifest(
        self, repository: str, reference: str, raw: bytes, media_type: str, who: str = "admin"
    ) -> None:
        response = self.client.put(
            f"/v2/{repository}/manifests/{reference}",
            content=raw,
            headers=self.basic(who) | {"Content-Type": media_type},
        )
        assert response.status_code == 201, response.text

    def open_upload(self, repository: str, headers: dict[str, str]) -> str:
        """The path of a new upload session."""
        response = self._fast("POST", f"/v2/{repository}/blobs/uploads/", headers)
        location = response.getheader("location")
        assert response.status == 202
        assert location is not None
        return location


def image(layer: bytes, **more: Any) -> bytes:
    """An image manifest over the empty config and one layer."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor("application/vnd.oci.image.config.v1+json", CONFIG),
        "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    }
    return json.dumps(manifest | more).encode()


def empty_index() -> bytes:
    """An index without members that is not there yet."""
    annotations = {"number": str(next(_numbers))}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": annotations}
    return json.dumps(index).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

"""What clients do, over HTTP: blobs, manifests and images pushed, errors read."""

import json
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import httpx

from tests.support.registry import CONFIG, INDEX, LAYER, MANIFEST, descriptor
from ullage.oci.digest import Digest, digest_of


def push_blob(client: httpx.Client, name: str, data: bytes, algorithm: str = "sha256") -> Digest:
    """Upload a blob in one request."""
    digest = digest_of(data, algorithm)
    answer = client.post(f"/v2/{name}/blobs/uploads/", params={"digest": digest}, content=data)
    assert answer.status_code == 201, answer.text
    return digest


def start_upload(client: httpx.Client, name: str) -> str:
    """Open an upload session; returns its path."""
    answer = client.post(f"/v2/{name}/blobs/uploads/")
    assert answer.status_code == 202, answer.text
    return answer.headers["Location"]


def wait_for_bytes(uploads: Path, before: Set[str] = frozenset()) -> Path:
    """The one file that is there beside those of `before`, as soon as it holds a byte."""
    deadline = time.monotonic() + 20
    while True:
        new = [path for path in uploads.iterdir() if path.name not in before]
        if new and new[0].stat().st_size:
            (stored,) = new
            return stored
        assert time.monotonic() < deadline, "nothing arrives"
        time.sleep(0.01)


def put_manifest(
    client: httpx.Client, name: str, reference: str, manifest: Mapping[str, Any]
) -> httpx.Response:
    """Push a manifest under a tag or digest, as the type that it states."""
    return client.put(
        f"/v2/{name}/manifests/{reference}",
        content=encoded(manifest),
        headers={"Content-Type": str(manifest["mediaType"])},
    )


def encoded(manifest: Mapping[str, Any]) -> bytes:
    """The bytes that `put_manifest` sends."""
    return json.dumps(manifest).encode()


def image(
    client: httpx.Client, name: str, layers: Sequence[bytes] = (b"layer",), **more: Any
) -> dict[str, Any]:
    """Push a config and layers; returns a manifest over them that is still to be pushed."""
    config = b'{"architecture":"amd64","os":"linux"}'
    for blob in (config, *layers):
        push_blob(client, name, blob)
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer) for layer in layers],
        **more,
    }


def push_image(
    client: httpx.Client, name: str, tag: str, layers: Sequence[bytes] = (b"layer",), **more: Any
) -> Digest:
    """Push a whole image under a tag; `more` is added to its manifest."""
    manifest = image(client, name, layers, **more)
    answer = put_manifest(client, name, tag, manifest)
    assert answer.status_code == 201, answer.text
    return digest_of(encoded(manifest))


def index_of(client: httpx.Client, name: str, images: Sequence[Digest]) -> dict[str, Any]:
    """An index over manifests of this repository, still to be pushed."""
    manifests = []
    for digest in images:
        answer = client.get(f"/v2/{name}/manifests/{digest}")
        manifests.append(descriptor(answer.headers["Content-Type"], answer.content))
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}


def error_code(answer: httpx.Response) -> str:
    """The code of an error answer, whose body must be as distribution-spec, "Error Codes", says."""
    assert answer.headers["Content-Type"] == "application/json", answer.text
    errors = answer.json()["errors"]
    assert isinstance(errors, list), answer.text
    assert len(errors) == 1, answer.text
    assert set(errors[0]) <= {"code", "message", "detail"}, answer.text
    assert errors[0]["message"], answer.text
    return str(errors[0]["code"])


def refused(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error answer."""
    return answer.status_code, error_code(answer)

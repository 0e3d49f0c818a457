#!/usr/bin/env python3
"""Attach a bill of materials to an image in a registry, as a referrer (distribution-spec 1.1).

    cyclonedx-py requirements --output-reproducible constraints.txt -o ullage.cdx.json
    deploy/container/attach_sbom.py ullage.cdx.json http://127.0.0.1:5000 ullage:0.1.0

The account, if the registry wants one, is in ULLAGE_USERNAME and ULLAGE_PASSWORD.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin
from urllib.request import Request, urlopen

CYCLONEDX = "application/vnd.cyclonedx+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest"
# Image-spec, "Guidance for an Empty Descriptor".
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json"}


class Registry:
    """A registry over HTTP, asked with the account of the environment."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/"
        self._headers = {}
        if "ULLAGE_USERNAME" in os.environ:
            account = f"{os.environ['ULLAGE_USERNAME']}:{os.environ.get('ULLAGE_PASSWORD', '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(account.encode()).decode()}"

    def subject(self, name: str, reference: str) -> dict[str, Any]:
        """The descriptor of a manifest that is there."""
        accepted = {"Accept": f"{MANIFEST}, {INDEX}, {DOCKER}.v2+json, {DOCKER}.list.v2+json"}
        headers, body = self._ask("GET", f"v2/{name}/manifests/{reference}", None, accepted)
        return {**descriptor(body), "mediaType": headers["Content-Type"]}

    def push_blob(self, name: str, data: bytes) -> dict[str, Any]:
        """The descriptor of a blob that is there from now on."""
        found = descriptor(data)
        headers, _ = self._ask("POST", f"v2/{name}/blobs/uploads/", b"", {})
        place = headers["Location"]
        place += f"{'&' if '?' in place else '?'}digest={found['digest']}"
        self._ask("PUT", place, data, {"Content-Type": "application/octet-stream"})
        return found

    def push_manifest(self, name: str, manifest: dict[str, Any]) -> str:
        """The digest of a manifest that is there from now on, without a tag."""
        body = json.dumps(manifest).encode()
        digest = str(descriptor(body)["digest"])
        self._ask("PUT", f"v2/{name}/manifests/{digest}", body, {"Content-Type": MANIFEST})
        return digest

    def _ask(
        self, method: str, place: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[Any, bytes]:
        url = urljoin(self._url, place)
        request = Request(url, body, {**self._headers, **headers}, method=method)  # noqa: S310
        with urlopen(request, timeout=60) as answer:  # noqa: S310 - the user's own URL
            return answer.headers, answer.read()


def descriptor(data: bytes) -> dict[str, Any]:
    return {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


def attach(registry: Registry, name: str, reference: str, bill: bytes) -> str:
    """The digest of the referrer."""
    config = registry.push_blob(name, b"{}")
    layer = registry.push_blob(name, bill)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": CYCLONEDX,
        "config": {**EMPTY, **config},
        "layers": [{"mediaType": CYCLONEDX, **layer}],
        "subject": registry.subject(name, reference),
    }
    return registry.push_manifest(name, manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description="Attach a bill of materials to an image.")
    parser.add_argument("bill", type=Path, help="CycloneDX, JSON")
    parser.add_argument("registry", help="its URL")
    parser.add_argument("image", help="NAME:TAG or NAME@DIGEST")
    given = parser.parse_args()
    separator = "@" if "@" in given.image else ":"
    name, _, reference = given.image.partition(separator)
    try:
        print(attach(Registry(given.registry), name, reference, given.bill.read_bytes()))
    except HTTPError as error:
        sys.exit(f"{error.url}: {error.code} {error.read().decode(errors='replace')}")
    except (URLError, OSError) as error:
        sys.exit(f"{given.registry}: {error}")


if __name__ == "__main__":
    main()

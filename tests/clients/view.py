"""What a registry says it holds, what its disk says, and so what a deletion must give back."""

import hashlib
import ssl
import time
from collections.abc import Callable
from typing import Any, Self

import httpx

from tests.support.server import UllageServer

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))

# A delete gives back its bytes within seconds (deletion.md section 1, promise 2); a busy machine
# may take some more. Whatever waits for a lease takes an hour, and so is caught.
SETTLE_SECONDS = 15.0


class View:
    """An onlooker: reads with GET only, for a HEAD of a blob would be taken for a push."""

    def __init__(
        self,
        server: UllageServer,
        *,
        login: tuple[str, str] | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._server = server
        self._http = httpx.Client(
            base_url=server.url, auth=login, verify=trust or True, timeout=60, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    # -- what it says

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository; none if there is no such repository."""
        response = self._http.get(f"/v2/{repository}/tags/list")
        if response.status_code == 404:
            return []
        found: list[str] = response.raise_for_status().json()["tags"]
        return found

    def repositories(self) -> list[str]:
        found = self._http.get("/v2/_catalog").raise_for_status().json()["repositories"]
        return list(found or [])

    def contents(self) -> dict[str, str]:
        """Every "repository:tag" with its digest."""
        images = [f"{name}:{tag}" for name in self.repositories() for tag in self.tags(name)]
        return {image: self.digest(image) for image in images}

    def digest(self, image: str) -> str:
        """The digest of what "repository:tag" names."""
        return _digest(self._manifest(image).content)

    def media_type(self, image: str) -> str:
        return self._manifest(image).headers["Content-Type"]

    def manifest(self, image: str) -> dict[str, Any]:
        """The manifest behind "repository:tag" or "repository@digest"."""
        found: dict[str, Any] = self._manifest(image).json()
        return found

    def has_manifest(self, image: str) -> bool:
        return self._get_manifest(image).status_code == 200

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the blob can be pulled from this repository: all of it, and the right bytes."""
        hasher = hashlib.sha256()
        with self._http.stream("GET", f"/v2/{repository}/blobs/{digest}") as response:
            if response.status_code == 404:
                return False
            for piece in response.raise_for_status().iter_raw():
                hasher.update(piece)
        return f"sha256:{hasher.hexdigest()}" == digest

    def blobs(self, *images: str) -> dict[str, int]:
        """Digest and size of every config and layer these images need, through their indexes."""
        found: dict[str, int] = {}
        for image in images:
            manifest = self.manifest(image)
            repository = _split(image)[0]
            for child in manifest.get("manifests", []):
                found |= self.blobs(f"{repository}@{child['digest']}")
            if "config" in manifest:
                found |= {d["digest"]: d["size"] for d in (manifest["config"], *manifest["layers"])}
        return found

    def delete(self, image: str) -> None:
        """Delete "repository@digest", as an API client does."""
        response = self._http.delete(_path(image))
        assert response.status_code == 202, response.text

    # -- what the disk says

    def assert_disk_holds(self, *images: str) -> None:
        """The disk holds what these images need: each blob once, and not a byte more."""
        self.wait_for_disk(sum(self.blobs(*images).values()))

    def assert_deletion_frees(
        self,
        image: str,
        *,
        kept: tuple[str, ...],
        delete: Callable[[str], None] | None = None,
    ) -> dict[str, int]:
        """Delete "repository@digest", and see exactly what nobody else needs leave the disk.

        `kept` is everything else in the registry; `delete` is how, an HTTP request if not given.
        Returns the blobs that went.
        """
        repository = _split(image)[0]
        needed = self.blobs(*kept)
        unique = {d: size for d, size in self.blobs(image).items() if d not in needed}
        # Before as after: the one less the other is what the deletion frees, to the byte.
        self.wait_for_disk(sum((needed | unique).values()))
        (delete or self.delete)(image)
        self.wait_for_disk(sum(needed.values()))
        assert not self.has_manifest(image)
        assert not [digest for digest in unique if self.has_blob(repository, digest)]
        self.assert_pullable(*kept)
        return unique

    def assert_pullable(self, *images: str) -> None:
        for image in images:
            repository = _split(image)[0]
            lost = [d for d in self.blobs(image) if not self.has_blob(repository, d)]
            assert not lost, f"{image} has lost {lost}"

    def wait_for_disk(self, expected: int) -> None:
        """Until the disk holds exactly `expected` bytes.

        A second copy of a blob that was uploaded twice goes in the background, as deleted ones do.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while (found := self._server.disk_bytes()) != expected:
            assert time.monotonic() < deadline, (
                f"{found} bytes are on the disk after {SETTLE_SECONDS} s, "
                f"predicted are {expected}:\n{self._server.log}"
            )
            time.sleep(0.02)

    # -- inside

    def _manifest(self, image: str) -> httpx.Response:
        return self._get_manifest(image).raise_for_status()

    def _get_manifest(self, image: str) -> httpx.Response:
        return self._http.get(_path(image), headers={"Accept": _ACCEPT})


def _split(image: str) -> tuple[str, str]:
    """Repository and reference of "repository:tag" or "repository@digest", without a host."""
    repository, at, digest = image.partition("@")
    if at:
        return repository, digest
    repository, _, tag = image.partition(":")
    return repository, tag


def _path(image: str) -> str:
    repository, reference = _split(image)
    return f"/v2/{repository}/manifests/{reference}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

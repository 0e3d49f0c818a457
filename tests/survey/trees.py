"""Small trees made by hand: what distribution would have written, and what is wrong with some."""

import json
from pathlib import Path

from bench.images import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, digest_of

Descriptor = dict[str, object]
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


class TreeMaker:
    """Writes a tree of distribution's file system driver."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "docker" / "registry" / "v2"
        (self.root / "blobs").mkdir(parents=True)
        (self.root / "repositories").mkdir()

    def blob(self, data: bytes, media_type: str = LAYER_TYPE) -> Descriptor:
        digest = digest_of(data)
        path = self.data(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def data(self, digest: object) -> Path:
        hexadecimal = str(digest).removeprefix("sha256:")
        return self.root / "blobs" / "sha256" / hexadecimal[:2] / hexadecimal / "data"

    def image(self, repository: str, tag: str = "", salt: str = "", **more: object) -> Descriptor:
        """An image of a configuration and one layer."""
        config = self.blob(f'{{"of": "{repository}:{tag}{salt}"}}'.encode(), CONFIG_TYPE)
        layer = self.blob(f"layer of {repository}:{tag}{salt}".encode() * 20)
        body = {"config": config, "layers": [layer], **more}
        return self.manifest(repository, MANIFEST_TYPE, body, tag)

    def index(self, repository: str, children: list[Descriptor], tag: str = "") -> Descriptor:
        return self.manifest(repository, INDEX_TYPE, {"manifests": children}, tag)

    def manifest(
        self, repository: str, media_type: str, body: dict[str, object], tag: str = ""
    ) -> Descriptor:
        whole = {"schemaVersion": 2, "mediaType": media_type, **body}
        made = self.blob(json.dumps(whole).encode(), media_type)
        (self.root / "repositories" / repository / "_layers").mkdir(parents=True, exist_ok=True)
        (self.manifests(repository) / "tags").mkdir(parents=True, exist_ok=True)
        self.link(self.manifests(repository) / "revisions", made["digest"])
        if tag:
            self.tag(repository, tag, made["digest"])
        return made

    def tag(self, repository: str, tag: str, digest: object) -> None:
        folder = self.manifests(repository) / "tags" / tag
        (folder / "current").mkdir(parents=True)
        (folder / "current" / "link").write_text(str(digest))
        self.link(folder / "index", digest)

    def manifests(self, repository: str) -> Path:
        return self.root / "repositories" / repository / "_manifests"

    def revision(self, repository: str, digest: object) -> Path:
        algorithm, _, hexadecimal = str(digest).partition(":")
        return self.manifests(repository) / "revisions" / algorithm / hexadecimal / "link"

    @staticmethod
    def link(folder: Path, digest: object) -> None:
        algorithm, _, hexadecimal = str(digest).partition(":")
        (folder / algorithm / hexadecimal).mkdir(parents=True)
        (folder / algorithm / hexadecimal / "link").write_text(str(digest))

"""OCI image layouts: one folder each, as `skopeo copy … oci:`, zot and olareg write them.

    oci-layout, index.json            manifests, those with a tag by their annotation
    blobs/<algorithm>/<hex>
    .uploads/, _uploads/              unfinished uploads, where a server writes to it

A folder may have others below it: zot has one for each repository. Source: image-spec, "Image
Layout".
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ullage.oci.attached import attached_to
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import DigestInvalid
from ullage.survey.account import Account, Category
from ullage.survey.digests import Digests
from ullage.survey.faults import Fault, Faults
from ullage.survey.folders import Folder, Unreadable, add_all, opened, read_file
from ullage.survey.manifests import MOST_BYTES, Manifests
from ullage.survey.tree import Repository, Tree

TAG = "org.opencontainers.image.ref.name"
# An index has some 300 bytes for each manifest.
_MOST_INDEX_BYTES = 256 * 1024 * 1024
_OWN = ("oci-layout", "index.json")
_UPLOADS = (".uploads", "_uploads")

Progress = Callable[[str, int], None]


def scan(
    place: Path, account: Account, faults: Faults, progress: Progress, *, deep: bool = False
) -> Iterator[Tree]:
    """Each layout at or below a place, complete when it is handed out. Raises Unreadable."""
    scanner = _Scanner(account, faults, progress, deep=deep)
    with opened(str(place), account) as folder:
        yield from scanner.folder(folder, "")


class _Scanner:
    def __init__(self, account: Account, faults: Faults, progress: Progress, *, deep: bool) -> None:
        self._account = account
        self._faults = faults
        self._progress = progress
        self._deep = deep
        self._found = 0

    def folder(self, folder: Folder, name: str) -> Iterator[Tree]:
        """A folder that may be a layout, and all that is below it."""
        entries = dict(folder.entries())
        tree = None
        if all(each in entries for each in _OWN):
            tree = self._layout(folder, name, entries)
            yield tree
        for entry, status in entries.items():
            if tree is not None and entry in (*_OWN, *_UPLOADS, "blobs"):
                continue
            self._account.add(Category.OTHER, status)
            if stat.S_ISDIR(status.st_mode):
                with folder.below(entry) as below:
                    if below is not None:
                        yield from self.folder(below, f"{name}/{entry}" if name else entry)

    def _layout(self, folder: Folder, name: str, entries: dict[str, os.stat_result]) -> Tree:
        repository = Repository(name or Path(folder.path).resolve().name)
        digests = Digests()
        manifests = Manifests(digests, lambda digest: _raw(folder.path, digest))
        tree = Tree(
            digests, manifests, [repository], self._account, self._faults, needs_links=False
        )
        for entry in filter(entries.__contains__, ("blobs", *_OWN, *_UPLOADS)):
            if entry == "blobs":
                self._blobs(folder, entries[entry], tree)
            elif entry in _OWN:
                add_all(folder, entry, entries[entry], Category.LINKS)
            else:
                before = self._account.amounts[Category.UPLOADS].bytes
                add_all(folder, entry, entries[entry], Category.UPLOADS)
                repository.uploads += self._account.amounts[Category.UPLOADS].bytes - before
        self._read_index(folder, tree, repository)
        for number in repository.revisions:
            manifests.read_below(number)
        self._found += 1
        self._progress("Layouts", self._found)
        return tree

    def _blobs(self, folder: Folder, status: os.stat_result, tree: Tree) -> None:
        self._account.add(Category.OTHER, status)
        if not stat.S_ISDIR(status.st_mode):
            return
        with folder.below("blobs") as blobs:
            if blobs is None:
                return
            for algorithm, algorithm_status in blobs.entries():
                self._account.add(Category.OTHER, algorithm_status)
                if stat.S_ISDIR(algorithm_status.st_mode):
                    with blobs.below(algorithm) as below:
                        if below is not None:
                            self._files(below, algorithm, tree)

    def _files(self, folder: Folder, algorithm: str, tree: Tree) -> None:
        for name, status in folder.entries():
            digest = _digest(f"{algorithm}:{name}")
            if digest is None or not stat.S_ISREG(status.st_mode):
                add_all(folder, name, status, Category.OTHER)
            else:
                tree.add_blob(folder, name, status, digest, deep=self._deep)

    def _read_index(self, folder: Folder, tree: Tree, repository: Repository) -> None:
        """Raises Unreadable: without its index, all of a layout would look unreferenced."""
        raw = folder.read("index.json", _MOST_INDEX_BYTES)
        try:
            body = json.loads(raw or b"")
            listed = [(_digest(str(each["digest"])), _tag(each)) for each in body["manifests"]]
        except (ValueError, TypeError, LookupError, RecursionError):
            raise Unreadable(f"{folder.path}/index.json: no index of an OCI layout") from None
        named = {digest for digest, _ in listed}
        for digest, tag in listed:
            name = f"{repository.name}:{tag}" if tag else f"{repository.name}@{digest}"
            if digest is None:
                self._faults.add(Fault.BAD_LINK, name)
                continue
            number = tree.digests.number(digest)
            repository.revisions.append(number)
            if not tree.digests.is_there(number):
                missing = Fault.TAG_WITHOUT_MANIFEST if tag else Fault.LINK_TO_NOTHING
                self._faults.add(missing, name)
            if tag:
                repository.tags.append(number)
                image = attached_to(tag)
                if image is not None and image not in named:
                    self._faults.add(Fault.SIGNATURE_WITHOUT_IMAGE, name)


def _tag(listed: dict[str, Any]) -> str:
    annotations = listed.get("annotations")
    tag = annotations.get(TAG) if isinstance(annotations, dict) else None
    return tag if isinstance(tag, str) else ""


def _raw(layout: str, digest: str) -> bytes | None:
    algorithm, _, hexadecimal = digest.partition(":")
    raw = read_file(f"{layout}/blobs/{algorithm}/{hexadecimal}", MOST_BYTES + 1)
    return raw if raw is not None and len(raw) <= MOST_BYTES else None


def _digest(text: str) -> Digest | None:
    try:
        return parse_digest(text)
    except DigestInvalid:
        return None

"""The file system driver of CNCF distribution, versions 2 and 3 alike.

    blobs/<algorithm>/<2 digits>/<hex>/data
    repositories/R/_layers/<algorithm>/<hex>/link
    repositories/R/_manifests/revisions/<algorithm>/<hex>/link     the folder stays when it is gone
    repositories/R/_manifests/tags/T/current/link
    repositories/R/_manifests/tags/T/index/<algorithm>/<hex>/link
    repositories/R/_uploads/<uuid>/{data,startedat,hashstates/<algorithm>/<offset>}

A link is a digest, without a newline. Entries come in the order in which distribution walks them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ullage.oci.attached import attached_to
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import DigestInvalid
from ullage.survey.account import Account, Category
from ullage.survey.digests import Digests
from ullage.survey.faults import Fault, Faults
from ullage.survey.folders import Folder, Unreadable, add_all, opened, read_file
from ullage.survey.manifests import MOST_BYTES, Manifests
from ullage.survey.tree import Repository, Tree

_TO_ROOT = ("docker", "registry", "v2")
_INSIDE = ("blobs", "repositories")
_HEX = {"sha256": re.compile("[0-9a-f]{64}"), "sha512": re.compile("[0-9a-f]{128}")}
# A digest of sha512, and one character more.
_LONGEST_LINK = 136

Progress = Callable[[str, int], None]


def find_root(place: Path) -> Path | None:
    """The folder with `blobs` and `repositories`: the place, one below it, or the one it is in."""
    below = (place.joinpath(*_TO_ROOT[start:]) for start in range(len(_TO_ROOT) + 1))
    inside = (place.parent,) if place.name in _INSIDE else ()
    return next((each for each in (*below, *inside) if _is_root(each)), None)


def _is_root(folder: Path) -> bool:
    if (folder / "oci-layout").exists():
        return False
    return (folder / "repositories").is_dir()


def scan(place: Path, root: Path, progress: Progress, *, deep: bool = False) -> Tree:
    """Everything in a place, whose tree of distribution begins at `root`. Raises Unreadable."""
    _refuse_database(root)
    if not root.is_relative_to(place):
        place = root
    tree = _empty(root)
    scanner = _Scanner(tree, progress, deep=deep)
    with opened(str(place), tree.account) as folder:
        scanner.towards_root(folder, root.relative_to(place).parts)
    _refuse_tags_elsewhere(tree, root)
    scanner.read_manifests()
    return tree


def _empty(root: Path) -> Tree:
    digests, account = Digests(), Account()
    blobs = _Blobs(root)
    manifests = Manifests(digests, blobs.raw)
    return Tree(digests, manifests, [], account, Faults())


def _refuse_database(root: Path) -> None:
    """GitLab marks a tree whose tags are in its database."""
    if (root.parent / "lockfiles" / "database-in-use").exists():
        raise Unreadable(
            f"{root}: GitLab keeps the tags of this registry in a database; name the registry's URL"
        )


def _refuse_tags_elsewhere(tree: Tree, root: Path) -> None:
    """Without its tags, all of it would look untagged."""
    filled = [each for each in tree.repositories if each.revisions]
    if sum(not each.has_tags for each in filled) * 2 > len(filled):
        raise Unreadable(
            f"{root}: most repositories have manifests and no tags: they are in a database, as "
            "Harbor's and GitLab's may be; name the registry's URL"
        )


class _Blobs:
    """Reads manifests by their digests."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def raw(self, digest: str) -> bytes | None:
        algorithm, _, hexadecimal = digest.partition(":")
        path = f"{self._root}/blobs/{algorithm}/{hexadecimal[:2]}/{hexadecimal}/data"
        raw = read_file(path, MOST_BYTES + 1)
        return raw if raw is not None and len(raw) <= MOST_BYTES else None


class _Scanner:
    def __init__(self, tree: Tree, progress: Progress, *, deep: bool) -> None:
        self._tree = tree
        self._progress = progress
        self._deep = deep
        self._attached: list[tuple[int, str, Digest]] = []

    # --- folders ----------------------------------------------------------------------------------

    def towards_root(self, folder: Folder, way: tuple[str, ...]) -> None:
        """Whatever lies beside the way is none of the registry's."""
        if not way:
            self._root(folder)
            return
        for name, status in folder.entries():
            if name == way[0]:
                for below in self._entered(folder, name, status):
                    self.towards_root(below, way[1:])
            else:
                add_all(folder, name, status, Category.OTHER)

    def _entered(self, folder: Folder, name: str, status: os.stat_result) -> Iterator[Folder]:
        """The folder of that name, if it still is one. What is none is in the account then."""
        folder.account.add(Category.OTHER, status)
        if stat.S_ISDIR(status.st_mode):
            with folder.below(name) as below:
                if below is not None:
                    yield below

    def _root(self, folder: Folder) -> None:
        for name, status in folder.entries():
            if name == "blobs":
                for below in self._entered(folder, name, status):
                    self._blobs(below)
            elif name == "repositories":
                for below in self._entered(folder, name, status):
                    self._repositories(below, "")
            else:
                add_all(folder, name, status, Category.OTHER)

    # --- blobs ------------------------------------------------------------------------------------

    def _blobs(self, folder: Folder) -> None:
        for algorithm, status in folder.entries():
            if algorithm not in _HEX:
                add_all(folder, algorithm, status, Category.OTHER)
                continue
            for below in self._entered(folder, algorithm, status):
                for prefix, prefix_status in below.entries():
                    for shard in self._entered(below, prefix, prefix_status):
                        self._shard(shard, algorithm, prefix)
                        self._progress("Blobs", len(self._tree.digests.sizes))

    def _shard(self, folder: Folder, algorithm: str, prefix: str) -> None:
        for name, status in folder.entries():
            if not _HEX[algorithm].fullmatch(name) or name[:2] != prefix:
                add_all(folder, name, status, Category.OTHER)
                continue
            for below in self._entered(folder, name, status):
                self._blob(below, algorithm, name)

    def _blob(self, folder: Folder, algorithm: str, hexadecimal: str) -> None:
        for name, status in folder.entries():
            if name != "data" or not stat.S_ISREG(status.st_mode):
                add_all(folder, name, status, Category.OTHER)
            else:
                digest = Digest(f"{algorithm}:{hexadecimal}")
                self._tree.add_blob(folder, name, status, digest, deep=self._deep)

    # --- repositories -----------------------------------------------------------------------------

    def _repositories(self, folder: Folder, repository: str) -> None:
        """A folder of repositories, which may be a repository itself."""
        found: Repository | None = None
        for name, status in folder.entries():
            if name in ("_layers", "_manifests", "_uploads"):
                if found is None:
                    found = Repository(repository)
                    self._tree.repositories.append(found)
                    self._progress("Repositories", len(self._tree.repositories))
                for below in self._entered(folder, name, status):
                    self._part(below, name, found)
            elif name.startswith("_"):
                add_all(folder, name, status, Category.OTHER)
            else:
                for below in self._entered(folder, name, status):
                    self._repositories(below, f"{repository}/{name}" if repository else name)

    def _part(self, folder: Folder, name: str, repository: Repository) -> None:
        if name == "_uploads":
            self._uploads(folder, repository)
        elif name == "_layers":
            repository.has_layers = True
            repository.layers.extend(
                self._tree.digests.number(digest) for digest, _ in self._linked(folder)
            )
        else:
            repository.has_manifests = True
            self._manifests(folder, repository)

    def _uploads(self, folder: Folder, repository: Repository) -> None:
        for upload, status in folder.entries():
            for below in self._entered(folder, upload, status):
                for name, inner in below.entries():
                    is_data = name == "data" and stat.S_ISREG(inner.st_mode)
                    category = Category.UPLOADS if is_data else Category.UPLOAD_STATE
                    add_all(below, name, inner, category)
                    repository.uploads += inner.st_size if is_data else 0

    def _manifests(self, folder: Folder, repository: Repository) -> None:
        # `revisions` comes before `tags`.
        for name, status in folder.entries():
            if name == "revisions":
                for below in self._entered(folder, name, status):
                    self._revisions(below, repository)
            elif name == "tags":
                repository.has_tags = stat.S_ISDIR(status.st_mode)
                for below in self._entered(folder, name, status):
                    self._tags(below, repository)
            else:
                add_all(folder, name, status, Category.OTHER)

    def _revisions(self, folder: Folder, repository: Repository) -> None:
        found: list[int] = []
        for digest, below in self._linked(folder):
            number = self._link(below, f"{repository.name}@{digest}", digest)
            if number is None:
                repository.bad_revisions += 1
                continue
            found.append(number)
            if not self._tree.digests.is_there(number):
                self._tree.faults.add(Fault.LINK_TO_NOTHING, f"{repository.name}@{digest}")
        # Those of blobs that are there stay in the order of their digests.
        repository.revisions.extend(sorted(found))

    def _tags(self, folder: Folder, repository: Repository) -> None:
        linked = set(repository.revisions)
        for tag, status in folder.entries():
            for below in self._entered(folder, tag, status):
                number = self._tag(below, tag, repository)
                if number is not None:
                    repository.tags.append(number)
                    self._judge_tag(number, tag, repository, linked)

    def _tag(self, folder: Folder, tag: str, repository: Repository) -> int | None:
        number: int | None = None
        for name, status in folder.entries():
            if name == "current":
                for below in self._entered(folder, name, status):
                    for link, link_status in below.entries():
                        if link != "link":
                            add_all(below, link, link_status, Category.OTHER)
                            continue
                        below.account.add(Category.LINKS, link_status)
                        number = self._link(below, f"{repository.name}:{tag}", None)
                        repository.bad_tags += number is None
            elif name == "index":
                for below in self._entered(folder, name, status):
                    entries = (self._tree.digests.number(each) for each, _ in self._linked(below))
                    repository.history.extend(entries)
            else:
                add_all(folder, name, status, Category.OTHER)
        return number

    def _judge_tag(self, number: int, tag: str, repository: Repository, linked: set[int]) -> None:
        faults, name = self._tree.faults, f"{repository.name}:{tag}"
        if not self._tree.digests.is_there(number):
            faults.add(Fault.TAG_WITHOUT_MANIFEST, name)
        elif number not in linked:
            faults.add(Fault.TAG_WITHOUT_LINK, name)
        image = attached_to(tag)
        if image is not None and self._tree.digests.number(image) not in linked:
            faults.add(Fault.SIGNATURE_WITHOUT_IMAGE, name)

    # --- links ------------------------------------------------------------------------------------

    def _linked(self, folder: Folder) -> Iterator[tuple[Digest, Folder]]:
        """The digests below <algorithm>/<hex> that have a link, each with its folder."""
        for algorithm, status in folder.entries():
            for below in self._entered(folder, algorithm, status):
                for name, name_status in below.entries():
                    digest = _digest(f"{algorithm}:{name}")
                    if digest is None:
                        add_all(below, name, name_status, Category.OTHER)
                        continue
                    for last in self._entered(below, name, name_status):
                        if self._has_link(last):
                            yield digest, last

    def _has_link(self, folder: Folder) -> bool:
        found = False
        for name, status in folder.entries():
            is_link = name == "link" and stat.S_ISREG(status.st_mode)
            add_all(folder, name, status, Category.LINKS if is_link else Category.OTHER)
            found |= is_link
        return found

    def _link(self, folder: Folder, name: str, expected: Digest | None) -> int | None:
        """What a link says; None if that is no digest, or not the expected one."""
        raw = folder.read("link", _LONGEST_LINK)
        digest = _digest((raw or b"").decode("ascii", "replace"))
        if digest is None or expected not in (None, digest):
            self._tree.faults.add(Fault.BAD_LINK, name)
            return None
        return self._tree.digests.number(digest)

    # --- manifests --------------------------------------------------------------------------------

    def read_manifests(self) -> None:
        manifests = self._tree.manifests
        for repository in self._tree.repositories:
            for number in (*repository.revisions, *repository.tags):
                manifests.read_below(number)
            self._progress("Manifests", len(manifests))


def _digest(text: str) -> Digest | None:
    try:
        return parse_digest(text)
    except DigestInvalid:
        return None

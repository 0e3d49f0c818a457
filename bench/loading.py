"""Writes a made-up registry straight into a database, and sparse files for its blobs.

Everything that the database says of itself afterwards is true, as `ullage check` proves.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.workload import Blob, Generator, Made, Unfinished, Workload
from ullage.check.queries import repairs
from ullage.database.opening import open_database
from ullage.database.schema import base, content, space
from ullage.database.statements import Statement
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Database, Transaction
from ullage.oci.manifest.parsing import parse_manifest

# Digests are random, so that each transaction touches pages everywhere: few large ones, in memory.
WRITTEN_TOGETHER = 50_000
CACHE = "PRAGMA cache_size = -1000000"
UPLOADS_KEPT = timedelta(hours=24)
PROMISED = timedelta(hours=1)

Rows = dict[str, list[dict[str, Any]]]


class Loader:
    """Writes pushes into an empty registry's database."""

    def __init__(self, db: Database, folder: Path | None, now: datetime) -> None:
        self._db, self._folder, self._now = db, folder, now
        self._repositories: dict[str, int] = {}
        self._ids: dict[tuple[int, str], int] = {}
        self._blobs: set[str] = set()
        self._links: set[tuple[int, str]] = set()
        self._uploads = 0
        self._used: Counter[str] = Counter()
        self._linked: Counter[str] = Counter()

    def load(self, pushes: Iterable[Made | Unfinished]) -> int:
        """How many manifests that were."""
        self._db.write(lambda tx: tx.execute_directly(sa.text(CACHE)).close())
        some: Rows = {name: [] for name in _TABLES}
        for each in pushes:
            if isinstance(each, Made):
                self._add(some, each)
            else:
                self._give_up(some, each)
            if len(some["manifests"]) >= WRITTEN_TOGETHER:
                self._write(some)
                some = {name: [] for name in _TABLES}
        self._write(some)
        self._db.write(self._count)
        return len(self._ids)

    def _write(self, some: Rows) -> None:
        if self._folder is not None:
            for blob in some["blobs"]:
                key = blob["storage_key"]
                _make_file(self._folder / "blobs" / key[:2] / key, blob["size"])
            for upload in some["uploads"]:
                _make_file(self._folder / "uploads" / upload["storage_key"], upload["offset"])

        def write(tx: Transaction) -> None:
            for name, rows in some.items():
                if rows:
                    tx.many(_INSERTS[name], rows)

        self._db.write(write)

    def _add(self, some: Rows, made: Made) -> None:
        at = to_micros(self._now - made.age)
        repository_id = self._repository(some, made.repository, at)
        if (repository_id, made.digest) in self._ids:
            return
        manifest_id = len(self._ids) + 1
        self._ids[repository_id, made.digest] = manifest_id
        for blob in made.blobs:
            self._link(some, repository_id, blob, at)
            self._used[blob.digest] += 1
            some["manifest_blobs"].append(
                {
                    "manifest_id": manifest_id,
                    "digest": blob.digest,
                    "repository_id": repository_id,
                }
            )
        manifest = parse_manifest(made.raw, made.media_type)
        some["manifests"].append(
            {
                "id": manifest_id,
                "repository_id": repository_id,
                "digest": made.digest,
                "media_type": made.media_type,
                "artifact_type": manifest.artifact_type,
                "subject": manifest.subject.digest if manifest.subject else None,
                "size": len(made.raw),
                "pushed_at": at,
                "updated_at": at,
                "raw": made.raw,
                "image_size": manifest.image_size,
                "config_media_type": manifest.config.media_type if manifest.config else None,
            }
        )
        some["manifest_children"] += [
            {"parent_id": manifest_id, "child_id": self._ids[repository_id, child]}
            for child in made.children
        ]
        if made.tag is not None:
            some["tags"].append(
                {
                    "repository_id": repository_id,
                    "name": made.tag,
                    "manifest_id": manifest_id,
                    "created_at": at,
                    "updated_at": at,
                }
            )

    def _give_up(self, some: Rows, push: Unfinished) -> None:
        at = to_micros(self._now - push.age)
        repository_id = self._repository(some, push.repository, at)
        whole = push.blobs[:-1] if push.in_a_blob else push.blobs
        for blob in whole:
            self._link(some, repository_id, blob, at)
            some["reviews"].append(
                {
                    "repository_id": repository_id,
                    "digest": blob.digest,
                    "due_at": to_micros(self._now + PROMISED),
                }
            )
        if not push.in_a_blob:
            return
        self._uploads += 1
        blob = push.blobs[-1]
        some["uploads"].append(
            {
                "id": hashlib.blake2b(b"upload %d" % self._uploads, digest_size=16).hexdigest(),
                "repository_id": repository_id,
                "subject": "",
                "storage_key": _key_of("upload " + blob.digest),
                "algorithm": "sha256",
                # Only what a session may be resumed from counts: some of it.
                "offset": blob.size // 2,
                "created_at": at,
                "expires_at": to_micros(self._now + UPLOADS_KEPT),
            }
        )

    def _repository(self, some: Rows, name: str, at: int) -> int:
        if name not in self._repositories:
            self._repositories[name] = len(self._repositories) + 1
            row = {"id": self._repositories[name], "name": name}
            some["repositories"].append(row | {"created_at": at, "updated_at": at})
        return self._repositories[name]

    def _link(self, some: Rows, repository_id: int, blob: Blob, at: int) -> None:
        if blob.digest not in self._blobs:
            self._blobs.add(blob.digest)
            some["blobs"].append(
                {
                    "digest": blob.digest,
                    "size": blob.size,
                    "storage_key": _key_of(blob.digest),
                    "created_at": at,
                }
            )
        if (repository_id, blob.digest) not in self._links:
            self._links.add((repository_id, blob.digest))
            self._linked[blob.digest] += 1
            some["repo_blobs"].append(
                {"repository_id": repository_id, "digest": blob.digest, "linked_at": at}
            )

    def _count(self, tx: Transaction) -> None:
        """Set every counter to what there is, and say that no promise was forgotten."""
        tx.many(
            _COUNTED,
            [
                {"of": digest, "used": self._used[digest], "linked": linked}
                for digest, linked in self._linked.items()
            ],
        )
        for repository_id in self._repositories.values():
            repairs.recount_repository(tx, repository_id)
        repairs.recount_totals(tx)
        tx.execute_directly(space.lease_memory.delete())
        tx.execute_directly(
            space.lease_memory.insert().values(id=1, complete_from=to_micros(self._now))
        )


_COUNTED = Statement(
    content.blobs.update()
    .where(content.blobs.c.digest == sa.bindparam("of"))
    .values(manifest_refs=sa.bindparam("used"), repository_count=sa.bindparam("linked"))
)

# In the order in which their foreign keys want them.
_TABLES: dict[str, tuple[str, ...]] = {
    "repositories": ("id", "name", "created_at", "updated_at"),
    "blobs": ("digest", "size", "storage_key", "created_at"),
    "repo_blobs": ("repository_id", "digest", "linked_at"),
    "manifests": (
        *("id", "repository_id", "digest", "media_type", "artifact_type", "subject", "size"),
        *("pushed_at", "updated_at", "raw", "image_size", "config_media_type"),
    ),
    "manifest_blobs": ("manifest_id", "digest", "repository_id"),
    "manifest_children": ("parent_id", "child_id"),
    "tags": ("repository_id", "name", "manifest_id", "created_at", "updated_at"),
    "uploads": (
        *("id", "repository_id", "subject", "storage_key", "algorithm", "offset"),
        *("created_at", "expires_at"),
    ),
    "reviews": ("repository_id", "digest", "due_at"),
}
_INSERTS = {
    name: Statement.insert(base.metadata.tables[name], columns) for name, columns in _TABLES.items()
}


def _key_of(text: str) -> str:
    """A storage key: as long as the registry's own, and the same every time."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _make_file(path: Path, size: int) -> None:
    """A sparse file of the right size, where the store looks for it (blobs/files/store.py)."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.ftruncate(file, size)
    os.close(file)


def load(
    folder: Path, workload: Workload, now: datetime, *, files: bool, most: int | None = None
) -> int:
    """Fill the data folder of a registry that has never run; how many manifests there are.

    After `most` manifests, if given, pushing ends.
    """
    for path in (folder, folder / "blobs", folder / "uploads"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = open_database(f"sqlite:///{folder / 'ullage.db'}")
    try:
        loader = Loader(db, folder if files else None, now)
        pushes = Generator(workload).everything()
        return loader.load(pushes if most is None else _first(pushes, most))
    finally:
        db.close()


def _first(pushes: Iterable[Made | Unfinished], manifests: int) -> Iterator[Made | Unfinished]:
    for each in pushes:
        manifests -= isinstance(each, Made)
        if manifests < 0:
            return
        yield each

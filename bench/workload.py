"""A made-up registry as real ones are: `python -m bench.workload FOLDER --tags 20000 --orphans 140000`.

Deterministic by its seed. Blob sizes, layers, shared bases, rebuilds, indexes and signatures follow
what was measured of public registries (sizes: a mixture of log-uniform segments, 32 B to 4 GB; layers:
log-normal, median 8; seven of ten manifests untagged). Counts are real, because they are what
deleting costs; bytes are divided by --scale, as sparse files, or left out.

The rows are written straight into the database of a registry that does not run: a million
manifests take minutes, where pushing them would take hours. Everything it says of itself is true, as
`ullage check --fast` proves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ullage.metadata import inspect, schema
from ullage.metadata.database import Database, Transaction, open_database
from ullage.metadata.moments import moment

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

# (weight, from, to) of the sizes of blobs.
SIZES = (
    (0.10, 32, 181),
    (0.15, 181, 1_100),
    (0.25, 1_100, 11_500),
    (0.15, 11_500, 588_000),
    (0.10, 588_000, 3_350_000),
    (0.05, 3_350_000, 9_400_000),
    (0.10, 9_400_000, 32_600_000),
    (0.0414, 32_600_000, 67_000_000),
    (0.053, 67_000_000, 200_000_000),
    (0.0051, 268_000_000, 800_000_000),
    (0.00049, 1_070_000_000, 4_000_000_000),
)
TAGGED = 0.25
INDEXES = 0.4
SIGNED = 0.2
IMAGES_WRITTEN_TOGETHER = 2000


@dataclass(frozen=True, slots=True)
class Workload:
    """How much of what. `tags` and `orphans` are of the two repositories that are like no other."""

    seed: int = 1
    repositories: int = 0
    images: int = 20
    tags: int = 0
    orphans: int = 0
    scale: int = 1000


@dataclass(frozen=True, slots=True)
class Blob:
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Made:
    """A manifest of a repository."""

    repository: str
    digest: str
    media_type: str
    raw: bytes
    blobs: tuple[Blob, ...] = ()
    children: tuple[str, ...] = ()
    subject: str | None = None
    tag: str | None = None
    age: timedelta = timedelta(0)


class Generator:
    """Makes the same registry from the same seed."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._random = random.Random(workload.seed)
        self._bases = [
            self._layers(self._random.randint(3, 6)) for _ in range(workload.repositories // 40 + 1)
        ]

    def manifests(self) -> Iterator[Made]:
        """Everything there is, children and subjects first."""
        for number in range(self._workload.repositories):
            yield from self._repository(f"team{number % 20}/app{number}", self._workload.images)
        yield from self._of_builds("ci/tags", self._workload.tags, tagged=True)
        yield from self._of_builds("ci/orphans", self._workload.orphans, tagged=False)

    def _repository(self, name: str, images: int) -> Iterator[Made]:
        base = self._base()
        for number in range(images):
            if self._random.random() < 0.05:
                base = self._base()
            tag = f"v{number}" if self._random.random() < TAGGED or number == 0 else None
            age = timedelta(hours=6 * (images - number))
            if self._random.random() < INDEXES:
                platforms = [
                    self._image(name, base, None, age) for _ in range(self._random.randint(2, 4))
                ]
                yield from platforms
                made = self._index(name, platforms, tag, age)
            else:
                made = self._image(name, base, tag, age)
            yield made
            if self._random.random() < SIGNED:
                yield self._image(name, (), None, age, subject=made)

    def _of_builds(self, name: str, count: int, *, tagged: bool) -> Iterator[Made]:
        """One image rebuilt again and again, a config and one or two layers of its own each time."""
        base = self._base()
        for number in range(count):
            if self._random.random() < 0.05:
                base = self._base()
            age = timedelta(days=30, minutes=count - number)
            yield self._image(name, base, f"build-{number}" if tagged else None, age)
        if count and not tagged:
            yield self._image(name, base, "latest", timedelta(days=30))

    def _image(
        self,
        name: str,
        base: tuple[Blob, ...],
        tag: str | None,
        age: timedelta,
        subject: Made | None = None,
    ) -> Made:
        own = self._layers(self._random.choice((1, 1, 2)))
        config = Blob(self._digest(), self._random.randint(500, 12_000))
        layers = (*base, *own)
        content: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _described(config, CONFIG),
            "layers": [_described(layer, LAYER) for layer in layers],
        }
        if subject is not None:
            content["subject"] = {
                "mediaType": subject.media_type,
                "digest": subject.digest,
                "size": len(subject.raw),
            }
        raw = json.dumps(content, separators=(",", ":")).encode()
        return Made(
            name,
            _digest_of(raw),
            MANIFEST,
            raw,
            blobs=tuple(dict.fromkeys((config, *layers))),
            subject=subject.digest if subject is not None else None,
            tag=tag,
            age=age,
        )

    def _index(self, name: str, platforms: list[Made], tag: str | None, age: timedelta) -> Made:
        content = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {"mediaType": each.media_type, "digest": each.digest, "size": len(each.raw)}
                for each in platforms
            ],
        }
        raw = json.dumps(content, separators=(",", ":")).encode()
        children = tuple(dict.fromkeys(each.digest for each in platforms))
        return Made(name, _digest_of(raw), INDEX, raw, children=children, tag=tag, age=age)

    def _base(self) -> tuple[Blob, ...]:
        """One of the few that everybody builds on, the first most of all (Zipf)."""
        weights = [1 / rank for rank in range(1, len(self._bases) + 1)]
        if self._random.random() < 0.5:
            return self._random.choices(self._bases, weights)[0]
        count = max(1, min(120, round(self._random.lognormvariate(math.log(6), 0.65))))
        self._bases.append(self._layers(count))
        return self._bases[-1]

    def _layers(self, count: int) -> tuple[Blob, ...]:
        return tuple(Blob(self._digest(), self._size()) for _ in range(count))

    def _size(self) -> int:
        weights = [weight for weight, _, _ in SIZES]
        _, low, high = self._random.choices(SIZES, weights)[0]
        size = math.exp(self._random.uniform(math.log(low), math.log(high)))
        return max(1, int(size / self._workload.scale))

    def _digest(self) -> str:
        return "sha256:" + self._random.randbytes(32).hex()


def _described(blob: Blob, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _digest_of(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


# --- loading --------------------------------------------------------------------------------------


class Loader:
    """Writes manifests into an empty registry's database, and files for its blobs."""

    def __init__(self, db: Database, blobs: Path | None, now: datetime) -> None:
        self._db, self._folder, self._now = db, blobs, now
        self._repositories: dict[str, int] = {}
        self._ids: dict[tuple[str, str], int] = {}
        self._blobs: set[str] = set()
        self._links: set[tuple[int, str]] = set()

    def load(self, manifests: Iterator[Made]) -> int:
        """How many that were."""
        count = 0
        some: list[Made] = []
        for made in manifests:
            some.append(made)
            if len(some) >= IMAGES_WRITTEN_TOGETHER:
                count += self._write(some)
                some = []
        count += self._write(some)
        self._db.write(_count)
        return count

    def _write(self, some: list[Made]) -> int:
        rows: dict[sa.Table, list[dict[str, Any]]] = {table: [] for table in _TABLES}
        for made in some:
            self._add(rows, made)
        if self._folder is not None:
            _make_files(self._folder, rows[schema.blobs])

        def write(tx: Transaction) -> None:
            for table, lines in rows.items():
                if lines:
                    tx.execute(table.insert(), lines)

        self._db.write(write)
        return len(some)

    def _add(self, rows: dict[sa.Table, list[dict[str, Any]]], made: Made) -> None:
        at = moment(self._now - made.age)
        repository_id = self._repository(rows, made.repository, at)
        manifest_id = len(self._ids) + 1
        self._ids[made.repository, made.digest] = manifest_id
        for blob in made.blobs:
            self._link(rows, repository_id, blob, at)
            rows[schema.manifest_blobs].append(
                {
                    "manifest_id": manifest_id,
                    "digest": blob.digest,
                    "repository_id": repository_id,
                }
            )
        rows[schema.manifests].append(
            {
                "id": manifest_id,
                "repository_id": repository_id,
                "digest": made.digest,
                "media_type": made.media_type,
                "subject": made.subject,
                "size": len(made.raw),
                "pushed_at": at,
                "updated_at": at,
                "raw": made.raw,
                "image_size": sum(blob.size for blob in made.blobs),
                "config_media_type": CONFIG if made.blobs else None,
            }
        )
        rows[schema.manifest_children] += [
            {"parent_id": manifest_id, "child_id": self._ids[made.repository, child]}
            for child in made.children
        ]
        if made.tag is not None:
            rows[schema.tags].append(
                {
                    "repository_id": repository_id,
                    "name": made.tag,
                    "manifest_id": manifest_id,
                    "created_at": at,
                    "updated_at": at,
                }
            )

    def _repository(self, rows: dict[sa.Table, list[dict[str, Any]]], name: str, at: int) -> int:
        if name not in self._repositories:
            self._repositories[name] = len(self._repositories) + 1
            rows[schema.repositories].append(
                {
                    "id": self._repositories[name],
                    "name": name,
                    "created_at": at,
                    "updated_at": at,
                }
            )
        return self._repositories[name]

    def _link(
        self, rows: dict[sa.Table, list[dict[str, Any]]], repository_id: int, blob: Blob, at: int
    ) -> None:
        if blob.digest not in self._blobs:
            self._blobs.add(blob.digest)
            rows[schema.blobs].append(
                {
                    "digest": blob.digest,
                    "size": blob.size,
                    # As unguessable as the registry's own, and the same every time.
                    "storage_key": hashlib.blake2b(
                        blob.digest.encode(), digest_size=16
                    ).hexdigest(),
                    "created_at": at,
                }
            )
        if (repository_id, blob.digest) not in self._links:
            self._links.add((repository_id, blob.digest))
            rows[schema.repo_blobs].append(
                {"repository_id": repository_id, "digest": blob.digest, "linked_at": at}
            )


# In the order in which their foreign keys want them.
_TABLES = (
    schema.repositories,
    schema.blobs,
    schema.repo_blobs,
    schema.manifests,
    schema.manifest_blobs,
    schema.manifest_children,
    schema.tags,
)


def _make_files(folder: Path, blobs: list[dict[str, Any]]) -> None:
    """Sparse files of the right sizes."""
    for blob in blobs:
        key = str(blob["storage_key"])
        path = folder / key[:2] / key
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        os.ftruncate(file, int(blob["size"]))
        os.close(file)


def _count(tx: Transaction) -> None:
    """Set every counter to what there is."""
    for statement in (
        "UPDATE blobs SET manifest_refs ="
        " (SELECT count(*) FROM manifest_blobs m WHERE m.digest = blobs.digest),"
        " repository_count = (SELECT count(*) FROM repo_blobs r WHERE r.digest = blobs.digest)",
        "UPDATE manifests SET image_size = (SELECT coalesce(sum(c.image_size), 0)"
        " FROM manifest_children k JOIN manifests c ON c.id = k.child_id"
        " WHERE k.parent_id = manifests.id)"
        f" WHERE media_type = '{INDEX}'",
    ):
        if statement.startswith("UPDATE blobs"):
            # Only the link table has an index by digest.
            tx.execute(sa.text("CREATE INDEX made_up ON manifest_blobs (digest)"))
        tx.execute(sa.text(statement))
    tx.execute(sa.text("DROP INDEX made_up"))
    for repository_id in tx.execute(sa.select(schema.repositories.c.id)).scalars().all():
        inspect.recount_repository(tx, repository_id)
    inspect.recount_totals(tx)


def load(folder: Path, workload: Workload, *, files: bool) -> int:
    """Fill the data folder of a registry that has never run; how many manifests there are."""
    blobs = folder / "blobs" if files else None
    for path in (folder, folder / "blobs"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = open_database(f"sqlite:///{folder / 'ullage.db'}")
    try:
        return Loader(db, blobs, datetime.now(UTC)).load(Generator(workload).manifests())
    finally:
        db.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="the data folder of a registry that never ran")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repositories", type=int, default=0)
    parser.add_argument("--images", type=int, default=20, help="in each of them")
    parser.add_argument("--tags", type=int, default=0, help="in ci/tags")
    parser.add_argument("--orphans", type=int, default=0, help="in ci/orphans")
    parser.add_argument("--scale", type=int, default=1000, help="divides the sizes of blobs")
    parser.add_argument("--files", action="store_true", help="also make files, sparse ones")
    given = vars(parser.parse_args())
    folder, files = given.pop("folder"), given.pop("files")
    began = time.perf_counter()
    count = load(folder, Workload(**given), files=files)
    print(f"{count} manifests in {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

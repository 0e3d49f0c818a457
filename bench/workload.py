"""A made-up registry as real ones are: `python -m bench.workload FOLDER --orphans 140000`.

The same registry from the same seed. Blob sizes, layers, shared bases, rebuilds, tags, indexes,
signatures and promotions follow what was published about real registries (docs/design/workload.md
section 5). Counts are real, because they are what deleting costs; bytes are divided by --scale.

With FOLDER the rows go straight into the database of a registry that never ran (bench/loading.py):
a million manifests take minutes, where pushing them would take hours. With --push they are pushed
to a registry that runs (bench/pushing.py), as clients do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SIGNATURE = "application/vnd.dev.cosign.simplesigning.v1+json"

# (weight, from, to) of the sizes of blobs: uniform on a logarithmic scale within each.
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
# Tags of a repository: log-normal with this median, and 1 in 100 has 200 times as many.
MEDIAN_TAGS, TAGS_SIGMA = 10, math.log(200) / 2.326
MOST_TAGS = 5_000
# How often a tag is pushed again, so that 70-85 of 100 manifests have none.
REBUILT = 0.75
MULTI_ARCH, NESTED = 0.4, 0.001
SIGNED_BY_TAG, SIGNED_BY_SUBJECT = 0.2, 0.2
BASE_BUMPED = 0.05
WITH_EMPTY_LAYER = 0.5
PROMOTED = 0.1
ABANDONED, LEFT_BEHIND = 0.01, 0.005
REPOSITORIES_PER_BASE = 40
OTHER_LAYERS, LAYERS_SIGMA, MOST_LAYERS = 4, 0.65, 120


@dataclass(frozen=True, slots=True)
class Workload:
    """How much of what. `tags` and `orphans` are of the two repositories that are like no other.

    `real`: blobs have bytes, and digests that are theirs; else digests are made up, which is fast.
    """

    seed: int = 1
    repositories: int = 0
    median_tags: int = MEDIAN_TAGS
    tags: int = 0
    orphans: int = 0
    scale: int = 1000
    real: bool = False


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob; `seed` is what its bytes are made of."""

    digest: str
    size: int
    seed: int = 0

    def data(self) -> bytes:
        return _bytes(self.seed, self.size)


@dataclass(frozen=True, slots=True)
class Made:
    """A manifest of a repository, and what became of a push."""

    repository: str
    digest: str
    media_type: str
    raw: bytes
    blobs: tuple[Blob, ...] = ()
    children: tuple[str, ...] = ()
    tag: str | None = None
    age: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A push that somebody gave up: in the middle of its last blob, or before its manifest."""

    repository: str
    blobs: tuple[Blob, ...]
    in_a_blob: bool
    age: timedelta


@dataclass(slots=True)
class _Repository:
    """What a repository is built on, and its newest images."""

    name: str
    base: tuple[Blob, ...]
    newest: list[list[Made]] = field(default_factory=list)


class Generator:
    """Makes the same registry from the same seed."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._random = random.Random(workload.seed)
        self._made = 0
        self._weights = [weight for weight, _, _ in SIZES]
        # gzip of an empty tar: the one layer that half of all images have.
        self._empty = self._blob(32)
        count = workload.repositories // REPOSITORIES_PER_BASE + 1
        self._bases = [self._layers(self._random.randint(3, 6)) for _ in range(count)]

    def everything(self) -> Iterator[Made | Unfinished]:
        """All pushes in order: children before their index, subjects before what refers to them."""
        built: list[_Repository] = []
        for number in range(self._workload.repositories):
            if built and self._random.random() < PROMOTED:
                yield from self._promoted(f"prod/app{number}", self._random.choice(built))
                continue
            repository = _Repository(f"team{number % 20}/app{number}", self._base())
            built = [*built[-20:], repository]
            yield from self._pushes(repository)
        yield from self._of_builds("ci/tags", self._workload.tags, tagged=True)
        yield from self._of_builds("ci/orphans", self._workload.orphans, tagged=False)

    def _pushes(self, repository: _Repository) -> Iterator[Made | Unfinished]:
        tags = self._random.lognormvariate(math.log(self._workload.median_tags), TAGS_SIGMA)
        tags = max(1, min(MOST_TAGS, round(tags)))
        for number in range(tags):
            # The same tag again and again: only its last image keeps it.
            versions = 1
            while self._random.random() < REBUILT and versions < 50:
                versions += 1
            for version in range(versions):
                if self._random.random() < BASE_BUMPED:
                    repository.base = self._base()
                age = timedelta(hours=6 * (tags - number), minutes=5 * (versions - version))
                tag = f"v{number}" if version == versions - 1 else None
                image = list(self._image_pushed(repository, tag, age))
                yield from image
                if tag is not None:
                    repository.newest = [*repository.newest[-4:], image]
                if self._random.random() < ABANDONED:
                    yield Unfinished(repository.name, self._layers(2), True, age)
                elif self._random.random() < LEFT_BEHIND:
                    yield Unfinished(repository.name, self._layers(2), False, age)

    def _image_pushed(
        self, repository: _Repository, tag: str | None, age: timedelta
    ) -> Iterator[Made]:
        """An image or an index of some, with its signature."""
        name, base = repository.name, repository.base
        if self._random.random() < MULTI_ARCH:
            parts = [self._image(name, base, None, age) for _ in range(self._random.randint(2, 4))]
            parts.append(self._image(name, (), None, age))
            yield from parts
            if self._random.random() < NESTED / MULTI_ARCH:
                inner = self._index(name, parts, None, age)
                yield inner
                parts = [inner]
            made = self._index(name, parts, tag, age)
        else:
            made = self._image(name, base, tag, age)
        yield made
        signed = self._random.random()
        if signed < SIGNED_BY_SUBJECT:
            yield self._image(name, (), None, age, subject=made)
        elif signed < SIGNED_BY_SUBJECT + SIGNED_BY_TAG:
            yield self._image(name, (), made.digest.replace(":", "-") + ".sig", age)

    def _promoted(self, name: str, source: _Repository) -> Iterator[Made]:
        """The newest images of another repository, mounted from there."""
        for image in source.newest:
            for made in image:
                yield Made(
                    name,
                    made.digest,
                    made.media_type,
                    made.raw,
                    made.blobs,
                    made.children,
                    made.tag,
                    made.age,
                )

    def _of_builds(self, name: str, count: int, *, tagged: bool) -> Iterator[Made]:
        """One image rebuilt again and again, a config and one or two layers of its own each."""
        base = self._base()
        for number in range(count):
            if self._random.random() < BASE_BUMPED:
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
        config = self._blob(self._random.randint(500, 12_000))
        empty = (self._empty,) if base and self._random.random() < WITH_EMPTY_LAYER else ()
        layers = (*base, *empty, *own)
        content: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _described(config, CONFIG),
            "layers": [_described(layer, LAYER if base else SIGNATURE) for layer in layers],
        }
        if subject is not None:
            content["subject"] = _descriptor(subject)
        raw = _encoded(content)
        blobs = tuple(dict.fromkeys((config, *layers)))
        return Made(name, _digest_of(raw), MANIFEST, raw, blobs, tag=tag, age=age)

    def _index(self, name: str, parts: Sequence[Made], tag: str | None, age: timedelta) -> Made:
        content = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [_descriptor(each) for each in parts],
        }
        raw = _encoded(content)
        children = tuple(dict.fromkeys(each.digest for each in parts))
        return Made(name, _digest_of(raw), INDEX, raw, children=children, tag=tag, age=age)

    def _base(self) -> tuple[Blob, ...]:
        """One of the few that everybody builds on, the first most of all (Zipf); or a new one."""
        if self._random.random() < 0.8:
            weights = [1 / rank for rank in range(1, len(self._bases) + 1)]
            return self._random.choices(self._bases, weights)[0]
        count = round(self._random.lognormvariate(math.log(OTHER_LAYERS), LAYERS_SIGMA))
        return self._layers(max(1, min(MOST_LAYERS, count)))

    def _layers(self, count: int) -> tuple[Blob, ...]:
        return tuple(self._blob(self._size()) for _ in range(count))

    def _size(self) -> int:
        _, low, high = self._random.choices(SIZES, self._weights)[0]
        size = math.exp(self._random.uniform(math.log(low), math.log(high)))
        return max(1, int(size / self._workload.scale))

    def _blob(self, size: int) -> Blob:
        self._made += 1
        # Whoever makes two registries of one seed may push both to one server.
        seed = self._workload.seed << 32 | self._made
        if not self._workload.real:
            return Blob("sha256:" + self._random.randbytes(32).hex(), size, seed)
        # Small ones of the same bytes would be the same blob.
        size = max(size, 16)
        return Blob(_digest_of(_bytes(seed, size)), size, seed)


def _bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _encoded(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _descriptor(made: Made) -> dict[str, object]:
    return {"mediaType": made.media_type, "digest": made.digest, "size": len(made.raw)}


def _described(blob: Blob, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _digest_of(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.workload", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", help="the data of a registry that never ran"
    )
    parser.add_argument("--push", metavar="HOST", help="push to a registry, such as 127.0.0.1:5000")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repositories", type=int, default=0)
    parser.add_argument("--median-tags", type=int, default=MEDIAN_TAGS, help="in each of them")
    parser.add_argument("--tags", type=int, default=0, help="in ci/tags")
    parser.add_argument("--orphans", type=int, default=0, help="in ci/orphans")
    parser.add_argument("--scale", type=int, default=1000, help="divides the sizes of blobs")
    parser.add_argument("--files", action="store_true", help="also make files, sparse ones")
    given = vars(parser.parse_args())
    folder, host, files = given.pop("folder"), given.pop("push"), given.pop("files")
    if (folder is None) == (host is None):
        parser.error("expected a folder, or --push")
    began = time.perf_counter()
    if host is not None:
        from bench.pushing import push

        count = push(host, Workload(**given, real=True))
    else:
        from bench.loading import load

        count = load(folder, Workload(**given, real=False), datetime.now(UTC), files=files)
    print(f"{count} manifests in {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

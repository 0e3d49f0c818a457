"""What requests take as a registry grows: `python -m bench.growth`.

    python -m bench.growth [--sizes 1000,100000,1000000] [--json FILE] [--plot FILE.png]
    python -m bench.growth --from FILE.json --plot FILE.png

Makes a registry for each size (bench/loading.py): a tenth of its manifests are tagged images of
one repository, some are of the repositories that `bench.workload` makes up, the rest are orphans of
one more. All of them are served, and one client asks each for the same in turns, A B C A B C …,
over one connection in each turn. No read is asked for twice between two commits: an answer that is
remembered would say nothing of the size.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path

from bench import report
from bench.awake import awake
from bench.connection import Connection
from bench.curves import Curve, Figure, Growth, picture, table
from bench.deleting import REPOSITORY as ORPHANS
from bench.deleting import orphans, quantiles, serving
from bench.images import Blob, make_image, push_blob, push_image
from bench.loading import load
from bench.servers import require
from bench.workload import Workload

TAGS = "ci/tags"
SIZES = (1_000, 100_000, 1_000_000)
# Below that there are too few tags and orphans.
SMALLEST = 1_000
# One in so many manifests has a tag in ci/tags; one repository for so many of them beside it.
TAGGED, MANIFESTS_PER_REPOSITORY = 10, 10_000
PAGE, LATE_PAGE = 10, 10_000
ROUNDS = 5
# Samples in each round.
READS, WRITES, USAGES = 40, 10, 1
BASE_BYTES, LAYER_BYTES = 20_000, 2_000
# What a deletion leaves to do must not disturb whoever is next.
SETTLE_SECONDS = 0.3


@dataclass
class Subject:
    """A registry that is measured, and what its client has still to ask for."""

    manifests: int
    url: str
    # All of ci/tags, in the order in which they are listed.
    tags: Sequence[str]
    # In no order.
    unread: Iterator[str]
    doomed: Iterator[str]
    # What pushed images are built on.
    base: Blob
    # By how much each page asked for differs from the one that is meant.
    shifts: Iterator[int] = field(default_factory=lambda: cycle(range(READS)))
    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


# Gets everything ready and gives what is timed.
Ready = Callable[[Connection, Subject], Callable[[], object]]


@dataclass(frozen=True)
class Probe:
    """One path, and how many samples of it a round has."""

    name: str
    title: str
    samples: int
    ready: Ready


def _manifest(connection: Connection, subject: Subject) -> Callable[[], object]:
    path = f"/v2/{TAGS}/manifests/{next(subject.unread)}"
    return partial(connection.expect, 200, "GET", path)


def _page(number: int, connection: Connection, subject: Subject) -> Callable[[], object]:
    path = _page_path(number, subject.tags, next(subject.shifts))
    return partial(connection.expect, 200, "GET", path)


def _push(connection: Connection, subject: Subject) -> Callable[[], object]:
    image = make_image(1, LAYER_BYTES, (subject.base,))
    # Behind all others, so that no page moves.
    tag = f"pushed-{image.digest[7:19]}"
    return partial(push_image, connection, TAGS, image, tag)


def _delete(connection: Connection, subject: Subject) -> Callable[[], object]:
    path = f"/v2/{ORPHANS}/manifests/{next(subject.doomed)}"
    return partial(connection.expect, 202, "DELETE", path)


def _usage(connection: Connection, _: Subject) -> Callable[[], object]:
    return partial(connection.expect, 200, "GET", "/api/v1/usage")


PROBES = (
    Probe("manifest-tag", "manifest GET by tag", READS, _manifest),
    Probe("page-first", "tags, page 1", READS, partial(_page, 1)),
    Probe("page-late", f"tags, page {LATE_PAGE:,} or last", READS, partial(_page, LATE_PAGE)),
    Probe("push", "push of an image", WRITES, _push),
    Probe("delete", "deletion of an image", WRITES, _delete),
    Probe("usage", "usage of the registry", USAGES, _usage),
)


def _page_path(number: int, tags: Sequence[str], shift: int) -> str:
    """Of a page of ci/tags, or of the last one if there are not so many.

    It begins `shift` tags earlier; the first page begins behind different names before all tags.
    """
    first = _first_of(number, tags)
    last = tags[first - 1 - shift] if first else f"a{shift}"
    return f"/v2/{TAGS}/tags/list?n={PAGE}&last={last}"


def _first_of(number: int, tags: Sequence[str]) -> int:
    return (min(number, len(tags) // PAGE) - 1) * PAGE


# --- registries -----------------------------------------------------------------------------------


def filled(folder: Path, manifests: int) -> Path:
    """The data of a registry of so many manifests: made, unless it is there already."""
    made = folder / f"growth-{manifests}"
    if not made.exists():
        # Whoever stops this in the middle leaves no registry that looks whole.
        part = folder / f"{made.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        workload = Workload(
            repositories=manifests // MANIFESTS_PER_REPOSITORY,
            tags=manifests // TAGGED,
            orphans=manifests,
        )
        load(part, workload, datetime.now(UTC), files=False, most=manifests)
        # Rows without bytes are refused at a start, until it is told once to go on.
        with serving(part, "--adopt-store"):
            pass
        part.rename(made)
    return made


def subject_of(url: str, manifests: int, samples: int) -> Subject:
    """Push what the client needs, and see that the registry is what it should be."""
    tags = sorted(f"build-{number}" for number in range(manifests // TAGGED))
    unread = random.Random(1).sample(tags, len(tags))  # an order, no secret
    base = Blob.random(BASE_BYTES)
    with Connection(url) as connection:
        push_blob(connection, TAGS, base.data, base.digest)
        doomed = orphans(connection, samples)
        assert len(doomed) == samples, "too few orphans"
        for number in (1, LATE_PAGE):
            answer = connection.expect(200, "GET", _page_path(number, tags, 0))
            first = _first_of(number, tags)
            assert json.loads(answer.body)["tags"] == tags[first : first + PAGE]
    return Subject(manifests, url, tags, cycle(unread), iter(doomed), base)


@contextmanager
def _subjects(sizes: Sequence[int], folder: Path, samples: int) -> Iterator[list[Subject]]:
    """All registries at once: idle ones cost nothing."""
    folders = []
    for size in sizes:
        report.progress(f"growth: {size:,} manifests")
        folders.append(filled(folder, size))
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(each)) for each in folders]
        asked = zip(servers, sizes, strict=True)
        yield [subject_of(server.url, size, samples) for server, size in asked]


# --- measuring ------------------------------------------------------------------------------------


def measure(sizes: Sequence[int], folder: Path, rounds: int) -> Growth:
    """`rounds` after a warm-up, each of them with every size."""
    with _subjects(sizes, folder, (rounds + 1) * WRITES) as subjects, awake():
        for number in range(rounds + 1):
            report.progress(f"growth: round {number} of {rounds}" if number else "growth: warm-up")
            for subject in subjects:
                _turn(subject)
                if not number:
                    subject.times.clear()
    report.progress("")
    curves = (
        Curve(probe.name, probe.title, tuple(_figure(each.times[probe.name]) for each in subjects))
        for probe in PROBES
    )
    return Growth(tuple(sizes), tuple(curves))


def _turn(subject: Subject) -> None:
    # A connection for each turn: servers hang up on those that are silent meanwhile.
    with Connection(subject.url) as connection:
        for probe in PROBES:
            for _ in range(probe.samples):
                timed = probe.ready(connection, subject)
                began = time.perf_counter()
                timed()
                subject.times[probe.name].append(time.perf_counter() - began)
    time.sleep(SETTLE_SECONDS)


def _figure(times: Sequence[float]) -> Figure:
    found = quantiles(times)
    return Figure(len(times), found["p50"], found["p99"], found["worst"])


# --- the command ----------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    require(["gnuplot"] if options.plot else [])
    growth = _measured_before(options.given) if options.given else _measured_now(options)
    if options.plot:
        options.plot.write_bytes(picture(growth))


def _measured_before(file: Path) -> Growth:
    return Growth.of_document(json.loads(file.read_text()))


def _measured_now(options: argparse.Namespace) -> Growth:
    with _folder(options.folder) as folder:
        growth = measure(options.sizes, folder, options.rounds)
    print(table(growth))
    if options.json:
        document = {"machine": report.machine(), **growth.document()}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return growth


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="ullage-growth-") as name:
        yield Path(name)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--sizes", type=_sizes, default=SIZES, help="manifests, comma separated")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="after a warm-up (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them (gnuplot)")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="the registries go there and stay, to be measured again (default: a temporary one)",
    )
    parser.add_argument(
        "--from",
        dest="given",
        type=Path,
        metavar="FILE.json",
        help="only draw what was measured before",
    )
    options = parser.parse_args(arguments)
    if options.given and not options.plot:
        parser.error("--from: where to? add --plot")
    if options.rounds < 1:
        parser.error("--rounds: 1 or more")
    return options


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < SMALLEST:
        raise argparse.ArgumentTypeError(f"expected numbers from {SMALLEST} on")
    return tuple(sizes)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Ullage against another registry: `python -m bench`, or `make bench`.

Both run on empty folders of one disk and get the same load in turns, A B A B …; each row is the
median of the rounds and the ratio of the two. docs/benchmarks.md says what the rows mean.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.measure import Peer, Row, rows
from bench.rows import ROWS
from bench.servers import (
    DEBIAN,
    Distribution,
    Place,
    Running,
    Ullage,
    certified,
    find,
    require,
)
from bench.several import Several

# Builds of distribution that a binary may be of.
BINARIES = {"distribution3": "distribution 3"}
# As many as the fewest clients of a row.
MOST_PROCESSES = 4


def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    chosen = _chosen(options)
    _require(chosen, options)
    with tempfile.TemporaryDirectory(prefix="ullage-bench-", dir=options.folder) as name:
        folder = Path(name).resolve()
        tls = certified(folder) if options.tls else None
        place = Place(folder, tls, options.peer_binary or DEBIAN, options.peer_checkout)
        ullage, peer = _ullage(place, options), _peer(place, options)
        measured = rows(
            chosen, ullage, peer, place, options.rounds, report.progress, restart=options.restart
        )
        results = list(measured)
    if options.tls:
        print("Over TLS:\n")
    print(report.table(results))
    if options.json:
        document = {
            "machine": report.machine(),
            "tls": options.tls,
            "database": options.database,
            "processes": options.processes,
            "rows": [result.document() for result in results],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=_names(ROWS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds after a warm-up (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round, without the slow rows")
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument(
        "--peer", metavar="URL", help="a running registry in docker-registry's place"
    )
    peers.add_argument(
        "--peer-binary",
        type=_binary,
        metavar="distribution3=PATH",
        help="another build of distribution in its place",
    )
    peers.add_argument(
        "--peer-checkout",
        type=_checkout,
        metavar="PATH",
        help="Ullage of another commit, checked out there, in its place",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start the servers anew for each round (two starts of one program differ)",
    )
    parser.add_argument("--tls", action="store_true", help="all servers speak TLS")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="so many of Ullage on one PostgreSQL; each gets its part of the clients",
    )
    parser.add_argument(
        "--database",
        choices=("sqlite", "postgresql"),
        help="Ullage's (default: sqlite for one process)",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the data goes (default: the temporary one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    options.database = options.database or ("sqlite" if options.processes == 1 else "postgresql")
    if wrong := _wrong(options):
        parser.error(wrong)
    if options.quick:
        options.rounds = 1
    return options


def _binary(text: str) -> Distribution:
    """Such as "distribution3=/usr/local/bin/registry"."""
    kind, _, path = text.partition("=")
    if kind not in BINARIES:
        raise argparse.ArgumentTypeError(f"{text}: {', '.join(BINARIES)}, then =PATH")
    program = find(path)
    if program is None:
        raise argparse.ArgumentTypeError(f"{path}: no program")
    return Distribution(BINARIES[kind], program)


def _checkout(text: str) -> Path:
    if not Path(text, "src", "ullage").is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no src/ullage below it")
    return Path(text)


def _wrong(options: argparse.Namespace) -> str | None:
    """What is wrong with the options."""
    unknown = set(options.rows) - {row.name for row in ROWS}
    alone = {row.name for row in ROWS if row.whole} & set(options.rows)
    if unknown:
        return f"no such row: {', '.join(sorted(unknown))}"
    if options.rounds < 1:
        return "--rounds: 1 or more"
    if not 1 <= options.processes <= MOST_PROCESSES:
        return f"--processes: 1 to {MOST_PROCESSES}"
    if options.processes > 1 and options.database == "sqlite":
        return "--database: SQLite is for one process"
    if options.database == "postgresql" and alone:
        return f"--database postgresql: not for {', '.join(sorted(alone))}"
    if options.peer and options.tls != options.peer.startswith("https://"):
        return "--tls: for both servers or for none"
    return None


def _chosen(options: argparse.Namespace) -> list[Row]:
    # Rows that start servers of their own start Ullage on SQLite.
    possible = [row for row in ROWS if row.once or options.database == "sqlite"]
    return [row for row in possible if row.name in options.rows] or [
        row for row in possible if not (options.quick and row.slow)
    ]


def _require(chosen: Sequence[Row], options: argparse.Namespace) -> None:
    require(sorted({program for row in chosen for program in row.needs}))
    if any(row.whole for row in chosen) or not (options.peer or options.peer_checkout):
        require([(options.peer_binary or DEBIAN).program])
    if options.database == "postgresql":
        require(["postgres"])


def _ullage(place: Place, options: argparse.Namespace) -> Ullage | Several:
    if options.database == "postgresql":
        return Several(place, options.processes)
    return Ullage(place.folder / "ullage", place.tls)


def _peer(place: Place, options: argparse.Namespace) -> Peer:
    if options.peer:
        return Running(options.peer)
    return place.peer("peer")


def _names(known: Sequence[Row]) -> str:
    return "only these: " + ", ".join(row.name for row in known)


if __name__ == "__main__":
    main(sys.argv[1:])

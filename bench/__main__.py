"""Ullage against another registry: `python -m bench`, or `make bench`.

Both run on empty folders of one disk and get the same load in turns, A B A B …; each row is the
median of the rounds and the ratio of the two. docs/benchmarks.md says what the rows mean.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.measure import Row, rows
from bench.rows import ROWS
from bench.servers import DockerRegistry, Running, Ullage, require


def main(arguments: Sequence[str]) -> None:
    options = _options(arguments)
    chosen = [row for row in ROWS if row.name in options.rows] or [
        row for row in ROWS if not (options.quick and row.slow)
    ]
    require(sorted({program for row in chosen for program in row.needs}))
    if options.peer is None:
        require(["docker-registry"])
    with tempfile.TemporaryDirectory(prefix="ullage-bench-", dir=options.folder) as name:
        folder = Path(name)
        ullage = Ullage(folder / "ullage")
        peer = Running(options.peer) if options.peer else DockerRegistry(folder / "peer")
        results = list(rows(chosen, ullage, peer, folder, options.rounds, report.progress))
    print(report.table(results))
    if options.json:
        document = {"machine": _machine(), "rows": [result.document() for result in results]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=_names(ROWS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds after a warm-up (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round, without the slow rows")
    parser.add_argument(
        "--peer", metavar="URL", help="a running registry in docker-registry's place"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the data goes (default: the temporary one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    unknown = set(options.rows) - {row.name for row in ROWS}
    if unknown or options.rounds < 1:
        parser.error(
            f"no such row: {', '.join(sorted(unknown))}" if unknown else "--rounds: 1 or more"
        )
    if options.quick:
        options.rounds = 1
    return options


def _names(known: Sequence[Row]) -> str:
    return "only these: " + ", ".join(row.name for row in known)


def _machine() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main(sys.argv[1:])

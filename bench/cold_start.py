"""How long does somebody wait for `ullage repository list`, and what for?

    python bench/cold_start.py [--runs 40] [--json FILE]

Starts a registry, then runs in turns `python -c pass`, the command, `ullage --help` and the imports
that were weighed against each other (docs/design/dependencies.md). Prints the median of each, what
it is above `python -c pass`, and that as a multiple of it: the multiple is what may be compared
between machines. Fails if the command takes more than 250 ms longer than `python -c pass`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.server import UllageServer, command_environment

ALLOWED_MS = 250.0
NOTHING = "python -c pass"
LISTING = "ullage repository list"
# Not all of these are installed everywhere.
IMPORTS = ("http.client", "argparse", "typer", "httpx", "httpx2", "urllib3", "keyring")


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median of all runs, and how far that is above doing nothing."""

    name: str
    median_ms: float
    above_ms: float
    times_nothing: float


def commands() -> dict[str, list[str]]:
    known = [name for name in IMPORTS if importlib.util.find_spec(name.partition(".")[0])]
    return {
        NOTHING: ["-c", "pass"],
        LISTING: ["-m", "ullage", "repository", "list", "-o", "json"],
        "ullage --help": ["-m", "ullage", "--help"],
        **{f"import {name}": ["-c", f"import {name}"] for name in known},
    }


def measure(runs: int, environment: dict[str, str]) -> list[Timing]:
    """Each command `runs` times, in turns, so that a busy moment hits all of them."""
    every = commands()
    times: dict[str, list[float]] = {name: [] for name in every}
    for number in range(runs + 1):
        for name, arguments in every.items():
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments],
                env=environment,
                stdout=subprocess.DEVNULL,
                check=True,
            )
            # The first run compiles.
            if number:
                times[name].append((time.perf_counter() - began) * 1000)
    medians = {name: statistics.median(some) for name, some in times.items()}
    nothing = medians[NOTHING]
    return [
        Timing(name, median, median - nothing, (median - nothing) / nothing)
        for name, median in medians.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        UllageServer(Path(folder) / "data") as server,
    ):
        environment = command_environment(
            {"ULLAGE_REGISTRY": server.url, "PYTHONPYCACHEPREFIX": str(Path(folder) / "compiled")}
        )
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        timings = measure(options.runs, environment)
    for timing in timings:
        print(
            f"{timing.name:<24} {timing.median_ms:7.1f} ms   + {timing.above_ms:6.1f} ms"
            f"   {timing.times_nothing:5.1f} x {NOTHING}"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(timing) for timing in timings], indent=2))
    listing = next(timing for timing in timings if timing.name == LISTING)
    return 0 if listing.above_ms <= ALLOWED_MS else 1


if __name__ == "__main__":
    raise SystemExit(main())

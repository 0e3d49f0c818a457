"""The table people read, and what it was measured on."""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Result


def progress(text: str) -> None:
    """One line that is overwritten; nothing where nobody looks."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def table(results: Sequence[Result]) -> str:
    """Medians, their spread (half the distance of the quartiles), and ratios, as Markdown."""
    if not results:
        return ""
    first = results[0]
    lines = [
        f"| path | unit | {first.ullage_name} | {first.peer_name} | ratio | of the floor |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        share = result.floor_ratio
        cells = (
            result.row.title,
            result.row.unit,
            _figure(result.ullage),
            _figure(result.peer),
            f"{result.ratio:.2f}x",
            "" if share is None else f"{share:.2f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(values: Sequence[float]) -> str:
    return f"{short(statistics.median(values))} ± {short(_spread(values))}"


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return (quartiles[2] - quartiles[0]) / 2


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> dict[str, str]:
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

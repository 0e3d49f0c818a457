"""The table people read."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

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
    lines = [
        f"| path | unit | ullage | {results[0].peer_name} | ratio | of the floor |",
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
    return f"{_short(statistics.median(values))} ± {_short(_spread(values))}"


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return (quartiles[2] - quartiles[0]) / 2


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

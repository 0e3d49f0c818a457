"""What was measured at several sizes: as a table, as a document, as a picture."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from bench.report import short

# Told apart by those who see few colours, too.
COLOURS = ("#000000", "#0072b2", "#56b4e9", "#d55e00", "#cc79a7", "#009e73")


@dataclass(frozen=True)
class Figure:
    """Milliseconds, of `n` samples."""

    n: int
    p50: float
    p99: float
    worst: float


@dataclass(frozen=True)
class Curve:
    """One path: a figure for each size."""

    name: str
    title: str
    figures: tuple[Figure, ...]

    @property
    def ratio(self) -> float:
        """The largest size's median in terms of the smallest one's."""
        return self.figures[-1].p50 / self.figures[0].p50


@dataclass(frozen=True)
class Growth:
    """`sizes` are manifests, the smallest first."""

    sizes: tuple[int, ...]
    curves: tuple[Curve, ...]

    def document(self) -> dict[str, Any]:
        return {
            "sizes": list(self.sizes),
            "unit": "ms",
            "curves": [asdict(curve) | {"ratio": curve.ratio} for curve in self.curves],
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        curves = (
            Curve(each["name"], each["title"], tuple(Figure(**one) for one in each["figures"]))
            for each in document["curves"]
        )
        return cls(tuple(document["sizes"]), tuple(curves))


def table(growth: Growth) -> str:
    """Medians and 99th percentiles as Markdown, and how the medians grow."""
    sizes = [f"{size:,}" for size in growth.sizes]
    lines = [
        _line(["p50 / p99, ms", *sizes, f"{sizes[-1]} / {sizes[0]}"]),
        _line(["---"] * (len(sizes) + 2)),
    ]
    for curve in growth.curves:
        figures = [f"{short(each.p50)} / {short(each.p99)}" for each in curve.figures]
        lines.append(_line([curve.title, *figures, f"{curve.ratio:.2f}x"]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def picture(growth: Growth) -> bytes:
    """The medians as a PNG of 1000 by 600, both axes logarithmic; by gnuplot."""
    done = subprocess.run(
        ["gnuplot"], input=_script(growth).encode(), capture_output=True, check=False
    )
    if done.returncode or not done.stdout:
        raise RuntimeError(f"gnuplot failed: {done.stderr.decode(errors='replace')[-500:]}")
    return done.stdout


def _script(growth: Growth) -> str:
    ticks = ", ".join(f'"{size:,}" {size}' for size in growth.sizes)
    lines = [
        'set terminal pngcairo size 1000,600 font "sans,12"',
        'set title "What a request takes as the registry grows: median, one client"',
        'set xlabel "manifests in the registry"',
        'set ylabel "milliseconds"',
        "set logscale xy",
        f"set xtics ({ticks})",
        f"set xrange [{growth.sizes[0] / 1.3}:{growth.sizes[-1] * 1.3}]",
        'set format y "%g"',
        "set offsets graph 0, graph 0, graph 0.05, graph 0.05",
        "set grid",
        "set border 3",
        "set tics nomirror",
        "set key outside right center Left reverse spacing 1.6 samplen 2",
    ]
    for number, curve in enumerate(growth.curves):
        points = zip(growth.sizes, curve.figures, strict=True)
        lines += [f"$curve{number} << END", *(f"{size} {each.p50}" for size, each in points), "END"]
    drawn = [
        f"$curve{number} with linespoints linewidth 2 pointtype 7 linecolor rgb "
        f'"{COLOURS[number % len(COLOURS)]}" title "{curve.title}: {curve.ratio:.2f}x"'
        for number, curve in enumerate(growth.curves)
    ]
    return "\n".join([*lines, "plot " + ", ".join(drawn), ""])

"""Squarified treemaps: rectangles whose areas are to each other as the sizes are.

Bruls, Huizing, van Wijk: Squarified Treemaps (2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: its upper left corner, width and height, in pixels."""

    x: float
    y: float
    w: float
    h: float

    def inset(self, margin: float, top: float = 0.0) -> Box:
        """What is left inside a margin, and below a strip at the top."""
        width, height = self.w - 2 * margin, self.h - 2 * margin - top
        return Box(self.x + margin, self.y + margin + top, max(width, 0), max(height, 0))


def squarify(sizes: Sequence[float], box: Box) -> list[Box]:
    """A box for each size, in the order given; sizes are not negative, and descend.

    The boxes fill `box` and do not overlap; those of size 0 have no area.
    """
    total = sum(sizes)
    if total <= 0 or box.w <= 0 or box.h <= 0:
        return [Box(box.x, box.y, 0, 0) for _ in sizes]
    scale = box.w * box.h / total
    areas = [size * scale for size in sizes]
    placed: list[Box] = []
    while len(placed) < len(areas) and areas[len(placed)] > 0:
        row = _row(areas, len(placed), min(box.w, box.h))
        boxes, box = _lay(row, box)
        placed += boxes
    return placed + [Box(box.x, box.y, 0, 0) for _ in areas[len(placed) :]]


def _row(areas: Sequence[float], start: int, side: float) -> Sequence[float]:
    """As many of the next areas as make the worst of them more square."""
    total = largest = smallest = areas[start]
    best, stop = _worst(total, largest, smallest, side), start + 1
    while stop < len(areas) and areas[stop] > 0:
        total, smallest = total + areas[stop], areas[stop]
        worst = _worst(total, largest, smallest, side)
        if worst > best:
            break
        best, stop = worst, stop + 1
    return areas[start:stop]


def _worst(total: float, largest: float, smallest: float, side: float) -> float:
    """The longest shape in a row along `side`, as the ratio of its sides."""
    if not side:
        return float("inf")
    square = (total / side) ** 2
    return max(largest / square, square / smallest)


def _lay(row: Sequence[float], box: Box) -> tuple[list[Box], Box]:
    """The boxes of a row along the shorter side, and what is left of the whole."""
    total = sum(row)
    if box.w >= box.h:
        thick = min(total / box.h if box.h else 0, box.w)
        at, placed = box.y, []
        for area in row:
            long = box.h * area / total
            placed.append(Box(box.x, at, thick, long))
            at += long
        return placed, Box(box.x + thick, box.y, box.w - thick, box.h)
    thick = min(total / box.w if box.w else 0, box.h)
    at, placed = box.x, []
    for area in row:
        long = box.w * area / total
        placed.append(Box(at, box.y, long, thick))
        at += long
    return placed, Box(box.x, box.y + thick, box.w, box.h - thick)

"""Where the bytes are: the bill of the disk, a map of it, and its largest parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from starlette.responses import Response

from ullage.server.http.permissions import KNOWN
from ullage.server.http.routes import Route
from ullage.server.ui.bill import Bill, Line, bill_of
from ullage.server.ui.formats import address, percent, size
from ullage.server.ui.treemap import Box, squarify
from ullage.server.ui.visit import Visit
from ullage.usage.usage import Totals

WIDTH, HEIGHT = 1160, 460
STRIP = 19
# Less than this has no shape that can be seen.
LEAST_SIDE = 2.0
LARGEST = 25
_BAR = 1000
# Of a character in the map's font of 12 pixels, and what is around a name.
_LETTER, _CHIP_MARGIN, _LINE = 7.6, 10, 18


@dataclass(frozen=True, slots=True)
class State:
    """One part of the disk's bar, and the page about it."""

    kind: str
    label: str
    bytes: int
    x: str
    width: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Tank:
    """A repository in the map: filled from below as far as tags lead; empty, `empty_h`, above."""

    path: str
    label: str
    kind: str
    x: str
    y: str
    w: str
    h: str
    empty_h: str
    # Its name on a chip, where there is room.
    name: str
    size: str
    chip_x: str
    chip_y: str
    chip_w: str
    chip_h: str


@dataclass(frozen=True, slots=True)
class Group:
    """A namespace in the map, with its repositories."""

    title: str
    label: str
    path: str
    x: str
    y: str
    w: str
    h: str
    text_w: str
    tanks: Sequence[Tank]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table, with its bar."""

    line: Line
    width: str
    untagged: str
    untagged_x: str
    untagged_width: str


async def show_space(visit: Visit) -> Response:
    """The disk, or one namespace of it (ui.md section 3)."""
    namespace = visit.query.one("ns") or ""
    bill = await visit.run(bill_of, visit.registry, visit.principal)
    if visit.is_anonymous:
        # Sums are for accounts, whatever all may pull.
        bill = replace(bill, totals=None, deleted_bytes=0)
    lines = [line for line in bill.lines if not namespace or line.namespace == namespace]
    return await visit.page(
        "space.html",
        ns=namespace,
        totals=bill.totals,
        states=_states(visit, bill.totals) if bill.totals is not None else (),
        repositories=len(bill.lines),
        shown_bytes=sum(line.fair_share_bytes for line in lines),
        groups=_groups(visit, bill, lines, namespace),
        width=WIDTH,
        height=HEIGHT,
        lines=_rows(lines[:LARGEST]),
        more=len(lines) - LARGEST if len(lines) > LARGEST else 0,
        as_of=bill.as_of,
        host=visit.host,
    )


# --- the bar --------------------------------------------------------------------------------------


def _states(visit: Visit, totals: Totals) -> list[State]:
    parts = (
        ("tagged", visit.text("tagged"), totals.tagged_bytes, "repositories"),
        ("untagged", visit.text("untagged"), totals.untagged_bytes, "cleanup"),
        ("leased", visit.text("promised to pushes"), totals.leased_bytes, None),
        ("restorable", visit.text("restorable"), totals.soft_deleted_bytes, "deleted"),
        ("uploading", visit.text("uploading"), totals.uploading_bytes, "uploads"),
        ("pending", visit.text("being freed"), totals.pending_bytes, None),
    )
    states, at = [], 0.0
    for kind, label, number, path in parts:
        width = _BAR * number / totals.disk_bytes if totals.disk_bytes else 0.0
        shown = f"{width:.2f}" if width else ""
        states.append(State(kind, label, number, f"{at:.2f}", shown, visit.linked(path)))
        at += width
    return states


# --- the map --------------------------------------------------------------------------------------


def _groups(visit: Visit, bill: Bill, lines: Sequence[Line], namespace: str) -> list[Group]:
    """Namespaces by their fair share; within one of them, only its repositories."""
    members: dict[str, list[Line]] = {}
    for line in lines:
        members.setdefault(line.namespace, []).append(line)
    sums = {name: sum(each.fair_share_bytes for each in some) for name, some in members.items()}
    if bill.deleted_bytes and not namespace:
        members[""], sums[""] = [], bill.deleted_bytes
    names = sorted(sums, key=lambda name: (-sums[name], name))
    boxes = squarify([sums[name] for name in names], Box(0, 0, WIDTH, HEIGHT))
    return [
        _group(visit, name, sums[name], members[name], box, titled=not namespace)
        for name, box in zip(names, boxes, strict=True)
        if box.w >= LEAST_SIDE and box.h >= LEAST_SIDE
    ]


def _group(
    visit: Visit, name: str, number: int, lines: Sequence[Line], box: Box, *, titled: bool
) -> Group:
    deleted = not name
    shown = visit.text("deleted, restorable") if deleted else name
    titled = titled and box.w > 60 and box.h > 40
    amount = f" · {size(number)}" if box.w > 150 else ""
    inner = box.inset(1.5, STRIP if titled else 0)
    if deleted:
        tanks = [_tank(inner, "deleted", f"{shown}: {size(number)}", "restorable", "", "", 0.0)]
    else:
        tanks = [*_tanks(visit, name, lines, inner)]
    return Group(
        title=f"{shown}{amount}" if titled else "",
        label=f"{shown}, {size(number)}",
        path="deleted" if deleted else f"?ns={address(name)}",
        x=_pixels(box.x + 0.75),
        y=_pixels(box.y + 0.75),
        w=_pixels(max(box.w - 1.5, 0)),
        h=_pixels(max(box.h - 1.5, 0)),
        text_w=_pixels(max(box.w - 4, 0)),
        tanks=tanks,
    )


def _tanks(visit: Visit, namespace: str, lines: Sequence[Line], box: Box) -> Iterator[Tank]:
    boxes = squarify([line.fair_share_bytes for line in lines], box)
    for line, each in zip(lines, boxes, strict=True):
        if each.w < LEAST_SIDE or each.h < LEAST_SIDE:
            continue
        told = f"; {percent(line.untagged_share, 1)} {visit.text('untagged')}"
        yield _tank(
            each,
            f"repositories/{address(line.name)}",
            f"{line.name}: {size(line.fair_share_bytes)}{told}",
            "tagged",
            line.name.removeprefix(f"{namespace}/"),
            size(line.fair_share_bytes),
            line.untagged_share,
        )


def _tank(
    box: Box, path: str, label: str, kind: str, name: str, amount: str, untagged: float
) -> Tank:
    named = bool(name) and box.w > 46 and box.h > 24
    sized = named and box.h > 42
    letters = max(len(name), len(amount) if sized else 0)
    chip_w = min(letters * _LETTER + _CHIP_MARGIN, box.w - 6)
    chip_h = 2 * _LINE - 2 if sized else _LINE
    return Tank(
        path=path,
        label=label,
        kind=kind,
        x=_pixels(box.x),
        y=_pixels(box.y),
        w=_pixels(box.w),
        h=_pixels(box.h),
        empty_h=_pixels(box.h * untagged) if untagged else "",
        name=name if named else "",
        size=amount if sized else "",
        chip_x=_pixels(box.x + 3),
        chip_y=_pixels(box.y + box.h - chip_h - 3),
        chip_w=_pixels(chip_w),
        chip_h=_pixels(chip_h),
    )


def _pixels(number: float) -> str:
    return f"{number:.1f}"


# --- the table ------------------------------------------------------------------------------------


def _rows(lines: Sequence[Line]) -> list[Row]:
    most = max((line.fair_share_bytes for line in lines), default=0) or 1
    rows = []
    for line in lines:
        width = 100 * line.fair_share_bytes / most
        untagged = width * line.untagged_share
        rows.append(
            Row(
                line,
                f"{width:.2f}",
                percent(line.untagged_share, 1),
                f"{width - untagged:.2f}",
                f"{untagged:.2f}" if untagged else "",
            )
        )
    return rows


ROUTES = (Route("ui-space", "GET", "/ui/", show_space, KNOWN),)

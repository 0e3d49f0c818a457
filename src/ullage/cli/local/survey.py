"""`ullage survey`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ullage.cli.shell.commands import Command, Flag
from ullage.cli.shell.console import Gauge
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.groups import LOCAL
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import counted, cut, grouped, size, table

if TYPE_CHECKING:
    from ullage.survey.report import Collected, Survey

COULD_NOT = 3
_WIDTH, _LINES = 79, 23
_USUAL_TOP = 20


def survey(invocation: Invocation) -> Result:
    given = invocation.given
    from ullage.documents import plain
    from ullage.survey.folders import Unreadable
    from ullage.survey.survey import survey as look

    if given.top is not None and given.top < 0:
        raise Failure("--top: expected how many repositories to list", 2)
    gauge = Gauge()
    try:
        found = look(
            Path(given.place),
            lambda what, count: gauge.say(f"{what}: {count:,}"),
            top=_USUAL_TOP if given.top is None else given.top,
            deep=given.deep,
        )
    except Unreadable as error:
        raise Failure(str(error), COULD_NOT) from None
    finally:
        gauge.clear()
    code = 1 if found.faults else 0
    if invocation.table:
        lines = [cut(line, _WIDTH) for line in screen(found)]
        if given.top:
            lines += ["", *_repositories(found)]
        return Result(text="".join(f"{line}\n" for line in lines), code=code)
    return Result(plain(found), code=code)


def screen(found: Survey) -> list[str]:
    """What there is to know, at most 23 lines of 79 columns; faults that are more are counted."""
    counts = found.counts
    images = f"{counted(counts.tags, 'tag')}, {counted(counts.manifests, 'manifest')}"
    where = f"{_printable(found.place)}: {found.kind}"
    lines = [
        f"{where}, {_repository_count(counts.repositories)}, {images}",
        *_categories(found),
        *_given_back(found),
    ]
    if found.moved:
        lines.append(f"It is in use: of what was listed, {found.moved:,} vanished meanwhile.")
    faults = [f"FAULT: {each.count:,} {each.text}" for each in found.faults]
    room = _LINES - len(lines)
    if len(faults) > room:
        more = len(faults) - room + 1
        faults = [*faults[: room - 1], f"… and {more} kinds of faults more: see -o json"]
    return lines + faults


def _repository_count(count: int) -> str:
    return f"{count:,} {'repository' if count == 1 else 'repositories'}"


def _categories(found: Survey) -> list[str]:
    rows: list[dict[str, Any]] = [
        {
            "Bytes": name.replace("_", " "),
            "Files": grouped(amounts.files),
            "Size": size(amounts.bytes),
            "On disk": size(amounts.disk_bytes),
        }
        for name, amounts in [*found.categories.items(), ("total", found.total)]
    ]
    return table(rows).splitlines()


def _given_back(found: Survey) -> Iterator[str]:
    rows: list[dict[str, Any]] = []
    for run in found.collections:
        name = f"garbage-collect{' -m' if run.untagged else ''}, {run.version}.x"
        rows.append(
            {
                "Would free": name,
                "Blobs": grouped(run.blobs),
                "Size": size(run.bytes + run.link_bytes),
                "And destroy": f"nothing: {run.stops}" if run.stops else _destroyed(run),
            }
        )
    yield from table(rows, _WIDTH).splitlines()


def _destroyed(run: Collected) -> str:
    lost = run.destroyed
    parts = [
        counted(count, thing)
        for count, thing in (
            (lost.images, "tagged image"),
            (lost.platforms, "platform"),
            (lost.referrers, "referrer"),
        )
        if count
    ]
    return f"{', '.join(parts)} ({size(lost.bytes)})" if parts else ""


def _repositories(found: Survey) -> list[str]:
    rows: list[dict[str, Any]] = [
        {
            "Repository": each.name,
            "Tagged": size(each.tagged_bytes),
            "Untagged": size(each.untagged_bytes),
            "Uploads": size(each.upload_bytes),
        }
        for each in found.repositories
    ]
    return table(rows, _WIDTH).splitlines()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


COMMANDS = (
    Command(
        ("survey",),
        LOCAL["survey"],
        (
            Flag(("place",), "The folder of a registry, such as /var/lib/registry.", required=True),
            Flag(("--deep",), "Also read every blob, and compare it with its digest."),
            Flag(
                ("--top",),
                "List so many of the largest repositories. Default: 20, on a terminal none.",
                "NUMBER",
                kind=int,
            ),
        ),
        survey,
        more="The storage of CNCF distribution (registry:2, registry:3) with its file system "
        "driver, and OCI image layouts, as skopeo, zot and olareg write them. Nothing is written "
        "there, and the registry may go on serving. Every byte is in one category. What "
        "`registry garbage-collect` would free is said to the byte, also what its -m would "
        "destroy of tagged images.",
        examples=(
            "ullage survey /var/lib/registry",
            "ullage survey /var/lib/registry --top 10 -o table",
            "ullage survey /var/lib/registry -o json --query categories.uploads.bytes",
        ),
        exits={1: "Images have faults.", COULD_NOT: "It cannot be read."},
    ),
)

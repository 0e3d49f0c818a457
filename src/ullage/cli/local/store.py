"""`ullage store copy`: bringing a registry's bytes to another place."""

from __future__ import annotations

import logging
from shlex import quote
from typing import TYPE_CHECKING

from ullage.cli.local.settings import setting_flags, settings_of
from ullage.cli.shell.commands import HELP, Command, Flag
from ullage.cli.shell.console import Gauge
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import counted, size

if TYPE_CHECKING:
    from ullage.transfer.copy import Tally
    from ullage.transfer.switch import Moved

_MIB = 1024 * 1024


def copy(invocation: Invocation) -> Result:
    given = invocation.given
    if given.finish and given.dry_run:
        raise Failure("--finish and --dry-run exclude each other", 2)
    settings = settings_of(given)
    from ullage.transfer.switch import Moved
    from ullage.wiring import copying, opening

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    gauge = Gauge()
    came_to: Tally | None = None
    moved: Moved | None = None
    try:
        for said in copying.copy_store(
            settings, given.to, finish=given.finish, looking=given.dry_run
        ):
            if isinstance(said, Moved):
                moved, came_to = said, said.tally
            else:
                came_to = said
                gauge.show("Copying (MiB)", said.there_bytes // _MIB, said.bytes // _MIB)
    except (opening.CannotStart, OSError) as error:
        gauge.clear()
        raise Failure(str(error)) from None
    finally:
        gauge.clear()
    assert came_to is not None
    lines = [*_copied(came_to, looking=given.dry_run), *_damaged(came_to)]
    if moved is not None:
        lines += _moved(moved, given.to, settings.storage or str(settings.data))
    elif not given.dry_run:
        lines.append("Go on: stop the server, and run the same command with --finish.")
    return Result(text="".join(f"{line}\n" for line in lines), code=1 if came_to.damaged else 0)


def _copied(tally: Tally, *, looking: bool) -> list[str]:
    before, before_bytes = tally.there, tally.there_bytes
    if not looking:
        before, before_bytes = before - tally.copied, before_bytes - tally.copied_bytes
    copied = "To be copied" if looking else "Copied"
    lines = [f"{copied}: {_blobs(tally.copied, tally.copied_bytes)}."]
    if before > 0:
        lines.append(f"There already: {_blobs(before, before_bytes)}.")
    if tally.removed:
        removed = "To be removed there" if looking else "Removed there"
        lines.append(f"{removed}: {counted(tally.removed, 'blob')}, deleted since.")
    return lines


def _blobs(count: int, total: int) -> str:
    return f"{counted(count, 'blob')} ({size(total)})"


def _damaged(tally: Tally) -> list[str]:
    if not tally.damaged:
        return []
    count = counted(len(tally.damaged), "damaged blob")
    return [f"Not copied: {count}; `ullage check` names the images."]


def _moved(moved: Moved, to: str, before: str) -> list[str]:
    ended = counted(moved.ended, "open upload")
    lines = [f"Ended: {ended}; their clients begin again."] if moved.ended else []
    return [
        *lines,
        f"The registry is in {to} now: start it with --storage {quote(to)}",
        f"{before} is as it was, and no server takes it any more.",
    ]


COMMANDS = (
    Command(
        ("store", "copy"),
        "Copy all blobs to another place, while the registry serves; then move it there.",
        (
            Flag(
                ("--to",),
                "Where to: a URL as --storage takes it, of an empty place or a copy begun before.",
                "URL",
                required=True,
            ),
            Flag(
                ("--finish",),
                "Copy what is left and move the registry; no server may run meanwhile.",
            ),
            Flag(("--dry-run",), "Only say how much there is to copy."),
            *setting_flags("data", "database", "storage"),
        ),
        copy,
        more="It can be stopped at any time and run again: what is there is not copied again. "
        "Every blob is verified on the way. The place that the registry was in stays as it is.",
        examples=(
            "ullage store copy --to file:/mnt/new",
            "ullage store copy --to file:/mnt/new --finish",
        ),
        exits={1: "It could not copy, or blobs are damaged and were not copied."},
        common=(HELP,),
    ),
)

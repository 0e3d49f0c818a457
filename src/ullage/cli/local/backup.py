"""`ullage backup` and `ullage restore-backup`."""

from __future__ import annotations

import logging
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ullage.cli.local.settings import setting_flags, settings_of
from ullage.cli.shell.commands import HELP, Command, Flag
from ullage.cli.shell.console import Gauge
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.groups import LOCAL
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import counted, size

if TYPE_CHECKING:
    from ullage.backup.layout import Backup
    from ullage.backup.make import Made, Tally
    from ullage.backup.put_back import Restored
    from ullage.registry.queries.quarantine import StoredCopy

_MIB = 1024 * 1024
_LINKED = (
    "A link is no copy: what damages a file of the registry damages the backup. Keep another one "
    "on another disk."
)


def _quiet_libraries() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)


# --- making ---------------------------------------------------------------------------------------


def make(invocation: Invocation) -> Result:
    given = invocation.given
    settings = settings_of(given)
    from ullage.backup.make import Made, Wishes
    from ullage.wiring import backups, opening

    _quiet_libraries()
    wishes = Wishes(given.incremental, given.verify, given.link, not given.without_secrets)
    gauge = Gauge()
    made: Made | None = None
    try:
        for said in backups.back_up(settings, Path(given.dir), wishes, with_blobs=given.with_blobs):
            if isinstance(said, Made):
                made = said
            else:
                gauge.show("Copying (MiB)", said.there_bytes // _MIB, said.bytes // _MIB)
    except (opening.CannotStart, OSError) as error:
        gauge.clear()
        raise Failure(str(error)) from None
    finally:
        gauge.clear()
    assert made is not None
    if given.link:
        invocation.console.warning(_LINKED)
    lines = "".join(f"{line}\n" for line in _told(made))
    return Result(text=lines, code=1 if made.tally.damaged else 0)


def _told(made: Made) -> list[str]:
    said, tally = made.backup.description, made.tally
    lines = [f"Backup {made.backup.path}: {_blobs(said.blobs, said.bytes)}."]
    if said.storage:
        lines.append(f"The blobs stay in {said.storage}: protect them there, or add --with-blobs.")
    else:
        lines.append(f"Copied: {_blobs(tally.copied, tally.copied_bytes)}.")
    if not said.secrets:
        lines.append("Without accounts and keys: the first start makes a new admin account.")
    if made.removed:
        lines.append(f"Removed: {counted(made.removed, 'backup')} that had been cut off.")
    return lines + _without_bytes(tally.damaged, "Not copied", "`ullage check` names the images")


def _blobs(count: int, total: int) -> str:
    return f"{counted(count, 'blob')} ({size(total)})"


def _without_bytes(blobs: list[StoredCopy], what: str, way: str) -> list[str]:
    if not blobs:
        return []
    return [f"{what}: {counted(len(blobs), 'damaged blob')}; {way}."]


# --- listing and pruning --------------------------------------------------------------------------


def list_backups(invocation: Invocation) -> Result:
    from ullage.backup.layout import BackupFailed, backups_in

    try:
        found = list(backups_in(Path(invocation.given.dir)))
    except (BackupFailed, OSError) as error:
        raise Failure(f"backup: {error}") from None
    data = [_document(each) for each in found]
    return Result(data, rows=lambda: [_row(each) for each in data])


def _document(backup: Backup | str) -> dict[str, Any]:
    if isinstance(backup, str):
        return {"name": backup, "finished": False}
    said = backup.description
    return {
        "name": backup.path.name,
        "finished": True,
        "at": said.at,
        "registry": said.registry,
        "database": said.database,
        "schema": said.schema,
        "version": said.version,
        "blobs": said.blobs,
        "bytes": said.bytes,
        "storage": said.storage or None,
        "secrets": said.secrets,
        "damaged": len(said.damaged),
    }


def _row(backup: dict[str, Any]) -> dict[str, Any]:
    if not backup["finished"]:
        return {"Name": backup["name"], "Note": "not finished"}
    notes = [
        "blobs not copied" if backup["storage"] else "",
        "" if backup["secrets"] else "without secrets",
        f"{backup['damaged']} damaged" if backup["damaged"] else "",
    ]
    return {
        "Name": backup["name"],
        "Blobs": backup["blobs"],
        "Bytes": size(backup["bytes"]),
        "Database": backup["database"],
        "Schema": backup["schema"],
        "Note": ", ".join(filter(None, notes)),
    }


def prune(invocation: Invocation) -> Result:
    given = invocation.given
    keep = int(given.keep) if given.keep.isdecimal() and len(given.keep) < 10 else 0
    if keep < 1:
        raise Failure(f"--keep {given.keep}: expected how many backups to keep, at least 1", 2)
    from ullage.backup.layout import BackupFailed
    from ullage.backup.prune import prune as prune_backups

    try:
        done = prune_backups(Path(given.dir), keep)
    except (BackupFailed, OSError) as error:
        raise Failure(f"backup: {error}") from None
    gone = f"{counted(len(done.backups), 'backup')} and {_blobs(done.blobs, done.bytes)}"
    return Result(text=f"Removed: {gone}.\n")


# --- restoring ------------------------------------------------------------------------------------


def restore(invocation: Invocation) -> Result:
    given = invocation.given
    settings = settings_of(given)
    from ullage.backup.layout import BackupFailed
    from ullage.backup.put_back import Restored, RestoreWishes
    from ullage.backup.replay import read_entries
    from ullage.backup.restore import choose
    from ullage.wiring import backups, opening

    _quiet_libraries()
    gauge = Gauge()
    restored: Restored | None = None
    try:
        wishes = RestoreWishes(
            given.verify,
            given.deep,
            given.link,
            given.keep_going,
            given.as_copy,
            read_entries(Path(given.replay_deletes)) if given.replay_deletes else None,
        )
        for said in backups.restore_backup(settings, choose(Path(given.dir)), wishes):
            if isinstance(said, Restored):
                restored = said
            else:
                _show(gauge, said)
    except BackupFailed as error:
        raise Failure(f"restore-backup: {error}") from None
    except (opening.CannotStart, OSError) as error:
        gauge.clear()
        raise Failure(str(error)) from None
    finally:
        gauge.clear()
    assert restored is not None
    lines = [*_brought_back(restored), *_replayed(restored), *_checked(restored)]
    start = ["ullage", "serve", "--data", quote(str(settings.data))]
    for name in ("database", "storage"):
        if getattr(given, name):
            start += [f"--{name}", quote(getattr(given, name))]
    lines.append(f"Start it: {' '.join(start)}")
    return Result(text="".join(f"{line}\n" for line in lines), code=_code(restored))


def _show(gauge: Gauge, tally: Tally) -> None:
    gauge.show("Restoring (MiB)", tally.there_bytes // _MIB, tally.bytes // _MIB)


def _brought_back(restored: Restored) -> list[str]:
    said = restored.backup.description
    again = "" if restored.replayed else ": --replay-deletes deletes it again"
    what = _blobs(said.blobs, said.bytes)
    lines = [
        f"Restored backup {restored.backup.path.name}, of {said.at}: {what}.",
        "What was pushed after that is not in it; what was deleted after it lives again" + again,
    ]
    if restored.settled.jobs:
        lines.append(f"Cancelled: {counted(restored.settled.jobs, 'job')} that ran then.")
    if not said.secrets:
        lines.append("It has no accounts and no keys: the first start makes an admin account.")
    way = "their next push heals the images, which `ullage check` names"
    return lines + _without_bytes(restored.missing, "Without bytes", way)


def _replayed(restored: Restored) -> list[str]:
    done = restored.replayed
    if done is None:
        return []
    went = f"{counted(done.manifests, 'manifest')}, {counted(done.tags, 'tag')}"
    lines = [f"Deleted again: {went}, whole repositories: {done.repositories}."]
    if done.incomplete:
        lines.append(
            f"Not all is known of {counted(done.incomplete, 'deletion')}: their entries do not "
            "name everything that went."
        )
    lines += [f"Not deleted: {what}: {why}" for what, why in done.refused.items()]
    return lines


def _checked(restored: Restored) -> list[str]:
    if restored.report is None:
        return []
    from ullage.check.findings import Report, render
    from ullage.documents import stored

    if "exit_code" not in restored.report:
        return [f"It could not be checked: {restored.report.get('error')}"]
    return [render(stored(restored.report, Report)).rstrip()]


def _code(restored: Restored) -> int:
    refused = restored.replayed is not None and bool(restored.replayed.refused)
    found = restored.report is not None and restored.report.get("exit_code", 2) != 0
    return 1 if restored.missing or refused or found else 0


_DIR = Flag(("dir",), "The folder of backups.", required=True)

COMMANDS = (
    Command(
        ("backup",),
        LOCAL["backup"],
        (
            Flag(("dir",), "Where to: an empty folder, or one with backups.", required=True),
            Flag(
                ("--incremental",),
                "Trust the blobs that earlier backups copied; without it they are read, and copied "
                "anew where they are wrong.",
            ),
            Flag(("--verify",), "Read back what is copied, and compare it with its digest."),
            Flag(
                ("--link",),
                "Make hard links in place of copies, where the folder is on the same file system.",
            ),
            Flag(("--without-secrets",), "Leave out accounts, passwords and signing keys."),
            Flag(("--with-blobs",), "Copy the blobs of an object store, too."),
            *setting_flags("data", "database", "storage"),
        ),
        make,
        more="Images can be pushed, pulled and deleted meanwhile; the bytes of deletions stay on "
        "the disk until it has ended. Everything that was acknowledged before it began is in it.",
        examples=(
            "ullage backup /mnt/backups --data /srv/registry",
            "ullage backup /mnt/backups --data /srv/registry --incremental --verify",
        ),
        exits={1: "It could not be made, or blobs are damaged and are not in it."},
        common=(HELP,),
    ),
    Command(
        ("backup", "list"),
        "List the backups in a folder, the newest last.",
        (_DIR,),
        list_backups,
        examples=("ullage backup list /mnt/backups",),
    ),
    Command(
        ("backup", "prune"),
        "Remove old backups, and blobs that no other backup needs.",
        (
            _DIR,
            Flag(("--keep",), "How many to keep, the newest.", "NUMBER", required=True),
        ),
        prune,
        examples=("ullage backup prune /mnt/backups --keep 7",),
        common=(HELP,),
    ),
    Command(
        ("restore-backup",),
        LOCAL["restore-backup"],
        (
            Flag(
                ("dir",),
                "A backup, or a folder of backups: the newest one.",
                required=True,
            ),
            Flag(("--verify",), "Compare every blob with its digest."),
            Flag(("--deep",), "The same, and check the whole registry afterwards."),
            Flag(("--link",), "Make hard links in place of copies."),
            Flag(
                ("--as-copy",),
                "Make it a registry of its own, with an id of its own, beside the one that it is "
                "a copy of.",
            ),
            Flag(
                ("--replay-deletes",),
                "Carry out again what was deleted after the backup: a file with entries of the "
                "audit log.",
                "FILE",
            ),
            Flag(
                ("--keep-going",),
                "Restore what there is, also if blobs are missing or damaged.",
            ),
            *setting_flags("data", "database", "storage"),
        ),
        restore,
        more="The data folder has to be new or empty, and so has a PostgreSQL database. Nothing "
        "is changed in the backup.",
        examples=(
            "ullage restore-backup /mnt/backups --data /srv/new --verify",
            "ullage restore-backup /mnt/backups/20261130T120000Z --data /srv/new",
        ),
        exits={1: "It could not be restored, or not all of it."},
        common=(HELP,),
    ),
)

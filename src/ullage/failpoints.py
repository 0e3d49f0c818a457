"""Named places where a test may make the program die, stop, fail or wait.

The variable ULLAGE_FAILPOINTS arms them: `name=action`, separated by commas, where action is

    kill          SIGKILL to this process: what a crash leaves behind
    stop          SIGSTOP: the process stands still until it gets a SIGCONT
    raise:EIO     OSError with that errno
    sleep:200     wait so many milliseconds

and `name=kill@3` acts on the third pass only. When the variable is not set, which is the rule, a
failpoint costs almost nothing. There is one for each arrow of the deletion protocol
(docs/design/deletion.md section 3).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

VARIABLE = "ULLAGE_FAILPOINTS"

NAMES = frozenset(
    {
        "azure.block.after_request",
        "azure.block.before_request",
        "azure.commit.after_request",
        "azure.commit.before_request",
        "backup.after_blob",
        "backup.after_snapshot",
        "backup.before_description",
        "backup.prune.before_blobs",
        "backup.restore.before_settling",
        "ballast.after_release",
        "blob.append.after_fsync",
        "blob.append.after_write",
        "blob.commit.after_dirsync",
        "blob.commit.after_fsync",
        "blob.commit.after_rename",
        "blob.create.after_file",
        "blob.delete.after_dirsync",
        "blob.delete.after_unlink",
        "cancel.after_row",
        "copy.after_commit",
        "copy.after_move",
        "copy.after_piece",
        "copy.before_move",
        "delete.after_row",
        "delete.in_transaction",
        "deleted.after_row",
        "manifest.put.after_row",
        "manifest.put.before_row",
        "manifest.put.in_transaction",
        "mount.after_row",
        "mount.in_transaction",
        "reclaim.after_claim",
        "reclaim.after_drop",
        "reclaim.before_drop",
        "reconcile.before_tombstone",
        "recover.after_claim",
        "recover.after_row",
        "job.in_transaction",
        "job.after_batch",
        "repository.delete.after_mark",
        "repository.erase.after_batch",
        "restore.after_batch",
        "restore.in_transaction",
        "review.after_row",
        "review.in_transaction",
        "s3.commit.after_request",
        "s3.commit.before_request",
        "s3.multipart.after_request",
        "s3.part.after_request",
        "s3.part.before_request",
        "s3.tail.after_request",
        "s3.tail.before_request",
        "upload.append.after_offset_row",
        "upload.append.before_offset_row",
        "upload.finish.after_row",
        "upload.finish.before_commit",
        "upload.finish.before_row",
        "upload.finish.in_transaction",
        "upload.reserve.after_row",
        "upload.start.after_row",
    }
)

_ENTRY = re.compile(
    r"(?P<name>[a-z0-9_.]+)="
    r"(?P<action>kill|stop|raise:(?P<errno>E[A-Z0-9]+)|sleep:(?P<milliseconds>[0-9]{1,7}))"
    r"(?:@(?P<hit>[1-9][0-9]{0,8}))?"
)
_ERRNOS = {name: number for number, name in errno.errorcode.items()}


class FailpointInvalid(ValueError):
    """An unknown failpoint or an impossible action. The text says what was expected."""


@dataclass(slots=True)
class _Armed:
    act: Callable[[], None]
    # On which pass to act; None for every one.
    hit: int | None
    passes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def passed(self) -> None:
        with self.lock:
            self.passes += 1
            due = self.hit is None or self.hit == self.passes
        if due:
            self.act()


# None: the environment was not read yet.
_armed: dict[str, list[_Armed]] | None = None


def failpoint(name: str) -> None:
    """A place where a test may step in. Raises FailpointInvalid for a name not in NAMES."""
    if name not in NAMES:
        raise _unknown(name)
    if _armed is None:
        configure()
    if _armed:
        for point in _armed.get(name, ()):
            point.passed()


def configure(text: str | None = None) -> None:
    """Arm exactly what `text` says, or the environment if there is none; counting starts anew.

    The first failpoint passed does this by itself. Raises FailpointInvalid, and arms nothing then.
    """
    global _armed
    if text is None:
        text = os.environ.get(VARIABLE, "")
    armed: dict[str, list[_Armed]] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        name, point = _parse(entry)
        armed.setdefault(name, []).append(point)
    _armed = armed


def _parse(entry: str) -> tuple[str, _Armed]:
    match = _ENTRY.fullmatch(entry)
    if not match:
        raise FailpointInvalid(
            f"{VARIABLE}: {entry!r} - expected name=kill, name=stop, name=raise:EIO or "
            "name=sleep:200 (milliseconds), and @3 after it to act on the third pass only"
        )
    if match["name"] not in NAMES:
        raise _unknown(match["name"])
    return match["name"], _Armed(_action(match), int(match["hit"]) if match["hit"] else None)


def _action(entry: re.Match[str]) -> Callable[[], None]:
    if entry["errno"]:
        return _raise(entry["errno"])
    if entry["milliseconds"]:
        return partial(time.sleep, int(entry["milliseconds"]) / 1000)
    return {"kill": _kill, "stop": _stop}[entry["action"]]


def _raise(name: str) -> Callable[[], None]:
    if name not in _ERRNOS:
        raise FailpointInvalid(f"{VARIABLE}: {name} - expected an errno such as EIO or ENOSPC")
    number = _ERRNOS[name]

    def act() -> None:
        raise OSError(number, f"{os.strerror(number)} (failpoint)")

    return act


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    # Sent to this thread, it stops the process here and now. Sent to the process, another thread
    # may take it, and this one would run on for a while.
    signal.raise_signal(signal.SIGSTOP)


def _unknown(name: str) -> FailpointInvalid:
    return FailpointInvalid(f"failpoint {name!r} - expected one of: {', '.join(sorted(NAMES))}")

"""A process that has everything imported and forks: a server starts in a tenth of the time.

Hundreds of starts are what a crash suite is made of, and most of a start is Python reading modules.
The child runs the same `main()` as the command `ullage` does, in a process of its own.

Run as a program. Requests are lines of JSON on stdin, each answered by one line on stdout:
`{"argv": […], "env": {…}, "log": "path"}` by `{"pid": 123}`, and `{"wait": 123}`, once that
process has ended, by `{"code": -9}`. argv[0] is "ullage" for the command, or "drive" for
tests/crash/drive.py.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

# What the command imports sooner or later; the second kind only where it is installed.
_MODULES = (
    "ullage.cli.local.serve",
    "ullage.cli.local.check",
    "ullage.cli.local.user",
    "ullage.cli.local.token",
    "ullage.cli.local.scope_map",
    "ullage.cli.local.audit",
    "ullage.wiring.backups",
    "ullage.wiring.commands",
    "ullage.wiring.copying",
    "ullage.wiring.serving",
    "ullage.blobs.files.store",
    "ullage.database.sqlite.database",
    "ullage.database.postgresql",
    "tests.crash.drive",
)
_OPTIONAL = ("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg", "psycopg")


def main() -> None:
    """Answer requests until stdin ends; in a child, run what was asked for."""
    for module in _MODULES:
        importlib.import_module(module)
    for module in _OPTIONAL:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
    _warm_up()
    # Nothing that exists by now will ever be garbage: a child need not look at it when it ends.
    gc.freeze()
    for request in _requests():
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            _answer({"code": os.waitstatus_to_exitcode(status)})
            continue
        pid, run = _fork(request)
        if run is not None:
            # Returning from here, the child ends as any program does, with all its exit handlers.
            run()
            return
        _answer({"pid": pid})


def _warm_up() -> None:
    """Run the command once: it imports some things only then."""
    sys.argv = ["ullage", "version"]
    unread = io.TextIOWrapper(io.BytesIO())
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(unread):
        _command("ullage")()


def _fork(request: dict[str, Any]) -> tuple[int, Callable[[], None] | None]:
    """The child's number; in the child itself, what it is to do."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        # Until the child leads a process group of its own, no one can signal that group.
        os.read(ready, 1)
        os.close(ready)
        return pid, None
    os.setsid()
    _redirect(request["log"])
    os.environ.update(request["env"])
    os.close(tell)
    os.close(ready)
    sys.argv = request["argv"]
    return 0, _command(request["argv"][0])


def _redirect(log: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    said = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(null, 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.close(null)
    os.close(said)


def _command(name: str) -> Callable[[], None]:
    from tests.crash import drive
    from ullage.cli.main import main as ullage

    return {"ullage": ullage, "drive": drive.main}[name]


def _requests() -> Iterator[dict[str, Any]]:
    """Lines from the bare descriptor: a buffer would be forked with what is in it."""
    rest = b""
    while piece := os.read(0, 65536):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _answer(answer: dict[str, int]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()

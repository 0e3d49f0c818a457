"""The rooms of the house and the doors between them: who may import whom.

A room is the first name below `ullage`. It may import itself, the rooms in its row, the standard
library, and the other people's packages in its row; a few modules alone may import more. Every
other door is closed, and a planted import through each closed door shows that this test bites.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
MODULES = sorted(SOURCE.glob("ullage/**/*.py"))


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Enough to state facts and decisions: nothing that does I/O, waits, logs or reads a clock.
PURE = words(
    "__future__ abc base64 binascii collections contextlib copy dataclasses decimal enum fnmatch"
    " functools hashlib hmac itertools json math operator re string struct types typing"
    " unicodedata urllib.parse"
)
STANDARD_LIBRARY = frozenset(sys.stdlib_module_names)
# Parts of it that only some rooms may touch.
HTTP = words("http urllib.request socketserver wsgiref xmlrpc")
EVENT_LOOP = words("asyncio")


@dataclass(frozen=True)
class Room:
    """What a room may import: rooms of ours, and modules of others without those in `never`."""

    ours: frozenset[str] = frozenset()
    others: frozenset[str] = STANDARD_LIBRARY
    never: frozenset[str] = HTTP | EVENT_LOOP


ROOMS = {
    # Ground floor.
    "oci": Room(others=PURE),
    "policy": Room(words("oci"), others=PURE | {"datetime"}),
    "pullers": Room(words("oci"), others=PURE | {"datetime"}),
    "retention": Room(words("oci policy pullers"), others=PURE | {"datetime"}),
    "failpoints": Room(),
    # Storage: two rooms that never meet.
    "blobs": Room(words("oci failpoints")),
    "metadata": Room(words("oci failpoints"), others=STANDARD_LIBRARY | {"sqlalchemy"}),
    "services": Room(
        words("oci policy pullers retention failpoints blobs metadata"),
        others=STANDARD_LIBRARY | words("argon2 bcrypt cryptography jwt re2"),
    ),
    # Faces.
    "server": Room(
        words("oci services"),
        others=STANDARD_LIBRARY | words("starlette anyio"),
        never=frozenset(),
    ),
    "cli": Room(
        words("oci services wiring config"),
        others=STANDARD_LIBRARY | words("jmespath yaml pygments"),
        never=frozenset(),
    ),
    "worker": Room(words("oci services wiring config"), never=HTTP),
    # The hall.
    "config": Room(),
    "clock": Room(),
    "control": Room(),
    "tls": Room(others=STANDARD_LIBRARY | {"cryptography"}),
    "wiring": Room(
        words(
            "oci policy pullers retention failpoints blobs metadata services server cli worker"
            " config clock control tls"
        ),
        others=STANDARD_LIBRARY | words("starlette"),
        never=frozenset(),
    ),
    # `import ullage` and `python -m ullage`.
    "__init__": Room(others=frozenset()),
    "__main__": Room(words("cli")),
}

# The only modules (with what lies below them) that may import these.
RESERVED = {
    "obstore": "ullage.blobs.object",
    "sqlite3": "ullage.metadata.sqlite",
    "psycopg": "ullage.metadata.postgresql",
    "sqlalchemy.dialects": "ullage.metadata.spellings",
    "alembic": "ullage.metadata.migrations",
    "argon2": "ullage.services.passwords",
    "bcrypt": "ullage.services.htpasswd",
    "jwt": "ullage.services.tokens",
    "re2": "ullage.services.patterns",
    "granian": "ullage.server.listener",
    "uvloop": "ullage.server.listener",
}
# Modules below these may open only some of their room's doors: commands that speak HTTP to a
# registry know nothing of the services, and import nothing that is slow.
NARROWER = {
    "ullage.cli.remote": Room(
        words("oci"), others=STANDARD_LIBRARY | words("jmespath yaml pygments"), never=EVENT_LOOP
    ),
}
# Services see the BlobStore protocol, never the driver behind it.
PRIVATE = {
    "ullage.blobs.file": "blobs",
    "ullage.blobs.direct": "blobs",
    "ullage.blobs.listing": "blobs",
    "ullage.blobs.paths": "blobs",
    "ullage.blobs.memory": "blobs",
    "ullage.blobs.object": "blobs",
}


def closed_doors(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """The imports in `source` that `module` ("ullage.oci.digest") must not make."""
    room = module.split(".")[1] if "." in module else "__init__"
    if room not in ROOMS:
        return [f"{module}: there is no room {room!r}; add it to ROOMS and to the design"]
    return [
        f"{module} (line {line}) imports {imported}"
        for line, imported in imports(module, source, is_package=is_package)
        if not is_open(module, room, imported)
    ]


def imports(module: str, source: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import, wherever it stands, type checking included."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(package, node)
            # A name may be a module: `from ullage import metadata` opens a door too.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and (name := _imported_by_call(package, node)):
            yield node.lineno, name


def _absolute(package: str, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def _imported_by_call(package: str, node: ast.Call) -> str | None:
    function = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    function = node.func.id if isinstance(node.func, ast.Name) else function
    if function not in ("import_module", "__import__") or not node.args:
        return None
    name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
    if not isinstance(name, str):
        return f"a name computed at run time ({ast.unparse(node)})"
    return f"{package}{name}" if name.startswith(".") else name


def is_open(module: str, room: str, imported: str) -> bool:
    for reserved, owner in RESERVED.items():
        if within(imported, reserved):
            return within(module, owner)
    rules = ROOMS[room]
    for inner, narrower in NARROWER.items():
        if within(module, inner):
            rules = narrower
            if within(imported, f"ullage.{room}") and not within(imported, inner):
                return False
    if within(imported, "ullage"):
        return _is_open_inside(room, rules, imported)
    allowed = any(within(imported, name) for name in rules.others)
    return allowed and not any(within(imported, name) for name in rules.never)


def _is_open_inside(room: str, rules: Room, imported: str) -> bool:
    for private, owner in PRIVATE.items():
        if within(imported, private):
            return room == owner or room == "wiring"
    target = imported.split(".")[1] if "." in imported else ""
    if target in ("", "__version__"):
        return room not in ("oci", "policy", "__init__")
    return target == room or target in rules.ours


def within(name: str, ancestor: str) -> bool:
    return name == ancestor or name.startswith(f"{ancestor}.")


def all_imports(path: Path) -> list[tuple[int, str]]:
    is_package = path.name == "__init__.py"
    return list(imports(module_name(path), path.read_text("utf-8"), is_package=is_package))


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_module_imports_through_a_closed_door(path: Path) -> None:
    is_package = path.name == "__init__.py"
    assert closed_doors(module_name(path), path.read_text("utf-8"), is_package=is_package) == []


OUR_ROOMS = [name for name in ROOMS if not name.startswith("__")]
PLANTED_ROOMS = [
    (room, target)
    for room in ROOMS
    for target in OUR_ROOMS
    if target != room and target not in ROOMS[room].ours
]


@pytest.mark.parametrize(("room", "target"), PLANTED_ROOMS)
def test_a_planted_import_of_a_closed_room_is_caught(room: str, target: str) -> None:
    module = "ullage" if room == "__init__" else f"ullage.{room}.planted"
    for planted in (
        f"import ullage.{target}",
        f"import ullage.{target}.inner as it",
        f"from ullage import {target}",
        f"from ullage.{target} import thing",
        f"from ullage.{target}.inner import *",
        f"def late():\n    from ullage.{target} import thing",
        f"if TYPE_CHECKING:\n    from ullage.{target} import Thing",
        f"importlib.import_module('ullage.{target}')",
    ):
        assert closed_doors(module, planted), planted


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        # oci, policy: no I/O, no clock, no logging.
        ("ullage.oci.digest", "import os"),
        ("ullage.oci.digest", "import os.path"),
        ("ullage.oci.digest", "import asyncio"),
        ("ullage.oci.digest", "import logging"),
        ("ullage.oci.digest", "from time import monotonic"),
        ("ullage.oci.digest", "import msgspec"),
        ("ullage.oci.digest", "from urllib import request"),
        ("ullage.policy", "import time"),
        ("ullage.policy", "import pathlib"),
        ("ullage.failpoints", "import starlette"),
        # blobs: one SDK in one file, no HTTP types.
        ("ullage.blobs.file", "import obstore"),
        ("ullage.blobs", "from obstore.store import S3Store"),
        ("ullage.blobs.object", "import boto3"),
        ("ullage.blobs.file", "from http import HTTPStatus"),
        ("ullage.blobs.file", "import starlette"),
        ("ullage.blobs.memory", "import sqlite3"),
        # metadata: each driver in its place, dialects in one file, migrations where Alembic is.
        ("ullage.metadata.content", "import sqlite3"),
        ("ullage.metadata.content", "import psycopg"),
        ("ullage.metadata.content", "from psycopg.errors import DeadlockDetected"),
        ("ullage.metadata.content", "from sqlalchemy.dialects import postgresql"),
        ("ullage.metadata.schema", "from sqlalchemy.dialects.sqlite import insert"),
        ("ullage.metadata.content", "from alembic import op"),
        ("ullage.metadata.database", "import http.client"),
        ("ullage.metadata.database", "import sqlite3"),
        ("ullage.metadata.database", "import psycopg"),
        ("ullage.metadata.postgresql", "import sqlite3"),
        ("ullage.metadata.sqlite", "import psycopg"),
        ("ullage.metadata.sqlite.writer", "from sqlalchemy.dialects import sqlite"),
        # services: no HTTP, no SDK, no SQL of their own, no driver of a blob store.
        ("ullage.services.push", "from starlette.requests import Request"),
        ("ullage.services.push", "import asyncio"),
        ("ullage.services.push", "import obstore"),
        ("ullage.services.push", "import sqlalchemy as sa"),
        ("ullage.services.push", "from ullage.blobs.file import FileBlobStore"),
        ("ullage.services.push", "from ullage.blobs import memory"),
        # faces and the hall.
        ("ullage.server.app", "import sqlite3"),
        ("ullage.server.app", "import sqlalchemy"),
        ("ullage.server.app", "import typer"),
        ("ullage.cli.local.serving", "import sqlite3"),
        ("ullage.cli.local.serving", "import starlette"),
        ("ullage.cli.local.serving", "import granian"),
        ("ullage.server.app", "import uvloop"),
        ("ullage.cli.remote.session", "from ullage.services import pull"),
        ("ullage.cli.remote.session", "from ullage.config import Settings"),
        ("ullage.cli.remote.session", "import typer"),
        ("ullage.cli.remote.session", "import httpx"),
        ("ullage.cli.remote.session", "from ullage.cli.local import users"),
        ("ullage.worker", "import starlette"),
        ("ullage.config", "import pydantic"),
        ("ullage.wiring", "import psycopg"),
        ("ullage.__main__", "import typer"),
        ("ullage", "import os"),
        # Relative imports, a room nobody planned, and a name nobody can read.
        ("ullage.oci.digest", "from ..metadata import schema"),
        ("ullage.oci.digest", "from .. import metadata"),
        ("ullage.metadata.migrations.env", "from ...blobs import BlobStore"),
        ("ullage.cellar.wine", ""),
        ("ullage.services.push", "importlib.import_module(name)"),
    ],
)
def test_a_planted_violation_is_caught(module: str, planted: str) -> None:
    assert closed_doors(module, planted)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ullage.oci.digest", "import hashlib\nfrom .errors import DigestInvalid"),
        ("ullage.oci.digest", "from collections.abc import Mapping"),
        ("ullage.policy", "from datetime import datetime\nfrom ullage.oci.reference import Tag"),
        ("ullage.blobs.file", "import os\nfrom ullage.failpoints import failpoint"),
        ("ullage.blobs.object", "import obstore"),
        ("ullage.metadata.spellings", "from sqlalchemy.dialects import sqlite"),
        ("ullage.metadata.sqlite.connection", "import sqlite3"),
        ("ullage.metadata.postgresql", "import psycopg"),
        ("ullage.metadata.migrations.env", "from alembic import context"),
        ("ullage.services.push", "from ullage.blobs.protocol import BlobStore, KeyUnknown"),
        ("ullage.server.app", "import asyncio\nfrom starlette.applications import Starlette"),
        ("ullage.cli", "from ullage import __version__\nfrom ullage.wiring import build"),
        ("ullage.wiring", "from ullage.blobs.memory import MemoryBlobStore"),
        ("ullage.__main__", "import sys\nfrom ullage.cli.main import main"),
    ],
)
def test_an_open_door_is_open(module: str, source: str) -> None:
    assert closed_doors(module, source) == []


def test_a_relative_import_is_read_from_its_package() -> None:
    source = "from . import file\nfrom .. import oci"
    assert list(imports("ullage.blobs", source, is_package=True)) == [
        (1, "ullage.blobs.file"),
        (2, "ullage.oci"),
    ]


# Reading is fine, and so is importing `socket`; making something is not.
IMPORT_AND_WATCH = """
import importlib, os, sys, threading
from contextlib import suppress

MAKING = {
    "os.mkdir", "os.remove", "os.rename", "os.chmod", "os.fork", "os.posix_spawn", "os.putenv",
    "socket.__new__", "socket.bind", "socket.connect", "sqlite3.connect", "subprocess.Popen",
}
made = []

def watch(event, args):
    if event in MAKING or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        made.append((event, args))

# What other people's packages do is not ours to judge.
for name in OTHERS:
    with suppress(ImportError):
        importlib.import_module(name)
sys.addaudithook(watch)
for name in OURS:
    importlib.import_module(name)
assert not made, made
assert threading.active_count() == 1, threading.enumerate()
"""


def import_and_watch(
    ours: list[str], others: list[str], search_path: Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Import `others`, then `ours` under watch, in a fresh interpreter with `folder` as its own."""
    return subprocess.run(
        [sys.executable, "-B", "-c", f"OURS = {ours}\nOTHERS = {others}\n{IMPORT_AND_WATCH}"],
        cwd=folder,
        env={"PYTHONPATH": str(search_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_importing_makes_no_file_socket_process_or_thread(tmp_path: Path) -> None:
    # env.py is a script that Alembic runs, and __main__ is the program itself.
    scripts = ("ullage.__main__", "ullage.metadata.migrations.env")
    ours = [name for name in map(module_name, MODULES) if name not in scripts]
    others = {imported.partition(".")[0] for path in MODULES for _, imported in all_imports(path)}
    done = import_and_watch(ours, sorted(others - {"ullage"}), SOURCE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "open('file', 'w').close()",
        "import os; os.mkdir('folder')",
        "import socket; socket.socket().close()",
        "import sqlite3; sqlite3.connect(':memory:').close()",
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "import subprocess; subprocess.run(['true'])",
    ],
)
def test_planted_work_at_import_is_caught(tmp_path: Path, planted: str) -> None:
    (tmp_path / "planted.py").write_text(planted)
    done = import_and_watch(["planted"], [], tmp_path, tmp_path)
    assert "AssertionError" in done.stderr

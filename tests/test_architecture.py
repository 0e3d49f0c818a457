"""The rooms of the house and the doors between them: who may import whom (architecture.md).

A room is the first name below `ullage`. It may import itself, the rooms below it in one order, the
standard library, and the other people's packages in its row. Inside a room, modules have roles:
queries speak SQL and know no use case, commands of the command line speak HTTP and know no service,
some modules are pure. No import leads back to where it came from, lazy ones included. A planted
import through each closed door, and a planted circle, show that this test bites.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
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
# Times may be compared and added; `now` has to come in as an argument.
PURE_WITH_TIMES = PURE | {"datetime"}
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


# From the ground floor up. A room may import those before its row; two in one row never meet.
ORDER = (
    words("oci"),
    words("authorization quantities patterns failpoints documents"),
    words("blobs database survey"),
    words("registry"),
    words("accounts deletion"),
    words("usage check transfer"),
    words("cleanup"),
    words("restore"),
    words("backup"),
    words("server worker heartbeat"),
    words("wiring"),
    words("cli"),
)
# Beside the order: they know none of the rooms, and only the hall and the command line know them.
HALL = words("config clock control tls")
DOORS_TO_THE_HALL = {"wiring": HALL, "cli": words("config control tls")}


def below(room: str) -> frozenset[str]:
    """The rooms before its row."""
    found: frozenset[str] = frozenset()
    for row in ORDER:
        if room in row:
            return found
        found |= row
    return frozenset()


def _room(room: str, others: str = "", *, everything: bool = False) -> Room:
    never = frozenset() if everything else HTTP | EVENT_LOOP
    ours = below(room) | DOORS_TO_THE_HALL.get(room, frozenset())
    return Room(ours, STANDARD_LIBRARY | words(others), never)


ROOMS = {
    "oci": Room(others=PURE),
    "authorization": Room(words("oci"), others=PURE),
    "quantities": Room(words("oci"), others=PURE_WITH_TIMES),
    "patterns": Room(words("oci"), others=PURE | {"re2"}),
    "failpoints": Room(),
    "documents": Room(words("oci"), others=PURE | {"msgspec"}),
    "blobs": _room("blobs"),
    "database": _room("database", "sqlalchemy"),
    "survey": _room("survey"),
    "registry": _room("registry"),
    "accounts": _room("accounts", "argon2 bcrypt cryptography jwt"),
    "deletion": _room("deletion"),
    "usage": _room("usage"),
    "check": _room("check"),
    "transfer": _room("transfer"),
    "cleanup": _room("cleanup"),
    "restore": _room("restore"),
    "backup": _room("backup"),
    "server": _room("server", "starlette anyio jinja2", everything=True),
    "worker": Room(below("worker"), never=HTTP),
    "heartbeat": Room(below("heartbeat"), never=HTTP),
    "wiring": _room("wiring", "starlette", everything=True),
    "cli": _room("cli", "jmespath yaml pygments urwid", everything=True),
    "config": Room(words("quantities oci")),
    "clock": Room(),
    "control": Room(),
    "tls": Room(others=STANDARD_LIBRARY | {"cryptography"}),
    # `import ullage` and `python -m ullage`.
    "__init__": Room(others=frozenset()),
    "__main__": Room(words("cli")),
}

# The only modules (with what lies below them) that may import these.
RESERVED = {
    "boto3": "ullage.blobs.s3",
    "botocore": "ullage.blobs.s3",
    "azure": "ullage.blobs.azure",
    "sqlite3": "ullage.database.sqlite",
    "psycopg": "ullage.database.postgresql",
    "sqlalchemy.dialects": "ullage.database.dialects",
    "alembic": "ullage.database.migrations",
    "argon2": "ullage.accounts.passwords",
    "bcrypt": "ullage.accounts.htpasswd",
    "jwt": "ullage.accounts.jwt",
    "re2": "ullage.patterns",
    "msgspec": "ullage.documents",
    "jinja2": "ullage.server.ui.rendering",
    "granian": "ullage.server.listener",
    "urwid": "ullage.cli.commands.top_screen",
    "uvloop": "ullage.server.listener",
    "prometheus_client": "ullage.server.monitoring.collector",
}
# Modules below these may open only some of their room's doors.
COMMANDS = Room(
    words("oci"), others=STANDARD_LIBRARY | words("jmespath yaml pygments urwid"), never=EVENT_LOOP
)
NARROWER = {
    # It tells az of the server on this machine, whose settings say where it listens.
    "ullage.cli.commands.az_env": Room(
        words("oci config"), others=COMMANDS.others, never=EVENT_LOOP
    ),
    # They speak HTTP to a registry, know nothing of the services, and import nothing that is slow.
    "ullage.cli.shell": COMMANDS,
    "ullage.cli.client": COMMANDS,
    "ullage.cli.commands": COMMANDS,
    # Decisions, from facts that come in.
    "ullage.cleanup.guardrails": Room(below("cleanup"), others=PURE_WITH_TIMES),
    "ullage.cleanup.filters": Room(below("cleanup"), others=PURE_WITH_TIMES),
    "ullage.cleanup.retention.documents": Room(below("cleanup"), others=PURE_WITH_TIMES),
    "ullage.cleanup.retention.rules": Room(below("cleanup"), others=PURE_WITH_TIMES),
    "ullage.registry.pull.user_agents": Room(below("registry"), others=PURE_WITH_TIMES),
}
# What each of them may see of its own room; the rest of it is closed to them.
INSIDE = {
    "ullage.cli.commands.az_env": ("ullage.cli.shell", "ullage.cli.client"),
    "ullage.cli.shell": ("ullage.cli.shell", "ullage.cli.client"),
    "ullage.cli.client": ("ullage.cli.shell", "ullage.cli.client"),
    "ullage.cli.commands": ("ullage.cli.shell", "ullage.cli.client", "ullage.cli.commands"),
    "ullage.cleanup.guardrails": ("ullage.cleanup.guardrails", "ullage.cleanup.filters"),
    "ullage.cleanup.filters": ("ullage.cleanup.filters",),
    "ullage.cleanup.retention.documents": (),
    "ullage.cleanup.retention.rules": (
        "ullage.cleanup.filters",
        "ullage.cleanup.guardrails",
        "ullage.cleanup.retention.documents",
    ),
    "ullage.registry.pull.user_agents": (),
}
# Pure modules see nothing of other rooms but what is pure itself.
PURE_MODULES = frozenset(name for name, room in NARROWER.items() if "cli" not in name)
PURE_OF_OURS = (
    *(f"ullage.{name}" for name in ("oci", "authorization", "quantities", "patterns", "documents")),
    "ullage.registry.pull.user_agents",
)
# What speaks SQL, and all of ours that such a module may know.
SQL = ("ullage.database", "ullage.registry.leases")
SQL_SEES = words("oci database failpoints")
# Every room above sees the BlobStore protocol, none the driver behind it.
PRIVATE = {
    "ullage.blobs.files": "blobs",
    "ullage.blobs.memory": "blobs",
    "ullage.blobs.s3": "blobs",
    "ullage.blobs.azure": "blobs",
}


def speaks_sql(module: str) -> bool:
    """Whether a module is one of those that make statements."""
    return "queries" in module.split(".") or any(within(module, place) for place in SQL)


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
    if within(imported, "sqlalchemy"):
        return speaks_sql(module)
    if within(imported, "ullage"):
        return _is_open_inside(module, room, imported)
    rules = _rules(module, room)
    allowed = any(within(imported, name) for name in rules.others)
    return allowed and not any(within(imported, name) for name in rules.never)


def _rules(module: str, room: str) -> Room:
    return next((rules for name, rules in NARROWER.items() if within(module, name)), ROOMS[room])


def _is_open_inside(module: str, room: str, imported: str) -> bool:
    for private, owner in PRIVATE.items():
        if within(imported, private):
            return room in (owner, "wiring")
    target = imported.split(".")[1] if "." in imported else ""
    if target in ("", "__version__"):
        return room not in ("oci", "__init__")
    if speaks_sql(module) and not _is_of_sql(target, imported):
        return False
    if module in PURE_MODULES and target != room:
        return any(within(imported, name) for name in PURE_OF_OURS)
    for name, open_doors in INSIDE.items():
        if within(module, name) and target == room:
            return any(within(imported, door) for door in (name, *open_doors))
    return target == room or target in _rules(module, room).ours


def _is_of_sql(target: str, imported: str) -> bool:
    return target in SQL_SEES or speaks_sql(imported)


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


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=module_name
)
def test_a_package_is_no_facade(path: Path) -> None:
    """Importing a package costs nothing and hides nothing: it says what it is, and that is all."""
    assert not [name for _, name in all_imports(path) if within(name, "ullage")]


OUR_ROOMS = [name for name in ROOMS if not name.startswith("__")]
PLANTED_ROOMS = [
    (room, target)
    for room in ROOMS
    for target in OUR_ROOMS
    if target != room and target not in ROOMS[room].ours
]


@pytest.mark.parametrize(("room", "target"), PLANTED_ROOMS)
@pytest.mark.thorough
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
        # oci, authorization, quantities: no I/O, no clock, no logging.
        ("ullage.oci.digest", "import os"),
        ("ullage.oci.digest", "import os.path"),
        ("ullage.oci.digest", "import asyncio"),
        ("ullage.oci.digest", "import logging"),
        ("ullage.oci.digest", "from time import monotonic"),
        ("ullage.oci.digest", "import msgspec"),
        ("ullage.oci.digest", "from urllib import request"),
        ("ullage.authorization", "import time"),
        ("ullage.authorization", "import datetime"),
        ("ullage.quantities", "import time"),
        ("ullage.quantities", "import pathlib"),
        ("ullage.failpoints", "import starlette"),
        # Decisions of cleaning: pure, and no way round through a module that is not.
        ("ullage.cleanup.guardrails", "import time"),
        ("ullage.cleanup.guardrails", "import logging"),
        ("ullage.cleanup.guardrails", "from ullage.registry.context import Registry"),
        ("ullage.cleanup.guardrails", "from ullage.cleanup.purge import start_purge"),
        ("ullage.cleanup.filters", "import os"),
        ("ullage.cleanup.filters", "from ullage.cleanup import candidates"),
        ("ullage.cleanup.retention.rules", "import os"),
        ("ullage.cleanup.retention.rules", "from ullage.cleanup.retention import run"),
        ("ullage.registry.pull.user_agents", "import time"),
        ("ullage.registry.pull.user_agents", "from ullage.registry.pull import pull_log"),
        # blobs: one SDK in one package, no HTTP types.
        ("ullage.blobs.files.store", "import boto3"),
        ("ullage.blobs.protocol", "from azure.storage import blob"),
        ("ullage.blobs.s3.store", "import azure.storage.blob"),
        ("ullage.blobs.files.store", "from http import HTTPStatus"),
        ("ullage.blobs.files.store", "import starlette"),
        ("ullage.blobs.memory", "import sqlite3"),
        # SQL: each driver in its place, dialects in one file, migrations where Alembic is.
        ("ullage.registry.queries.content.tags", "import sqlite3"),
        ("ullage.registry.queries.content.tags", "import psycopg"),
        ("ullage.registry.queries.content.tags", "from psycopg.errors import DeadlockDetected"),
        ("ullage.registry.queries.content.tags", "from sqlalchemy.dialects import postgresql"),
        ("ullage.database.schema.content", "from sqlalchemy.dialects.sqlite import insert"),
        ("ullage.registry.queries.content.tags", "from alembic import op"),
        ("ullage.database.transaction", "import http.client"),
        ("ullage.database.transaction", "import sqlite3"),
        ("ullage.database.transaction", "import psycopg"),
        ("ullage.database.postgresql", "import sqlite3"),
        ("ullage.database.sqlite.database", "import psycopg"),
        ("ullage.database.sqlite.writer", "from sqlalchemy.dialects import sqlite"),
        # Queries know no use case, nor what uses them.
        ("ullage.registry.queries.audit", "from ullage.registry.context import Registry"),
        ("ullage.registry.queries.audit", "from ullage.authorization import Action"),
        ("ullage.registry.leases.sql", "from ullage.registry.push import links"),
        ("ullage.cleanup.queries.jobs", "from ullage.cleanup.job import claims"),
        ("ullage.check.queries.rows", "from ullage.blobs.protocol import BlobStore"),
        ("ullage.deletion.queries.operations.tags", "from ullage.deletion import delete"),
        ("ullage.accounts.queries", "from ullage.accounts import users"),
        # Use cases: no HTTP, no SDK, no SQL of their own, no driver of a blob store.
        ("ullage.registry.push.manifests", "from starlette.requests import Request"),
        ("ullage.registry.push.manifests", "import asyncio"),
        ("ullage.registry.push.manifests", "import boto3"),
        ("ullage.registry.push.manifests", "import sqlalchemy as sa"),
        ("ullage.deletion.delete", "import sqlalchemy as sa"),
        ("ullage.cleanup.job.batch", "from sqlalchemy import select"),
        ("ullage.accounts.users", "import argon2"),
        ("ullage.accounts.authenticator", "import jwt"),
        ("ullage.registry.push.uploads", "from ullage.blobs.files.store import FileBlobStore"),
        ("ullage.registry.push.uploads", "from ullage.blobs import memory"),
        ("ullage.check.store", "from ullage.blobs.files import listing"),
        # Server, command line and the hall.
        ("ullage.server.app", "import sqlite3"),
        ("ullage.server.app", "import sqlalchemy"),
        ("ullage.server.app", "import typer"),
        ("ullage.server.app", "import uvloop"),
        ("ullage.server.ui.space", "import jinja2"),
        ("ullage.server.monitoring.metrics", "import prometheus_client"),
        ("ullage.cli.local.serve", "import sqlite3"),
        ("ullage.cli.local.serve", "import starlette"),
        ("ullage.cli.local.serve", "import granian"),
        ("ullage.cli.client.registry", "from ullage.registry.pull import read"),
        ("ullage.cli.client.registry", "from ullage.config import Settings"),
        ("ullage.cli.client.registry", "import typer"),
        ("ullage.cli.client.registry", "import httpx"),
        ("ullage.cli.client.registry", "from ullage.cli.local import user"),
        ("ullage.cli.shell.console", "from ullage.quantities import parse_size"),
        ("ullage.cli.shell.console", "from ullage.cli.commands import purge"),
        ("ullage.cli.commands.purge", "from ullage.cleanup import purge"),
        ("ullage.cli.commands.purge", "from ullage.cli.local import serve"),
        ("ullage.cli.commands.purge", "import asyncio"),
        ("ullage.worker", "import starlette"),
        ("ullage.config", "import pydantic"),
        ("ullage.wiring", "import psycopg"),
        ("ullage.__main__", "import typer"),
        ("ullage", "import os"),
        # Relative imports, an unplanned room, and a name that cannot be read.
        ("ullage.oci.digest", "from ..database import schema"),
        ("ullage.oci.digest", "from .. import database"),
        ("ullage.database.migrations.env", "from ...blobs.protocol import BlobStore"),
        ("ullage.cellar.wine", ""),
        ("ullage.registry.push.manifests", "importlib.import_module(name)"),
    ],
)
def test_a_planted_violation_is_caught(module: str, planted: str) -> None:
    assert closed_doors(module, planted)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ullage.oci.digest", "import hashlib\nfrom .errors import DigestInvalid"),
        ("ullage.oci.digest", "from collections.abc import Mapping"),
        ("ullage.quantities", "from datetime import datetime\nfrom ullage.oci.errors import shown"),
        ("ullage.cleanup.guardrails", "from ullage.cleanup.filters import Filter"),
        ("ullage.cleanup.retention.rules", "from ullage.quantities import parse_duration"),
        ("ullage.blobs.files.store", "import os\nfrom ullage.failpoints import failpoint"),
        ("ullage.blobs.s3.store", "import boto3"),
        ("ullage.blobs.azure.container", "from azure.storage.blob import ContainerClient"),
        ("ullage.database.dialects", "from sqlalchemy.dialects import sqlite"),
        ("ullage.database.sqlite.connection", "import sqlite3"),
        ("ullage.database.postgresql", "import psycopg"),
        ("ullage.database.migrations.env", "from alembic import context"),
        ("ullage.registry.queries.audit", "import sqlalchemy as sa"),
        ("ullage.cleanup.queries.jobs", "from ullage.registry.queries.content import tags"),
        ("ullage.registry.leases.memory", "from ullage.registry.queries import attributes"),
        ("ullage.registry.push.uploads", "from ullage.blobs.protocol import BlobStore, KeyUnknown"),
        ("ullage.deletion.delete", "from ullage.registry.queries.content import tags"),
        ("ullage.server.app", "import asyncio\nfrom starlette.applications import Starlette"),
        ("ullage.cli.main", "from ullage import __version__\nfrom ullage.wiring import build"),
        ("ullage.cli.commands.purge", "from ullage.cli.client.registry import Registry"),
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


# --- one door for SQL -----------------------------------------------------------------------------

# An engine asks about itself in words of its own: its settings, its soundness, its free pages.
ENGINES = (
    "ullage.database.sqlite",
    "ullage.database.postgresql",
    "ullage.database.postgresql_dump",
    "ullage.database.transaction",
)
# Ways to run what is no Statement. Migrations are Alembic's.
UNBUILT = words("execute execute_directly exec_driver_sql executemany scalars")


def unbuilt_statements(module: str, source: str) -> list[str]:
    """Calls in a module that hand a database something else than a Statement."""
    if any(within(module, place) for place in (*ENGINES, "ullage.database.migrations")):
        return []
    return [
        f"{module} (line {node.lineno}) calls {node.func.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in UNBUILT
    ]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if speaks_sql(module_name(path))], ids=module_name
)
def test_what_is_asked_of_a_database_is_a_statement(path: Path) -> None:
    """architecture.md, What a request costs: built once, and its plan looked at by a test."""
    assert unbuilt_statements(module_name(path), path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "planted",
    [
        "def find(tx):\n    return tx.execute_directly(sa.select(table)).all()",
        "def find(tx):\n    return tx._connection.execute(sa.text('SELECT 1'))",
        "def find(tx):\n    tx._connection.exec_driver_sql('SELECT 1')",
    ],
)
def test_a_planted_query_that_is_no_statement_is_caught(planted: str) -> None:
    assert unbuilt_statements("ullage.registry.queries.planted", planted)


# --- circles --------------------------------------------------------------------------------------


def import_graph(sources: Mapping[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """Which of our modules each imports; `sources` are texts, and whether each is a package's."""
    graph: dict[str, set[str]] = {}
    for module, (source, is_package) in sources.items():
        found = {name for _, name in imports(module, source, is_package=is_package)}
        # What is imported from a module is no module.
        named = {name if name in sources else name.rpartition(".")[0] for name in found}
        graph[module] = (named & sources.keys()) - {module}
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that lead back to themselves: the strongly connected components (Tarjan)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        path.append(module)
        for imported in sorted(graph[module]):
            if imported not in index:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in path:
                lowest[module] = min(lowest[module], index[imported])
        if lowest[module] == index[module]:
            component = path[path.index(module) :]
            del path[path.index(module) :]
            if len(component) > 1:
                found.append(sorted(component))

    for module in sorted(graph):
        if module not in index:
            visit(module)
    return found


def our_sources() -> dict[str, tuple[str, bool]]:
    return {
        module_name(path): (path.read_text("utf-8"), path.name == "__init__.py") for path in MODULES
    }


def test_no_import_leads_back_to_where_it_came_from() -> None:
    """Lazy imports and those for types included: a circle is two modules that are one."""
    assert circles(import_graph(our_sources())) == []


@pytest.mark.thorough
def test_a_planted_circle_is_found() -> None:
    sources = our_sources()
    text, is_package = sources["ullage.oci.errors"]
    planted = f"{text}\ndef late() -> None:\n    from ullage.oci.reference import Tag\n"
    assert circles(import_graph({**sources, "ullage.oci.errors": (planted, is_package)}))


# --- nothing happens at import --------------------------------------------------------------------


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
    """Import `others`, then `ours` under watch, in a new interpreter with `folder` as its own."""
    return subprocess.run(
        [sys.executable, "-B", "-c", f"OURS = {ours}\nOTHERS = {others}\n{IMPORT_AND_WATCH}"],
        cwd=folder,
        env={"PYTHONPATH": str(search_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.thorough
def test_importing_makes_no_file_socket_process_or_thread(tmp_path: Path) -> None:
    # env.py is a script that Alembic runs, and __main__ is the program itself.
    scripts = ("ullage.__main__", "ullage.database.migrations.env")
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

"""What is imported is waited for by each command, and kept in memory by the server.

Figures: bench/cold_start.py, and the memory rows of `python -m bench`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import UllageServer, command_environment

pytestmark = pytest.mark.thorough

# Each costs more than all that a listing needs.
HEAVY = {
    "typer", "click", "rich", "pydantic", "sqlalchemy", "alembic", "granian", "starlette", "anyio",
    "cryptography", "argon2", "jwt", "httpx", "urllib3", "requests", "jmespath", "yaml", "pygments",
    "keyring", "msgspec", "asyncio", "urllib.request", "subprocess", "concurrent.futures",
    "tempfile", "ullage.wiring", "ullage.registry.context", "ullage.config", "ullage.cli.local",
}  # fmt: skip

IMPORTED = """
import json, sys
from ullage.cli.main import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "line", [("repository", "list"), ("--help",), ("repository", "delete", "--help")]
)
def test_nothing_heavy_is_imported_for(line: tuple[str, ...], server: UllageServer) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *line],
        env=command_environment({"ULLAGE_REGISTRY": server.url}),
        capture_output=True,
        text=True,
    )
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert HEAVY.isdisjoint(modules), HEAVY.intersection(modules)
    if "list" not in line:
        assert "http.client" not in modules


SERVED = """
import gc, json, os, sys
from ullage.cli import table
from ullage.config.loading import load_settings
from ullage.wiring.serving import run_server
table.find(("serve",))
def told(started):
    print(json.dumps([sorted(sys.modules), len(gc.get_objects())]), flush=True)
    os._exit(0)
run_server(load_settings({"data": sys.argv[1], "listen": "127.0.0.1:0"}, {}), told)
"""
# On SQLite and files; what other databases and other commands need is megabytes.
UNUSED = {
    "alembic", "mako", "psycopg", "sqlalchemy.dialects.postgresql", "sqlalchemy.orm", "click",
    "jmespath", "yaml", "pygments", "ullage.cli.client.registry", "ullage.database.postgresql",
    # Until it is asked for.
    "ullage.server.api.openapi", "ullage.check.check", "ullage.accounts.commands", "difflib",
    "jinja2", "markupsafe",
    "prometheus_client",
}  # fmt: skip


def test_a_server_on_sqlite_keeps_nothing_in_memory_that_others_need(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVED, tmp_path / "data"],
        env=command_environment({}),
        capture_output=True,
        text=True,
    )
    modules, to_look_at = json.loads(done.stdout)
    # Of a hundred thousand objects.
    assert to_look_at < 10_000
    assert "ullage.server.listener.granian" in modules
    assert UNUSED.isdisjoint(modules), UNUSED.intersection(modules)

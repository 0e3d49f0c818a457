"""Commands are run in loops: what they must not wait for (figures: bench/cold_start.py)."""

import json
import subprocess
import sys

import pytest

from tests.support.server import UllageServer, command_environment

# Each costs more than all that a listing needs.
HEAVY = {
    "typer", "click", "rich", "pydantic", "sqlalchemy", "alembic", "granian", "starlette", "anyio",
    "cryptography", "argon2", "jwt", "httpx", "urllib3", "requests", "jmespath", "yaml", "pygments",
    "keyring", "asyncio", "urllib.request", "subprocess", "concurrent.futures", "tempfile",
    "ullage.wiring", "ullage.services", "ullage.config", "ullage.cli.local",
}  # fmt: skip

IMPORTED = """
import json, sys
from ullage.cli import run
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

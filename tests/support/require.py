"""Real programs the suites need: found, or the test is skipped with the reason.

Under ULLAGE_REQUIRE_CLIENTS=1 (as in CI) a missing program is a failure: no suite goes quiet.
"""

import os
import re
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

# Debian keeps servers and daemons off the ordinary user's PATH.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_POSTGRESQL_VERSIONS = Path("/usr/lib/postgresql")


def clients_required() -> bool:
    """Whether a missing program is a failure rather than a reason to skip."""
    return os.environ.get("ULLAGE_REQUIRE_CLIENTS", "") not in ("", "0")


def unavailable(reason: str) -> NoReturn:
    """End the test: something it needs from the machine is not there."""
    if clients_required():
        pytest.fail(f"{reason} (ULLAGE_REQUIRE_CLIENTS is set)", pytrace=False)
    pytest.skip(reason)


def find_command(name: str) -> str | None:
    """The absolute path of a program: from PATH, the system folders, or the newest PostgreSQL."""
    folders = [*os.get_exec_path(), *_SYSTEM_FOLDERS, *_postgresql_folders()]
    found = shutil.which(name, path=os.pathsep.join(folders))
    return None if found is None else str(Path(found).absolute())


def require_command(name: str) -> str:
    """Like `find_command`, but the test is skipped, or fails, when the program is missing."""
    found = find_command(name)
    if found is None:
        unavailable(f"{name} is not installed")
    return found


def _postgresql_folders() -> list[str]:
    versions = [
        folder
        for folder in _POSTGRESQL_VERSIONS.glob("*")
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", folder.name)
    ]
    versions.sort(key=lambda folder: float(folder.name), reverse=True)
    return [str(folder / "bin") for folder in versions]

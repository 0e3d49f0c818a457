"""A process that has pytest and other people's packages imported and forks: a run starts at once.

Run as a program. Requests are lines of JSON on stdin, `{"folder": …, "nodes": […], "log": …}`: run
those tests in that checkout, and answer with a line `{"code": n}`, pytest's exit code (minus the
signal).
"""

from __future__ import annotations

import importlib
import json
import os
import sys

# Nothing of ours: that comes from the checkout in question.
_MODULES = (
    "alembic.command",
    "argon2",
    "granian",
    "httpx",
    "hypothesis.stateful",
    "jwt",
    "psycopg",
    "pytest",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "starlette.applications",
    "starlette.testclient",
)


def main() -> None:
    """Answer requests until stdin ends."""
    for module in _MODULES:
        importlib.import_module(module)
    # A changed module must not be left behind in compiled form.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            _run(**request)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


def _run(folder: str, nodes: list[str], log: str) -> None:
    """In the child: pytest, as if it had been started in that folder."""
    import pytest

    os.setsid()
    os.chdir(folder)
    null = os.open(os.devnull, os.O_RDONLY)
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for descriptor, target in ((null, 0), (said, 1), (said, 2)):
        os.dup2(descriptor, target)
    # Some of those modules are plugins too.
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
    code = pytest.main(["-q", "-x", "--tb=line", *quiet, *nodes])
    sys.stdout.flush()
    os._exit(int(code))


if __name__ == "__main__":
    main()

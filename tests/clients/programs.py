"""Running the clients: their environment, their output, and images for them to build."""

import os
import random
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from tests.support.require import require_command
from tests.support.server import UllageServer

RUN_SECONDS = 120
PAYLOAD_BYTES = 300_000

# What follows the name of a library in ldd's answer, or stands alone: /lib64/ld-linux-x86-64.so.2.
_LIBRARY = re.compile(r"(/\S+) \(0x[0-9a-f]+\)")


def client_environment(home: Path, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment with a home of its own: no login, setting or proxy of whoever runs us."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "TMPDIR")}
    kept["PATH"] = os.pathsep.join(filter(None, (kept.get("PATH"), "/usr/sbin", "/sbin")))
    return kept | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)} | dict(changes or {})


def run(command: Sequence[str | Path], env: Mapping[str, str], *, cwd: Path | None = None) -> str:
    """Run a client to its end and return what it printed. AssertionError if it failed."""
    done = attempt(command, env, cwd=cwd)
    assert done.returncode == 0, (
        f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done.stdout


def attempt(
    command: Sequence[str | Path], env: Mapping[str, str], *, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a client that may fail."""
    return subprocess.run(
        list(map(str, command)),
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )


def make_immutable(registry: UllageServer, pattern: str) -> None:
    """Let the tags that a pattern means be written once."""
    rules = f"{registry.url}/api/v1/policies/immutable-tags"
    httpx.post(rules, json={"pattern": pattern}).raise_for_status()


def payload(seed: str, size: int = PAYLOAD_BYTES) -> bytes:
    """Bytes that no compression makes smaller, always the same for one seed."""
    return random.Random(seed).randbytes(size)


def write_base_context(folder: Path) -> Path:
    """A build context `FROM scratch` that can print a file: the host's cat and its libraries."""
    cat = Path(require_command("cat")).resolve()
    libraries = _LIBRARY.findall(run(["ldd", cat], client_environment(folder)))
    for source in (cat, *map(Path, libraries)):
        target = folder / "root" / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    containerfile = f'FROM scratch\nCOPY root /\nENTRYPOINT ["{cat}", "/message"]\n'
    (folder / "Dockerfile").write_text(containerfile)
    return folder


def write_app_context(folder: Path, base: str, message: str) -> Path:
    """A build context on top of `base`: one layer of its own, with `message` to be printed."""
    (folder / "root").mkdir(parents=True, exist_ok=True)
    (folder / "root" / "message").write_text(message)
    (folder / "root" / "payload").write_bytes(payload(message))
    (folder / "Dockerfile").write_text(f"FROM {base}\nCOPY root /\n")
    return folder

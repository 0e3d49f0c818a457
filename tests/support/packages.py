"""Our packages, built as a release builds them, and environments with nothing else in them."""

import os
import re
import shutil
import subprocess
import sys
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from tests.support.require import find_command, unavailable

ROOT = Path(__file__).resolve().parents[2]
# The same for every build, so that two builds of one tree have the same bytes.
EPOCH = "1700000000"


@dataclass(frozen=True)
class Packages:
    wheel: Path
    source: Path


def build_packages(folder: Path, tree: Path = ROOT) -> Packages:
    """The wheel and the source archive of a tree, ours by default."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=tree,
        env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Packages(wheel, source)


def require_tool(name: str) -> str:
    """A program of constraints-package.txt: where `.ci/run` puts it, else on the PATH.

    The test is skipped, or fails, where there is none.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = caches / "ullage-ci" / "package" / "bin" / name
    found = str(cached) if cached.exists() else find_command(name)
    if found is None:
        unavailable(f"{name} is not installed (pip install -r constraints-package.txt)")
    return found


class Environment:
    """A virtual environment with one wheel, what it asks for, and nothing else."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        self._wheel = wheel
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self._install(str(wheel))

    def with_extra(self, folder: Path, extra: str) -> "Environment":
        """Another one, with one of the wheel's extras."""
        other = copy(self)
        other.folder = folder
        shutil.copytree(self.folder, folder, symlinks=True)
        other._install(f"{self._wheel}[{extra}]")
        return other

    def _install(self, wanted: str) -> None:
        pins = self.folder / "pins.txt"
        pins.write_text(pinned_versions(), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--python", str(self.python)]
        options = ["--quiet", "--no-compile", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "install", *options, "--constraint", str(pins), wanted],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def command(self) -> Path:
        return self.folder / "bin" / "ullage"

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the installed command, which sees no other code of ours, to its end."""
        return subprocess.run(
            [str(self.python), str(self.command), *map(str, arguments)],
            env=bare_environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def has(self, module: str) -> bool:
        """Whether a module can be imported there."""
        python = str(self.folder / "bin" / "python")
        return (
            subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0
        )


def pinned_versions() -> str:
    """What constraints.txt pins, without the hashes, with which pip wants every package named."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^(\S+==.*?) \\$", text, re.MULTILINE))


def bare_environment() -> dict[str, str]:
    """No path to this checkout, and no setting of the user's."""
    left_out = ("ULLAGE_", "PYTHON", "REGISTRY_")
    return {k: v for k, v in os.environ.items() if not k.startswith(left_out)}

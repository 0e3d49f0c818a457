"""`make release`: check what a release needs, build it, tag it if told to, say what to publish.

    make release                  checks and builds; tags nothing
    make release VERSION=0.2.0    the same for exactly this version, and tags it v0.2.0

Nothing leaves the machine: publishing is the last step, and a person's.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
VERSION = ROOT / "src" / "ullage" / "__init__.py"
CHANGELOG = ROOT / "CHANGELOG.md"

_VERSION = re.compile(r'^__version__ = "([0-9]+\.[0-9]+\.[0-9]+)"$', re.MULTILINE)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_DATE = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}")


class NotReady(Exception):
    """Why this is no release yet, in one line, and what to change."""


def current_version() -> str:
    """The version in src/ullage/__init__.py, from which the package takes its own."""
    found = _VERSION.search(VERSION.read_text(encoding="utf-8"))
    if found is None:
        raise NotReady('src/ullage/__init__.py: expected a line __version__ = "1.2.3"')
    return found[1]


def changes_of(version: str) -> str:
    """What CHANGELOG.md says of this version, in its first section: `## 1.2.3, 2026-12-31`."""
    sections = _SECTION.split(CHANGELOG.read_text(encoding="utf-8"))[1:]
    title, text = (sections[0], sections[1].strip()) if sections else ("", "")
    name, _, date = title.partition(", ")
    if name != version or not _DATE.fullmatch(date):
        raise NotReady(
            f"CHANGELOG.md: the first section is '{title}' - expected '{version}, YYYY-MM-DD', "
            "with all that has changed since the last release"
        )
    if not text:
        raise NotReady(f"CHANGELOG.md: the section of {version} is empty")
    return text


def require_clean_tree() -> None:
    """What is built is what is committed."""
    changed = _git("status", "--porcelain").splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise NotReady(f"the tree is not clean: {changed[0].strip()}{more}; commit it or remove it")


def require_new_tag(version: str) -> None:
    """A version is released once; the commit that has its tag may be built again."""
    tagged = _git("tag", "--list", f"v{version}")
    if tagged and _git("rev-list", "-1", f"v{version}") != _git("rev-parse", "HEAD"):
        raise NotReady(f"v{version} is another commit's tag; raise __version__")


def build(version: str) -> tuple[Path, Path]:
    """The wheel and the source archive in dist/, whose bytes follow from the commit alone."""
    for old in [*DIST.glob("ullage-*.whl"), *DIST.glob("ullage-*.tar.gz")]:
        old.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(DIST)],
        cwd=ROOT,
        env=os.environ | {"SOURCE_DATE_EPOCH": _git("log", "-1", "--format=%ct")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise NotReady(f"hatchling build: {_last_line(done.stderr)}")
    return DIST / f"ullage-{version}-py3-none-any.whl", DIST / f"ullage-{version}.tar.gz"


def require_sound_wheel(wheel: Path, version: str) -> None:
    """It says what it is and under which licence, and the command runs from it alone."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as files:
        about = f"ullage-{version}.dist-info"
        metadata = message_from_bytes(files.read(f"{about}/METADATA"))
        said = metadata["Name"], metadata["Version"], metadata["License-Expression"]
        if said != ("ullage", version, "Apache-2.0"):
            raise NotReady(f"{wheel.name} says that it is {said}")
        missing = {f"{about}/licenses/LICENSE", "ullage/py.typed"} - set(files.namelist())
        if missing:
            raise NotReady(f"{wheel.name} lacks {', '.join(sorted(missing))}")
        files.extractall(folder)
        command = [sys.executable, "-m", "ullage", "version"]
        shown = subprocess.run(
            command, cwd=folder, env={"PYTHONPATH": folder}, capture_output=True, text=True
        )
        if shown.stdout.strip() != version:
            problem = _last_line(shown.stderr or shown.stdout)
            raise NotReady(f"`ullage version` from {wheel.name}: {problem}")


def tag(version: str, changes: str) -> None:
    """An annotated tag on this commit, with the changes as its text."""
    if not _git("tag", "--list", f"v{version}"):
        text = f"Ullage {version}\n\n{changes}\n"
        _git("tag", "--annotate", "--cleanup=verbatim", f"v{version}", "--message", text)


def what_to_publish(version: str, files: Sequence[Path], *, tagged: bool) -> str:
    """The steps that are left, with the checksums to publish beside the files."""
    lines = ["", "To publish:", ""]
    if tagged:
        lines.append(f"  the tag          git push REMOTE v{version}")
    else:
        lines.append(f"  the tag          not made yet: make release VERSION={version}")
    lines.append("  the packages     these two files, to the package index")
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        lines += [f"    {file.relative_to(ROOT)}", f"      sha256 {digest}"]
    lines.append(
        f"  the text         the section of {version} in CHANGELOG.md, with both checksums"
    )
    return "\n".join(lines)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise NotReady(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def release(wanted: str | None) -> None:
    """All of it. Raises NotReady before anything is built, or tagged, that is not right."""
    version = current_version()
    if wanted not in (None, version):
        raise NotReady(f"VERSION={wanted}, but src/ullage/__init__.py says {version}")
    changes = changes_of(version)
    require_clean_tree()
    require_new_tag(version)
    files = build(version)
    require_sound_wheel(files[0], version)
    if wanted is not None:
        tag(version, changes)
    print(f"Ullage {version}: built and tried.")
    print(what_to_publish(version, files, tagged=wanted is not None))


def main() -> None:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("--version", help="tag this version")
    try:
        release(parser.parse_args().version)
    except NotReady as problem:
        sys.exit(f"ERROR: {problem}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Build the image of Ullage: Debian's Python, what constraints.txt pins, and the wheel.

    deploy/container/build.py --wheel dist/ullage-*.whl --tag localhost/ullage:0.1.0

It takes mmdebstrap, buildah and Python 3.11 with pip; no container is started for it. There is no
shell and no package manager in the image, only what Python and the registry need, in two layers:
Debian's part with the libraries, which `--cache FOLDER` keeps for the next build, and the wheel.
`--root`, `--runroot` and `--storage-driver` are buildah's own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from email import message_from_bytes
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUITE, PYTHON = "trixie", "3.13"
# Their dependencies come along.
PACKAGES = (
    f"python{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    "libstdc++6",
    *("base-files", "ca-certificates", "media-types", "netbase", "tzdata"),
)
# Scanners of images look there for what is installed, for there is no database of packages.
_NOTE_PACKAGES = """
mkdir -p "$1/var/lib/dpkg/status.d"
for deb in "$1"/var/cache/apt/archives/*.deb; do
    dpkg-deb -f "$deb" > "$1/var/lib/dpkg/status.d/$(dpkg-deb -f "$deb" Package)"
done
"""
# Of documentation only the licences.
_LEFT_OUT = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
EXTRAS = ("cloud", "postgres")
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
DATA = "/var/lib/ullage"
USER = 65532
_COMMAND = f"""\
#!/usr/bin/python{PYTHON}
from ullage.cli.main import main

main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the image of Ullage.")
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--cache", type=Path, help="a folder that keeps what changes seldom")
    parser.add_argument("--revision", default="", help="the commit, for the image's labels")
    parser.add_argument("--root", help="buildah's")
    parser.add_argument("--runroot", help="buildah's")
    parser.add_argument("--storage-driver", help="buildah's")
    given = parser.parse_args()
    # What is in the image is readable by all, whatever the umask of its maker is.
    os.umask(0o022)
    places = ("root", "runroot", "storage_driver")
    buildah = Buildah({name: value for name in places if (value := getattr(given, name))})
    with tempfile.TemporaryDirectory(prefix="ullage-image-") as folder:
        ours = Path(folder) / "ours"
        install_wheel(ours, given.wheel.resolve())
        base = (given.cache or Path(folder)).resolve() / f"base-{fingerprint()}.tar"
        if not base.exists():
            make_base(buildah, base, Path(folder), ours / SITE)
        container = buildah("from", "--quiet", f"oci-archive:{base}")
        configuration = tuple(configure(labels(given)))
        buildah.commit(container, [ours], _compile(f"/{SITE}/ullage"), configuration, given.tag)


def fingerprint() -> str:
    """Of all that a base is made from, but for what Debian has today."""
    recipe = repr((SUITE, PACKAGES, _LEFT_OUT, EXTRAS, _NOTE_PACKAGES, _PREPARE))
    pinned = (ROOT / "constraints.txt").read_bytes()
    return hashlib.sha256(pinned + recipe.encode()).hexdigest()[:16]


def make_base(buildah: Buildah, target: Path, folder: Path, ours: Path) -> None:
    """Debian's part with the libraries that `ours` asks for, as an archive of an image."""
    target.parent.mkdir(parents=True, exist_ok=True)
    debian, libraries, partial = folder / "debian.tar", folder / "libraries", folder / "base.tar"
    extract_debian(debian)
    fill_libraries(libraries, ours)
    container = buildah("from", "scratch")
    tag = f"localhost/ullage-base:{fingerprint()}"
    buildah.commit(container, [debian, libraries], _PREPARE, (), tag)
    buildah("push", "--quiet", tag, f"oci-archive:{partial}")
    shutil.move(partial, target)


def extract_debian(target: Path) -> None:
    """Debian's part: extracted, with no script run, so that the same packages give the same."""
    options = [f"--dpkgopt={option}" for option in _LEFT_OUT]
    options += [f"--include={','.join(PACKAGES)}", f"--extract-hook={_NOTE_PACKAGES}"]
    run("mmdebstrap", "--quiet", "--variant=extract", "--format=tar", *options, SUITE, str(target))


def fill_libraries(layer: Path, ours: Path) -> None:
    """What comes over Debian's part: an account, a folder for the data, and the libraries."""
    install(layer / SITE, "--require-hashes", "-r", str(ROOT / "constraints.txt"))
    remove_unasked(layer / SITE, ours)
    write(layer / "etc/passwd", f"root:x:0:0:root:/root:\nullage:x:{USER}:{USER}::{DATA}:\n")
    write(layer / "etc/group", f"root:x:0:\nullage:x:{USER}:\n")
    (layer / "etc/ullage").mkdir()
    (layer / DATA.lstrip("/")).mkdir(parents=True)


def install_wheel(layer: Path, wheel: Path) -> None:
    """The wheel without what it asks for, and the command."""
    install(layer / SITE, str(wheel))
    write(layer / "usr/local/bin/ullage", _COMMAND, mode=0o755)


def install(site: Path, *what: str) -> None:
    """Exactly this, for the image's Python and machine, whatever runs this program."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (17, 28, 34)] + ["manylinux2014_x86_64"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--target", str(site), "--no-compile", "--only-binary=:all:", "--no-deps"]
    pip += ["--implementation", "cp", "--python-version", PYTHON]
    pip += [option for platform in platforms for option in ("--platform", platform)]
    run(*pip, *what)
    for name in ("bin", "share"):
        # Commands that are for another Python, and pages for a manual that is not there.
        shutil.rmtree(site / name, ignore_errors=True)


def remove_unasked(site: Path, ours: Path) -> None:
    """Take away what was pinned for building: all that the registry does not ask for."""
    there = {_key(each.name): each for each in distributions(path=[str(site), str(ours)])}
    # pip needs it too, and brings its own; this one is among what was installed.
    sys.path.insert(0, str(site))
    for name in there.keys() - set(reachable("ullage", EXTRAS, there)):
        for file in there[name].files or ():
            Path(str(file.locate())).unlink(missing_ok=True)
    for folder in sorted(site.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def reachable(name: str, extras: Sequence[str], there: dict[str, Distribution]) -> Iterator[str]:
    """A distribution and what it asks for, and so on, by the names of `there`."""
    from packaging.requirements import Requirement

    waiting = [(name, frozenset(extras))]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        current = waiting.pop()
        if current in done or current[0] not in there:
            continue
        done.add(current)
        yield current[0]
        for line in there[current[0]].requires or ():
            wanted = Requirement(line)
            versions = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
            if wanted.marker is None or any(
                wanted.marker.evaluate({**versions, "extra": extra}) for extra in ("", *current[1])
            ):
                waiting.append((_key(wanted.name), frozenset(wanted.extras)))


def _key(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def labels(given: argparse.Namespace) -> dict[str, str]:
    """The image's annotations of its own (image-spec, "Annotations")."""
    with zipfile.ZipFile(given.wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(files.read(name))
    found = {
        "title": "Ullage",
        "description": str(metadata["Summary"]),
        "version": str(metadata["Version"]),
        "licenses": str(metadata["License-Expression"]),
        "revision": given.revision,
        "base.name": f"debian:{SUITE}",
    }
    return {f"org.opencontainers.image.{key}": value for key, value in found.items() if value}


class Buildah:
    """buildah, with its images where they are asked for."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._command = ["buildah"]
        for name, value in options.items():
            self._command += [f"--{name.replace('_', '-')}", value]

    def commit(
        self,
        container: str,
        layers: Sequence[Path],
        command: Sequence[str],
        configuration: Sequence[str],
        tag: str,
    ) -> None:
        """An image of a container, with more files, after a command in it. The container goes.

        In Docker's format, for OCI's has no health check.
        """
        try:
            for layer in layers:
                self("add", "--quiet", container, str(layer), "/")
            self("run", "--isolation", "chroot", container, "--", *command)
            self("config", *configuration, container)
            self("commit", "--quiet", "--format", "docker", container, tag)
        finally:
            self("rm", container)

    def __call__(self, *arguments: str) -> str:
        return run(*self._command, *arguments)


def _compile(*folders: str) -> tuple[str, ...]:
    """A read-only root cannot keep what is compiled later. Times of files do not count."""
    script = f"""
import compileall, py_compile
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for folder in {folders}:
    compileall.compile_dir(folder, quiet=1, invalidation_mode=mode)
"""
    return f"/usr/bin/python{PYTHON}", "-c", script


# What Debian's scripts would have done, and a read-only root cannot do later.
_PREPARE_SCRIPT = f"""
import os, pathlib
certificates = sorted(pathlib.Path("/usr/share/ca-certificates/mozilla").glob("*.crt"))
bundle = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
bundle.parent.mkdir(parents=True, exist_ok=True)
bundle.write_text("".join(path.read_text() for path in certificates))
os.chmod("{DATA}", 0o700)
os.chown("{DATA}", {USER}, {USER})
os.chmod("/tmp", 0o1777)
"""
_COMPILE_ALL = _compile(f"/usr/lib/python{PYTHON}", f"/{SITE}")
_PREPARE = (*_COMPILE_ALL[:2], _COMPILE_ALL[2] + _PREPARE_SCRIPT)


def configure(labels: dict[str, str]) -> Iterator[str]:
    yield from ("--user", f"{USER}:{USER}", "--workingdir", DATA, "--volume", DATA)
    # Variables, so that `ullage health` and other commands in the container know them too.
    yield from ("--env", f"ULLAGE_DATA={DATA}", "--env", "ULLAGE_LISTEN=0.0.0.0:5000")
    yield from ("--env", "PATH=/usr/local/bin:/usr/bin", "--env", "LANG=C.UTF-8")
    yield from ("--port", "5000", "--port", "9105", "--stop-signal", "SIGTERM")
    yield from ("--entrypoint", json.dumps(["ullage"]), "--cmd", "serve")
    yield from ("--healthcheck", "CMD ullage health", "--healthcheck-interval", "10s")
    yield from ("--healthcheck-timeout", "6s", "--healthcheck-start-period", "30s")
    for name, value in labels.items():
        yield from ("--label", f"{name}={value}")


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def run(*command: str) -> str:
    """Run a program to its end; what it printed. Ends with its words if it failed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()

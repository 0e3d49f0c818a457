"""What is given away installs and runs where there is nothing else (docs/guides/running.md)."""

import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import push_blob
from tests.support.packages import (
    ROOT,
    Environment,
    Packages,
    bare_environment,
    build_packages,
    require_tool,
)
from ullage import __version__

pytestmark = [pytest.mark.client, pytest.mark.slow]

# What each extra brings.
EXTRAS = {"postgres": ("psycopg",), "cloud": ("boto3", "azure.storage.blob", "azure.identity")}


def test_the_index_would_take_both_packages(packages: Packages) -> None:
    """`twine check --strict`: the metadata are valid, and the description can be shown."""
    done = subprocess.run(
        [require_tool("twine"), "check", "--strict", str(packages.wheel), str(packages.source)],
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_source_archive_gives_the_same_wheel(packages: Packages, tmp_path: Path) -> None:
    """Nothing that a build takes is only in the repository."""
    with tarfile.open(packages.source) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (tree,) = (tmp_path / "source").iterdir()
    again = build_packages(tmp_path / "dist", tree)
    assert again.wheel.read_bytes() == packages.wheel.read_bytes()


def test_the_wheel_has_all_of_the_package_and_nothing_beside_it(packages: Packages) -> None:
    with zipfile.ZipFile(packages.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    there = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".data/" not in name} == there


@pytest.fixture(scope="module")
def plain(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("plain"), packages.wheel)


@pytest.fixture
def serving(plain: Environment, tmp_path: Path) -> Iterator[str]:
    """The URL of a server that runs from the wheel alone."""
    where = ["--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")]
    command = [str(plain.command), "serve", *where]
    environment = bare_environment() | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[0-9.:]+", process.stdout.readline())
            assert found is not None
            yield found.group()
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_without_extras_it_says_its_version_and_serves(plain: Environment, serving: str) -> None:
    shown = plain.run("--version")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"{__version__}\n", "")
    with httpx.Client(base_url=serving) as client:
        digest = push_blob(client, "app", b"a layer")
        assert client.get(f"/v2/app/blobs/{digest}").content == b"a layer"
    listed = plain.run("repository", "list", "--name", serving)
    assert (listed.returncode, listed.stderr) == (0, "")


@pytest.mark.parametrize(
    ("flags", "extra"),
    [
        (("--database", "postgresql://db/ullage"), "postgres"),
        (("--storage", "s3://bucket/"), "cloud"),
        (("--storage", "az://container/"), "cloud"),
    ],
)
def test_without_its_extra_it_says_which_one(
    plain: Environment, tmp_path: Path, flags: tuple[str, ...], extra: str
) -> None:
    """One line that says what to install, and no traceback."""
    place = ("--listen", "127.0.0.1:0", "--data", tmp_path / "data")
    done = plain.run("serve", *place, *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("ERROR: ")
    assert f"ullage[{extra}]" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_it_is_for(plain: Environment, tmp_path: Path, extra: str) -> None:
    """What it opens is there; what is on the other side is not, and that is what is said."""
    installed = plain.with_extra(tmp_path / "environment", extra)
    for module in EXTRAS[extra]:
        assert (plain.has(module), installed.has(module)) == (False, True), module
    far = {
        "postgres": ("--database", "postgresql://127.0.0.1:1/ullage"),
        "cloud": ("--storage", "s3://bucket/?endpoint=http://127.0.0.1:1"),
    }
    place = ("--listen", "127.0.0.1:0", "--data", tmp_path / "data")
    done = installed.run("serve", *place, *far[extra])
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, done.stdout) == (1, "")
    assert last.startswith("ERROR: "), done.stderr
    assert "install" not in last
    assert "Traceback" not in done.stderr

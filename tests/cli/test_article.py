"""The article, with `ullage` in az's place, section by section (azure.md section 3.6)."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import push_image
from tests.support.article import SCRIPT
from tests.support.server import UllageServer, command_environment

pytestmark = pytest.mark.thorough


@pytest.fixture
def shell(tmp_path: Path, at_home: Path, here: UllageServer) -> dict[str, str]:
    """A PATH with an `az` of two lines: xargs, which runs programs, sees no function."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (
        ("az", 'shift; exec ullage "$@"'),
        ("ullage", f'exec {sys.executable} -m ullage "$@"'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    environment = command_environment(
        {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(at_home),
            "XDG_CONFIG_HOME": str(at_home / "conf"),
        }
    )
    subprocess.run(
        ["ullage", "config", "set", f"registries.myregistry={here.url}"],
        env=environment,
        check=True,
    )
    return environment


def bash(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_script_deletes_the_orphans_and_nothing_else(
    shell: dict[str, str], client: httpx.Client, name: str
) -> None:
    """azure.md section 3.6, the script: first as it comes, then with ENABLE_DELETE=true."""
    orphans = [push_image(client, name, "latest", (b"base", b"%d" % n)) for n in range(3)]
    kept = push_image(client, name, "latest", (b"base", b"kept"))
    script = SCRIPT.replace("myrepository", name)
    dry = bash(script, shell)
    assert dry.stdout == "No data deleted. Set ENABLE_DELETE=true to enable image deletion.\n"
    assert dry.returncode == 0
    real = bash(script.replace("ENABLE_DELETE=false", "ENABLE_DELETE=true"), shell)
    assert (real.returncode, real.stdout) == (0, ""), real.stderr
    for orphan in orphans:
        assert f"WARNING: This operation will delete the manifest '{orphan}'\n" in real.stderr
        assert client.get(f"/v2/{name}/manifests/{orphan}").status_code == 404
    assert client.get(f"/v2/{name}/manifests/{kept}").status_code == 200


def test_the_two_line_function_runs_the_articles_commands(
    shell: dict[str, str], client: httpx.Client, name: str
) -> None:
    push_image(client, name, "v1")
    function = 'az() { shift; ullage "$@"; }\n'
    for command in (
        f"az acr repository show-manifests --name myregistry --repository {name}",
        (
            f"az acr repository show-manifests --name myregistry --repository {name} "
            ' --query "[?tags==null].digest"'
        ),
        f"az acr repository delete --name myregistry --image {name}:v1 --yes",
    ):
        done = bash(f"unset -f az; {function}{command}", shell)
        assert done.returncode == 0, done.stderr

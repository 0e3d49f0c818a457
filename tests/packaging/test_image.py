"""The image: built, pushed to and pulled from the registry that it contains, and run as it is meant
to be: no root, nothing to write but the data (docs/guides/running.md)."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.clients.containers import Podman
from tests.support.packages import ROOT, Packages, require_tool
from tests.support.require import require_command
from ullage import __version__

pytestmark = [pytest.mark.client, pytest.mark.slow]

IMAGE = "localhost/ullage:built"
PASSWORD = "correct horse battery staple"
ACCOUNT = ("admin", PASSWORD)
# Nothing of it may be needed: no root, no capability, no way to get one, no file to write.
_CONFINED = (
    *("--read-only", "--user", "65532", "--cap-drop", "all"),
    # podman asks systemd for health checks, which is not everywhere.
    *("--security-opt", "no-new-privileges", "--network", "host", "--no-healthcheck"),
    *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
)


_LIST = """
from importlib.metadata import distributions
from pathlib import Path

places = ("/usr/bin", "/usr/local/bin", "/usr/sbin")
print(*sorted(path.name for place in places for path in Path(place).glob("*")))
print(*sorted(found.name for found in distributions()))
"""


class OwnPodman(Podman):
    """Layers on layers where root may mount them; copies of copies elsewhere."""

    driver = "overlay" if os.geteuid() == 0 else "vfs"

    def _command(self, *arguments: str | Path) -> list[str | Path]:
        storage = ("--root", self.folder / "root", "--runroot", self.folder / "run")
        return [self._program, *storage, "--storage-driver", self.driver, *arguments]


@pytest.fixture(scope="module")
def podman(packages: Packages) -> Iterator[OwnPodman]:
    """podman, with the image in its store."""
    for program in ("mmdebstrap", "buildah"):
        require_command(program)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with OwnPodman() as podman:
        store = ("--root", podman.folder / "root", "--runroot", podman.folder / "run")
        command = [sys.executable, ROOT / "deploy/container/build.py", "--wheel", packages.wheel]
        command += ["--tag", IMAGE, "--cache", caches / "ullage-ci" / "image", *store]
        built = subprocess.run(
            list(map(str, [*command, "--storage-driver", podman.driver, "--revision", "abc123"])),
            capture_output=True,
            text=True,
        )
        assert built.returncode == 0, built.stdout + built.stderr
        yield podman


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(podman: OwnPodman, image: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The image serving with an account: the name of the container, and the registry's host."""
    port, name = free_port(), f"ullage-{free_port()}"
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o444)
    settings = {
        "ULLAGE_LISTEN": f"127.0.0.1:{port}",
        "ULLAGE_AUTH": "true",
        "ULLAGE_ADMIN_PASSWORD_FILE": "/run/password",
    }
    variables = [part for pair in settings.items() for part in ("--env", "=".join(pair))]
    mounts = ("--volume", f"{secret}:/run/password:ro", "--volume", f"{name}:/var/lib/ullage")
    podman("run", "--detach", "--name", name, *_CONFINED, *variables, *mounts, image)
    try:
        deadline = time.monotonic() + 60
        while not podman.succeeds("exec", name, "ullage", "health"):
            assert time.monotonic() < deadline, podman.attempt("logs", name).stderr
        yield name, f"127.0.0.1:{port}"
    finally:
        podman("rm", "--force", "--volumes", name)


def test_it_says_what_it_is(podman: OwnPodman) -> None:
    (found,) = json.loads(podman("image", "inspect", IMAGE))
    config = found["Config"]
    assert (config["User"], config["StopSignal"]) == ("65532:65532", "SIGTERM")
    assert (config["Entrypoint"], config["Cmd"]) == (["ullage"], ["serve"])
    assert list(config["Volumes"]) == ["/var/lib/ullage"]
    assert sorted(port.partition("/")[0] for port in config["ExposedPorts"]) == ["5000", "9105"]
    assert found["Healthcheck"]["Test"] == ["CMD", "ullage", "health"]
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in config["Labels"].items()
    }
    assert (labels["version"], labels["revision"]) == (__version__, "abc123")
    assert labels["licenses"] == "Apache-2.0"
    # Debian with the libraries, which stay from one version to the next, and ours.
    assert len(found["RootFS"]["Layers"]) == 2


def test_without_accounts_it_does_not_start_and_says_so_in_one_line(podman: OwnPodman) -> None:
    done = podman.attempt("run", "--rm", *_CONFINED, IMAGE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("ERROR: listen: '0.0.0.0:5000' - without accounts every client")


def test_nothing_is_in_it_that_only_builds_or_that_an_intruder_would_like(
    podman: OwnPodman,
) -> None:
    shown = podman("run", "--rm", *_CONFINED, "--entrypoint", "python3.13", IMAGE, "-c", _LIST)
    programs, libraries = (set(line.split()) for line in shown.splitlines())
    assert programs.isdisjoint({"sh", "bash", "dash", "apt", "dpkg", "pip", "curl", "perl"})
    assert libraries.isdisjoint({"hatchling", "editables", "pip", "setuptools"})
    assert libraries >= {"ullage", "boto3", "psycopg", "azure-storage-blob"}


def test_it_holds_itself(podman: OwnPodman, tmp_path: Path) -> None:
    """Pushed to the registry that it runs, pulled from there, run; with its bill of materials."""
    with running(podman, IMAGE, tmp_path) as (name, host):
        image = f"{host}/ullage:{__version__}"
        login = ("--creds", ":".join(ACCOUNT), "--tls-verify=false")
        podman("push", "--quiet", *login, IMAGE, f"docker://{image}")
        bill = tmp_path / "ullage.cdx.json"
        make = [require_tool("cyclonedx-py"), "requirements", "--output-reproducible"]
        pinned = str(ROOT / "constraints.txt")
        subprocess.run([*make, pinned, "-o", str(bill)], check=True, capture_output=True)
        attached = subprocess.run(
            [
                *(sys.executable, str(ROOT / "deploy/container/attach_sbom.py"), str(bill)),
                *(f"http://{host}", f"ullage:{__version__}"),
            ],
            env=os.environ | {"ULLAGE_USERNAME": "admin", "ULLAGE_PASSWORD": PASSWORD},
            capture_output=True,
            text=True,
        )
        assert attached.returncode == 0, attached.stderr
        with httpx.Client(base_url=f"http://{host}", auth=ACCOUNT) as client:
            accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
            answer = client.get(f"/v2/ullage/manifests/{__version__}", headers=accept)
            digest = answer.headers["Docker-Content-Digest"]
            (referrer,) = client.get(f"/v2/ullage/referrers/{digest}").json()["manifests"]
            assert referrer["artifactType"] == "application/vnd.cyclonedx+json"
            assert referrer["digest"] == attached.stdout.strip()
            manifest = client.get(f"/v2/ullage/manifests/{referrer['digest']}").json()
            stored = client.get(f"/v2/ullage/blobs/{manifest['layers'][0]['digest']}").json()
        assert (stored["bomFormat"], stored["specVersion"]) == ("CycloneDX", "1.6")
        assert {"granian", "sqlalchemy"} <= {part["name"] for part in stored["components"]}
        with OwnPodman() as elsewhere:
            elsewhere("pull", "--quiet", *login, f"docker://{image}")
            shown = elsewhere("run", "--rm", *_CONFINED, image, "--version")
            assert shown == f"{__version__}\n"
            elsewhere("rmi", "--all", "--force")
        # In good order, well before it would be killed.
        podman("stop", "--time", "40", name)
        (ended,) = json.loads(podman("inspect", name))
        assert ended["State"]["ExitCode"] == 0

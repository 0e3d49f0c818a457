"""skopeo, podman and buildah: one family of clients, built on the same library."""

import json
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from tests.clients.programs import attempt, client_environment, run
from tests.support.require import require_command, unavailable

_NO_TLS = "--tls-verify=false"
# Where limits of files and processes may not be raised, a container must ask for low ones.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
# Nothing is shared with a podman that the machine may run for others, and no systemd is asked.
_SETTINGS = """
[engine]
lock_type = "file"
tmp_dir = "{folder}/tmp"
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


class ContainersTool:
    """A program with a home, settings and trust policy of its own, removed with all it kept."""

    program: ClassVar[str]

    def __init__(self) -> None:
        self._program = require_command(self.program)
        # podman takes paths of up to 50 characters only, so not below pytest's own folder.
        self.folder = Path(tempfile.mkdtemp(prefix=f"ullage-{self.program}-"))
        policy = self.folder / ".config/containers/policy.json"
        policy.parent.mkdir(parents=True)
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        settings = self.folder / "containers.conf"
        settings.write_text(_SETTINGS.format(folder=self.folder))
        self._env = client_environment(self.folder, {"CONTAINERS_CONF": str(settings)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder)

    def __call__(self, *arguments: str | Path) -> str:
        """Run the program; returns its stdout. AssertionError if it fails."""
        return run(self._command(*arguments), self._env, cwd=self.folder)

    def succeeds(self, *arguments: str | Path) -> bool:
        """Run the program, which may fail."""
        return self.attempt(*arguments).returncode == 0

    def attempt(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the program, which may fail, and see what it says."""
        return attempt(self._command(*arguments), self._env, cwd=self.folder)

    def _command(self, *arguments: str | Path) -> list[str | Path]:
        return [self._program, *arguments]


class Skopeo(ContainersTool):
    """Works on registries and layouts only; keeps no images."""

    program = "skopeo"

    def copy(self, source: str, target: str, *flags: str) -> None:
        """Copy between "oci:folder:tag" and "docker://host/repository:tag", either way."""
        no_tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
        self("copy", "--quiet", *no_tls, *flags, source, target)

    def delete(self, image: str) -> None:
        self("delete", _NO_TLS, f"docker://{image}")

    def inspect(self, image: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self("inspect", _NO_TLS, f"docker://{image}"))
        return found

    def list_tags(self, repository: str) -> list[str]:
        tags: list[str] = json.loads(self("list-tags", _NO_TLS, f"docker://{repository}"))["Tags"]
        return tags


class Builder(ContainersTool, ABC):
    """podman or buildah: builds, keeps images in its folder with the vfs driver, pushes, pulls."""

    def __init__(self) -> None:
        super().__init__()
        if not self.succeeds("info"):
            unavailable(f"{self.program} does not work here")

    def build(self, context: Path, tag: str) -> None:
        # "chroot" asks for no container runtime; a Dockerfile that only copies needs none.
        self("build", "--isolation", "chroot", "--layers", "--quiet", "--tag", tag, context)

    def push(self, local: str, image: str, *flags: str) -> str:
        """Push a local image; returns the digest of what was pushed."""
        digest_file = self.folder / "digest"
        options: list[str | Path] = [_NO_TLS, "--quiet", "--digestfile", digest_file, *flags]
        self("push", *options, local, f"docker://{image}")
        return digest_file.read_text().strip()

    def make_list(self, name: str, *images: str) -> None:
        """Make a local manifest list of local images."""
        self("manifest", "create", name)
        for image in images:
            self("manifest", "add", name, f"containers-storage:localhost/{image}")

    def push_list(self, name: str, image: str) -> None:
        """Push a manifest list with all its images."""
        self("manifest", "push", _NO_TLS, "--quiet", "--all", name, f"docker://{image}")

    def can_pull(self, image: str) -> bool:
        """Whether the image can be pulled with nothing of it at hand."""
        self("rmi", "--all", "--force")
        return self.succeeds("pull", _NO_TLS, "--quiet", f"docker://{image}")

    def pull_and_run(self, image: str) -> str:
        """What the image prints when it runs, pulled with nothing of it at hand."""
        assert self.can_pull(image)
        return self._run(image)

    @abstractmethod
    def _run(self, image: str) -> str: ...

    def _command(self, *arguments: str | Path) -> list[str | Path]:
        storage = ("--root", self.folder / "root", "--runroot", self.folder / "run")
        return [self._program, *storage, "--storage-driver", "vfs", *arguments]


class Podman(Builder):
    program = "podman"

    def _run(self, image: str) -> str:
        return self("run", "--rm", "--network", "none", *_LIMITS, image)


class Buildah(Builder):
    program = "buildah"

    def _run(self, image: str) -> str:
        """Buildah runs no entry points: ours is started in a chroot of the image's files."""
        container = self("from", "--pull-never", image).strip()
        config = json.loads(self("inspect", container))["OCIv1"]["config"]
        printed = self("run", "--isolation", "chroot", container, "--", *config["Entrypoint"])
        self("rm", container)
        return printed

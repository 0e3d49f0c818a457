"""A Docker daemon of our own: its state, socket and containers in a temporary folder."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.clients.programs import attempt, client_environment, run
from tests.support.require import require_command, unavailable

START_SECONDS = 60
STOP_SECONDS = 30


class Docker:
    """The daemon, and the client that talks to it. Needs root; keeps images with the vfs driver.

    Without a bridge and firewall rules of its own it leaves the machine's network alone; containers
    run without a network. Plain HTTP to 127.0.0.0/8 is what it does unasked.
    """

    def __init__(self) -> None:
        self._dockerd = require_command("dockerd")
        self._docker = require_command("docker")
        if os.geteuid() != 0:
            unavailable("a Docker daemon of our own needs root")
        # The path of a socket is limited to 108 bytes, so not below pytest's own folder.
        self._folder = Path(tempfile.mkdtemp(prefix="ullage-docker-"))
        self._socket = f"unix://{self._folder}/docker.sock"
        self._log_path = self._folder / "dockerd.log"
        self._env = client_environment(
            self._folder,
            # The builder inside the daemon: it needs no plugin.
            {"DOCKER_HOST": self._socket, "DOCKER_BUILDKIT": "0"},
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self._folder)

    # -- what the suites do with it

    def docker(self, *arguments: str | Path) -> str:
        """Run one docker command; returns its stdout. AssertionError if it fails."""
        return run([self._docker, *arguments], self._env)

    def attempt(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one docker command that may fail."""
        return attempt([self._docker, *arguments], self._env)

    def build(self, context: Path, tag: str) -> None:
        self.docker("build", "--quiet", "--tag", tag, context)

    def push(self, local: str, image: str) -> str:
        """Push a local image under another name; returns the digest the daemon was told."""
        self.docker("tag", local, image)
        self.docker("push", "--quiet", image)
        repository = image.rpartition(":")[0]
        digests: list[str] = json.loads(
            self.docker("image", "inspect", "--format", "{{json .RepoDigests}}", image)
        )
        (digest,) = (d.partition("@")[2] for d in digests if d.startswith(f"{repository}@"))
        return digest

    def run(self, image: str) -> str:
        """What a container of the image prints."""
        return self.docker("run", "--rm", "--network", "none", image)

    def forget_everything(self) -> None:
        """Remove every image, so that the next pull has to ask for all of it."""
        self.docker("image", "prune", "--all", "--force")
        assert not self.docker("image", "ls", "--all", "--quiet")

    # -- inside

    def _start(self) -> None:
        command = [self._dockerd, "--host", self._socket, "--storage-driver", "vfs"]
        command += ["--data-root", str(self._folder / "data")]
        command += ["--exec-root", str(self._folder / "exec")]
        command += ["--pidfile", str(self._folder / "dockerd.pid")]
        command += ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests; they stop the daemon when done.
            )
        deadline = time.monotonic() + START_SECONDS
        while self.attempt("info").returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                unavailable(f"dockerd does not start here:\n{self._log_path.read_text()[-2000:]}")
            time.sleep(0.1)

    def _stop(self) -> None:
        if self._process is None:
            return
        # SIGTERM: the daemon stops its containers and the containerd it started, then ends.
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._kill_containerd()

    def _kill_containerd(self) -> None:
        with suppress(OSError, ValueError):
            pid = int((self._folder / "exec/containerd/containerd.pid").read_text())
            os.kill(pid, signal.SIGKILL)

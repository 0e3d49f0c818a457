"""A containerd of our own: what Kubernetes pulls with, and what newer Docker daemons push with."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.clients.programs import attempt, client_environment, run
from tests.support.require import require_command, unavailable

START_SECONDS = 60
STOP_SECONDS = 30

_SETTINGS = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
"""


class Containerd:
    """The daemon, and `ctr`, which talks to it. Used as a store of content only; needs root."""

    def __init__(self) -> None:
        self._containerd = require_command("containerd")
        self._ctr = require_command("ctr")
        if os.geteuid() != 0:
            unavailable("a containerd of our own needs root")
        # The path of a socket is limited to 108 bytes, so not below pytest's own folder.
        self._folder = Path(tempfile.mkdtemp(prefix="ullage-containerd-"))
        self._log_path = self._folder / "containerd.log"
        self._env = client_environment(self._folder)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder)

    def load(self, archive: Path) -> None:
        """Take over an archived layout, whose images carry their names."""
        self._images("import", "--no-unpack", "--all-platforms", archive)

    def push(self, image: str) -> None:
        self._images("push", "--plain-http", image)

    def fetch(self, image: str) -> None:
        """Pull without unpacking."""
        run(self._command("content", "fetch", "--plain-http", image), self._env)

    def _images(self, *arguments: str | Path) -> None:
        run(self._command("images", *arguments), self._env)

    def _command(self, *arguments: str | Path) -> list[str | Path]:
        return [self._ctr, "--address", self._folder / "containerd.sock", *arguments]

    def _start(self) -> None:
        settings = self._folder / "containerd.toml"
        settings.write_text(_SETTINGS.format(folder=self._folder))
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [self._containerd, "--config", settings],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests; they stop the daemon when done.
            )
        deadline = time.monotonic() + START_SECONDS
        while attempt(self._command("version"), self._env).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                unavailable(f"containerd does not start:\n{self._log_path.read_text()[-2000:]}")
            time.sleep(0.1)

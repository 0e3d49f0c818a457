"""The servers that are compared, each on an empty folder of the same disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.connection import Broken, Connection

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 30.0
STOP_SECONDS = 60.0

_PEER_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
  cache: {{blobdescriptor: inmemory}}
http: {{addr: "{host}"}}
"""


class Process:
    """A server process of ours."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start, and wait for the first answer."""
        self.prepare()
        log = (self.folder.parent / f"{self.folder.name}.log").open("ab")
        self._process = subprocess.Popen(
            [str(part) for part in self.command()],
            env=dict(self.environment()),
            stdout=log,
            stderr=log,
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start; see {self.folder}.log")
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_SECONDS)
            self._process = None

    def resident_bytes(self) -> int | None:
        assert self._process is not None
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return None

    def _answers(self) -> bool:
        try:
            with Connection(self.host) as connection:
                return connection.ask("GET", "/").status > 0
        except (OSError, Broken):
            return False


class Ullage(Process):
    name = "ullage"

    def command(self) -> Sequence[str | Path]:
        serve = [sys.executable, "-m", "ullage", "serve", "--listen", self.host]
        return [*serve, "--data", self.folder, "--read-grace", "0s"]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    @property
    def blobs(self) -> Path:
        """Where the bytes of blobs lie."""
        return self.folder / "blobs"


class DockerRegistry(Process):
    """Debian's docker-registry (CNCF distribution 2.8) with its file system driver."""

    name = "docker-registry"

    @property
    def _config(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.yml"

    @property
    def blobs(self) -> Path:
        return self.folder / "docker" / "registry" / "v2" / "blobs"

    def prepare(self) -> None:
        super().prepare()
        self._config.write_text(_PEER_CONFIG.format(root=self.folder, host=self.host))

    def command(self) -> Sequence[str | Path]:
        return ["docker-registry", "serve", self._config]

    def collect(self) -> None:
        """Its garbage collection, for which it must be stopped."""
        command = ["docker-registry", "garbage-collect", "--delete-untagged", str(self._config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"garbage-collect failed: {done.stderr[-500:]}")


class Running:
    """A registry that somebody else runs, by its address."""

    def __init__(self, url: str) -> None:
        self.name = url
        self.host = url.removeprefix("http://").rstrip("/")

    def resident_bytes(self) -> int | None:
        return None


class Nginx(Process):
    """nginx sending files with sendfile: what the machine can do."""

    name = "nginx"

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "nginx.conf").write_text(
            "daemon off; worker_processes 1; error_log stderr error; pid nginx.pid;\n"
            "events { worker_connections 256; }\n"
            "http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000;\n"
            f"client_body_temp_path {self.folder}/t1; proxy_temp_path {self.folder}/t2;\n"
            f"fastcgi_temp_path {self.folder}/t3; uwsgi_temp_path {self.folder}/t4;\n"
            f"scgi_temp_path {self.folder}/t5;\n"
            f"server {{ listen {self.host}; root {self.folder}/files; }} }}\n"
        )
        (self.folder / "files").mkdir(exist_ok=True)
        # Started by root it serves as nobody, who must get as far as the files.
        for folder in (self.folder / "files", self.folder, *self.folder.parents[:1]):
            folder.chmod(0o755)

    def command(self) -> Sequence[str | Path]:
        return ["nginx", "-p", self.folder, "-c", self.folder / "nginx.conf"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require(programs: Sequence[str]) -> None:
    """Raises SystemExit naming what has to be installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = {"nginx": "nginx-light", "ab": "apache2-utils"}
        names = " ".join(packages.get(program, program) for program in missing)
        raise SystemExit(f"missing {', '.join(missing)}; on Debian: apt-get install {names}")

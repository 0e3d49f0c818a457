"""The servers that are compared, each on an empty folder of the same disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.connection import Broken, Connection
from ullage.tls import Certificates, self_signed

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
http: {{addr: "{host}"{tls}}}
"""


@dataclass(frozen=True)
class Distribution:
    """One build of CNCF distribution: its name in tables, and its program."""

    name: str
    program: str


DEBIAN = Distribution("docker-registry", "docker-registry")


@dataclass(frozen=True)
class Place:
    """Where servers keep their data, the certificate that all of them serve TLS with, if any, and
    what Ullage is compared with: a checkout of another commit, if any, or a build of distribution.

    `folder` is absolute.
    """

    folder: Path
    tls: Certificates | None = None
    distribution: Distribution = DEBIAN
    checkout: Path | None = None

    def peer(self, name: str) -> Ullage | DockerRegistry:
        """The other server, on the folder of this name."""
        if self.checkout is not None:
            return Checkout(self.folder / name, self.checkout, self.tls)
        return self.collector(name)

    def collector(self, name: str) -> DockerRegistry:
        """A peer that has to stop in order to delete, on the folder of this name."""
        return DockerRegistry(self.folder / name, self.tls, self.distribution)


def certified(folder: Path) -> Certificates:
    """A certificate for this machine, as `ullage serve --tls self-signed` makes it: ECDSA P-256."""
    return self_signed(folder / "tls", (), datetime.now(UTC))


class Process:
    """A server process of ours; with `tls` it speaks TLS only."""

    name = ""
    # Who runs it; None: whoever we are.
    user: str | None = None
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, tls: Certificates | None = None) -> None:
        self.folder = folder
        self.tls = tls
        self.host = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Such as "https://127.0.0.1:41235"."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def urls(self) -> Sequence[str]:
        """Where its clients may go: some to each."""
        return (self.url,)

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start, and wait for the first answer."""
        self.prepare()
        path = self.folder.parent / f"{self.folder.name}.log"
        log = path.open("ab")
        self._process = subprocess.Popen(
            [str(part) for part in self.command()],
            env=dict(self.environment()),
            stdout=log,
            stderr=log,
            # Another user may not be allowed where we are.
            cwd=self.folder if self.user else None,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                # The file may be gone with its folder by the time that somebody looks.
                said = path.read_text(errors="replace")[-1000:]
                raise RuntimeError(f"{self.name} did not start; it said:\n{said}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self.stop_signal)
            self._process.wait(STOP_SECONDS)
            self._process = None

    def restart(self) -> None:
        """Stop, and start again on the same folder and address."""
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def resident_bytes(self) -> int | None:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return None

    def _answers(self) -> bool:
        try:
            with Connection(self.url) as connection:
                return connection.ask("GET", "/").status > 0
        except (OSError, Broken):
            return False


class Ullage(Process):
    """`ullage serve`; `settings` are flags beside those for its folder and address."""

    name = "ullage"

    def __init__(
        self, folder: Path, tls: Certificates | None = None, settings: Sequence[str] = ()
    ) -> None:
        super().__init__(folder, tls)
        self._settings = settings

    @property
    def _checkout(self) -> Path:
        """Whose `src` runs."""
        return ROOT

    @property
    def _python(self) -> str:
        return sys.executable

    def command(self) -> Sequence[str | Path]:
        serve = [self._python, "-m", "ullage", "serve", "--listen", self.host]
        serve += ["--data", str(self.folder), "--read-grace", "0s", *self._settings]
        if self.tls is None:
            return serve
        return [*serve, "--tls-cert", self.tls.certificate, "--tls-key", self.tls.key]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONPATH": str(self._checkout / "src")}

    @property
    def blobs(self) -> Path:
        """Where the bytes of blobs lie."""
        return self.folder / "blobs"


class Checkout(Ullage):
    """`ullage serve` of another checkout of this project, by its own `.venv` if it has one."""

    def __init__(self, folder: Path, checkout: Path, tls: Certificates | None = None) -> None:
        super().__init__(folder, tls)
        self._path = checkout.resolve()
        self.name = f"ullage of {self._path.name}"

    @property
    def _checkout(self) -> Path:
        return self._path

    @property
    def _python(self) -> str:
        own = self._path / ".venv" / "bin" / "python"
        return str(own) if own.exists() else super()._python


class DockerRegistry(Process):
    """CNCF distribution with its file system driver; Debian's (2.8) unless another is named."""

    def __init__(
        self,
        folder: Path,
        tls: Certificates | None = None,
        distribution: Distribution = DEBIAN,
    ) -> None:
        super().__init__(folder, tls)
        self.name = distribution.name
        self._program = distribution.program

    @property
    def _config(self) -> Path:
        return self.folder.parent / f"{self.folder.name}.yml"

    @property
    def blobs(self) -> Path:
        return self.folder / "docker" / "registry" / "v2" / "blobs"

    def prepare(self) -> None:
        super().prepare()
        tls = ""
        if self.tls is not None:
            tls = f', tls: {{certificate: "{self.tls.certificate}", key: "{self.tls.key}"}}'
        self._config.write_text(_PEER_CONFIG.format(root=self.folder, host=self.host, tls=tls))

    def command(self) -> Sequence[str | Path]:
        return [self._program, "serve", self._config]

    def environment(self) -> Mapping[str, str]:
        # Version 3 sends traces to a collector unless told not to; version 2 has none.
        return {**os.environ, "OTEL_TRACES_EXPORTER": "none"}

    def collect(self, *, untagged: bool = True) -> None:
        """Its garbage collection, for which it must be stopped. Raises RuntimeError."""
        flags = ["--delete-untagged"] if untagged else []
        command = [self._program, "garbage-collect", *flags, str(self._config)]
        done = subprocess.run(
            command, env=dict(self.environment()), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"garbage-collect failed: {done.stderr[-500:]}")


class Running:
    """A registry that somebody else runs, by its address; http unless that says https."""

    def __init__(self, address: str) -> None:
        self.name = address
        self.url = (address if "://" in address else f"http://{address}").rstrip("/")
        self.urls = (self.url,)

    def resident_bytes(self) -> int | None:
        return None


class Nginx(Process):
    """nginx sending files with sendfile: what the machine can do."""

    name = "nginx"

    def prepare(self) -> None:
        super().prepare()
        listen, tls = self.host, ""
        if self.tls is not None:
            listen += " ssl"
            tls = (
                f"ssl_certificate {self.tls.certificate}; ssl_certificate_key {self.tls.key}; "
                # Debian's has only 1.2 of itself.
                "ssl_protocols TLSv1.2 TLSv1.3; "
            )
        (self.folder / "nginx.conf").write_text(
            "daemon off; worker_processes 1; error_log stderr error; pid nginx.pid;\n"
            "events { worker_connections 256; }\n"
            "http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000;\n"
            f"client_body_temp_path {self.folder}/t1; proxy_temp_path {self.folder}/t2;\n"
            f"fastcgi_temp_path {self.folder}/t3; uwsgi_temp_path {self.folder}/t4;\n"
            f"scgi_temp_path {self.folder}/t5;\n"
            f"server {{ listen {listen}; {tls}root {self.folder}/files; }} }}\n"
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


def find(program: str) -> str | None:
    """The path of a program: from PATH, or of the newest PostgreSQL, which Debian keeps off it."""
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    newest = sorted(versions, key=lambda folder: float(folder.parent.name))[-1:]
    return shutil.which(program, path=os.pathsep.join([*os.get_exec_path(), *map(str, newest)]))


_PACKAGES = {
    "ab": "apache2-utils",
    "gnuplot": "gnuplot-nox",
    "nginx": "nginx-light",
    "postgres": "postgresql",
}


def require(programs: Sequence[str]) -> None:
    """Raises SystemExit naming what has to be installed."""
    missing = [program for program in programs if find(program) is None]
    if missing:
        names = " ".join(_PACKAGES.get(program, program) for program in missing)
        raise SystemExit(f"missing {', '.join(missing)}; on Debian: apt-get install {names}")

"""A registry with accounts and TLS at an address that no client trusts unasked."""

import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.clients.view import View
from tests.support.require import unavailable
from tests.support.server import UllageServer, run_ullage

# Where every Docker daemon with root looks for authorities; no setting changes it.
_DOCKER_CERTS = Path("/etc/docker/certs.d")
_PASSWORD = re.compile(r"password (\S+)$", re.MULTILINE)


class Login(NamedTuple):
    name: str
    password: str

    def __str__(self) -> str:
        return f"{self.name}:{self.password}"


def admin_of(server: UllageServer) -> Login:
    """The account that the first start made, as it was announced."""
    found = _PASSWORD.search(server.log)
    assert found, server.log
    return Login("admin", found[1])


class Secured:
    """`ullage serve --auth --tls self-signed`, and what somebody at its machine does with it."""

    def __init__(self, folder: Path, *flags: str) -> None:
        address = _machine_address()
        flags = ("--auth", "--tls", "self-signed", "--tls-names", address, *flags)
        self.server = UllageServer(folder / "registry", *flags, address=address)
        # What --cert-dir wants: a folder with the authority under a name that ends in .crt.
        self.cert_dir = folder / "certs"

    def __enter__(self) -> "Secured":
        self.server.start()
        self.cert_dir.mkdir()
        shutil.copy(self.authority, self.cert_dir / "ca.crt")
        self.admin = admin_of(self.server)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__()

    @property
    def host(self) -> str:
        return self.server.host

    @property
    def authority(self) -> Path:
        return self.server.data / "tls" / "ca.pem"

    def manage(self, *command: str) -> Any:
        """Run `ullage user|token|… …` while the registry serves; what it printed."""
        done = run_ullage(*command, "--data", self.server.data)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout else None

    def token(self, name: str, repository: str, *rights: str) -> Login:
        """Make a token as README has it; its first password."""
        made = self.manage("token", "create", "--name", name, "--repository", repository, *rights)
        return Login(name, made["credentials"]["passwords"][0]["value"])

    def view(self, login: Login | None = None) -> View:
        """What somebody sees; the administrator, if not said otherwise."""
        return View(self.server, login=login or self.admin, trust=self.trust())

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)

    @contextmanager
    def trusted_by_docker(self) -> Iterator[None]:
        """The authority where the daemon looks for it; everything is removed again."""
        existing = next(path for path in (_DOCKER_CERTS, *_DOCKER_CERTS.parents) if path.exists())
        folder = _DOCKER_CERTS / self.host
        (line,) = (line for line in self.server.log.splitlines() if str(_DOCKER_CERTS) in line)
        try:
            # As somebody does who pastes what the server says.
            subprocess.run(["/bin/sh", "-c", line], check=True)
            assert (folder / "ca.crt").exists()
            yield
        finally:
            shutil.rmtree(folder)
            made = [path for path in folder.parents if existing in path.parents]
            for path in made:
                path.rmdir()


def _machine_address() -> str:
    """An address of this machine that is not loopback: clients check no certificate there.

    docker takes all of 127.0.0.0/8 for a registry that may speak anything.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the kernel only says from where it would be.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            unavailable("this machine has no address but loopback")
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        unavailable("this machine has no address but loopback")
    return address

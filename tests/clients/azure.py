"""Azure's own command line, as it is, at a registry on this machine; and ours in its place.

azure.md section 1.9. Nobody is logged in to Azure, and nothing of the machine changes.
"""

import json
import os
import pty
import shlex
import ssl
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from tests.clients.programs import RUN_SECONDS, client_environment
from tests.clients.secured import Login, admin_of
from tests.clients.view import View
from tests.support.require import require_command, unavailable
from tests.support.server import UllageServer, command_environment, run_ullage

NAME = "myregistry"
HOST = f"{NAME}.localhost"


@dataclass(frozen=True)
class Said:
    """What a command line printed, and how it ended. On a terminal, all of it is in `out`."""

    code: int
    out: str
    err: str = ""

    @property
    def json(self) -> Any:
        assert self.code == 0, self
        return json.loads(self.out)


class Registry:
    """A registry that az can be told to be `myregistry`, and its administrator."""

    def __init__(self, folder: Path) -> None:
        flags = ("--auth", "--tls", "self-signed", "--read-grace", "0s")
        self.server = UllageServer(folder / "registry", *flags)
        self.folder = folder

    def __enter__(self) -> "Registry":
        self.server.start()
        self.admin = admin_of(self.server)
        trust = ssl.create_default_context(cafile=self.authority)
        # As docker does it: whoever pushes is somebody with a password.
        self.http = httpx.Client(
            base_url=self.server.url, auth=self.admin, verify=trust, timeout=30, trust_env=False
        )
        self.view = View(self.server, login=self.admin, trust=trust)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.view.__exit__()
        self.server.__exit__()
        self.server.assert_no_500()

    @property
    def authority(self) -> Path:
        return self.server.data / "tls" / "ca.pem"

    @property
    def port(self) -> str:
        return self.server.host.rpartition(":")[2]

    @property
    def login_server(self) -> str:
        """What az calls the registry."""
        return f"{HOST}:{self.port}"


class Shell(ABC):
    """Lines of bash in which `az` is a command that reaches the registry."""

    def __init__(self, registry: Registry, name: str, env: dict[str, str]) -> None:
        self.registry = registry
        self._folder = registry.folder / name
        self._commands = self._folder / "bin"
        self._commands.mkdir(parents=True)
        name, password = registry.admin
        self._env = env | {
            "PATH": f"{self._commands}{os.pathsep}{env['PATH']}",
            "REGISTRY_USER": name,
            "REGISTRY_PASSWORD": password,
        }

    def command(self, name: str, script: str) -> None:
        """Make a command, for programs such as xargs do not see functions."""
        path = self._commands / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def __call__(self, line: str, *, login: Login | None = None) -> Said:
        """Run a line without a terminal."""
        if login is not None:
            line = self.as_somebody(line, login)
        done = subprocess.run(
            self._line(line),
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            start_new_session=True,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def typed(self, line: str, *answers: str) -> Said:
        """Run a line at a terminal, with somebody who answers each question in turn."""
        return at_terminal(self._line(line), answers, self._env)

    @abstractmethod
    def as_somebody(self, line: str, login: Login) -> str:
        """The line with somebody else's credentials."""

    def _line(self, line: str) -> list[str]:
        return [*self._prefix(), require_command("bash"), "-c", line]

    def _prefix(self) -> list[str]:
        return []


class Azure(Shell):
    """The real az. It is told where the registry is by what `ullage az-env` prints."""

    def __init__(self, registry: Registry) -> None:
        az = require_command("az")
        env = client_environment(
            registry.folder / "az", {"AZURE_CORE_NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "300"}
        )
        super().__init__(registry, "az", env)
        self._hosts = self._folder / "hosts"
        self._hosts.write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {HOST}\n")
        # Somebody who is not logged in to Azure says who they are with each command.
        self.command(
            "az",
            f". {shlex.quote(str(self._folder / 'env'))}\n"
            f'exec {az} "$@" --username "$REGISTRY_USER" --password "$REGISTRY_PASSWORD"',
        )
        (self._folder / "env").write_text(self._told())

    def as_somebody(self, line: str, login: Login) -> str:
        password = shlex.quote(login.password)
        return f"REGISTRY_USER={login.name} REGISTRY_PASSWORD={password} {line}"

    def _told(self) -> str:
        server = self.registry.server
        arguments = ("--name", NAME, "--url", server.host, "--data", server.data)
        done = run_ullage("az-env", *arguments, env={"HOME": str(self._folder)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _prefix(self) -> list[str]:
        return [] if _resolves() else _with_hosts(self._hosts)


class Ours(Shell):
    """`ullage` in az's place, by a command of two lines; somebody has logged in once."""

    def __init__(self, registry: Registry) -> None:
        home = registry.folder / "ullage"
        environment = client_environment(
            home, {"PYTHONPATH": command_environment()["PYTHONPATH"], "COLUMNS": "300"}
        )
        super().__init__(registry, "ullage", environment)
        self.command("ullage", f'exec {sys.executable} -m ullage "$@"')
        self.command("az", 'shift\nexec ullage "$@"')
        ca_file = shlex.quote(str(registry.authority))
        done = self(
            f"ullage login {NAME} --url https://{registry.login_server} --ca-file {ca_file} "
            '--username "$REGISTRY_USER" --password-stdin <<<"$REGISTRY_PASSWORD"'
        )
        assert done.code == 0, done.err

    def as_somebody(self, line: str, login: Login) -> str:
        return f"{line} --username {login.name} --password {shlex.quote(login.password)}"


def at_terminal(command: list[str], answers: tuple[str, ...], env: dict[str, str]) -> Said:
    """Run a command on a pty, and type an answer whenever it has asked something."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, env)
    left, screen, seen = list(answers), b"", 0
    while piece := _read(terminal):
        screen += piece
        if left and screen.endswith(b": ") and len(screen) > seen:
            # The terminal shows what is typed, and that is no question.
            seen = len(screen) + len(left[0]) + 2
            os.write(terminal, f"{left.pop(0)}\n".encode())
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert not left, f"never asked for {left}: {screen.decode()}"
    return Said(os.waitstatus_to_exitcode(status), screen.decode().replace("\r\n", "\n"))


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Nobody holds the other end any more.
        return b""


# --- the name -------------------------------------------------------------------------------------


def _with_hosts(hosts: Path) -> list[str]:
    """What to put before a command so that it, and nobody else, sees this /etc/hosts."""
    return [*_namespace(), 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]


@cache
def _namespace() -> tuple[str, ...]:
    unshare = require_command("unshare")
    for more in ((), ("--map-root-user",)):
        command = (unshare, "--mount", *more, require_command("sh"), "-c")
        script = "mount --bind /etc/hosts /etc/hosts"
        if subprocess.run([*command, script], capture_output=True).returncode == 0:
            return command
    unavailable(f"{HOST} is not known here, and nobody may say so in a mount namespace")


@cache
def _resolves() -> bool:
    import socket

    try:
        return socket.gethostbyname(HOST) == "127.0.0.1"
    except OSError:
        return False

"""What `ullage serve` prints once it answers: its address, and commands to paste."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ullage import __version__
from ullage.config.settings import Settings

if TYPE_CHECKING:
    from ullage.wiring.serving import Started

# The hosts of a server that listens on every address; a client needs another one.
_EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104 - only printed
_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")


def greeting(settings: Settings, started: Started) -> Iterator[str]:
    """Line by line: the address, a first password, and what to do next."""
    storage = "" if not settings.storage else f", blobs in {settings.storage}"
    yield f"Ullage {__version__} serves {started.url}, data in {settings.data}{storage}"
    url = settings.external_url or _reachable(started)
    if started.admin_password is not None:
        yield f"Made the account admin with the password {started.admin_password}"
        another = f"{_command()} user password --name admin{_where(settings)}"
        yield f"It is not shown again; `{another}` makes another."
    if started.metrics is not None:
        yield f"Figures for Prometheus, without credentials: {started.metrics}"
    if started.authority is not None:
        yield from _trusting(url, started.authority)
    if settings.ui:
        yield f"The space it takes, and what could go: {url}/ui/"
    yield "Try next:"
    yield from _next(settings, started, url)


def _trusting(url: str, authority: Path) -> Iterator[str]:
    path = shlex.quote(str(authority))
    docker = f"/etc/docker/certs.d/{_host(url)}/ca.crt"
    root = "" if os.geteuid() == 0 else "sudo "
    yield "To trust its certificate:"
    yield f"  export REQUESTS_CA_BUNDLE={path} SSL_CERT_FILE={path}"
    yield f"  {root}install -D -m 644 {path} {docker}"


def _next(settings: Settings, started: Started, url: str) -> Iterator[str]:
    host = _host(url)
    curl = "curl"
    if started.account is not None:
        name = shlex.quote(started.account)
        yield f"  docker login -u {name} {host}"
        curl += f" -u {name}"
    if started.authority is not None:
        curl += f" --cacert {_spelled(started.authority)}"
    yield f"  docker tag IMAGE {host}/IMAGE && docker push {host}/IMAGE"
    yield f"  {curl} {url}/v2/_catalog"
    stored = f" --storage {shlex.quote(settings.storage)}" if settings.storage else ""
    yield f"  {_command()} check{_where(settings)}{stored}"


def _reachable(started: Started) -> str:
    """The URL by which this machine's clients can check the certificate, if there is one."""
    scheme, _, address = started.url.partition("://")
    host, _, port = address.rpartition(":")
    if started.certified is not None:
        host = started.certified
    elif host in _EVERYWHERE:
        host = "localhost"
    return f"{scheme}://{host}:{port}"


def _host(url: str) -> str:
    return url.partition("://")[2]


def _where(settings: Settings) -> str:
    """The flags that name this registry to another command."""
    flags = f" --data {_spelled(settings.data)}"
    if settings.database:
        secret = _PASSWORD.search(settings.database)
        flags += " --database "
        # A password is not for the screen.
        flags += '"$ULLAGE_DATABASE"' if secret else shlex.quote(settings.database)
    return flags


def _command() -> str:
    """How this very command is spelled from here."""
    return _spelled(Path(sys.argv[0])) if sys.argv[0].endswith("ullage") else "ullage"


def _spelled(path: Path) -> str:
    try:
        return shlex.quote(str(path.absolute().relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))

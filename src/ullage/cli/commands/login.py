"""`ullage login` and `ullage logout`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ullage.cli.client import saved
from ullage.cli.client.address import Origin, resolve
from ullage.cli.client.registry import RemoteRegistry
from ullage.cli.client.saved import Login
from ullage.cli.shell import flags
from ullage.cli.shell.commands import Command, Flag
from ullage.cli.shell.console import ask, ask_password
from ullage.cli.shell.errors import Failure, Unauthenticated
from ullage.cli.shell.invocation import Invocation, Result

if TYPE_CHECKING:
    from ullage.cli.client.connection import Connections


def login(invocation: Invocation) -> Result | None:
    """Check credentials against the registry, and only then save them."""
    given = invocation.given
    name = _name(invocation)
    origin = resolve(given.url, {}) if given.url else invocation.origin(name)
    connections = invocation.connections(origin, invocation.ca_file())
    if not _asks_for_credentials(invocation, connections):
        _save_name(name, given.url, connections.origin)
        invocation.console.note(
            f"{connections.origin.url} asks for no credentials: nothing to log in to."
        )
        return None
    chosen = Login(given.username or _asked("Username: "), _password(invocation))
    RemoteRegistry(connections, invocation.console, chosen, (), _nobody_else).get("/v2/")
    found = connections.origin
    _save_name(name, given.url, found)
    if found.scheme == "http" and not found.loopback:
        invocation.console.warning(
            f"{found.url} is not encrypted: the password was readable on the way."
        )
    ca_file = given.ca_file or os.environ.get("ULLAGE_CA_FILE")
    trusted = str(Path(ca_file).absolute()) if ca_file else None
    path = saved.save_login(found.address, saved.SavedLogin(chosen, found.url, trusted))
    if path:
        invocation.console.warning(
            f"There is no keyring here. The password is in {path}, for you to read."
        )
    invocation.console.note("Login Succeeded")
    return None


def logout(invocation: Invocation) -> None:
    address = invocation.origin(_name(invocation)).address
    if not saved.forget_login(address):
        raise Failure(f"Nobody is logged in to {address}.")
    invocation.console.note(f"Removed the login of {address}.")


def _name(invocation: Invocation) -> str | None:
    given = invocation.given
    if given.positional_name and given.registry and given.positional_name != given.registry:
        raise Failure("Give the registry once: as NAME or with --name.")
    chosen: str | None = given.positional_name or given.registry
    return chosen


def _save_name(name: str | None, url: str | None, origin: Origin) -> None:
    if name and url:
        saved.change_defaults({f"{saved.REGISTRIES}{name}": origin.url})


def _asks_for_credentials(invocation: Invocation, connections: Connections) -> bool:
    answer = connections.request("GET", "/v2/")
    if answer.status not in (200, 401):
        raise Failure(f"{connections.origin.url}/v2/ answers {answer.status}; is it a registry?")
    return answer.status == 401


def _nobody_else() -> Login:
    raise Unauthenticated("The registry does not accept these credentials.")


def _asked(question: str) -> str:
    if not sys.stdin.isatty():
        raise Failure("Please specify both username and password in non-interactive mode.")
    return ask(question)


def _password(invocation: Invocation) -> str:
    given = invocation.given
    if given.password_stdin:
        if given.password is not None:
            raise Failure("Give the password once: with --password or --password-stdin.")
        return sys.stdin.readline().rstrip("\r\n")
    if given.password is not None:
        invocation.console.warning(
            "A password on the command line is for all on this machine to see. "
            "Use --password-stdin."
        )
        return str(given.password)
    if not sys.stdin.isatty():
        raise Failure("Please specify both username and password in non-interactive mode.")
    return ask_password()


_NAME = Flag(("positional_name",), "The registry, as for --name.")

COMMANDS = (
    Command(
        ("login",),
        "Log in to a registry: check credentials and save them.",
        (
            _NAME,
            Flag(("--url",), "Where it answers: NAME stands for this from now on.", "URL"),
            Flag(("--password-stdin",), "Read the password from standard input."),
            *flags.REGISTRY,
        ),
        login,
        more="The password goes into the system's keyring where there is one, else into a file "
        "that only you can read. Asks for what is not given. A --ca-file is remembered, too.",
        examples=(
            "ullage login 127.0.0.1:5000 -u admin --ca-file ullage-data/tls/ca.pem",
            "ullage login myregistry --url https://registry.example.com -u ci --password-stdin",
        ),
    ),
    Command(
        ("logout",),
        "Forget the login of a registry.",
        (_NAME, *flags.REGISTRY[:2]),
        logout,
        examples=("ullage logout 127.0.0.1:5000",),
    ),
)

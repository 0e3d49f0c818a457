"""One use of a command: what was given, and everything a command needs to do its work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ullage.cli.client import saved
from ullage.cli.client.address import DEFAULT, Origin, resolve
from ullage.cli.client.saved import Login
from ullage.cli.shell.console import Console, ask, ask_password
from ullage.cli.shell.errors import Failure, Unauthenticated

if TYPE_CHECKING:
    from ullage.cli.client.connection import Connections
    from ullage.cli.client.registry import RemoteRegistry

CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Result:
    """What a command prints on stdout.

    `data` is az's shape. `rows` are for tables, when they show more or less than `data`; `text` is
    printed as it is, whatever the format.
    """

    data: Any = None
    rows: Callable[[], Sequence[Mapping[str, Any]]] | None = None
    text: str | None = None
    # A command may have a result and yet not have done all.
    code: int = 0
    # What there is to say when it is printed: below a long table nothing scrolls away.
    after: Sequence[str] = ()


@dataclass
class Invocation:
    given: argparse.Namespace
    console: Console
    # Whether a table is printed, and not all that the result has: json, or what a query selects.
    table: bool = False
    # Not read before a command needs them.
    _defaults: dict[str, str] | None = field(default=None)
    _opened: list[Connections] = field(default_factory=list)

    @property
    def defaults(self) -> dict[str, str]:
        """What `ullage config` has set."""
        if self._defaults is None:
            self._defaults = saved.defaults()
        return self._defaults

    @property
    def saved_registries(self) -> dict[str, str]:
        return saved.named_registries(self.defaults)

    def origin(self, name: str | None = None) -> Origin:
        """The registry that is meant: as given, else the default's."""
        given: str | None = name or getattr(self.given, "registry", None)
        chosen = given or os.environ.get("ULLAGE_REGISTRY") or self.defaults.get("registry")
        return resolve(
            chosen or DEFAULT, self.saved_registries, getattr(self.given, "suffix", None)
        )

    def registry(self, *scope: str, name: str | None = None) -> RemoteRegistry:
        """The registry, to be asked with these rights (azure.md section 3.1)."""
        from ullage.cli.client.registry import RemoteRegistry

        origin, login, ca_file = self._identity(self.origin(name))
        connections = self.connections(origin, self.ca_file(ca_file))
        return RemoteRegistry(
            connections, self.console, login, scope, lambda: self._ask_login(origin)
        )

    def connections(self, origin: Origin, ca_file: str | None) -> Connections:
        """Connections that are closed when the command is done."""
        from ullage.cli.client.connection import Connections

        opened = Connections(origin, ca_file, self.console)
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        for connections in self._opened:
            connections.close()

    def ca_file(self, saved_file: str | None = None) -> str | None:
        """The authorities to trust, those in `saved_file` by default; None for the system's."""
        return (
            getattr(self.given, "ca_file", None)
            or os.environ.get("ULLAGE_CA_FILE")
            or saved_file
            or self.defaults.get("ca_file")
            or os.environ.get("REQUESTS_CA_BUNDLE")
            or None
        )

    def _identity(self, origin: Origin) -> tuple[Origin, Login | None, str | None]:
        """Scheme, login and file of authorities: -u and -p, else what was saved.

        Raises Failure for half of it, with az's text.
        """
        username: str | None = getattr(self.given, "username", None)
        password: str | None = getattr(self.given, "password", None)
        if username:
            # Another login; where the registry is and whom to trust stay as they were saved.
            place = saved.place_of(origin.address)
            scheme = place.url.partition("://")[0] if place is not None else ""
            login = Login(username, password if password is not None else _password())
            known = Origin(origin.scheme or scheme, origin.host, origin.port)
            return known, login, place.ca_file if place is not None else None
        if password:
            raise Failure("Please also specify username if password is specified.")
        found = saved.login_of(origin.address)
        if found is None:
            return origin, None, None
        scheme = found.url.partition("://")[0]
        if origin.scheme == "http" and scheme == "https":
            # The password would be readable on the way.
            self.console.warning(
                f"The login saved for {found.url} is not used: '{origin.url}' is not encrypted."
            )
            return origin, None, None
        known = Origin(origin.scheme or scheme, origin.host, origin.port)
        return known, found.login, found.ca_file

    def _ask_login(self, origin: Origin) -> Login:
        """azure.md section 1.9. Raises Unauthenticated."""
        if not sys.stdin.isatty():
            raise Unauthenticated(
                "Unable to authenticate using AAD or admin login credentials. Please specify both "
                "username and password in non-interactive mode.",
                hint=f"Or save them once: ullage login {origin.address} -u USERNAME",
            )
        return Login(ask("Username: "), ask_password())


def without_none(**values: Any) -> dict[str, Any]:
    """The values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def _password() -> str:
    if not sys.stdin.isatty():
        raise Failure("Please specify both username and password in non-interactive mode.")
    return ask_password()

"""Which registry a command is about: files of this machine, or one that is asked over HTTP.

A flag decides, then ULLAGE_REGISTRY, then a data folder that is there, then what `ullage config`
has. Each command says on stderr which it is: to change the accounts of another registry than was
meant is worse than not to change any.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ullage.cli.local.settings import setting_flags, settings_of
from ullage.cli.shell import flags
from ullage.cli.shell.commands import Flag
from ullage.cli.shell.errors import Failure, Refused
from ullage.cli.shell.invocation import Invocation
from ullage.config.settings import Settings

_FILES = ("data", "database", "storage", "config")
_LOGIN = ("suffix", "username", "password", "ca_file")
_PASSWORD = re.compile(r"//([^/@:]*):[^/@]*@")
REGISTRY = (
    Flag(
        ("--registry", "-r"),
        "A registry to ask over HTTP instead, as an administrator: host[:port], a URL, or a saved "
        "name. [ULLAGE_REGISTRY]",
        "REGISTRY",
        dest="registry",
    ),
    *flags.ACCESS,
)
# Where the registry is that a command works on.
PLACE = (*setting_flags("data", "database"), *REGISTRY)


class Place(Protocol):
    def manage(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """The result of one of the commands in ullage.accounts.commands. Raises Failure."""

    def check(self, mode: str, *, repair: bool) -> dict[str, Any]:
        """The report of a check, as JSON has it. Raises Failure."""

    def status(self) -> dict[str, Any]:
        """One look at it, as JSON has it. Raises Failure."""


def place_of(invocation: Invocation, *, usual: bool = False) -> Place:
    """The registry that is meant, after saying so. Raises Failure.

    `usual`: where nothing says which, and there are no files here, the default registry.
    """
    given = invocation.given
    files = [f"--{name}" for name in _FILES if getattr(given, name, None) is not None]
    if given.registry is not None and files:
        raise Failure(
            f"{files[0]} means files of this machine, --registry a registry that is asked over "
            "HTTP: give one of the two",
            2,
        )
    asked = given.registry is not None or (bool(os.environ.get("ULLAGE_REGISTRY")) and not files)
    if asked:
        return _Asked(invocation)
    settings = settings_of(given)
    if (
        not files
        and not settings.has_registry
        and (usual or invocation.defaults.get("registry"))
        and not settings.unreadable
    ):
        return _Asked(invocation)
    for name in _LOGIN:
        if getattr(given, name, None) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise Failure(f"{flag} is for a registry that is asked over HTTP: add --registry", 2)
    if not files and not settings.has_registry:
        raise Failure(
            settings.unreadable
            or f"there is no registry in {settings.data}; name its folder with --data, or one to "
            "ask over HTTP with --registry"
        )
    return _Files(invocation, settings)


class _Asked:
    """A registry over HTTP."""

    def __init__(self, invocation: Invocation) -> None:
        from ullage.cli.client.administration import SCOPE

        self._invocation = invocation
        self._registry = invocation.registry(SCOPE)
        origin = self._registry.origin
        invocation.console.note(f"registry: {origin.url if origin.scheme else origin.address}")

    def manage(self, command: str, arguments: Mapping[str, Any]) -> Any:
        from ullage.cli.client.administration import carry_out

        with _administrators():
            return carry_out(self._registry, command, arguments)

    def check(self, mode: str, *, repair: bool) -> dict[str, Any]:
        body = {"mode": mode, "repair": repair}
        with _administrators():
            found: dict[str, Any] = self._registry.post("/api/v1/check", body).data or {}
        for error in found.get("errors", ()):
            # It had begun to answer when it found out.
            raise Failure(str(error["message"]))
        return found

    def status(self) -> dict[str, Any]:
        from ullage.cli.client.scopes import READ_ALL

        found: dict[str, Any] = self._invocation.registry(READ_ALL).get("/api/v1/status").data
        return found


@contextmanager
def _administrators() -> Iterator[None]:
    """Say what is missing where a known login is refused, which the registry's text does not."""
    try:
        yield
    except Refused as error:
        if error.status != 401:
            raise
        raise Refused("this takes an administrator; the login that was used is none", 401) from None


class _Files:
    """A registry's data folder and database: asked of the server that owns them, else opened."""

    def __init__(self, invocation: Invocation, settings: Settings) -> None:
        self._settings = settings
        self._invocation = invocation

    def manage(self, command: str, arguments: Mapping[str, Any]) -> Any:
        from ullage.wiring import commands, opening

        try:
            opening.require_registry(self._settings)
            self._say()
            request = {"command": command, "arguments": dict(arguments)}
            answer = commands.manage(self._settings, request)
        except (opening.CannotStart, OSError) as error:
            raise Failure(str(error)) from None
        if "error" in answer:
            missing = answer.get("code") in ("ACCOUNT_UNKNOWN", "BLOB_UPLOAD_UNKNOWN")
            raise Refused(str(answer["error"]), 404 if missing else 400)
        return answer.get("result")

    def check(self, mode: str, *, repair: bool) -> dict[str, Any]:
        from ullage.wiring import commands, opening

        report: dict[str, Any] = {}
        try:
            opening.require_registry(self._settings)
            self._say()
            for line in commands.check(self._settings, {"mode": mode, "repair": repair}):
                report = line
        except (opening.CannotStart, OSError) as error:
            raise Failure(str(error)) from None
        if "exit_code" not in report:
            raise Failure(str(report.get("error", "the check did not finish")))
        return report

    def status(self) -> dict[str, Any]:
        from ullage.wiring import commands, opening

        try:
            opening.require_registry(self._settings)
            self._say()
            return commands.status(self._settings)
        except (opening.CannotStart, OSError) as error:
            raise Failure(str(error)) from None

    def _say(self) -> None:
        database = _PASSWORD.sub(r"//\1:***@", self._settings.database)
        with_database = f" with {database}" if database else ""
        folder = _spelled(self._settings.data)
        self._invocation.console.note(f"registry: {folder}{with_database} on this machine")


def _spelled(path: Path) -> str:
    try:
        return f"./{path.relative_to(Path.cwd())}"
    except ValueError:
        return str(path)

"""Which registry a name means: a URL, host[:port], or a saved name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ullage.cli.shell.errors import Failure

DEFAULT = "http://127.0.0.1:5000"
_HOST = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a registry answers. `scheme` is "" while it is unknown."""

    scheme: str
    host: str
    port: int | None

    @property
    def address(self) -> str:
        """`host[:port]`: what image names start with, and az's login server."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme or 'https'}://{self.address}"

    @property
    def loopback(self) -> bool:
        name = self.host.strip("[]").lower()
        return (
            name in ("localhost", "::1") or name.endswith(".localhost") or name.startswith("127.")
        )

    def port_for(self, scheme: str) -> int:
        return self.port or _PORTS[scheme]


def resolve(name: str, saved: Mapping[str, str], suffix: str | None = None) -> Origin:
    """The registry that `name` means, first of all among the names in `saved`.

    az's `--suffix S` makes `name` into `name-S`. Raises Failure for what can be no registry.
    """
    if suffix:
        name = f"{name}-{suffix}"
    name = saved.get(name, name)
    scheme, separator, rest = name.partition("://")
    if not separator:
        scheme, rest = "", name
    found = _HOST.fullmatch(rest.removesuffix("/") if separator else rest)
    port = int(found["port"]) if found and found["port"] else None
    if not found or scheme not in ("", *_PORTS) or not (port is None or 0 < port < 65536):
        raise Failure(
            f"'{name}' is no registry: expected host:port, http://host:port, https://host:port, "
            "or a name saved with `ullage login` or `ullage config`."
        )
    if port == _PORTS.get(scheme):
        port = None
    return Origin(scheme, found["host"].lower(), port)


def split_specifier(specifier: str, saved: Mapping[str, str]) -> tuple[str, str] | None:
    """`127.0.0.1:5000/team/app:v1` as registry and the rest; None if there is no registry in it."""
    for scheme in ("https://", "http://"):
        if specifier.startswith(scheme):
            registry, slash, rest = specifier.removeprefix(scheme).partition("/")
            return (scheme + registry, rest) if slash and registry and rest else None
    registry, slash, rest = specifier.partition("/")
    known = "." in registry or ":" in registry or registry == "localhost" or registry in saved
    return (registry, rest) if slash and rest and known else None

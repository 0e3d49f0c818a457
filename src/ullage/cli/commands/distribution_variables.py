"""Which variables of an environment are CNCF distribution's: `REGISTRY_HTTP_ADDR` and so on."""

from __future__ import annotations

from collections.abc import Iterable

# Names the file that the variables are laid over.
FILE_VARIABLE = "REGISTRY_CONFIGURATION_PATH"
# What its configuration has at the top. Kubernetes gives pods REGISTRY_PORT, REGISTRY_SERVICE_HOST
# and such for a service with the name `registry`, which are none of these.
_SECTIONS = frozenset(
    {
        *("version", "log", "loglevel", "storage", "auth", "middleware", "reporting", "http"),
        *("notifications", "redis", "health", "catalog", "proxy", "compatibility", "validation"),
        "policy",
    }
)


def path_of(variable: str) -> tuple[str, ...]:
    """The key that a variable sets, as ("http", "addr"); () if it is none of distribution's."""
    prefix, _, rest = variable.partition("_")
    path = tuple(rest.lower().split("_"))
    return path if prefix == "REGISTRY" and path[0] in _SECTIONS else ()


def distribution_variables(environment: Iterable[str]) -> list[str]:
    """The names that distribution would read."""
    return sorted(name for name in environment if name == FILE_VARIABLE or path_of(name))

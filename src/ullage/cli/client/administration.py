"""Managing a registry over HTTP, with the names that its own machine has for the same things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

from ullage.cli.client.registry import RemoteRegistry

SCOPE = "registry:admin:*"
_AUDIT = "/api/v1/audit"
_DEFAULT_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class _Request:
    """A route. What is in its path or its query comes from the arguments; the rest is its body.

    `member` is the list in its answer.
    """

    method: str
    path: str
    member: str = ""


_USER, _TOKEN = "/api/v1/users/{name}", "/api/v1/tokens/{name}"
_SCOPE_MAP = "/api/v1/scope-maps/{name}"
_REQUESTS = {
    "user create": _Request("POST", "/api/v1/users"),
    "user list": _Request("GET", "/api/v1/users", "users"),
    "user show": _Request("GET", _USER),
    "user update": _Request("PATCH", _USER),
    "user password": _Request("POST", f"{_USER}/password"),
    "user delete": _Request("DELETE", _USER),
    "token create": _Request("POST", "/api/v1/tokens"),
    "token list": _Request("GET", "/api/v1/tokens", "tokens"),
    "token show": _Request("GET", _TOKEN),
    "token update": _Request("PATCH", _TOKEN),
    "token delete": _Request("DELETE", _TOKEN),
    "token credential generate": _Request("POST", f"{_TOKEN}/credentials"),
    "token credential delete": _Request("DELETE", f"{_TOKEN}/credentials"),
    "scope-map create": _Request("POST", "/api/v1/scope-maps"),
    "scope-map list": _Request("GET", "/api/v1/scope-maps", "scopeMaps"),
    "scope-map show": _Request("GET", _SCOPE_MAP),
    "scope-map update": _Request("PATCH", _SCOPE_MAP),
    "scope-map delete": _Request("DELETE", _SCOPE_MAP),
    "key list": _Request("GET", "/api/v1/keys", "keys"),
    "key rotate": _Request("POST", "/api/v1/keys"),
    "key revoke": _Request("DELETE", "/api/v1/keys/{kid}", "keys"),
    "upload list": _Request("GET", "/api/v1/uploads", "uploads"),
    "upload cancel": _Request("DELETE", "/api/v1/uploads", "uploads"),
}
# Lists in a query have one value each time.
_IN_QUERY = {"slots": "slot"}


def carry_out(registry: RemoteRegistry, command: str, arguments: Mapping[str, Any]) -> Any:
    """The result of `ullage <command>`, as the registry's own machine has it. Raises Refused."""
    if command == "audit list":
        return _entries(registry, arguments)
    request = _REQUESTS[command]
    path = request.path
    left = dict(arguments)
    for name in ("name", "kid"):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", quote(str(left.pop(name)), safe=""))
    if request.method in ("GET", "DELETE"):
        named = {_IN_QUERY.get(name, name): value for name, value in left.items()}
        path += f"?{urlencode(named, doseq=True)}" if named else ""
        ask = registry.get if request.method == "GET" else registry.delete
        data = ask(path).data
    else:
        body = {_camel(name): value for name, value in left.items()}
        change = registry.post if request.method == "POST" else registry.patch
        data = change(path, body).data
    return data[request.member] if request.member else data


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _entries(registry: RemoteRegistry, arguments: Mapping[str, Any]) -> list[Any]:
    filters = {name: str(value) for name, value in arguments.items() if name != "top"}
    top = max(1, int(arguments.get("top", _DEFAULT_ENTRIES)))
    return list(islice(registry.pages(_AUDIT, "entries", top, filters=filters), top))

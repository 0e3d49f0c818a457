"""From a method and a raw path to a handler.

Routing looks at the path as it came, before percent-decoding: an encoded slash never moves a
boundary. A repository name contains slashes, so paths are read from their right end.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from starlette.responses import Response

from ullage.server.http.errors import MethodNotAllowed, NotFound
from ullage.server.http.operations import Operation
from ullage.server.http.parameters import decoded_path
from ullage.server.http.permissions import Permission

# Paths whose routes are remembered; each may be MAX_PATH_BYTES long.
ROUTES_KEPT = 512


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the protocol: the specification's endpoint id, a method, a path, a handler."""

    endpoint: str
    method: str
    path: str
    handler: Callable[..., Awaitable[Response]]
    # There is no default: a route without one is an error.
    permission: Permission
    operation: Operation | None = None


class Router:
    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        by_path: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            by_path.setdefault(route.path, {})[route.method] = route
        for methods in by_path.values():
            # RFC 9110, section 9.1: GET and HEAD are always supported; the server drops the body.
            if "GET" in methods:
                methods.setdefault("HEAD", methods["GET"])
        # The longer path first: /v2/{name}/blobs/uploads/{session} is no blob named "uploads".
        self._table = [
            (_marker(path), _pattern(path), methods)
            for path, methods in sorted(by_path.items(), key=lambda item: -item[0].count("/"))
        ]

        # Clients request the same few paths again and again.
        self.find = lru_cache(ROUTES_KEPT)(self._find)

    def looks(self) -> tuple[int, int]:
        """How many requests' routes were remembered, and how many were not."""
        hits, misses, *_ = self.find.cache_info()
        return hits, misses

    def _find(self, method: str, raw_path: str) -> tuple[Route, tuple[str, ...]]:
        """The route and the decoded parts of the path. Raises NotFound, MethodNotAllowed."""
        for marker, pattern, methods in self._table:
            # Finding a word costs a tenth of matching a pattern.
            match = pattern.fullmatch(raw_path) if marker in raw_path else None
            if match is None:
                continue
            route = methods.get(method)
            if route is None:
                raise MethodNotAllowed(method[:20], ", ".join(sorted(methods)))
            return route, tuple(map(decoded_path, match.groups()))
        raise NotFound


def _marker(path: str) -> str:
    """The longest part of a path that is in every address of it."""
    return max(re.split(r"\{\w+\}", path.removesuffix("/")), key=len)


def _pattern(path: str) -> re.Pattern[str]:
    """`{name}` matches any number of path components, every other placeholder exactly one."""
    pattern = re.sub(r"\{(\w+)\}", lambda match: "(.+)" if match[1] == "name" else "([^/]+)", path)
    # "/v2" and ".../uploads" are what people type.
    return re.compile(pattern + "?" if path.endswith("/") else pattern)

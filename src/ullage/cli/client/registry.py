"""A registry over HTTP: logging in, what its answers mean, page after page.

azure.md sections 1.2, 2.2 and 3.2. Credentials are sent only after a challenge, and only to the
registry itself.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from ullage.cli.client.address import Origin
from ullage.cli.client.saved import Login
from ullage.cli.shell.console import Console, Level
from ullage.cli.shell.errors import Failure, Refused, Unauthenticated

if TYPE_CHECKING:
    from ullage.cli.client.connection import Connections, HttpAnswer

PAGE = 100
# azure.md section 3.1: with `*/*`, because some registries refuse an index to a client that
# accepts only images.
MANIFEST_TYPES = ", ".join(
    (
        "*/*",
        "application/vnd.cncf.oras.artifact.manifest.v1+json",
        "application/vnd.oci.artifact.manifest.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"')
# What passes by itself: too many requests, and a server or a proxy that is just starting.
_PASSING = (429, 502, 503, 504)
_ATTEMPTS = 4
_LONGEST_WAIT = 30.0
_SUCCESS = (200, 201, 202, 204)
_NO_DETAILS = {
    401: "Authentication required.",
    404: "The requested data does not exist.",
    405: "This operation is not supported.",
    409: "Failed to request data due to a conflict.",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """`data` is the JSON of the answer, None if there is none."""

    data: Any
    next_page: dict[str, str] | None
    raw: bytes


class RemoteRegistry:
    """Asks with the rights in `scope`, as `login` or anonymously.

    `ask_login` is called at most once, when the registry requires a login; it may raise
    Unauthenticated. One RemoteRegistry may be used from several threads.
    """

    def __init__(
        self,
        connections: Connections,
        console: Console,
        login: Login | None,
        scope: tuple[str, ...],
        ask_login: Callable[[], Login],
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._connections = connections
        self._console = console
        self._login = login
        self._scope = scope
        self._ask_login = ask_login
        self._wait = wait
        self._lock = threading.Lock()
        self._authorization: str | None = None

    @property
    def origin(self) -> Origin:
        return self._connections.origin

    @property
    def _stamped(self) -> bool:
        """Whether errors say when they were, and by which id the registry's log has them."""
        return self._console.level is Level.DEBUG

    # -- asking

    def get(
        self, path: str, query: Mapping[str, str | None] | None = None, *, manifest: bool = False
    ) -> Reply:
        """GET. Raises Refused with az's text, Unauthenticated, Unreachable."""
        headers = {"Accept": MANIFEST_TYPES} if manifest else {}
        return self._reply("GET", _target(path, query), headers, None)

    def patch(self, path: str, content: Mapping[str, Any]) -> Reply:
        headers = {"Content-Type": "application/json"}
        return self._reply("PATCH", path, headers, json.dumps(content).encode())

    def put(self, path: str, content: Mapping[str, Any]) -> Reply:
        headers = {"Content-Type": "application/json"}
        return self._reply("PUT", path, headers, json.dumps(content).encode())

    def post(
        self,
        path: str,
        content: Mapping[str, Any],
        timeout_seconds: float | None = None,
        query: Mapping[str, str | None] | None = None,
    ) -> Reply:
        headers = {"Content-Type": "application/json"}
        body = json.dumps(content).encode()
        return self._reply("POST", _target(path, query), headers, body, timeout_seconds)

    def delete(self, path: str) -> Reply:
        """DELETE. That it is gone already is fine if our own first try may have been it."""
        return self._reply("DELETE", path, {}, None)

    def pages(
        self,
        path: str,
        key: str,
        top: int | None = None,
        orderby: str | None = None,
        filters: Mapping[str, str] | None = None,
    ) -> Iterator[Any]:
        """The members of a list, all or the first `top`, page by page (azure.md section 2.2)."""
        query: dict[str, str | None] = {"n": str(PAGE), "orderby": orderby, **(filters or {})}
        left = top
        while True:
            if left is not None:
                query["n"] = str(min(left, PAGE))
            reply = self.get(path, query)
            items = _member(reply.data, key, path) or []
            yield from items if left is None else items[:left]
            if left is not None:
                left -= len(items)
            if reply.next_page is None or (left is not None and left <= 0):
                return
            if reply.next_page == query:
                raise Failure(f"{path}: the registry names the same page as the next one.")
            query = dict(reply.next_page)

    # -- what came of it

    def _reply(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_seconds: float | None = None,
    ) -> Reply:
        answer, repeated = self._answer(method, target, headers, body, timeout_seconds)
        if answer.status in _SUCCESS:
            return Reply(_json(answer), _next_page(answer), answer.body)
        if method == "DELETE" and answer.status == 404 and repeated:
            return Reply(None, None, b"")
        raise Refused(error_text(answer, method, stamped=self._stamped), answer.status)

    def _answer(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_seconds: float | None,
    ) -> tuple[HttpAnswer, bool]:
        """The answer, after logging in or waiting if need be; and whether a try may have worked."""
        repeated = False
        attempt = 0
        while True:
            attempt += 1
            used = self._authorization
            sent = {**headers, **({"Authorization": used} if used else {})}
            answer = self._send(method, target, sent, body, timeout_seconds)
            repeated = repeated or answer.repeated
            last = attempt >= _ATTEMPTS
            if answer.status == 401 and not last and self._log_in(answer, used):
                continue
            if answer.status not in _PASSING or last:
                return answer, repeated
            # What a proxy calls a time-out may have been carried out behind it.
            repeated = True
            pause = _pause(answer, attempt)
            self._console.info(f"{answer.status}; trying again in {pause:g} s")
            self._wait(pause)

    def _send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_seconds: float | None,
    ) -> HttpAnswer:
        if timeout_seconds is None:
            return self._connections.request(method, target, headers, body)
        return self._connections.request(method, target, headers, body, timeout_seconds)

    # -- logging in

    def _log_in(self, refusal: HttpAnswer, used: str | None) -> bool:
        """Whether there are new credentials to send. Raises Unauthenticated."""
        with self._lock:
            if self._authorization != used:
                return True  # Another thread was faster.
            challenge = refusal.headers.get("www-authenticate", "")
            kind, _, rest = challenge.partition(" ")
            parameters = dict(_PARAMETER.findall(rest))
            if used is not None and parameters.get("error") == "insufficient_scope":
                if self._login is not None:
                    return False  # The login is known, and lacks the right.
            elif used is not None and used.startswith("Basic "):
                raise self._denied(refusal)
            if used is not None and self._login is None:
                self._login = self._ask_login()
            if kind.lower() == "bearer":
                self._authorization = f"Bearer {self._token(parameters)}"
            elif kind.lower() == "basic":
                if self._login is None:
                    self._login = self._ask_login()
                pair = f"{self._login.username}:{self._login.password}"
                self._authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
            else:
                return False
            return self._authorization != used

    def _token(self, parameters: Mapping[str, str]) -> str:
        """azure.md section 1.2: the password grant; without credentials, an anonymous token."""
        # Asked of the registry itself, whatever host the realm names: a password goes nowhere else.
        path = urlsplit(parameters.get("realm", "")).path or "/oauth2/token"
        while True:
            form = {
                "service": parameters.get("service", self.origin.address),
                "grant_type": "password",
                "scope": " ".join(self._scope),
            }
            if self._login is not None:
                form |= {"username": self._login.username, "password": self._login.password}
            answer = self._connections.request(
                "POST",
                path,
                {"Content-Type": "application/x-www-form-urlencoded"},
                urlencode(form).encode(),
            )
            data = _json(answer)
            if answer.status == 200 and isinstance(data, dict) and data.get("access_token"):
                return str(data["access_token"])
            if self._login is not None:
                raise self._denied(answer)
            # There are no anonymous tokens here.
            self._login = self._ask_login()

    def _denied(self, answer: HttpAnswer) -> Unauthenticated:
        """What the registry says itself, such as that there were too many wrong passwords."""
        said = error_text(answer, "POST", stamped=self._stamped)
        return Unauthenticated(
            f"Access to registry '{self.origin.address}' was denied. "
            f"Response code: {answer.status}. {said}",
            hint=f"Log in again: ullage login {self.origin.address}",
        )


def repository_path(repository: str) -> str:
    """azure.md section 3.1: slashes as they are, everything that would change the path encoded."""
    return f"/acr/v1/{quote(repository, safe='/')}"


def tags_path(repository: str, tag: str = "") -> str:
    path = f"{repository_path(repository)}/_tags"
    return f"{path}/{quote(tag, safe='')}" if tag else path


def manifests_path(repository: str, digest: str = "") -> str:
    path = f"{repository_path(repository)}/_manifests"
    return f"{path}/{quote(digest, safe=':')}" if digest else path


def deleted_path(repository: str, what: str, digest: str = "") -> str:
    """azure.md section 2.9; `what` is `_manifests` or `_tags`."""
    path = f"/acr/v1/_deleted/{quote(repository, safe='/')}/{what}"
    return f"{path}/{quote(digest, safe=':')}" if digest else path


def content_path(repository: str, reference: str) -> str:
    return f"/v2/{quote(repository, safe='/')}/manifests/{quote(reference, safe=':')}"


def referrers_path(repository: str, digest: str) -> str:
    return f"/v2/{quote(repository, safe='/')}/referrers/{quote(digest, safe=':')}"


def error_text(answer: HttpAnswer, method: str, *, stamped: bool = False) -> str:
    """azure.md section 3.2: the registry's message, and which image it is about.

    `stamped` adds the time and the id that the registry's log has, as az always does.
    """
    text = _NO_DETAILS.get(answer.status, f"Could not {method.lower()} the requested data.")
    data = _json(answer)
    errors = data.get("errors") if isinstance(data, dict) else None
    first = errors[0] if isinstance(errors, list) and errors else None
    if isinstance(first, dict) and first.get("message"):
        detail = first.get("detail")
        text = f"Error: {first['message']}"
        if isinstance(detail, str) and detail:
            text += f" Detail: {detail}"
        elif isinstance(detail, dict):
            text = _with_name(text, detail)
    elif isinstance(data, dict) and isinstance(data.get("error_description"), str):
        text = str(data["error_description"])
    if not text.endswith("."):
        text += "."
    correlation = answer.headers.get("x-ms-correlation-request-id")
    if not stamped or not correlation:
        return text
    return f"{_timestamp()} {text} Correlation ID: {correlation}."


def _with_name(text: str, detail: Mapping[str, Any]) -> str:
    """The message with the image that it is about, unless that is in it."""
    known = {str(key).lower(): str(value) for key, value in detail.items()}
    name = known.get("name") or known.get("repository")
    tag, digest = known.get("tag"), known.get("digest") or known.get("revision")
    if not name:
        return text
    image = f"{name}:{tag}" if tag else f"{name}@{digest}" if digest else name
    parts = [part for part in (name, tag or digest) if part]
    return text if all(part in text for part in parts) else f"{text.rstrip('.')}: {image}"


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _target(path: str, query: Mapping[str, str | None] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _json(answer: HttpAnswer) -> Any:
    try:
        return json.loads(answer.body) if answer.body else None
    except ValueError:
        return None


def _member(data: Any, key: str, path: str) -> Any:
    if not isinstance(data, dict) or key not in data:
        raise Failure(f"{path}: the answer has no '{key}'; is this a registry?")
    return data[key]


def _next_page(answer: HttpAnswer) -> dict[str, str] | None:
    """The query of the next page: our own path is kept, as az does."""
    link = answer.headers.get("link", "")
    start, end = link.find("<"), link.find(">")
    if start < 0 or end < start:
        return None
    query = link[start + 1 : end].partition("?")[2]
    pairs = (part.partition("=") for part in query.split("&") if part)
    return {name: unquote(value) for name, _, value in pairs}


def _pause(answer: HttpAnswer, attempt: int) -> float:
    try:
        asked = float(answer.headers.get("retry-after", ""))
    except ValueError:
        asked = 0.25 * 2**attempt
    return min(max(asked, 0.1), _LONGEST_WAIT)

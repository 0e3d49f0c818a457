"""HTTP to one registry: kept-alive connections, one for each thread; nothing else is decided here.

The standard library's client, because every command pays for what it imports before it can ask
anything (figures: docs/design/dependencies.md).
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from ullage import __version__
from ullage.cli.client.address import Origin
from ullage.cli.shell.console import Console
from ullage.cli.shell.errors import Failure, Unreachable

TIMEOUT_SECONDS = 300
# What an answer may be: the longest list page is far below; nothing may fill the memory.
MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    # Sent twice, because a kept connection broke: the first may have been carried out.
    repeated: bool = False


class Connections:
    """Requests to `origin`, from any number of threads.

    `ca_file` has the authorities to trust: as with az, it replaces the system's.
    """

    def __init__(self, origin: Origin, ca_file: str | None, console: Console) -> None:
        self.origin = origin
        self._ca_file = ca_file
        self._console = console
        self._here = threading.local()
        self._trust: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        # Of all threads, for closing them in the end.
        self._opened: list[http.client.HTTPConnection] = []

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> HttpAnswer:
        """One request and its whole answer, whatever its status. Raises Unreachable.

        A kept connection that the other side has closed meanwhile is opened again once.
        """
        sent = {"User-Agent": f"ullage/{__version__}", "Accept": "*/*", **(headers or {})}
        began = time.monotonic()
        connection, fresh = self._connection(timeout_seconds)
        try:
            answer = self._exchange(connection, method, target, sent, body)
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            if fresh or isinstance(error, TimeoutError):
                raise self._unreachable(error) from error
            # Over a new connection, which is not tried again.
            again = self.request(method, target, sent, body, timeout_seconds)
            return replace(again, repeated=True)
        self._log(method, target, sent, answer, time.monotonic() - began)
        return answer

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        sent: Mapping[str, str],
        body: bytes | None,
    ) -> HttpAnswer:
        connection.request(method, self._target(target), body, dict(sent))
        response = connection.getresponse()
        content = response.read(MAX_ANSWER_BYTES + 1)
        if len(content) > MAX_ANSWER_BYTES:
            self._drop()
            raise Failure(f"{method} {target}: the answer is longer than {MAX_ANSWER_BYTES} bytes.")
        found = {name.lower(): value for name, value in response.getheaders()}
        return HttpAnswer(response.status, found, content)

    def close(self) -> None:
        """Close the connections of all threads; none may be in use."""
        for connection in self._opened:
            connection.close()
        self._opened.clear()

    def _drop(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._here, "connection", None)
        if connection is not None:
            self._here.connection = None
            connection.close()
            self._opened.remove(connection)

    # -- opening

    def _connection(self, timeout_seconds: float) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection, and whether it is new."""
        kept: http.client.HTTPConnection | None = getattr(self._here, "connection", None)
        if kept is not None and kept.sock is not None:
            kept.sock.settimeout(timeout_seconds)
            return kept, False
        with self._lock:
            if not self.origin.scheme:
                self.origin = self._with_scheme(self.origin)
        opened = self._made(timeout_seconds)
        self._here.connection = opened
        self._opened.append(opened)
        return opened, True

    def _made(self, timeout_seconds: float) -> http.client.HTTPConnection:
        host, scheme = self.origin.host.strip("[]"), self.origin.scheme
        port = self.origin.port_for(scheme)
        proxy = _proxy(scheme, host)
        connection: http.client.HTTPConnection
        at = proxy or (host, port)
        if scheme == "https":
            trust = self._trusted()
            connection = http.client.HTTPSConnection(*at, timeout=timeout_seconds, context=trust)
            if proxy:
                connection.set_tunnel(host, port)
        else:
            connection = http.client.HTTPConnection(*at, timeout=timeout_seconds)
        if not proxy:
            connection._create_connection = _connect  # type: ignore[attr-defined]
        return connection

    def _target(self, target: str) -> str:
        plain_proxy = self.origin.scheme == "http" and _proxy("http", self.origin.host.strip("[]"))
        return f"{self.origin.url}{target}" if plain_proxy else target

    def _trusted(self) -> ssl.SSLContext:
        if self._trust is None:
            try:
                self._trust = ssl.create_default_context(cafile=self._ca_file)
            except FileNotFoundError as error:
                raise Failure(
                    f"{self._ca_file}: there is no such file; name another with --ca-file."
                ) from error
            except (OSError, ssl.SSLError) as error:
                raise Failure(
                    f"{self._ca_file}: is no file with certificates in PEM form."
                ) from error
        return self._trust

    def _with_scheme(self, origin: Origin) -> Origin:
        """HTTPS; only on this machine may it also be HTTP, where a server speaks no TLS."""
        https = Origin("https", origin.host, origin.port)
        if not origin.loopback:
            return https
        address = (origin.host.strip("[]"), origin.port_for("https"))
        plain = Origin("http", origin.host, origin.port)
        try:
            _shake_hands(address)
        except (ssl.SSLError, ConnectionResetError):
            return plain
        except OSError:
            return plain if origin.port is None else https
        return https

    # -- messages

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"Could not connect to the registry login server '{self.origin.address}'. Please "
            f"verify that the registry exists and the URL '{self.origin.url}/v2/' is reachable "
            "from your environment.",
            hint=self._reason(error),
        )

    def _reason(self, error: Exception) -> str:
        plain = self.origin.scheme == "http" and not isinstance(error, TimeoutError)
        address = (self.origin.host.strip("[]"), self.origin.port_for("http")) if plain else None
        if address is not None and _speaks_tls(address):
            return f"It speaks TLS there: use https://{self.origin.address}"
        return _reason(error, self._ca_file, self.origin)

    def _log(
        self,
        method: str,
        target: str,
        sent: Mapping[str, str],
        answer: HttpAnswer,
        seconds: float,
    ) -> None:
        self._console.info(
            f"{method} {self.origin.url}{target}: {answer.status} in {seconds * 1000:.0f} ms"
        )
        for name, value in sent.items():
            self._console.debug(f"> {name}: {'(hidden)' if name == 'Authorization' else value}")
        for name, value in answer.headers.items():
            self._console.debug(f"< {name}: {value}")


def _connect(
    address: tuple[str, int],
    timeout: float | None = None,
    source_address: tuple[str, int] | None = None,
) -> socket.socket:
    """As socket.create_connection. RFC 6761: names below localhost are this machine's.

    Where the resolver does not know that (glibc without systemd's), we do.
    """
    try:
        made = socket.create_connection(address, timeout, source_address)
    except socket.gaierror:
        if not address[0].lower().endswith(".localhost"):
            raise
        made = socket.create_connection(("127.0.0.1", address[1]), timeout, source_address)
    # Small requests and small answers: waiting to fill a packet only costs.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _shake_hands(address: tuple[str, int]) -> None:
    """Begin to speak TLS. Raises ssl.SSLError, OSError."""
    with _connect(address, 5) as bare:
        # Any certificate will do for finding out; the connection itself checks it.
        curious = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        curious.check_hostname = False
        curious.verify_mode = ssl.CERT_NONE
        curious.wrap_socket(bare, server_hostname=address[0]).close()


def _speaks_tls(address: tuple[str, int]) -> bool:
    try:
        _shake_hands(address)
    except OSError:
        return False
    return True


def _proxy(scheme: str, host: str) -> tuple[str, int] | None:
    """As HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; never for this machine."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass

    found = getproxies()
    url = found.get(scheme) or found.get("all")
    local = Origin(scheme, host, None).loopback
    if not url or local or proxy_bypass(host):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return (parts.hostname, parts.port or 80) if parts.hostname else None


def _reason(error: Exception, ca_file: str | None, origin: Origin) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = f"by {ca_file}" if ca_file else "here"
        return (
            f"Its certificate is not trusted {trusted}: {error.verify_message}. For a registry "
            "with --tls self-signed, name its authority: --ca-file ullage-data/tls/ca.pem (or "
            "ULLAGE_CA_FILE)."
        )
    if isinstance(error, ssl.SSLError):
        return f"It does not speak TLS there ({error.reason}): use http://{origin.address}"
    if isinstance(error, TimeoutError):
        return "It does not answer in time."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    return f"{type(error).__name__}: {error}"

"""From credentials to a principal, and the challenge for callers without one.

Each route declares a `Permission`; this is the one place that compares it with what the caller may
do. Missing rights are always a 401, never a 403, and look the same whether a repository
exists or not.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from ullage.accounts.authenticator import WITHOUT_ACCOUNTS, Authenticator, LoginFailed, TokenInvalid
from ullage.accounts.directory import Account
from ullage.authorization import Principal
from ullage.oci.errors import Denied, Unauthorized
from ullage.server.http.origins import OwnOrigins
from ullage.server.http.permissions import Audience, Permission
from ullage.server.http.proxies import SCHEME
from ullage.server.http.request import Request
from ullage.server.http.threads import FairThreads, Line, Threads

MAX_CREDENTIAL_BYTES = 16 * 1024
_NO_ACCOUNTS = (
    "this registry asks for no accounts, so it takes none from its callers: they would be "
    "administrators on the day that it does. Use the command line with --data on its machine"
)
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)


class Challenge(Unauthorized):
    """401, with what the client has to do about it."""

    message = (
        "authentication required, visit https://aka.ms/acr/authorization for more information."
    )

    def __init__(
        self, missing: list[dict[str, str]], scope: str | None, error: str | None = None
    ) -> None:
        super().__init__(missing, self.message)
        self.scope = scope
        self.error = error


class BasicRefused(LoginFailed):
    """Credentials that cannot be read."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Without accounts `authenticator` is None: then every caller may do everything."""

    authenticator: Authenticator | None
    threads: Threads
    # Where passwords are checked, which is slow and must not delay other callers.
    slow_threads: FairThreads
    # Where no caller is asked for credentials, the requests that are taken all the same.
    origins: OwnOrigins
    # The URL clients know this registry by; "" to believe the Host header's name.
    external_url: str = ""
    # "https" where TLS is ours; behind a proxy with TLS its header says so.
    scheme: str = "http"

    async def admit(self, request: Request, permission: Permission, name: str | None) -> Principal:
        """The caller, if permitted. Raises Challenge, TooManyRequests, Denied."""
        if self.authenticator is None:
            return self.admit_anybody(request, permission)
        if permission.audience is Audience.ANYBODY:
            return self.authenticator.anonymous
        scope = permission.scope(name)
        principal = await self._identify(request, permission, name, scope)
        missing = permission.missing(principal, name)
        if missing:
            known = principal.subject != "" or "authorization" in request.headers
            raise Challenge(missing, scope, "insufficient_scope" if known else None)
        return principal

    def admit_anybody(self, request: Request, permission: Permission) -> Principal:
        """The caller, where there is no authenticator. Raises Denied."""
        self.origins.require(request)
        if permission.takes_accounts:
            raise Denied(message=_NO_ACCOUNTS)
        return WITHOUT_ACCOUNTS

    async def _identify(
        self, request: Request, permission: Permission, name: str | None, scope: str | None
    ) -> Principal:
        authenticator = self.authenticator
        assert authenticator is not None
        header = request.headers.get("authorization")
        anonymous = authenticator.anonymous
        if header is None:
            # Even a registry with anonymous pulls answers its base with a challenge: from it az and
            # Azure's SDK learn the address of the token endpoint.
            if permission.audience is Audience.KNOWN:
                raise Challenge([], None)
            return anonymous
        kind, _, credential = header.partition(" ")
        missing = permission.missing(anonymous, name)
        if kind.lower() == "basic" and len(header) <= MAX_CREDENTIAL_BYTES:
            try:
                user, password = basic_credentials(credential)
                address = request.client.host if request.client else ""
                account = await self.login(user, password, address)
            except LoginFailed:
                raise Challenge(missing, scope) from None
            return account.principal
        if kind.lower() == "bearer" and len(header) <= MAX_CREDENTIAL_BYTES:
            credential = credential.strip()
            known = authenticator.remembered(credential)
            if known is not None:
                return known
            try:
                return await self.threads.submit(authenticator.bearer, credential)
            except TokenInvalid:
                raise Challenge(missing, scope, "invalid_token") from None
        raise Challenge(missing, scope, "invalid_token")

    async def login(self, name: str, password: str, address: str) -> Account:
        """The account of this name and password. Raises LoginFailed, TooManyRequests."""
        authenticator = self.authenticator
        assert authenticator is not None
        known = await self.threads.submit(authenticator.quick_login, name, password, address)
        if known is not None:
            return known
        line = Line(authenticator.party(address, name), name)
        return await self.slow_threads.submit(line, authenticator.login, name, password, address)

    def challenge_header(self, request: Request, challenge: Challenge) -> str:
        """RFC 6750, in the one form all clients read: commas without a space behind them.

        A space there crashes az and Azure's SDK.
        """
        base = self.base_url(request)
        parts = [f'realm="{base}/oauth2/token"', f'service="{base.partition("://")[2]}"']
        if challenge.scope is not None:
            parts.append(f'scope="{challenge.scope}"')
        if challenge.error is not None:
            parts.append(f'error="{challenge.error}"')
        return "Bearer " + ",".join(parts)

    def base_url(self, request: Request) -> str:
        """Where clients reach this registry: as configured, or by a well-formed Host header."""
        if self.external_url:
            return self.external_url
        host = request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            server = request.scope.get("server") or ("localhost", None)
            host = f"{server[0]}:{server[1]}" if server[1] else str(server[0])
        return f"{self._scheme_of(request)}://{host}"

    def _scheme_of(self, request: Request) -> str:
        """ "https" where TLS is ours, or a proxy's in front of us by what the header says.

        From a sender that is no trusted proxy the header only ever upgrades: a forged one misleads
        its own sender, and to nothing that is readable on the way.
        """
        told: str | None = request.scope.get(SCHEME)
        if told is not None:
            return told
        forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0]
        return "https" if forwarded.strip().lower() == "https" else self.scheme


def basic_credentials(text: str) -> tuple[str, str]:
    """RFC 7617: name and password; az writes Latin-1, others UTF-8. Raises LoginFailed."""
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise BasicRefused from None
    try:
        decoded = raw.decode("utf-8")
    except UnicodeDecodeError:
        decoded = raw.decode("latin-1")
    name, colon, password = decoded.partition(":")
    if not colon or not name or "\0" in decoded:
        raise BasicRefused
    return name, password

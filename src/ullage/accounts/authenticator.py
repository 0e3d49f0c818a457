"""Authentication: passwords and tokens into principals.

An account is a user or a repository-scoped token. What it may do is read from the database when it
shows a password. A token says what it was asked for; its account is looked up every few seconds and
says what is allowed. So a right taken from an account is taken from its tokens long before they
expire, and a token is short however many rights there are.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ullage.accounts.directory import Account, Accounts, credential_of
from ullage.accounts.jwt import (
    ANONYMOUS,
    IDENTITY_LIFETIME,
    MAX_TOKEN_BYTES,
    REFRESH_LIFETIME,
    TokenInvalid,
)
from ullage.accounts.passwords import RememberedLogins, hash_password, new_password
from ullage.accounts.shared_counts import open_counts
from ullage.accounts.signing_keys import TokenKeys
from ullage.accounts.throttle import Throttle, network_of
from ullage.authorization import (
    ADMINISTRATION,
    WITHOUT_ACCOUNTS,
    Action,
    Grant,
    Principal,
    ScopeInvalid,
    ScopeRequest,
    granted,
    grants_of,
    merged,
    narrowed,
)
from ullage.oci.errors import TooManyRequests
from ullage.registry.context import Registry

# az and docker send this user name together with a refresh token as the password.
NULL_USER = "00000000-0000-0000-0000-000000000000"
# How long a token is good before its account is looked up again.
RECHECK_SECONDS = 10.0
MAX_REMEMBERED_TOKENS = 4096
MAX_NAME = 255
# A token has two, so that one can be replaced while the other is in use.
MOST_PASSWORDS = 2


class LoginFailed(Exception):
    """Wrong name or password, a disabled or expired account: the client is not told which."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    token: str
    lifetime: timedelta
    issued_at: datetime


class Authenticator:
    def __init__(
        self,
        registry: Registry,
        found_in: Accounts,
        *,
        anonymous_pull: Sequence[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`anonymous_pull` are the patterns of repositories that all may pull, accounts too."""
        self._registry = registry
        self._accounts = found_in
        self._monotonic = monotonic
        self._throttle = Throttle(open_counts(registry, monotonic))
        self._logins = RememberedLogins()
        # Verified when there is no such account, so that this takes as long as a wrong password.
        self._dummy = hash_password(new_password())
        self.anonymous = Principal(
            "",
            merged(Grant(pattern, frozenset({Action.PULL})) for pattern in anonymous_pull),
            listing=False,
            listing_deleted=False,
        )
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[Principal, float, int]] = OrderedDict()
        # How often a token was known, and how often it was not.
        self._hits = self._misses = 0
        # How often all of it was forgotten.
        self._forgotten = 0
        self.keys = TokenKeys(registry, monotonic)

    # --- passwords --------------------------------------------------------------------------------

    def quick_login(self, name: str, password: str, address: str) -> Account | None:
        """Whose password this is, if that can be said without long computing. May block.

        That is when it was right a moment ago. The null user's password is a refresh token, which
        never takes long. Raises LoginFailed, TooManyRequests.
        """
        if name == NULL_USER:
            return self.account_of_refresh_token(password)
        if not 0 < len(name) <= MAX_NAME:
            # No account has that name, and none has to be remembered.
            raise LoginFailed
        self._require_patience(address, name, password)
        account = self._find(name, self._registry.now())
        known = self._known_match(name, account.hashes, password) if account else None
        if account is None or known is None:
            return None
        self._throttle.succeeded(address, name)
        self._registry.tallies.add("logins", "password", "ok")
        return replace(account, credential=credential_of(known))

    def party(self, address: str, name: str) -> str:
        """The queue of a login: that of its address, or one of its own if it is trusted."""
        network = network_of(address)
        return f"{network} {name}" if self._throttle.trusts(address, name) else network

    def login(self, name: str, password: str, address: str) -> Account:
        """Whose password this is. Blocking and slow: never on the event loop.

        Raises LoginFailed, TooManyRequests.
        """
        known = self.quick_login(name, password, address)
        if known is not None:
            return known
        account = self._find(name, self._registry.now())
        matched = self._matched(name, account.hashes if account else (), password)
        if matched is None or account is None:
            self._throttle.failed(address, name, password)
            self._registry.tallies.add("logins", "password", "wrong")
            raise LoginFailed
        self._throttle.succeeded(address, name)
        self._registry.tallies.add("logins", "password", "ok")
        return replace(account, credential=credential_of(matched))

    def _find(self, name: str, now: datetime) -> Account | None:
        """The account that can log in: with its own rights, and with those that all have."""
        account = self._accounts.find(name, now)
        everyones = self.anonymous.grants
        if account is None or not everyones:
            return account
        own = account.principal
        return replace(account, principal=replace(own, grants=merged(own.grants + everyones)))

    def _require_patience(self, address: str, name: str, password: str) -> None:
        wait = self._throttle.wait(address, name, password)
        if wait > 0:
            seconds = math.ceil(wait)
            self._registry.tallies.add("logins", "password", "throttled")
            raise TooManyRequests(
                {"retry_after_seconds": seconds},
                "too many failed logins for this account from this address; try again in "
                f"{seconds} s",
                retry_after=seconds,
            )

    def _known_match(self, name: str, hashes: tuple[str, ...], password: str) -> str | None:
        now = self._monotonic()
        matches = (h for h in hashes if self._logins.knows(name, h, password, now))
        return next(matches, None)

    def _matched(self, name: str, hashes: tuple[str, ...], password: str) -> str | None:
        """The one of the hashes that the password matches.

        A wrong one takes as long whether there is no such account, a user with one password, or a
        token with two.
        """
        dummies = (self._dummy,) * (MOST_PASSWORDS - len(hashes))
        for hashed in (*hashes, *dummies):
            if self._accounts.verify(hashed, password) and hashed in hashes:
                self._logins.remember(name, hashed, password, self._monotonic())
                return hashed
        return None

    # --- tokens -----------------------------------------------------------------------------------

    def access_token(self, account: Account | None, scopes: Sequence[ScopeRequest]) -> IssuedToken:
        """A token with what is both asked for and allowed; None stands for anonymous.

        Raises ScopeInvalid if that is more than fits into a header.
        """
        principal = account.principal if account else self.anonymous
        now = self._registry.now()
        access = granted(principal, scopes)
        bearer = account.bearer if account else ANONYMOUS
        token, lifetime = self.keys.authority().access_token(bearer, access, now)
        if len(token) > MAX_TOKEN_BYTES:
            raise ScopeInvalid(
                message="the scopes are too long for one token: ask for fewer at a time, "
                "or for all repositories with repository:*:pull"
            )
        return IssuedToken(token, lifetime, now)

    def refresh_token(self, account: Account, lifetime: timedelta = REFRESH_LIFETIME) -> str:
        """A refresh token; one bought with another ends when that one would have."""
        now = self._registry.now()
        return self.keys.authority().refresh_token(
            account.bearer, now, lifetime, account.refresh_until
        )

    def identity_token(self, account: Account) -> str:
        """What docker keeps instead of the password: a refresh token that lasts for months."""
        return self.refresh_token(account, IDENTITY_LIFETIME)

    def account_of_refresh_token(self, token: str) -> Account:
        """The account of this refresh token, if it still stands. Raises LoginFailed."""
        now = self._registry.now()
        try:
            claims = self.keys.verified(token, "refresh", now)
        except TokenInvalid:
            raise LoginFailed from None
        account = self._standing(claims, now)
        if account is None:
            raise LoginFailed
        return replace(account, refresh_until=int(claims["exp"]))

    def _standing(self, claims: dict[str, Any], now: datetime) -> Account | None:
        """The account a token was made for, if its password would still get one."""
        subject = claims["sub"]
        account = self._as_of(subject, claims["gen"], now) if isinstance(subject, str) else None
        if account is None:
            return None
        for credential in map(credential_of, account.hashes):
            if credential == claims.get("cred"):
                return replace(account, credential=credential)
        return None

    def account_as_of(self, subject: str, generation: int) -> Account | None:
        """The account as it is now, if nothing has ended what it was given at this generation."""
        return self._as_of(subject, generation, self._registry.now())

    def _as_of(self, subject: str, generation: object, now: datetime) -> Account | None:
        account = self._find(subject, now)
        return account if account is not None and account.generation == generation else None

    def remembered(self, token: str) -> Principal | None:
        """Whose access token this is, if that was asked a moment ago. Never blocks."""
        with self._lock:
            known = self._known.get(_fingerprint(token))
            valid = known is not None and self._monotonic() < known[1]
            self._hits += valid
            self._misses += not valid
        if known is None or not valid:
            return None
        return known[0] if self._registry.now().timestamp() < known[2] else None

    def looks(self) -> tuple[int, int]:
        """How often `remembered` knew the token, and how often it did not."""
        return self._hits, self._misses

    def bearer(self, token: str) -> Principal:
        """Whose access token this is and what it allows. May block. Raises TokenInvalid."""
        now = self._registry.now()
        forgotten = self._forgotten
        claims = self.keys.verified(token, "access", now)
        principal = self._principal(claims, now)
        with self._lock:
            if forgotten != self._forgotten:
                # It was looked up before a change, and may not say what holds since.
                return principal
            self._known[_fingerprint(token)] = (
                principal,
                self._monotonic() + RECHECK_SECONDS,
                int(claims["exp"]),
            )
            while len(self._known) > MAX_REMEMBERED_TOKENS:
                self._known.popitem(last=False)
        return principal

    def _principal(self, claims: dict[str, Any], now: datetime) -> Principal:
        subject = claims["sub"]
        if not isinstance(subject, str):
            raise TokenInvalid("sub is no string")
        asked, of_registry = grants_of(claims.get("access"))
        # What takes no token at all is not refused to a token that asked for something else.
        everyones = self.anonymous.grants
        if subject == "":
            return self.anonymous
        account = self._standing(claims, now)
        if account is None:
            raise TokenInvalid("the account or its password was changed or disabled")
        may = account.principal
        listing = "catalog" in of_registry and may.listing
        listing_deleted = "deleted_catalog" in of_registry and may.listing
        return Principal(
            subject,
            merged(narrowed(may.grants, asked) + everyones),
            admin=may.admin and ADMINISTRATION in of_registry,
            listing=listing,
            # A catalog token says that it may list; the account says which names it may read.
            listed=may.readable() if listing else (),
            listing_deleted=listing_deleted,
            listed_deleted=may.readable_deleted() if listing_deleted else (),
        )

    def unrestricted_account(self) -> str | None:
        """The name of an account that may do everything with repositories, if there is one."""
        return self._accounts.unrestricted_account()

    def look_again(self) -> None:
        """Accounts or keys were changed: forget all that was looked up before."""
        try:
            self.keys.reload()
        finally:
            # Last: what is looked up from here on is checked with the keys that are left.
            with self._lock:
                self._forgotten += 1
                self._known.clear()


def _fingerprint(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


__all__ = ["WITHOUT_ACCOUNTS", "Authenticator", "IssuedToken", "LoginFailed", "TokenInvalid"]

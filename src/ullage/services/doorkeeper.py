"""Who is asking: passwords and tokens into principals.

An account is a user or a repository-scoped token. What it may do is read from the database when it
shows a password. A token says what it was asked for; its account is looked up every few seconds and
says what is allowed, so that whatever is taken from an account is taken from its tokens long before
they expire, and a token is small however many rights there are.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Protocol

from ullage.metadata import accounts
from ullage.metadata.database import Transaction
from ullage.oci.errors import TooManyRequests
from ullage.services import Registry
from ullage.services.access import (
    NOBODY_ASKS,
    Action,
    Grant,
    Principal,
    ScopeInvalid,
    ScopeRequest,
    everything,
    granted,
    grants_of,
    merged,
    narrowed,
    parse_scope_map_action,
)
from ullage.services.passwords import RememberedLogins, hash_password, new_password, verify_password
from ullage.services.throttle import Throttle, network_of
from ullage.services.tokens import (
    ANONYMOUS,
    IDENTITY_LIFETIME,
    KEY_OVERLAP,
    MAX_TOKEN_BYTES,
    REFRESH_LIFETIME,
    Bearer,
    KeyUnknown,
    SigningKey,
    TokenAuthority,
    TokenInvalid,
    new_signing_key,
)

log = logging.getLogger(__name__)

# az and docker send this user name together with a refresh token as the password.
NULL_USER = "00000000-0000-0000-0000-000000000000"
# How long a token goes on without its account being looked up again.
RECHECK_SECONDS = 10.0
KEYS_RECHECK_SECONDS = 60.0
KEYS_PAUSE_SECONDS = 1.0
MAX_REMEMBERED_TOKENS = 4096
MAX_NAME = 255
# A token has two, so that one can be replaced while the other is in use.
MOST_PASSWORDS = 2


class LoginFailed(Exception):
    """Wrong name or password, a disabled or expired account: nobody is told which."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who can log in, and what they may do now."""

    principal: Principal
    # A password must match one of these (argon2id or, from an htpasswd file, bcrypt).
    hashes: tuple[str, ...]
    generation: int
    # Which password was shown, once one was.
    credential: str = ""
    # For somebody who showed a refresh token: when that one ends, in seconds since 1970.
    refresh_until: int | None = None

    @property
    def bearer(self) -> Bearer:
        return Bearer(self.principal.subject, self.generation, self.credential)


class Accounts(Protocol):
    """Where accounts are looked up: the database, or an htpasswd file."""

    def find(self, name: str, now: datetime) -> Account | None:
        """The account if it exists, is enabled and has not expired."""

    def verify(self, hashed: str, password: str) -> bool: ...

    def somebody(self) -> str | None:
        """The name of an account that may do everything with repositories, if there is one."""


class StoredAccounts:
    """Users and tokens in the registry's database."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def find(self, name: str, now: datetime) -> Account | None:
        return self._registry.read(lambda tx: _find_account(tx, name, now))

    def verify(self, hashed: str, password: str) -> bool:
        return verify_password(hashed, password)

    def somebody(self) -> str | None:
        users = [user for user in self._registry.read(accounts.list_users) if user.enabled]
        return next((user.name for user in users if user.admin), None)


def _find_account(tx: Transaction, name: str, now: datetime) -> Account | None:
    user = accounts.find_user(tx, name)
    if user is not None:
        if not user.enabled:
            return None
        if user.admin:
            principal = everything(name, admin=True)
        else:
            principal = Principal(name, _scope_map_grants(tx, user.scope_map))
        return Account(principal, (user.password_hash,), user.generation)
    token = accounts.find_token(tx, name)
    if token is None or not token.enabled or _over(token.expires_at, now):
        return None
    hashes = tuple(
        password.password_hash
        for password in accounts.token_passwords(tx, name)
        if not _over(password.expires_at, now)
    )
    principal = Principal(name, _scope_map_grants(tx, token.scope_map))
    return Account(principal, hashes, token.generation)


def _scope_map_grants(tx: Transaction, name: str | None) -> tuple[Grant, ...]:
    scope_map = accounts.find_scope_map(tx, name) if name else None
    return _grants(scope_map.actions) if scope_map else ()


@lru_cache(maxsize=256)
def _grants(actions: tuple[str, ...]) -> tuple[Grant, ...]:
    """The same few scope maps are read with every password that is shown."""
    return merged(map(parse_scope_map_action, actions))


def _over(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is not None and expires_at <= now


@dataclass(frozen=True, slots=True)
class IssuedToken:
    token: str
    lifetime: timedelta
    issued_at: datetime


class Doorkeeper:
    def __init__(
        self,
        registry: Registry,
        found_in: Accounts,
        *,
        anonymous_pull: Sequence[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`anonymous_pull` are the patterns of repositories that anybody may pull."""
        self._registry = registry
        self._accounts = found_in
        self._monotonic = monotonic
        self._throttle = Throttle(monotonic)
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
        self._audience = registry.write(lambda tx: accounts.registry_id(tx, registry.fresh_key()))
        self._authority = self._load_keys()
        self._keys_read = monotonic()

    # --- passwords --------------------------------------------------------------------------------

    def quick_login(self, name: str, password: str, address: str) -> Account | None:
        """Whose password this is, if that can be said without computing for long. May block.

        That is when it was right a moment ago. The null user's password is a refresh token, which
        never takes long. Raises LoginFailed, TooManyRequests.
        """
        if name == NULL_USER:
            return self.account_of_refresh_token(password)
        if len(name) > MAX_NAME:
            # Nobody is called that, and nobody has to remember it.
            raise LoginFailed
        self._require_patience(address, name)
        account = self._accounts.find(name, self._registry.now())
        known = self._known_match(name, account.hashes, password) if account else None
        if account is None or known is None:
            return None
        self._throttle.succeeded(address, name)
        return replace(account, credential=_credential(known))

    def party(self, address: str, name: str) -> str:
        """With whom a login waits in line: everybody at its address, or nobody if it is trusted."""
        network = network_of(address)
        return f"{network} {name}" if self._throttle.trusts(address, name) else network

    def login(self, name: str, password: str, address: str) -> Account:
        """Whose password this is. Blocking and slow: never on the event loop.

        Raises LoginFailed, TooManyRequests.
        """
        known = self.quick_login(name, password, address)
        if known is not None:
            return known
        account = self._accounts.find(name, self._registry.now())
        matched = self._matched(name, account.hashes if account else (), password)
        if matched is None or account is None:
            self._throttle.failed(address, name)
            raise LoginFailed
        self._throttle.succeeded(address, name)
        return replace(account, credential=_credential(matched))

    def _require_patience(self, address: str, name: str) -> None:
        wait = self._throttle.wait(address, name)
        if wait > 0:
            raise TooManyRequests(
                {"retry_after_seconds": round(wait, 1)},
                "too many failed logins for this account from this address; wait and try again",
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
        """A token with what is both asked for and allowed; None asks as anonymous.

        Raises ScopeInvalid if that is more than fits into a header.
        """
        principal = account.principal if account else self.anonymous
        now = self._registry.now()
        access = granted(principal, scopes)
        if principal.admin:
            access.append({"type": "registry", "name": "admin", "actions": ["*"]})
        bearer = account.bearer if account else ANONYMOUS
        token, lifetime = self._keys().access_token(bearer, access, now)
        if len(token) > MAX_TOKEN_BYTES:
            raise ScopeInvalid(
                message="the scopes are too long for one token: ask for fewer at a time, "
                "or for all repositories with repository:*:pull"
            )
        return IssuedToken(token, lifetime, now)

    def refresh_token(self, account: Account, lifetime: timedelta = REFRESH_LIFETIME) -> str:
        """A refresh token; one bought with another ends when that one would have."""
        now = self._registry.now()
        return self._keys().refresh_token(account.bearer, now, lifetime, account.refresh_until)

    def identity_token(self, account: Account) -> str:
        """What docker keeps instead of the password: a refresh token that lasts for months."""
        return self.refresh_token(account, IDENTITY_LIFETIME)

    def account_of_refresh_token(self, token: str) -> Account:
        """Who was given this refresh token, if that account still stands. Raises LoginFailed."""
        now = self._registry.now()
        try:
            claims = self._verified(token, "refresh", now)
        except TokenInvalid:
            raise LoginFailed from None
        account = self._standing(claims, now)
        if account is None:
            raise LoginFailed
        return replace(account, refresh_until=int(claims["exp"]))

    def _standing(self, claims: dict[str, Any], now: datetime) -> Account | None:
        """The account a token was made for, if what it was bought with would still buy it."""
        subject = claims["sub"]
        account = self._accounts.find(subject, now) if isinstance(subject, str) else None
        if account is None or account.generation != claims["gen"]:
            return None
        for credential in map(_credential, account.hashes):
            if credential == claims.get("cred"):
                return replace(account, credential=credential)
        return None

    def remembered(self, token: str) -> Principal | None:
        """Whose access token this is, if it was looked at a moment ago. Never blocks."""
        with self._lock:
            known = self._known.get(_fingerprint(token))
        if known is None or self._monotonic() >= known[1]:
            return None
        return known[0] if self._registry.now().timestamp() < known[2] else None

    def bearer(self, token: str) -> Principal:
        """Whose access token this is and what it allows. May block. Raises TokenInvalid."""
        now = self._registry.now()
        claims = self._verified(token, "access", now)
        principal = self._principal(claims, now)
        with self._lock:
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
        asked, catalogs = grants_of(claims.get("access"))
        if subject == "":
            return replace(self.anonymous, grants=narrowed(self.anonymous.grants, asked))
        account = self._standing(claims, now)
        if account is None:
            raise TokenInvalid("the account or its password was changed or disabled")
        may = account.principal
        listing = "catalog" in catalogs and may.listing
        listing_deleted = "deleted_catalog" in catalogs and may.listing
        return Principal(
            subject,
            narrowed(may.grants, asked),
            admin=may.admin,
            listing=listing,
            # A catalog token says that it may list, the account says what: names it may read.
            listed=may.readable() if listing else (),
            listing_deleted=listing_deleted,
            listed_deleted=may.readable_deleted() if listing_deleted else (),
        )

    def somebody(self) -> str | None:
        """The name of an account that may do everything with repositories, if there is one."""
        return self._accounts.somebody()

    def look_again(self) -> None:
        """Accounts or keys were changed: believe nothing that was looked up before."""
        with self._lock:
            self._known.clear()
        self.reload_keys()

    # --- keys -------------------------------------------------------------------------------------

    def _verified(self, token: str, use: str, now: datetime) -> dict[str, Any]:
        try:
            return self._keys().verify(token, use, now)
        except KeyUnknown:
            # Another process may have made it since; but nobody can make us look all the time.
            if self._monotonic() - self._keys_read < KEYS_PAUSE_SECONDS:
                raise
            self.reload_keys()
            return self._authority.verify(token, use, now)

    def _keys(self) -> TokenAuthority:
        if self._monotonic() - self._keys_read > KEYS_RECHECK_SECONDS:
            self.reload_keys()
        return self._authority

    def reload_keys(self) -> None:
        """Take up keys that were made since, by `ullage key rotate` or another process."""
        self._keys_read = self._monotonic()
        self._authority = self._load_keys()

    def _load_keys(self) -> TokenAuthority:
        now = self._registry.now()
        oldest = now - KEY_OVERLAP

        def load(tx: Transaction) -> list[tuple[str, str]]:
            keys = accounts.signing_keys(tx, oldest)
            if not keys:
                first = new_signing_key()
                accounts.add_signing_key(tx, first.kid, first.private_pem, now)
                keys = accounts.signing_keys(tx, oldest)
            return keys

        keys = self._registry.read(lambda tx: accounts.signing_keys(tx, oldest))
        if not keys:
            keys = self._registry.write(load)
        return TokenAuthority(self._audience, [SigningKey(*key) for key in keys])


def _credential(hashed: str) -> str:
    """What tokens call a password by: it says nothing about it, and another one is called else."""
    return hashlib.sha256(hashed.encode()).hexdigest()[:16]


def _fingerprint(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


__all__ = [
    "NOBODY_ASKS",
    "Account",
    "Accounts",
    "Doorkeeper",
    "IssuedToken",
    "LoginFailed",
    "StoredAccounts",
    "TokenInvalid",
]

"""Signed tokens: what a client shows instead of its password.

An access token says what it was asked for and lasts an hour at most; it allows no more than its
account may do at the time. A refresh token says only whose it is; it gets access tokens, and opens
nothing itself. Both name the password that they were given for, and end with it.

They are JWTs (RFC 7519) signed with ES256 by a key of this registry; `kid` is looked up exactly,
and nothing else in a token's header is believed (`jwk`, `jku`, `x5u`, `x5c`: CVE-2025-24976).
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ALGORITHM = "ES256"
ISSUER = "ullage"
ACCESS_LIFETIME = timedelta(minutes=60)
ANONYMOUS_LIFETIME = timedelta(minutes=20)
# As real ACR's (azure.md section 1.5).
REFRESH_LIFETIME = timedelta(hours=3)
# What docker keeps instead of a password, and has no other way to renew.
IDENTITY_LIFETIME = timedelta(days=90)
# For clocks that differ a little.
LEEWAY = timedelta(seconds=60)
# Retired keys verify for as long as any token they signed can live.
KEY_OVERLAP = IDENTITY_LIFETIME + LEEWAY
MAX_TOKEN_BYTES = 16 * 1024
# The end of the year 9999, in seconds; what is later, infinite or no number at all is no time.
_LAST_MOMENT = 253_402_300_799


class TokenInvalid(Exception):
    """The token is not ours, not for this, or not valid now."""


class KeyUnknown(TokenInvalid):
    """No key of ours has the token's `kid`, as far as we have looked."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The account that a token is made for: its name as it is now, and how it logged in."""

    # "" for anonymous.
    subject: str
    # The account's count of what ends all its tokens.
    generation: int = 0
    # Which of its passwords was shown; "" for anonymous.
    credential: str = ""


ANONYMOUS = Bearer("")


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    private_pem: str

    @property
    def private(self) -> ec.EllipticCurvePrivateKey:
        key = serialization.load_pem_private_key(self.private_pem.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key


def new_signing_key() -> SigningKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return SigningKey(secrets.token_hex(8), pem.decode("ascii"))


class TokenAuthority:
    """Signs with the newest key, verifies with all that may still be in use."""

    def __init__(self, audience: str, keys: Sequence[SigningKey]) -> None:
        """`keys` newest first; `audience` is this registry and no other."""
        self._audience = audience
        self._current = keys[0]
        self._signing = keys[0].private
        self._verifying = {key.kid: key.private.public_key() for key in keys}

    def access_token(
        self, bearer: Bearer, access: Sequence[Mapping[str, Any]], now: datetime
    ) -> tuple[str, timedelta]:
        """A token with these rights, and how long it lasts."""
        lifetime = ACCESS_LIFETIME if bearer.subject else ANONYMOUS_LIFETIME
        claims = {"access": list(access), "use": "access"}
        return self._signed(bearer, claims, now, lifetime), lifetime

    def refresh_token(
        self, bearer: Bearer, now: datetime, lifetime: timedelta, until: int | None = None
    ) -> str:
        """A token that lasts its time, but not beyond `until` (seconds since 1970)."""
        claims: dict[str, Any] = {"use": "refresh"}
        if until is not None:
            claims["exp"] = min(until, int((now + lifetime).timestamp()))
        return self._signed(bearer, claims, now, lifetime)

    def verify(self, token: str, use: str, now: datetime) -> dict[str, Any]:
        """The claims of a token made here for this `use`. Raises TokenInvalid for anything else."""
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenInvalid("too long")
        try:
            key = self._verifying.get(_kid(token))
            if key is None:
                raise KeyUnknown("signed with an unknown key")
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=ISSUER,
                # Times are checked below, by the registry's clock.
                options={
                    "require": ["exp", "nbf", "iat", "sub", "aud", "iss", "jti"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenInvalid(type(error).__name__) from error
        _require_now(claims, now)
        if claims.get("use") != use or type(claims.get("gen")) is not int:
            raise TokenInvalid("made for another use")
        return claims

    def _signed(
        self, bearer: Bearer, claims: Mapping[str, Any], now: datetime, lifetime: timedelta
    ) -> str:
        issued = int(now.timestamp())
        payload = {
            "iss": ISSUER,
            "sub": bearer.subject,
            "aud": self._audience,
            "iat": issued,
            "nbf": issued,
            "exp": issued + int(lifetime.total_seconds()),
            "jti": secrets.token_hex(16),
            "gen": bearer.generation,
            "cred": bearer.credential,
            **claims,
        }
        return jwt.encode(
            payload, self._signing, algorithm=ALGORITHM, headers={"kid": self._current.kid}
        )


def _kid(token: str) -> str:
    """The key that a token names, before anything else of it is looked at; "" if none.

    Raises ValueError or RecursionError for what is no token. PyJWT's own function reads all of it,
    byte by byte, and nonsense should not cost that.
    """
    head = token.partition(".")[0]
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    kid = header.get("kid") if isinstance(header, dict) else None
    return kid if isinstance(kid, str) else ""


def _require_now(claims: Mapping[str, Any], now: datetime) -> None:
    moment = now.timestamp()
    leeway = LEEWAY.total_seconds()
    for name in ("exp", "nbf", "iat"):
        value = claims[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TokenInvalid(f"{name} is no number")
        if not abs(value) <= _LAST_MOMENT:
            raise TokenInvalid(f"{name} is no moment")
    if moment > claims["exp"] + leeway:
        raise TokenInvalid("expired")
    if moment < claims["nbf"] - leeway:
        raise TokenInvalid("not valid yet")

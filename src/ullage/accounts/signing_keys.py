"""The keys that sign and check tokens, as all processes on one database share them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from ullage.accounts import queries
from ullage.accounts.documents import KeyDocument, key_document
from ullage.accounts.jwt import KEY_OVERLAP, KeyUnknown, SigningKey, TokenAuthority, new_signing_key
from ullage.accounts.names import AccountUnknown
from ullage.database.transaction import Transaction
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.queries.identity import find_registry_id, registry_id

KEYS_RECHECK_SECONDS = 60.0
KEYS_PAUSE_SECONDS = 1.0


class TokenKeys:
    """Looked up again from time to time: another process may have made one since."""

    def __init__(self, registry: Registry, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._monotonic = monotonic
        self._reloading = threading.Lock()
        self._audience = registry.read(find_registry_id) or registry.write(
            lambda tx: registry_id(tx, registry.fresh_key())
        )
        self._authority = self._load()
        self._read_at = monotonic()

    def authority(self) -> TokenAuthority:
        """What signs tokens now. May block."""
        if self._monotonic() - self._read_at > KEYS_RECHECK_SECONDS:
            self.reload()
        return self._authority

    def verified(self, token: str, use: str, now: datetime) -> dict[str, Any]:
        """The claims of a token that is good for `use`. May block. Raises TokenInvalid."""
        try:
            return self.authority().verify(token, use, now)
        except KeyUnknown:
            # Another process may have made it since; but no client can make us look all the time.
            if self._monotonic() - self._read_at < KEYS_PAUSE_SECONDS:
                raise
            self.reload()
            return self._authority.verify(token, use, now)

    def reload(self) -> None:
        """Take up keys that were made since, by `ullage key rotate` or another process."""
        # One after the other: what was read first must not replace what was read last.
        with self._reloading:
            self._read_at = self._monotonic()
            self._authority = self._load()

    def _load(self) -> TokenAuthority:
        now = self._registry.now()
        oldest = now - KEY_OVERLAP

        def load(tx: Transaction) -> list[tuple[str, str]]:
            keys = queries.signing_keys(tx, oldest)
            if not keys:
                first = new_signing_key()
                queries.add_signing_key(tx, first.kid, first.private_pem, now)
                keys = queries.signing_keys(tx, oldest)
            return keys

        keys = self._registry.read(lambda tx: queries.signing_keys(tx, oldest))
        if not keys:
            keys = self._registry.write(load)
        return TokenAuthority(self._audience, [SigningKey(*key) for key in keys])


def list_keys(registry: Registry) -> list[KeyDocument]:
    """Every key without its secret, the one that signs first."""
    return [key_document(facts) for facts in registry.read(queries.key_facts)]


def rotate_key(registry: Registry, caller: Caller, *, revoke: bool = False) -> KeyDocument:
    """Sign with a new key from now on; the old one verifies until what it signed has expired.

    With `revoke` it verifies nothing any more, and every token there is ends.
    """
    key = new_signing_key()

    def rotate(tx: Transaction) -> KeyDocument:
        queries.add_signing_key(tx, key.kid, key.private_pem, registry.now(), alone=revoke)
        registry.audit(tx, caller, "key.rotate", target=key.kid, detail={"revoke": revoke})
        return key_document(queries.key_facts(tx)[0])

    return registry.write(rotate)


def revoke_key(registry: Registry, caller: Caller, kid: str) -> list[KeyDocument]:
    """End all tokens that this key signed; the keys that are left.

    If it is the one that signs, a new one does from now on. Raises AccountUnknown.
    """
    fresh = new_signing_key()

    def revoke(tx: Transaction) -> list[KeyDocument]:
        if not queries.delete_signing_key(tx, kid):
            raise AccountUnknown(message=f"there is no signing key {kid[:64]}")
        if all(facts.retired_at for facts in queries.key_facts(tx)):
            queries.add_signing_key(tx, fresh.kid, fresh.private_pem, registry.now())
        registry.audit(tx, caller, "key.revoke", target=kid)
        return [key_document(facts) for facts in queries.key_facts(tx)]

    return registry.write(revoke)

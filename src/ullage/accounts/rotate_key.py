"""The keys that sign tokens, changed by whoever runs the registry (tokens.py signs with them)."""

from __future__ import annotations

from typing import Any

from ullage.accounts import queries as accounts
from ullage.accounts.jwt import new_signing_key
from ullage.database.transaction import Transaction
from ullage.registry.context import Caller, Registry


def rotate_key(registry: Registry, caller: Caller, *, revoke: bool = False) -> dict[str, Any]:
    """Sign with a new key from now on; the old one verifies until what it signed has expired.

    With `revoke` it verifies nothing any more, and every token there is ends.
    """
    key = new_signing_key()

    def rotate(tx: Transaction) -> None:
        accounts.add_signing_key(tx, key.kid, key.private_pem, registry.now(), alone=revoke)
        registry.audit(tx, caller, "key.rotate", target=key.kid, detail={"revoke": revoke})

    registry.write(rotate)
    return {"kid": key.kid}

"""What a backup says of the moment that it is of."""

from __future__ import annotations

from ullage.database.statements import Statement
from ullage.database.transaction import Transaction

_AUDIT_HEAD = Statement.text("SELECT max(id) FROM audit")
_VERSION = Statement.text("SELECT version_num FROM alembic_version")


def audit_head(tx: Transaction) -> int:
    """The number of the last entry in the audit log; 0 where there is none."""
    return int(tx.value(_AUDIT_HEAD) or 0)


def schema_version(tx: Transaction) -> str:
    """The schema that the database has."""
    return str(tx.value(_VERSION))

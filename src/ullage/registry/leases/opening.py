"""A registry's leases: in memory where one process owns the database, otherwise in a table."""

from __future__ import annotations

from datetime import datetime, timedelta

from ullage.database.transaction import Database
from ullage.registry.leases.lease import Leases
from ullage.registry.leases.memory import MemoryLeases
from ullage.registry.leases.sql import SqlLeases


def open_leases(db: Database, period: timedelta, now: datetime) -> Leases:
    kind = SqlLeases if db.dialect == "postgresql" else MemoryLeases
    return kind(db, period, now)

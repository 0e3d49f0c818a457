"""Policies in the database, on both engines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ullage.database.transaction import Database
from ullage.registry.queries import policies

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_policy_is_what_was_set_last(db: Database) -> None:
    assert db.read(lambda tx: policies.find(tx, "retention")) is None
    db.write(lambda tx: policies.put(tx, "retention", {"days": 7}, NOW))
    db.write(lambda tx: policies.put(tx, "other", {}, NOW))
    later = NOW + timedelta(hours=1)
    db.write(lambda tx: policies.put(tx, "retention", {"days": 30}, later))
    assert db.read(lambda tx: policies.find(tx, "retention")) == ({"days": 30}, later)
    assert db.read(lambda tx: policies.find(tx, "other")) == ({}, NOW)

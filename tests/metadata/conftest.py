"""Databases for every test, on each engine in turn."""

from tests.metadata.databases import (
    db,
    emptied_postgres_url,
    postgres_db,
    ready_url,
    shared_postgres,
    shared_postgres_url,
    shared_sqlite,
    sqlite_db,
    sqlite_template,
)

__all__ = [
    "db",
    "emptied_postgres_url",
    "postgres_db",
    "ready_url",
    "shared_postgres",
    "shared_postgres_url",
    "shared_sqlite",
    "sqlite_db",
    "sqlite_template",
]

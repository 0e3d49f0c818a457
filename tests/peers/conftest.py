"""What happened to others, on each database in turn; the registry must be sound afterwards."""

from tests.services.conftest import (
    db,
    emptied_postgres_url,
    postgres_db,
    ready_url,
    registry,
    shared_postgres,
    shared_postgres_url,
    shared_sqlite,
    sqlite_db,
    sqlite_template,
    store,
)

__all__ = [
    "db",
    "emptied_postgres_url",
    "postgres_db",
    "ready_url",
    "registry",
    "shared_postgres",
    "shared_postgres_url",
    "shared_sqlite",
    "sqlite_db",
    "sqlite_template",
    "store",
]

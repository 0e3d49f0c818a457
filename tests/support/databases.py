"""Empty databases in a hurry: fixtures that a suite's conftest.py imports.

Making and opening a database takes longer than most tests. So tests share one on each engine, which
is emptied before each; and those that open one themselves get a copy of a file made before.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import PostgresServer
from ullage.database.opening import open_database
from ullage.database.schema import base
from ullage.database.transaction import Database, Transaction


def emptied(tx: Transaction) -> None:
    """Work that leaves all tables and nothing in them."""
    for table in reversed(base.metadata.sorted_tables):
        tx.execute_directly(table.delete())


@pytest.fixture(scope="session")
def shared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The SQLite database that tests share."""
    db = open_database(f"sqlite:///{tmp_path_factory.mktemp('shared') / 'ullage.db'}")
    yield db
    db.close()


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of the PostgreSQL database that tests share."""
    with postgres_server.fresh_database() as url:
        open_database(url).close()
        yield url


@pytest.fixture(scope="session")
def shared_postgres(shared_postgres_url: str) -> Iterator[Database]:
    """The PostgreSQL database that tests share."""
    db = open_database(shared_postgres_url)
    yield db
    db.close()


@pytest.fixture
def postgres_db(shared_postgres: Database) -> Database:
    """A PostgreSQL database with all its tables and nothing in them."""
    shared_postgres.write(emptied)
    return shared_postgres


@pytest.fixture
def emptied_postgres_url(postgres_db: Database, shared_postgres_url: str) -> str:
    """The URL of the same database, for tests that open it themselves."""
    return shared_postgres_url


@pytest.fixture
def sqlite_db(shared_sqlite: Database) -> Database:
    """A SQLite database with all its tables and nothing in them."""
    shared_sqlite.write(emptied)
    return shared_sqlite


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def db(request: pytest.FixtureRequest) -> Database:
    """A database with all its tables and nothing in them, on each engine in turn."""
    name = "sqlite_db" if request.param == "sqlite" else "postgres_db"
    empty: Database = request.getfixturevalue(name)
    return empty


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and nothing in them."""
    path = tmp_path_factory.mktemp("template") / "ullage.db"
    open_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def ready_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of such a database, for tests that open it themselves, on each engine in turn."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        shutil.copy(template, tmp_path / "ullage.db")
        return f"sqlite:///{tmp_path / 'ullage.db'}"
    url: str = request.getfixturevalue("emptied_postgres_url")
    return url

"""Names sort by their bytes, whatever the database's own locale thinks of them."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from tests.support.clock import NEW_YEAR
from ullage.database.schema import content
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Database, Transaction
from ullage.oci.digest import digest_of
from ullage.oci.manifest.parsing import parse_manifest
from ullage.oci.reference import RepositoryName, parse_repository_name, parse_tag
from ullage.registry.queries.content.manifests import insert_manifest
from ullage.registry.queries.content.repositories import (
    count_push,
    ensure_repository,
    list_repositories,
)
from ullage.registry.queries.content.tags import delete_tag, list_tags, put_tag

TAGS = [
    *("A", "B", "Z", "Z-1", "_", "_A", "_a", "a", "a-b", "a-b.c", "a.b", "a0", "a1", "aB", "a_b"),
    *("ab", "b", "z", "latest", "LATEST", "Latest", "v1", "v1.10", "v1.2", "v1-rc", "v10", "V2"),
]
REPOSITORIES = ["a", "a-b", "a.b", "a/b", "a0", "a_b", "a__b", "ab", "ab/c", "b", "b/a", "z"]
RAW = b'{"schemaVersion": 2, "manifests": []}'


def _push(tx: Transaction, name: RepositoryName) -> tuple[int, int]:
    repository_id = ensure_repository(tx, name, NEW_YEAR).id
    manifest = parse_manifest(RAW, None)
    manifest_id = insert_manifest(
        tx, repository_id, digest_of(RAW), manifest, RAW, blobs=[], children=[], now=NEW_YEAR
    )
    count_push(tx, repository_id, [len(RAW)], 0, NEW_YEAR)
    return repository_id, manifest_id


def _all_tags(db: Database, repository_id: int, n: int) -> list[str]:
    return _pages(
        lambda last: db.read(lambda tx: list_tags(tx, repository_id, n, last)),
    )


def _all_repositories(db: Database, n: int) -> list[str]:
    return _pages(lambda last: db.read(lambda tx: list_repositories(tx, n, last)))


def _pages(ask: Callable[[str | None], list[str]]) -> list[str]:
    """Everything a client sees that pages through, each page starting after the last name."""
    seen: list[str] = []
    while page := ask(seen[-1] if seen else None):
        seen += page
    return seen


@pytest.fixture(autouse=True)
def _other_locale(db: Database) -> None:
    """On PostgreSQL the test is worth something only where the database sorts otherwise."""
    if db.dialect == "postgresql":
        order = db.read(
            lambda tx: tx.execute_directly(sa.text("SELECT 'B' < 'a', 'a.b' < 'a-b'")).one()
        )
        assert tuple(order) != (True, False)


def test_tags_are_listed_in_byte_order(db: Database) -> None:
    """distribution-spec, "Listing Tags": "in lexical order (i.e. case-insensitive alphanumeric
    order)" up to 1.1.0, corrected since to "ASCIIbetical order"; a cursor needs one order only."""

    def push(tx: Transaction) -> int:
        repository_id, manifest_id = _push(tx, parse_repository_name("app"))
        for tag in TAGS:
            put_tag(tx, repository_id, parse_tag(tag), manifest_id, NEW_YEAR, None)
        return repository_id

    repository_id = db.write(push)
    for n in (1, 4, 100):
        assert _all_tags(db, repository_id, n) == sorted(TAGS)


def test_repositories_are_listed_in_byte_order(db: Database) -> None:

    def push(tx: Transaction) -> None:
        for name in REPOSITORIES:
            _push(tx, parse_repository_name(name))

    db.write(push)
    for n in (1, 4, 100):
        assert _all_repositories(db, n) == sorted(REPOSITORIES)


def test_names_differ_by_case(db: Database) -> None:
    """One row for each spelling: nothing folds "Latest" and "latest" together."""

    def tag(tx: Transaction) -> None:
        repository_id, manifest_id = _push(tx, parse_repository_name("app"))
        for name in ("latest", "Latest"):
            put_tag(tx, repository_id, parse_tag(name), manifest_id, NEW_YEAR, None)
        assert delete_tag(tx, repository_id, parse_tag("Latest"), NEW_YEAR)
        left = tx.execute_directly(sa.select(content.tags.c.name, content.tags.c.created_at)).all()
        assert [tuple(row) for row in left] == [("latest", to_micros(NEW_YEAR))]

    db.write(tag)

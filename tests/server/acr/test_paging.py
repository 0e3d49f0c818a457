"""azure.md section 2.2: paging through 20,000 entries while others go, at the same price."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.server.pushing import push_image, refused
from tests.support.fixtures import registry_on
from tests.support.registry import ALICE, INDEX
from ullage.database.dialects import sql_dialect_of
from ullage.database.schema import content
from ullage.database.sqlite.database import SqliteDatabase
from ullage.database.statements import Statement
from ullage.database.timestamps import from_micros
from ullage.database.transaction import Transaction
from ullage.deletion.delete import delete_manifest, delete_tag
from ullage.oci.digest import Digest, digest_of
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.listings import ListingPage, Order, list_manifests, list_tags
from ullage.registry.queries import listings
from ullage.registry.queries.content.repositories import add_to_repository, ensure_repository
from ullage.registry.queries.counters import add_to_counters
from ullage.registry.queries.listings import Position

APP = RepositoryName("app")
MANY = 20_000
ORDERS = list(Order)


def plant(registry: Registry, many: int) -> int:
    """So many manifests, each with one tag, in the database at once; the repository's id.

    Their times of update are in no order of their names, and every second time is there twice.
    """
    raws = [
        json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "n": n}).encode()
        for n in range(many)
    ]
    size = sum(map(len, raws))

    def insert(tx: Transaction) -> int:
        repository_id = ensure_repository(tx, APP, registry.now()).id
        moments = [1_700_000_000_000_000 + (n * 7919 % many) // 2 for n in range(many)]
        manifests = [
            {
                "repository_id": repository_id,
                "digest": digest_of(raw),
                "media_type": INDEX,
                "size": len(raw),
                "pushed_at": to_micros,
                "updated_at": to_micros,
                "raw": raw,
            }
            for raw, to_micros in zip(raws, moments, strict=True)
        ]
        tx.execute_directly(content.manifests.insert(), manifests)
        known = sa.select(content.manifests.c.digest, content.manifests.c.id)
        ids = {row.digest: row.id for row in tx.execute_directly(known)}
        tags = [
            {
                "repository_id": repository_id,
                "name": f"t{n:05}",
                "manifest_id": ids[digest_of(raw)],
                "created_at": to_micros,
                "updated_at": to_micros,
            }
            for n, (raw, to_micros) in enumerate(zip(raws, moments, strict=True))
        ]
        tx.execute_directly(content.tags.insert(), tags)
        add_to_repository(
            tx, repository_id, manifest_count=many, tag_count=many, manifest_bytes=size
        )
        add_to_counters(tx, repository_id, manifest_count=many, manifest_bytes=size)
        return repository_id

    return registry.write(insert)


def pages(read: Callable[[str | None], ListingPage[Any]]) -> Iterator[list[str]]:
    """The names on each page, as a client that follows cursors sees them."""
    last: str | None = None
    while True:
        page = read(last)
        yield [getattr(item, "name", None) or item.digest for item in page.items]
        last = page.next
        if last is None:
            return


@pytest.mark.slow
@pytest.mark.parametrize("what", ["tags", "manifests"])
def test_paging_under_change_loses_nothing_and_repeats_nothing(
    registry: Registry, what: str
) -> None:
    """azure.md section 0, rule 10: no loop, no survivor skipped, nobody twice; in each order.

    Between any two pages the last entry shown goes, as `acr purge` does it, and one that was
    shown before, and one that is still to come.
    """
    plant(registry, MANY)
    for order in ORDERS:
        everything = set(_everything(registry, what, order))
        seen: list[str] = []
        gone: set[str] = set()
        for names in pages(lambda last, order=order: _read(registry, what, order, last)):  # type: ignore[misc]
            assert not set(names) & gone
            seen += names
            to_come = sorted(everything - set(seen) - gone)
            for name in {names[-1], names[0], *to_come[len(to_come) // 2 :][:1]}:
                _delete(registry, what, name)
                gone.add(name)
        assert len(seen) == len(set(seen))
        assert everything - gone <= set(seen) <= everything


def _read(registry: Registry, what: str, order: Order, last: str | None) -> ListingPage[Any]:
    if what == "tags":
        return list_tags(registry, APP, order, 1000, last)
    return list_manifests(registry, APP, order, 1000, last)


def _everything(registry: Registry, what: str, order: Order) -> list[str]:
    """All names, in the order that they should come in."""
    table = content.tags if what == "tags" else content.manifests
    name = table.c.name if what == "tags" else table.c.digest
    rows = registry.read(lambda tx: tx.execute_directly(sa.select(table.c.updated_at, name)).all())
    if order is Order.NAME:
        found = sorted(row[1] for row in rows)
    else:
        found = [row[1] for row in sorted(rows, reverse=order is Order.NEWEST_FIRST)]
    listed = [
        each for some in pages(lambda last: _read(registry, what, order, last)) for each in some
    ]
    assert listed == found
    return found


def _delete(registry: Registry, what: str, name: str) -> None:
    if what == "tags":
        delete_tag(registry, APP, Tag(name), ALICE)
    else:
        delete_manifest(registry, APP, Digest(name), ALICE)


# --- what a page costs ----------------------------------------------------------------------------


def _queries(repository_id: int, depth: int) -> dict[str, tuple[Statement, dict[str, Any]]]:
    """The page that starts behind so many of MANY entries, of each kind in each order."""
    found: dict[str, tuple[Statement, dict[str, Any]]] = {}
    for order in ORDERS:
        at = depth if order is not Order.NEWEST_FIRST else MANY - depth
        moment = from_micros(1_700_000_000_000_000 + at // 2)
        for what, statements, name in (
            ("tags", listings.TAG_PAGES, f"t{depth:05}"),
            ("manifests", listings.MANIFEST_PAGES, f"sha256:{depth * 16**8 // MANY:08x}"),
        ):
            place = listings.place_of(order, Position(name, moment) if depth else None)
            wanted = {"repository_id": repository_id, "limit": 101, **place}
            found[f"{what} {order.value}"] = statements[order], wanted
    return found


@pytest.mark.thorough
def test_a_page_costs_the_same_however_deep_it_lies_on_sqlite(
    sqlite_db: SqliteDatabase, request: pytest.FixtureRequest
) -> None:
    """An index finds the page, nothing is sorted, and the engine takes as many steps."""
    registry: Registry = request.getfixturevalue("sqlite_registry")
    repository_id = plant(registry, MANY)
    connection = sqlite3.connect(sqlite_db.path)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    costs: dict[str, list[int]] = {}
    for depth in (0, MANY // 2, MANY - 300):
        for what, (statement, wanted) in _queries(repository_id, depth).items():
            text, constants, _ = statement.built(sql_dialect_of("sqlite"))
            wanted |= constants
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", wanted)]
            assert len(plan) == 1, (what, plan)
            assert plan[0].startswith("SEARCH"), (what, plan)
            connection.set_progress_handler(count, 1)
            steps = 0
            assert len(connection.execute(text, wanted).fetchall()) == 101, (what, depth)
            connection.set_progress_handler(None, 1)
            costs.setdefault(what, []).append(steps)
    connection.close()
    for what, (first, middle, last) in costs.items():
        assert abs(last - middle) <= 0.02 * middle, (what, middle, last)
        # The first page has no place to start behind.
        assert middle <= 1.5 * first, (what, first, middle)


@pytest.mark.postgresql
def test_a_page_costs_the_same_however_deep_it_lies_on_postgresql(
    request: pytest.FixtureRequest,
) -> None:
    """As on SQLite: an index scan that reads no more rows than it shows, and no sort."""
    registry: Registry = request.getfixturevalue("postgres_registry")
    repository_id = plant(registry, MANY)
    registry.write(lambda tx: tx.execute_directly(sa.text("ANALYZE")))
    dialect = sql_dialect_of("postgresql")
    for depth in (0, MANY // 2, MANY - 300):
        for what, (statement, wanted) in _queries(repository_id, depth).items():
            text, constants, _ = statement.built(dialect)
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {text}"
            ((plan,),) = registry.read(partial(_fetched, explain, {**wanted, **constants}))
            top = plan[0]["Plan"]
            assert top["Node Type"] == "Limit", what
            (scan,) = top["Plans"]
            assert scan["Node Type"] == "Index Scan", (what, depth, scan)
            assert scan["Actual Rows"] == 101
            assert scan.get("Rows Removed by Filter", 0) == 0, (what, depth, scan)


def _fetched(sql: str, parameters: dict[str, Any], tx: Transaction) -> Any:
    return tx._fetch(sql, parameters)


@pytest.fixture
def sqlite_registry(sqlite_db: Any, store: Any, clock: Any) -> Registry:
    return registry_on(sqlite_db, store, clock)


@pytest.fixture
def postgres_registry(postgres_db: Any, store: Any, clock: Any) -> Iterator[Registry]:
    registry = registry_on(postgres_db, store, clock)
    yield registry
    # Rows are deleted one by one otherwise, each by a look through all: the connection has planned
    # that look when there were few.
    registry.write(lambda tx: tx.execute_directly(sa.text("TRUNCATE manifests CASCADE")))


# --- over HTTP ------------------------------------------------------------------------------------


def followed(client: httpx.Client, path: str) -> Iterator[httpx.Response]:
    """A page and those behind it; every link is as az can read it."""
    while path:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        yield answer
        link = answer.headers.get("Link", "")
        path = link.partition("<")[2].partition(">")[0]
        if link:
            assert link.endswith('>; rel="next"')
            parts = path.partition("?")[2].split("&")
            assert all("=" in part for part in parts)
            assert any(part.startswith("orderby=") for part in parts)
            assert path.startswith("/acr/v1/")


def test_pages_are_linked_as_azures_clients_read_them(client: httpx.Client, name: str) -> None:
    """azure.md section 2.2: relative, escaped, each part with a `=`, `orderby` even if empty."""
    digests = [push_image(client, name, f"v{n}", [b"%d" % n]) for n in range(5)]
    escaped = name.replace("/", "%2F")
    first = client.get(f"/acr/v1/{name}/_manifests?n=2")
    last = sorted(digests)[1].replace(":", "%3A")
    assert first.headers["Link"] == (
        f'</acr/v1/{escaped}/_manifests?last={last}&n=2&orderby=>; rel="next"'
    )
    for orderby, expected in {
        "": ["v0", "v1", "v2", "v3", "v4"],
        "none": ["v0", "v1", "v2", "v3", "v4"],
        "timeasc": ["v0", "v1", "v2", "v3", "v4"],
        "timedesc": ["v4", "v3", "v2", "v1", "v0"],
    }.items():
        for n in (1, 2, 5, 100):
            found = [
                tag["name"]
                for page in followed(client, f"/acr/v1/{name}/_tags?n={n}&orderby={orderby}")
                for tag in page.json()["tags"]
            ]
            assert found == expected, (orderby, n)
    catalog = f"/acr/v1/_catalog?n=1&last={name[:-1]}"
    assert name in [page.json()["repositories"][0] for page in followed(client, catalog)]


@pytest.mark.parametrize("orderby", ["", "timeasc", "timedesc"])
def test_the_next_page_comes_when_this_one_was_deleted(
    client: httpx.Client, name: str, orderby: str
) -> None:
    """azure.md section 0, rule 10: `acr purge` deletes a page before it asks for the next."""
    for n in range(5):
        push_image(client, name, f"v{n}", [b"%d" % n])
    seen = []
    for page in followed(client, f"/acr/v1/{name}/_tags?n=2&orderby={orderby}"):
        names = [tag["name"] for tag in page.json()["tags"] or []]
        for tag in names:
            assert client.delete(f"/acr/v1/{name}/_tags/{tag}").status_code == 202
        seen += names
    assert sorted(seen) == ["v0", "v1", "v2", "v3", "v4"]


@pytest.mark.parametrize("orderby", ["", "timeasc", "timedesc"])
def test_plain_names_are_cursors_too(client: httpx.Client, name: str, orderby: str) -> None:
    """azure.md section 2.2: acr-cli sends the last digest of a page, and ignores Link."""
    for n in range(3):
        push_image(client, name, f"v{n}", [b"%d" % n])
    for what, key in (("tags", "name"), ("manifests", "digest")):
        url = f"/acr/v1/{name}/_{what}?orderby={orderby}"
        everything = [each[key] for each in client.get(url).json()[what]]
        for at, last in enumerate(everything):
            rest = client.get(f"{url}&last={last}").json()[what]
            assert [each[key] for each in rest or []] == everything[at + 1 :]


def test_the_tags_of_one_manifest(client: httpx.Client, name: str) -> None:
    """azure.md section 2.2, `digest`, kept in the link."""
    (digest,) = {push_image(client, name, tag) for tag in ("a", "b", "c")}
    push_image(client, name, "other", [b"other"])
    found = [
        tag["name"]
        for page in followed(client, f"/acr/v1/{name}/_tags?digest={digest}&n=1")
        for tag in page.json()["tags"]
    ]
    assert found == ["a", "b", "c"]
    nowhere = "sha256:" + "0" * 64
    assert client.get(f"/acr/v1/{name}/_tags?digest={nowhere}").json()["tags"] is None


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("n=x", "PAGINATION_NUMBER_INVALID"),
        ("n=-1", "PAGINATION_NUMBER_INVALID"),
        ("orderby=size", "UNSUPPORTED"),
        ("digest=x", "DIGEST_INVALID"),
        ("n=1&n=2", "UNSUPPORTED"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    client: httpx.Client, name: str, query: str, code: str
) -> None:
    push_image(client, name, "v1")
    assert refused(client.get(f"/acr/v1/{name}/_tags?{query}")) == (400, code)


@pytest.mark.parametrize("n", ["1001", "100000000000000000"])
def test_more_than_a_thousand_is_a_thousand(client: httpx.Client, name: str, n: str) -> None:
    """azure.md section 2.2: clamped, not refused."""
    push_image(client, name, "v1")
    assert client.get(f"/acr/v1/{name}/_tags?n={n}").status_code == 200

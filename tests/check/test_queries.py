"""Reading everything page by page: every row once, whatever the size of a page."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from tests.support.actors import interleave, observing
from tests.support.clock import FakeClock
from tests.support.planting import plant_blobs
from tests.support.registry import (
    ALICE,
    CONFIG,
    LAYER,
    MANIFEST,
    descriptor,
    make_registry,
    push_image,
    push_index,
    push_manifest,
)
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.queries import manifest_rows, other_rows, repairs, rows, totals
from ullage.check.queries.paging import After, Only, Which
from ullage.database.transaction import Transaction
from ullage.deletion.delete import delete_manifest, delete_repository
from ullage.oci.digest import Digest, digest_of
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.uploads import append_upload
from ullage.registry.queries import quarantine

Fetch = Callable[[Transaction, Which[Any]], Sequence[Any]]


@pytest.fixture
def filled(ready_url: str, clock: FakeClock) -> Iterator[Registry]:
    registry = make_registry(ready_url, MemoryBlobStore(), clock)
    for name in ("a", "b"):
        one = push_image(registry, name, "one", [b"shared", name.encode()])
        two = push_image(registry, name, "two", [b"shared", b"2"], config=name.encode() * 3)
        push_index(registry, name, "both", [one, two])
        loose = push_image(registry, name, None, [name.encode() * 2])
        delete_manifest(registry, parse_repository_name(name), loose, ALICE)
        upload = start_upload(registry, parse_repository_name(name), ALICE)
        append_upload(registry, parse_repository_name(name), upload.id, ALICE).close()
    push_image(registry, "gone", "v1", [b"shared"])
    plant_blobs(registry, "gone", [b"loose"])
    delete_repository(registry, parse_repository_name("gone"), ALICE)
    yield registry
    registry.db.close()


KINDS: dict[str, tuple[Fetch, int]] = {
    "repositories": (rows.repositories, 2),
    "manifests": (manifest_rows.manifests, 6),
    "tags": (rows.tags, 6),
    "blobs": (rows.blobs, 8),
    "uploads": (rows.uploads, 2),
    "tombstones": (rows.tombstones, 11),
}


def read(registry: Registry, fetch: Fetch, which: Which[Any]) -> list[Any]:
    return list(registry.snapshot(lambda tx: fetch(tx, which)))


def pages(registry: Registry, fetch: Fetch, limit: int) -> Iterator[list[Any]]:
    after = None
    while page := read(registry, fetch, After(after, limit)):
        yield page
        after = page[-1].key


def test_pages_of_any_size_have_every_row_once_and_in_order(filled: Registry) -> None:
    """Rows of a repository that is being erased are left out."""
    for kind, (fetch, count) in KINDS.items():
        everything = read(filled, fetch, After(None, 1000))
        assert len(everything) == count, kind
        keys = [row.key for row in everything]
        assert keys == sorted(set(keys)), kind
        for limit in (1, 2, 3):
            found = list(pages(filled, fetch, limit))
            assert [row for page in found for row in page] == everything, kind
            assert max(map(len, found)) == min(limit, count), kind


def test_a_row_fetched_again_is_the_same_row(filled: Registry) -> None:
    for kind, (fetch, _) in KINDS.items():
        everything = read(filled, fetch, After(None, 1000))
        assert read(filled, fetch, Only([row.key for row in everything])) == everything, kind
        assert read(filled, fetch, Only([everything[-1].key])) == everything[-1:], kind
        assert read(filled, fetch, Only([])) == [], kind


def test_a_page_of_large_manifests_ends_early(
    filled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is checked in memory, and a manifest may have megabytes."""
    everything = read(filled, manifest_rows.manifests, After(None, 1000))
    monkeypatch.setattr(manifest_rows, "_MANIFEST_PAGE_BYTES", len(everything[0].raw) * 2)
    found = list(pages(filled, manifest_rows.manifests, 1000))
    assert [row for page in found for row in page] == everything
    assert len(found) > 2
    assert all(
        len(page) == 1 or sum(len(row.raw) for row in page) <= len(everything[0].raw) * 2
        for page in found
    )


def test_what_a_registry_does_leaves_nothing_broken_or_forgotten(filled: Registry) -> None:
    for fetch in (
        other_rows.broken_links,
        other_rows.forgotten_links,
        other_rows.ownerless_references,
        other_rows.ownerless_children,
    ):
        assert read(filled, fetch, After(None, 1000)) == []
    assert filled.read(totals.stored_totals) == filled.read(totals.counted_totals)


def test_a_blob_is_only_given_up_when_nothing_links_it(filled: Registry, clock: FakeClock) -> None:
    linked = read(filled, rows.blobs, After(None, 1))[0]
    due = filled.due(clock())
    assert not filled.write(lambda tx: repairs.condemn_unlinked(tx, linked.key, clock(), due))
    assert not filled.write(lambda tx: repairs.condemn_unlinked(tx, "no such blob", clock(), due))
    assert read(filled, rows.blobs, Only([linked.key])) == [linked]


def test_a_blob_is_only_changed_while_it_has_the_bytes_that_were_checked(
    filled: Registry, clock: FakeClock
) -> None:
    blob = read(filled, rows.blobs, After(None, 1))[0]
    now = clock()
    for change in (
        lambda tx, key: quarantine.quarantine(tx, blob.key, key, now),
        lambda tx, key: repairs.correct_size(tx, blob.key, key, 77),
        lambda tx, key: quarantine.lift_quarantine(tx, blob.key, key),
    ):
        keys = ["0" * 32, blob.storage_key, blob.storage_key]
        done = [filled.write(partial(change, key=key)) for key in keys]
        assert done == [False, True, False], "another's bytes, these, and these once more"


class Recounting:
    """An image to be put and deleted while another client sets all counters it touches."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.name = parse_repository_name("a")
        push_image(registry, self.name, "stays", [b"shared"])
        self.shared = digest_of(b"shared")
        self.digest: Digest | None = None
        self.turns = 0

    def put_or_delete(self) -> None:
        """Each in turn: the deletion leaves everything as it was."""
        if self.digest is None:
            self.turns += 1
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": descriptor(CONFIG, b"{}"),
                "layers": [descriptor(LAYER, b"shared")],
                "annotations": {"turn": str(self.turns)},
            }
            self.digest = push_manifest(self.registry, self.name, "comes", manifest)
        else:
            delete_manifest(self.registry, self.name, self.digest, ALICE)
            self.digest = None

    def recount(self) -> None:
        for repository in self.registry.read(lambda tx: rows.repositories(tx, After(None, 9))):
            recount = partial(repairs.recount_repository, repository_id=repository.key)
            self.registry.write(recount)
        self.registry.write(lambda tx: repairs.recount_references(tx, self.shared))
        self.registry.write(repairs.recount_totals)

    def assert_right(self, at: int) -> None:
        compared = self.registry.snapshot(
            lambda tx: (
                [(totals.stored_totals(tx), totals.counted_totals(tx))]
                + [(one.stored, one.counted) for one in rows.repositories(tx, After(None, 9))]
                + [
                    (one.stored_references, one.counted_references)
                    for one in rows.blobs(tx, After(None, 9))
                ]
            )
        )
        for stored, counted in compared:
            assert stored == counted, f"stopped at statement {at}"


@pytest.mark.postgresql
@pytest.mark.parametrize("order", ["change, recount", "recount, change"])
def test_recounting_at_any_moment_of_a_change_sets_what_it_will_be(
    emptied_postgres_url: str, clock: FakeClock, order: str
) -> None:
    """One stops before each of its statements, the other comes in between."""
    registry = make_registry(emptied_postgres_url, MemoryBlobStore(), clock)
    recounting = Recounting(registry)
    with closing(registry.db), observing(emptied_postgres_url) as observer:
        pair = (recounting.put_or_delete, recounting.recount)
        first, second = pair if order == "change, recount" else pair[::-1]
        at = 0
        while True:
            # A change in each direction.
            outcomes = [interleave(observer, first, second, at) for _ in range(2)]
            recounting.assert_right(at)
            if outcomes == [None, None]:
                break
            assert all(outcome in (None, (None, None)) for outcome in outcomes)
            at += 1
        assert at > 10

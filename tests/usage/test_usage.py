"""The bill adds up, and says whose every byte is (docs/design/accounting.md)."""

import pytest

from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.fixtures import registry_on
from tests.support.registry import ALICE, push_blob, push_image, push_index, settle
from tests.support.statements import listened
from ullage.authorization import WITHOUT_ACCOUNTS, Action, Grant, Principal
from ullage.blobs.memory import MemoryBlobStore
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.database.transaction import Database, Transaction
from ullage.deletion.delete import delete_manifest, delete_repository
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import BlobUnknown, NameUnknown
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.uploads import append_upload
from ullage.usage.usage import (
    Entry,
    by_image,
    by_namespace,
    by_repository,
    of_repository,
    registry_totals,
    unexplained,
)
from ullage.usage.why import ReferringManifest, explain

APP = parse_repository_name("app")
READER = Principal("reader", (Grant("app", frozenset({Action.METADATA_READ})),))


def shares(entries: list[Entry]) -> dict[str | None, tuple[int, int, int]]:
    return {
        entry.name: (entry.exclusive_bytes, entry.shared_bytes, entry.fair_share_bytes)
        for entry in entries
    }


def test_the_first_screen_adds_up_to_the_disk(registry: Registry) -> None:
    """distribution#2212: the catalog accounted for 103 of 686 GB; harbor#19712: 19 of 38 TB."""
    child = push_image(registry, "app", None, [b"child"], config=b"c1")
    index = push_index(registry, "app", "v1", [child])
    push_image(registry, "app", None, [b"signature"], subject=index, config=b"c2")
    push_image(registry, "app", None, [b"orphan layer"], config=b"c3")
    gone = push_image(registry, "app", "old", [b"a layer that goes"], config=b"c4")
    delete_manifest(registry, APP, gone, ALICE)
    push_blob(registry, "app", b"loose")
    session = append_upload(registry, APP, start_upload(registry, APP, ALICE).id, ALICE)
    session.write(b"half an upload")
    session.close()
    bill = registry_totals(registry)
    assert bill.tagged_bytes == len(b"child" + b"c1" + b"signature" + b"c2")
    assert bill.untagged_bytes == len(b"orphan layer" + b"c3")
    assert bill.leased_bytes == len(b"loose")
    assert bill.pending_bytes == len(b"a layer that goes" + b"c4")
    assert bill.uploading_bytes == len(b"half an upload")
    assert unexplained(registry) == (bill.disk_bytes, 0)


def test_every_line_says_what_its_bytes_are(registry: Registry) -> None:
    """ui.md section 6, G1: a namespace has each blob once, as what it is to the whole of it."""
    push_image(registry, "team/a", "v1", [b"tagged in a"], config=b"both")
    push_image(registry, "team/b", None, [b"tagged in a", b"only in b"], config=b"both")
    push_blob(registry, "team/a", b"only in b")
    push_blob(registry, "team/b", b"promised")
    push_blob(registry, "other", b"promised")

    def kinds(entry: Entry) -> tuple[int, int, int]:
        assert entry.bytes == entry.tagged_bytes + entry.untagged_bytes + entry.leased_bytes
        return entry.tagged_bytes, entry.untagged_bytes, entry.leased_bytes

    tagged, only, promised = len(b"tagged in a" + b"both"), len(b"only in b"), len(b"promised")
    lines = {entry.name: kinds(entry) for entry in by_repository(registry, WITHOUT_ACCOUNTS)}
    assert lines == {
        "team/a": (tagged, 0, only),
        "team/b": (0, tagged + only, promised),
        "other": (0, 0, promised),
    }
    for name in ("team/a", "team/b"):
        assert kinds(of_repository(registry, parse_repository_name(name))) == lines[name]
    spaces = {entry.name: kinds(entry) for entry in by_namespace(registry)}
    assert spaces == {"team": (tagged, only, promised), "other": (0, 0, promised)}
    delete_repository(registry, parse_repository_name("team/a"), ALICE)
    left = {entry.name: kinds(entry) for entry in by_namespace(registry) if entry.name}
    assert left["team"] == (0, tagged + only, promised)


def test_a_byte_that_nothing_names_is_found(registry: Registry) -> None:
    push_image(registry, "app", "v1", [b"layer"])
    with registry.blobs.begin("f" * 32) as append:
        append.write(b"stray")
    stored, unknown = unexplained(registry)
    assert unknown == len(b"stray")
    assert stored - unknown == registry_totals(registry).disk_bytes
    registry.blobs.delete(["f" * 32])


def test_fair_shares_sum_to_the_disk(registry: Registry) -> None:
    """harbor#16507: 1.69 TB in all, the projects' sum was 193 GB; acr#446 asks for this."""
    for name in ("app", "team/a", "team/b"):
        push_image(registry, name, "v1", [b"shared by all", name.encode()], config=b"{}")
    # Uploaded three times, kept once.
    settle(registry)
    entries = by_repository(registry, WITHOUT_ACCOUNTS)
    # 15 shared bytes: five for each.
    assert shares(entries) == {"team/a": (6, 15, 11), "team/b": (6, 15, 11), "app": (3, 15, 8)}
    assert sum(entry.fair_share_bytes for entry in entries) == registry_totals(registry).disk_bytes
    team, app = by_namespace(registry)
    assert (team.name, team.bytes, team.exclusive_bytes, team.fair_share_bytes) == (
        *("team", 27, 12, 22),
    )
    assert (app.name, app.exclusive_bytes) == ("app", 3)


def test_shares_that_do_not_divide_still_sum(registry: Registry) -> None:
    for name in ("a", "b", "c"):
        push_image(registry, name, "v1", [b"12345"], config=b"{}")
    entries = by_repository(registry, WITHOUT_ACCOUNTS)
    assert sorted(entry.fair_share_bytes for entry in entries) == [2, 2, 3]


def test_what_a_deleted_repository_still_holds_is_on_the_bill(registry: Registry) -> None:
    push_image(registry, "app", "v1", [b"layer"])
    delete_repository(registry, APP, ALICE)
    (entry,) = by_repository(registry, WITHOUT_ACCOUNTS)
    assert (entry.name, entry.bytes) == (None, 7)
    settle(registry)
    assert by_repository(registry, WITHOUT_ACCOUNTS) == []


def test_exclusive_is_what_deleting_it_alone_frees(registry: Registry) -> None:
    """acr#660: two images of 1.5 GB were shown as 62 GB, and purging changed nothing."""
    one = push_image(registry, "app", "one", [b"shared", b"first"])
    for tag in ("two", "also-two"):
        push_image(registry, "app", tag, [b"shared", b"second"])
    lines = {line.tag: line for line in by_image(registry, APP, tags=True)}
    assert {tag: line.exclusive_bytes for tag, line in lines.items()} == {
        "one": len(b"first"),
        "two": len(b"second"),
        "also-two": len(b"second"),
    }
    assert sum(line.fair_share_bytes for line in lines.values()) == 6 + 5 + 6 + 2
    assert delete_manifest(registry, APP, one, ALICE).freed_bytes == len(b"first")


def test_parts_are_on_the_bill_of_their_image(registry: Registry) -> None:
    child = push_image(registry, "app", None, [b"amd64"], config=b"c")
    index = push_index(registry, "app", "v1", [child])
    push_image(registry, "app", None, [b"signature"], subject=child, config=b"s")
    (line,) = by_image(registry, APP, tags=False)
    assert (line.digest, line.tags, line.manifest_count) == (index, ["v1"], 3)
    assert line.bytes == line.exclusive_bytes == len(b"amd64" + b"c" + b"signature" + b"s")


def test_who_may_not_read_a_repository_does_not_see_its_bill(registry: Registry) -> None:
    for name in ("app", "other"):
        push_image(registry, name, "v1", [b"layer"])
    assert [entry.name for entry in by_repository(registry, READER)] == ["app"]
    with pytest.raises(NameUnknown):
        of_repository(registry, parse_repository_name("absent"))


def test_a_repositorys_bill_and_plan_never_scan_the_registry(
    sqlite_db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    """Exact at read time, at any size. Every step is a search by an index.

    Asked of SQLite: PostgreSQL plans by statistics, of which an empty database has none.
    """
    registry = registry_on(sqlite_db, store, clock)
    image = push_image(registry, "app", "v1", [b"layer"])
    with listened(registry.db) as statements:
        of_repository(registry, APP)
        by_image(registry, APP, tags=True)
        make_plan(registry, PlanRequest(repository=APP, digests=(image,)), WITHOUT_ACCOUNTS, ALICE)
        explain(registry, image, WITHOUT_ACCOUNTS)
    selects = [text for text in statements if "SELECT" in text]
    assert len(selects) > 20

    def scans(tx: Transaction) -> set[str]:
        return {
            str(row[3])
            for text in selects
            for row in tx._connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")
            # What json_each() lists are the statement's own values.
            if str(row[3]).startswith("SCAN") and "json_each" not in str(row[3])
        }

    # `tagged` is what this repository's tags lead to. Plans and tombstones are few; repositories,
    # and hidden ones, are looked into one by one for a manifest asked for without saying where. Of
    # what is deployed it is the first row.
    few = {"tagged", "plans", "tombstones", "kept_repositories", "deployed"}
    assert {scan for scan in registry.read(scans) if scan.split()[1] not in few} == set()


# --- why ------------------------------------------------------------------------------------------


def test_why_names_everything_that_holds_a_layer(registry: Registry) -> None:
    """peers.md C6: "why is this not freed?"."""
    mine = push_image(registry, "app", "v1", [b"layer"])
    other = push_image(registry, "other", None, [b"layer"], config=b"[]")
    answer = explain(registry, digest_of(b"layer"), WITHOUT_ACCOUNTS)
    assert given(answer.blob).held_by == [
        ReferringManifest(repository="app", digest=mine, tags=["v1"]),
        ReferringManifest(repository="other", digest=other, tags=[]),
    ]
    assert answer.because == "held by 2 manifests"
    seen = given(explain(registry, digest_of(b"layer"), READER).blob)
    assert ([each.repository for each in seen.held_by], seen.elsewhere) == (["app"], True)


def test_why_says_what_holds_a_manifest(registry: Registry) -> None:
    child = push_image(registry, "app", "amd64", [b"layer"])
    index = push_index(registry, "app", "v1", [child])
    signature = push_image(registry, "app", None, [b"signature"], subject=index)

    def held(digest: Digest) -> list[tuple[str, str]]:
        (place,) = given(explain(registry, digest, WITHOUT_ACCOUNTS).manifest)
        return [(each.kind, each.by) for each in place.held_by]

    assert held(child) == [("tag", "amd64"), ("index", index)]
    assert held(index) == [("tag", "v1")]
    assert held(signature) == [("subject", index)]


def test_why_says_what_bytes_wait_for(registry: Registry) -> None:
    loose = push_blob(registry, "app", b"loose")
    until = registry.now() + registry.limits.lease
    answer = explain(registry, loose, WITHOUT_ACCOUNTS)
    assert answer.because == f"nothing: lease until {until.isoformat()}"
    image = push_image(registry, "app", "v1", [b"gone"])
    delete_manifest(registry, APP, image, ALICE)
    due = registry.now() + registry.limits.read_grace
    answer = explain(registry, digest_of(b"gone"), WITHOUT_ACCOUNTS)
    assert answer.because == f"nothing: deleted, due {due.isoformat()}"
    with pytest.raises(BlobUnknown):
        explain(registry, digest_of(b"gone"), READER)

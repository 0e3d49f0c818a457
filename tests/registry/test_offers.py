"""Promises to many pushers in one statement (deletion.md sections 3.2 and 5): R3 and R16 again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.actors import interleave, observing
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.planting import image_manifest, plant_blobs, plant_image
from tests.support.registry import push_blob, push_manifest
from tests.support.soundness import assert_sound
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.schema import space
from ullage.database.transaction import Database, Transaction, answered
from ullage.deletion.delete import delete_manifest, delete_repository
from ullage.deletion.reclaim import reclaim_due, review_due
from ullage.oci.digest import digest_of
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.leases.lease import CONFIRM
from ullage.registry.leases.offers import Offer
from ullage.registry.pull.read import get_manifest, open_blob, stat_blob_for_push
from ullage.registry.pull.together import promise_blobs
from ullage.registry.quarantine import quarantine_blob

pytestmark = pytest.mark.postgresql

APP, OTHER = parse_repository_name("app"), parse_repository_name("other")
ALICE = Caller(subject="alice", address="192.0.2.1", agent="test")
BOB = Caller(subject="bob", address="192.0.2.2", agent="test")
DOCKER = Caller(subject="carol", address="192.0.2.3", agent="docker/27.1 go/1.22")
LAYER = b"a layer"
DIGEST = digest_of(LAYER)


@pytest.fixture
def registry(postgres_db: Database, clock: FakeClock) -> Registry:
    return registry_on(postgres_db, MemoryBlobStore(), clock)


def asked_by(caller: Caller, data: bytes = LAYER, name: str = "app") -> Offer:
    pusher = caller.pusher
    return Offer(parse_repository_name(name), digest_of(data), pusher.key, pusher.confirms)


def promise(registry: Registry, asked: Mapping[Offer, int]) -> dict[Offer, int]:
    """In a transaction, so that there is a step between its statement and its end."""
    return registry.write(lambda tx: answered(tx, promise_blobs(registry, asked)))


def grants(registry: Registry) -> dict[str, tuple[int, int, int]]:
    """Of each holder: how many grants, until when, and until when it may confirm."""
    leases = space.leases

    def find(tx: Transaction) -> dict[str, tuple[int, int, int]]:
        columns = leases.c["holder", "grants", "until", "confirm_until"]
        return {row[0]: tuple(row[1:]) for row in tx.execute_directly(sa.select(*columns))}

    return registry.read(find)


def test_each_is_promised_as_often_as_it_was_asked_for(registry: Registry) -> None:
    plant_image(registry, APP, "v1", [LAYER])
    bob, alice = asked_by(BOB), asked_by(ALICE)
    nothing = {asked_by(BOB, b"other"): 1, asked_by(BOB, name="other"): 2}
    for _ in range(2):
        assert promise(registry, {bob: 3, alice: 1, **nothing}) == dict.fromkeys(
            (bob, alice), len(LAYER)
        )
    assert {key: row[0] for key, row in grants(registry).items()} == {
        BOB.pusher.key: 6,
        ALICE.pusher.key: 2,
    }
    assert_sound(registry)


def test_a_promise_is_what_one_that_waits_gives(registry: Registry, clock: FakeClock) -> None:
    """The same rows as `SqlLeases.offer` leaves, whatever was promised before."""
    asks = (("together", OTHER), ("alone", APP))

    def head(how: str) -> None:
        name = dict(asks)[how]
        if how == "alone":
            stat_blob_for_push(registry, name, DIGEST, DOCKER)
        else:
            assert promise(registry, {asked_by(DOCKER, name=name): 1})

    def rows() -> list[tuple[int, ...]]:
        leases = space.leases.c
        columns = sa.select(leases.grants, leases.until, leases.confirm_until)
        found = registry.read(
            lambda tx: tx.execute_directly(columns.order_by(leases.repository_id))
        )
        return [tuple(row) for row in found]

    for name in (APP, OTHER):
        plant_image(registry, name, "v1", [b"kept"])
        push_blob(registry, name, LAYER, DOCKER)
    for wait in (1.0, 1.0, CONFIRM.total_seconds(), 2 * 3600.0):
        clock.advance(wait)
        for how, _ in asks:
            head(how)
        one, other = rows()
        assert one == other


def test_a_confirmation_is_no_further_promise(registry: Registry) -> None:
    plant_image(registry, APP, "v1", [b"kept"])
    push_blob(registry, APP, LAYER, DOCKER)
    assert promise(registry, {asked_by(DOCKER): 3})
    assert grants(registry)[DOCKER.pusher.key][0] == 3
    assert promise(registry, {asked_by(DOCKER): 1, asked_by(BOB): 1}).keys() == {
        asked_by(DOCKER),
        asked_by(BOB),
    }
    assert grants(registry)[DOCKER.pusher.key][0] == 4


def test_what_has_ended_starts_again_from_none(registry: Registry, clock: FakeClock) -> None:
    plant_image(registry, APP, "v1", [LAYER])
    promise(registry, {asked_by(BOB): 5})
    clock.advance((registry.leases.period + timedelta(seconds=1)).total_seconds())
    promise(registry, {asked_by(BOB): 2})
    assert grants(registry)[BOB.pusher.key][0] == 2


def test_what_is_damaged_is_not_promised(registry: Registry) -> None:
    plant_image(registry, APP, "v1", [LAYER])
    key = stat_blob_for_push(registry, APP, DIGEST, ALICE).key
    quarantine_blob(registry, DIGEST, key, "a test")
    assert promise(registry, {asked_by(BOB): 1}) == {}


def test_what_a_deletion_has_locked_is_left_out_and_holds_up_no_other(
    registry: Registry, emptied_postgres_url: str
) -> None:
    plant_image(registry, APP, "v1", [LAYER, b"another"])
    both = {asked_by(BOB): 1, asked_by(BOB, b"another"): 1}
    with psycopg.connect(emptied_postgres_url) as connection:
        connection.execute("SELECT FROM blobs WHERE digest = %s FOR UPDATE", [DIGEST])
        assert promise(registry, both) == {asked_by(BOB, b"another"): len(b"another")}
    assert promise(registry, both).keys() == both.keys()


Delete = Callable[[Registry, int], object]


def _delete_image(registry: Registry, number: int) -> object:
    name = parse_repository_name(f"r{number}")
    digest = get_manifest(registry, name, parse_tag("v1")).digest
    return delete_manifest(registry, name, digest, ALICE)


def _review(registry: Registry, _: int) -> object:
    return review_due(registry)


def _delete_repository(registry: Registry, number: int) -> object:
    return delete_repository(registry, parse_repository_name(f"r{number}"), ALICE)


@pytest.mark.thorough
@pytest.mark.parametrize("head_first", [True, False], ids=["head first", "deletion first"])
@pytest.mark.parametrize("drop", [_delete_image, _review, _delete_repository])
def test_a_head_against_what_drops_the_link(
    registry: Registry, emptied_postgres_url: str, drop: Delete, head_first: bool
) -> None:
    """R3, R16: what was promised can be put into a manifest, however the two meet."""
    outcomes = set()
    # The deletion of a repository has many steps; each fourth is tried.
    stride = 4 if drop is _delete_repository and not head_first else 1
    with observing(emptied_postgres_url) as observer:
        for number in range(100):
            name, layer = parse_repository_name(f"r{number}"), b"layer %d" % number
            # Another repository's link keeps the blob's row, so that it is locked and not deleted.
            for here in (name, parse_repository_name(f"other{number}"))[: 1 + number % 2]:
                if drop is _review:
                    plant_blobs(registry, here, [layer])
                else:
                    plant_image(registry, here, "v1", [layer])
            plant_image(registry, name, "config", [b"kept"])
            told: dict[Offer, int] = {}

            def head(name: str = name, layer: bytes = layer, told: dict[Offer, int] = told) -> None:
                told |= promise(registry, {asked_by(BOB, layer, name): 1})

            def delete(number: int = number) -> None:
                drop(registry, number)

            first, second = (head, delete) if head_first else (delete, head)
            failures = interleave(observer, first, second, at=number // 2 * stride)
            if failures is None:
                break
            assert failures == (None, None)
            reclaim_due(registry)
            if told:
                manifest = image_manifest([layer], config=b"kept", annotations={"by": "bob"})
                plant_blobs(registry, name, [b"kept"])
                new = push_manifest(registry, name, None, manifest, BOB)
                get_manifest(registry, name, new)
                open_blob(registry, name, digest_of(layer)).close()
            outcomes.add(bool(told))
        else:
            pytest.fail("no end of steps")
    assert_sound(registry)
    assert True in outcomes

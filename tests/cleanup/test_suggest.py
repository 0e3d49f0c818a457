"""`ullage suggest`: the fewest orphans, then old images, that free so much (peers.md C6)."""

import pytest

from tests.support.cleaning import finish, job_of, manifests, tags, wait_days
from tests.support.documents import given
from tests.support.registry import ALICE, push_image, push_index, settle
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.documents import PlanDocument
from ullage.cleanup.plan.plan import get_plan
from ullage.cleanup.plan.suggest import suggest
from ullage.oci.digest import Digest
from ullage.oci.errors import NameUnknown
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.locks.image_locks import place_lock
from ullage.registry.pull.pull_log import note_pull
from ullage.registry.pull.read import get_manifest
from ullage.usage.usage import registry_totals

APP = parse_repository_name("app")


def suggested(registry: Registry, free: int, *names: str) -> PlanDocument:
    repositories = tuple(map(parse_repository_name, names))
    return suggest(registry, free, repositories, WITHOUT_ACCOUNTS, ALICE)


def digests(plan: PlanDocument) -> set[str]:
    return {str(item.digest) for item in plan.items}


def layer(name: str, size: int) -> bytes:
    return name.encode().ljust(size, b".")


def test_one_large_orphan_rather_than_many_small_ones(registry: Registry) -> None:
    push_image(registry, "app", "latest", [b"kept"])
    for n in range(5):
        push_image(registry, "app", None, [layer(f"small {n}", 100)])
    large = push_image(registry, "app", None, [layer("large", 450)])
    middle = push_image(registry, "app", None, [layer("middle", 300)])
    assert digests(suggested(registry, 400)) == {large}
    # Of those that are enough, the one that frees the least.
    assert digests(suggested(registry, 250)) == {middle}


def test_a_layer_of_several_counts_once_and_with_the_last_of_them(registry: Registry) -> None:
    """conserve#158, the other way round: what is shared is not promised twice."""
    push_image(registry, "app", "latest", [b"kept"])
    first = push_image(registry, "app", None, [layer("shared", 1000), b"1"])
    second = push_image(registry, "app", None, [layer("shared", 1000), b"2"])
    push_image(registry, "app", None, [layer("alone", 100)])
    plan = suggested(registry, 900)
    assert digests(plan) == {first, second}
    assert plan.freed_bytes == 1002
    assert not any(warning.refuses for warning in plan.warnings)


def test_what_a_live_image_shares_is_not_counted(registry: Registry) -> None:
    push_image(registry, "app", "latest", [layer("base", 1000)])
    push_image(registry, "app", None, [layer("base", 1000), b"own"])
    plan = suggested(registry, 500)
    assert plan.freed_bytes == len(b"own")
    assert plan.notes == ["there is not so much that may go"]


def test_each_image_says_why_it_may_go(registry: Registry) -> None:
    """Not "asked for": nobody asked for this one (faults B37)."""
    push_image(registry, "app", "v1", [layer("old", 100)])
    push_image(registry, "app", "v2", [b"newer"])
    wait_days(registry, 100)
    push_image(registry, "app", "latest", [b"kept"])
    push_image(registry, "app", None, [layer("orphan", 10)])
    plan = suggested(registry, 110)
    assert {str(item.because) for item in plan.items} == {
        "nothing leads to it, never pulled",
        "not used for 90 d, never pulled",
    }


def test_orphans_first_then_the_oldest_images_never_the_newest(registry: Registry) -> None:
    images: list[Digest] = []
    for n in range(6):
        images.append(push_image(registry, "app", f"v{n}", [layer(f"v{n}", 100 + n)]))
        wait_days(registry, 100)
    orphan = push_image(registry, "app", None, [layer("orphan", 10)])
    wait_days(registry, 1)
    assert digests(suggested(registry, 10)) == {orphan}
    # More than a year old: v0, v1 and v2, of which the largest frees enough.
    plan = suggested(registry, 100)
    assert digests(plan) == {images[0]}
    everything = suggested(registry, 10**9)
    assert images[5] not in digests(everything)
    assert everything.tag_count == 3
    assert not any(warning.refuses for warning in everything.warnings)


def test_locks_are_respected(registry: Registry) -> None:
    push_image(registry, "app", "latest", [b"kept"])
    held = push_image(registry, "app", None, [layer("held", 1000)])
    free = push_image(registry, "app", None, [layer("free", 500)])
    place_lock(registry, APP, held, ALICE, reason="audit", owner=None, until=None)
    assert digests(suggested(registry, 400)) == {free}


def test_images_go_whole_and_what_comes_back_is_what_was_said(registry: Registry) -> None:
    push_image(registry, "app", "latest", [b"kept"])
    amd, arm = (push_image(registry, "app", None, [layer(n, 300)]) for n in ("amd", "arm"))
    index = push_index(registry, "app", None, [amd, arm])
    push_image(registry, "app", None, [b"signature"], subject=index)
    push_image(registry, "other", "old", [layer("old", 200)])
    push_image(registry, "other", "new", [b"new"])
    wait_days(registry, 40)
    settle(registry)
    before = registry_totals(registry).disk_bytes
    plan = suggested(registry, 700)
    assert {item.repository for item in plan.items} == {"app", "other"}
    receipt = apply_plan(registry, plan.id, ALICE)
    assert finish(registry, job_of(receipt)).state == "done"
    receipt = given(get_plan(registry, plan.id, WITHOUT_ACCOUNTS).receipt)
    assert receipt.freed_bytes == plan.freed_bytes >= 700
    wait_days(registry, 1)
    settle(registry)
    assert before - registry_totals(registry).disk_bytes == receipt.freed_bytes
    assert (len(manifests(registry)), tags(registry, "other")) == (1, ["new"])


def test_a_push_in_between_is_not_overrun(registry: Registry) -> None:
    """R12: whoever tags it after all has it."""
    push_image(registry, "app", "latest", [b"kept"])
    orphan = push_image(registry, "app", None, [layer("orphan", 100)])
    plan = suggested(registry, 50)
    wait_days(registry, 0.01)
    from tests.support.cleaning import retag

    retag(registry, "saved", orphan)
    job = finish(registry, job_of(apply_plan(registry, plan.id, ALICE)))
    assert (job.state, orphan in manifests(registry)) == ("refused", True)
    assert parse_tag("saved") in tags(registry)


def test_only_the_repositories_that_were_named(registry: Registry) -> None:
    for name in ("app", "other"):
        push_image(registry, name, "latest", [b"kept"])
        push_image(registry, name, None, [layer(name, 100)])
    plan = suggested(registry, 1000, "other")
    assert [item.repository for item in plan.items] == ["other"]
    with pytest.raises(NameUnknown):
        suggested(registry, 1, "absent")


def test_what_is_pulled_is_not_old(registry: Registry) -> None:
    """Old and rarely pulled images; an orphan that somebody pulls by digest is in use."""
    for name in ("pulled", "forgotten"):
        push_image(registry, "app", name, [layer(name, 1000)])
    used, unused = (push_image(registry, "app", None, [layer(each, 500)]) for each in "ab")
    wait_days(registry, 100)
    push_image(registry, "app", "latest", [b"kept"])
    for reference in (parse_tag("pulled"), used):
        found = get_manifest(registry, APP, reference)
        note_pull(registry, found.id, reference, "containerd/2.0.0")
    plan = suggested(registry, 10_000)
    tagged = {tag for item in plan.items for tag in item.tags}
    assert tagged == {"forgotten"}
    assert unused in digests(plan)
    assert used not in digests(plan)

"""Trying rules out on what has been (peers.md C8), on both engines."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.support.cleaning import manifests, retention, rules, tags, wait_days
from tests.support.registry import ALICE, push_image, push_index
from ullage.cleanup.retention.backtest import parse_since, try_rules
from ullage.cleanup.retention.documents import BacktestReport, RegretDocument
from ullage.cleanup.retention.policy import set_retention
from ullage.deletion.delete import delete_manifest, delete_repository, delete_tag
from ullage.oci.digest import Digest
from ullage.oci.errors import ValueInvalid
from ullage.oci.reference import parse_reference, parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import note_pull, write_pulls
from ullage.registry.pull.read import get_manifest

APP = parse_repository_name("app")
NODE, SCANNER = "containerd/2.0.0", "trivy/0.50.0"
OLD: dict[str, Any] = {"name": "old", "tags": "^old", "older_than": "10d"}
ORPHANS: dict[str, Any] = {"name": "orphans", "untagged": True, "older_than": "7d"}


def image(registry: Registry, tag: str | None, name: str = "app") -> Digest:
    """An image unlike all others, pushed as a client does."""
    image.count += 1  # type: ignore[attr-defined]
    return push_image(registry, name, tag, [b"replay %d" % image.count])  # type: ignore[attr-defined]


image.count = 0  # type: ignore[attr-defined]


def pull(registry: Registry, reference: str, agent: str = NODE) -> None:
    wanted = parse_reference(reference)
    note_pull(registry, get_manifest(registry, APP, wanted).id, wanted, agent)
    write_pulls(registry)


def tried(registry: Registry, *those: dict[str, Any], days: int = 90) -> BacktestReport:
    return try_rules(registry, rules(*those), timedelta(days=days))


def deleted(report: BacktestReport) -> dict[str, str]:
    """What would have gone, and on which day."""
    return {each.tag or each.digest: each.deleted[:10] for each in report.deleted}


def test_it_says_what_would_have_gone_and_what_was_pulled_afterwards(registry: Registry) -> None:
    idle, regretted = image(registry, "old-idle"), image(registry, "old-regretted")
    image(registry, "old-scanned")
    for tag in ("a", "b", "c", "d"):
        image(registry, tag)
    wait_days(registry, 20.5)
    pull(registry, "old-regretted")
    pull(registry, regretted)
    pull(registry, "old-scanned", SCANNER)
    wait_days(registry, 5)
    report = tried(registry, OLD)
    # More than ten days after 2026-01-01T00:00.
    assert deleted(report)["old-idle"] == deleted(report)[idle] == "2026-01-12"
    assert (report.tags_deleted, report.manifests_deleted) == (3, 3)
    late = {each.tag: each.pulled_later for each in report.deleted if each.pulled_later}
    assert late == {
        "old-regretted": RegretDocument("2026-01-21T12:00:00+00:00", "node", 1),
        # By digest: the image itself.
        None: RegretDocument("2026-01-21T12:00:00+00:00", "node", 1),
    }
    assert (report.pulled_later, report.regret_percent) == (2, 33.33)
    # The first are those that somebody would have missed.
    assert [each.pulled_later is not None for each in report.deleted] == [
        *(True, True, False, False, False, False)
    ]
    assert tags(registry) == ["a", "b", "c", "d", "old-idle", "old-regretted", "old-scanned"]


def test_pulls_keep_what_they_would_have_kept(registry: Registry) -> None:
    """The child of an index is pulled by its digest, and keeps the index."""
    child = image(registry, None)
    push_index(registry, "app", "old-index", [child])
    image(registry, "old-idle")
    for tag in ("a", "b", "c"):
        image(registry, tag)
    for _ in range(6):
        wait_days(registry, 5)
        pull(registry, child)
    report = tried(registry, {"tags": "^old", "not_pulled_for": "9d"})
    assert [each.tag for each in report.deleted if each.tag] == ["old-idle"]


def test_pushes_and_deletions_happen_as_they_did(registry: Registry) -> None:
    image(registry, "old-pushed-again")
    by_hand, untagged = image(registry, "old-deleted"), image(registry, "lost")
    image(registry, "other", "other")
    for tag in ("a", "b", "c"):
        image(registry, tag)
    wait_days(registry, 5)
    image(registry, "old-pushed-again")
    delete_manifest(registry, APP, by_hand, ALICE)
    delete_tag(registry, APP, parse_tag("lost"), ALICE)
    delete_repository(registry, parse_repository_name("other"), ALICE)
    wait_days(registry, 6)
    assert deleted(tried(registry, OLD, ORPHANS)) == {}
    wait_days(registry, 2)
    report = tried(registry, OLD, ORPHANS, {"tags": "^other", "older_than": "1d"})
    # Once it is older than ten days since its second push; the first image lost its tag then.
    gone = deleted(report)
    assert gone.pop(untagged) == "2026-01-14"
    assert list(gone.values()) == ["2026-01-14"]
    wait_days(registry, 5)
    assert "old-pushed-again" in deleted(tried(registry, OLD))
    # What is pushed again after it went is back, and no regret.
    image(registry, "old-pushed-again")
    pull(registry, "old-pushed-again")
    assert tried(registry, OLD).pulled_later == 0


def test_rails_hold_in_the_past_too(registry: Registry) -> None:
    for tag in ("old-1", "old-2", "new"):
        image(registry, tag)
    wait_days(registry, 20)
    report = tried(registry, OLD)
    assert (report.tags_deleted, len(report.notes)) == (0, 1)
    assert "most" not in report.notes[0]
    assert "2 of 3 tags in app" in report.notes[0]
    assert tried(registry, OLD | {"allow": ["most-of-repository"]}).tags_deleted == 2


def test_only_the_days_that_are_asked_for_are_replayed(registry: Registry) -> None:
    for tag in ("old-1", "a", "b"):
        image(registry, tag)
    wait_days(registry, 60)
    assert set(deleted(tried(registry, OLD, days=90)).values()) == {"2026-01-12"}
    assert set(deleted(tried(registry, OLD, days=30)).values()) == {"2026-01-31"}


def test_rules_that_are_set_are_tried_if_no_others_are_given(registry: Registry) -> None:
    for tag in ("old-1", "a", "b"):
        image(registry, tag)
    wait_days(registry, 30)
    assert try_rules(registry, None, timedelta(days=90)).tags_deleted == 0
    set_retention(registry, retention({"rules": [OLD]}), ALICE)
    assert try_rules(registry, None, timedelta(days=90)).tags_deleted == 1
    assert len(manifests(registry)) == 3


@pytest.mark.parametrize("since", ["0d", "401d", "x", "999999d"])
def test_how_far_to_go_back_is_bounded(since: str) -> None:
    with pytest.raises(ValueInvalid):
        parse_since(since)
    assert parse_since("400d") == timedelta(days=400)


def test_a_trial_says_how_much_it_knows_nothing_about(registry: Registry) -> None:
    """faults B41: it said 0 where a dry run said 58,341, of images that its history had not."""
    push_image(registry, "app", "v1", [b"1"])
    for number in range(3):
        push_image(registry, "app", None, [b"never tagged %d" % number])
    push_image(registry, "other", "v1", [b"no rule is about it"])
    report = tried(
        registry, {"name": "all", "repositories": "app", "tags": "x", "older_than": "1d"}
    )
    assert (report.manifest_count, report.unseen_count) == (4, 3)

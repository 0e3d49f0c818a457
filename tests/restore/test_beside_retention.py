"""Pulls, rules, soft delete and locks with a reason, all at once, on both engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cleaning import begin, finish, retention, tags, wait_days
from tests.support.documents import given
from tests.support.planting import plant_image
from tests.support.registry import ALICE
from tests.support.undoing import assert_explained, hard, operations, soft, stands, stored
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.check.check import check
from ullage.check.findings import Mode
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.cleanup.retention.policy import set_retention
from ullage.cleanup.retention.run import start_run
from ullage.deletion.delete import delete_manifest
from ullage.oci.reference import parse_reference, parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.locks.image_locks import place_lock
from ullage.registry.pull.pull_log import note_pull, write_pulls
from ullage.registry.pull.read import get_manifest
from ullage.restore.restore import restore_operation
from ullage.usage.why import explain

APP = parse_repository_name("app")
OLD = {"name": "old", "tags": "^old", "older_than": "30d"}


@pytest.fixture(autouse=True)
def sound(registry: Registry) -> Iterator[None]:
    """With soft delete on; when the test is over the check finds nothing, nor does the bill."""
    soft(registry)
    yield
    assert check(registry, Mode.DEEP).findings == ()
    assert_explained(registry)


def test_pulls_go_with_what_is_deleted_softly_and_come_back_with_it(registry: Registry) -> None:
    digest = plant_image(registry, "app", "v1", [b"one"])
    wanted = parse_reference("v1")
    note_pull(registry, get_manifest(registry, APP, wanted).id, wanted, "containerd/2.0.0")
    write_pulls(registry)
    (before,) = given(explain(registry, digest, WITHOUT_ACCOUNTS).manifest)
    assert before.last_pull is not None
    deleted = delete_manifest(registry, APP, digest, ALICE)
    assert deleted.operation is not None
    restore_operation(registry, deleted.operation, ALICE)
    assert explain(registry, digest, WITHOUT_ACCOUNTS).manifest == [before]


def test_what_rules_delete_is_one_operation_and_comes_back(registry: Registry) -> None:
    for number in range(3):
        plant_image(registry, "app", f"old-{number}", [b"old %d" % number])
    wait_days(registry, 31)
    plant_image(registry, "app", "new", [b"new"])
    before, disk = stands(registry), stored(registry)
    set_retention(registry, retention({"rules": [OLD | {"allow": ["most-of-repository"]}]}), ALICE)
    asked = finish(registry, str(start_run(registry, ALICE, dry_run=True).id))
    job = finish(registry, str(start_run(registry, ALICE, dry_run=False).id))
    assert (job.state, tags(registry)) == ("done", ["new"])
    # Nothing comes back before the days are over, and that is what the dry run said.
    assert (asked.planned_bytes, job.freed_bytes) == (0, 0)
    assert asked.planned_later_bytes == job.freed_later_bytes > 0
    assert stored(registry) == disk
    (operation,) = operations(registry)
    restore_operation(registry, operation.id, ALICE)
    assert stands(registry) == before


def test_rules_leave_what_somebody_keeps_for_a_reason(registry: Registry) -> None:
    for number in range(3):
        plant_image(registry, "app", f"old-{number}", [b"old %d" % number])
    wait_days(registry, 31)
    plant_image(registry, "app", "new", [b"new"])
    kept = parse_tag("old-1")
    place_lock(registry, APP, kept, ALICE, reason="audit 7", owner=None, until=None)
    set_retention(registry, retention({"rules": [OLD | {"allow": ["most-of-repository"]}]}), ALICE)
    finish(registry, str(start_run(registry, ALICE, dry_run=False).id))
    assert tags(registry) == ["new", "old-1"]
    (operation,) = operations(registry)
    assert operation.tag_count == 2


def test_a_plan_of_what_is_pulled_and_restorable_says_both(registry: Registry) -> None:
    plant_image(registry, "app", "v1", [b"one"])
    plant_image(registry, "app", "v2", [b"two"])
    wanted = parse_tag("v1")
    note_pull(registry, get_manifest(registry, APP, wanted).id, wanted, "containerd/2.0.0")
    plan = make_plan(registry, PlanRequest(repository=APP, tags=(wanted,)), WITHOUT_ACCOUNTS, ALICE)
    assert plan.restorable_until is not None
    assert plan.freed_bytes == 0
    assert "pulled-recently" in {warning.rail for warning in plan.warnings}


def test_a_job_that_could_be_taken_back_still_can_when_soft_delete_is_switched_off(
    registry: Registry,
) -> None:
    plant_image(registry, "app", "new", [b"new"])
    plant_image(registry, "app", "old", [b"old"])
    before = stands(registry)
    job_id = begin(registry, "app:^old$", untagged=True)
    hard(registry)
    finish(registry, job_id)
    assert tags(registry) == ["new"]
    restore_operation(registry, job_id, ALICE)
    assert stands(registry) == before

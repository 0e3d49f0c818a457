"""What was written down before documents were types stays readable: plans, jobs, policies."""

from __future__ import annotations

import json
from typing import Any

from ullage.cleanup.job.documents import Findings, PlanJob, PurgeJob, RetentionJob, Terms
from ullage.cleanup.plan.documents import ChosenManifest, Receipt, StoredPlanDocument
from ullage.deletion.closure import Why
from ullage.documents import UNSET, plain, stored, unpacked

HEAD: dict[str, Any] = {
    "asked": {"repository": "app", "tags": ["v1"]},
    "freed_bytes": 5,
    "freed_later_bytes": 0,
    "kept_bytes": 0,
    "restorable_until": None,
    "manifest_count": 1,
    "tag_count": 1,
    "upload_count": 0,
    "repositories": [
        {"repository": "app", "manifests": 1, "of_manifests": 2, "tags": 1, "of_tags": 2},
        {"locked": "why", "repository": "b", "manifests": 0, "of_manifests": 1, "tags": 0}
        | {"of_tags": 1},
    ],
    "absent": [],
    "stays": [
        {"repository": "app", "digest": "d", "tags": [], "why": "child", "of": "e"}
        | {"held_by": [{"kind": "index", "by": "f"}]}
    ],
    "later": [{"digest": "d", "bytes": 1, "because": "leased", "until": None}],
    "kept": [{"digest": "d", "bytes": 1, "held_by": ["other"]}],
    "warnings": [{"rail": "only-tag", "repository": "app", "message": "m", "refuses": False}],
    "generations": [1],
    "id": "0" * 32,
    "created": "2026-01-01T00:00:00+00:00",
    "expires": "2026-01-01T01:00:00+00:00",
}


def test_a_plan_of_named_images() -> None:
    items = [{"repository": "app", "digest": "d", "tags": ["v1"], "why": "asked"}]
    plan = unpacked(json.dumps(HEAD | {"items": items}), StoredPlanDocument)
    assert (plan.items[0].why, plan.items[0].of, plan.chosen) == (Why.ASKED, UNSET, UNSET)
    assert plan.repositories[1].locked == "why"
    assert plain(plan.asked) == HEAD["asked"]


def test_a_manifest_that_a_filter_chose_is_a_list_of_any_length() -> None:
    pages = [
        [0, "manifest", "d", 7, 1_700_000_000_000_000],
        [0, "image", "d", 7, 1_700_000_000_000_000, ["v2"], [["v1", 17]], "asked"],
        [0, "along", "e", 8, 1_700_000_000_000_000, [], [], "child", "d"],
        [0, "tag", "f", 9, 0, [], [["v3", 18]], "untagged", None, None],
    ]
    assert unpacked(json.dumps(pages), list[ChosenManifest]) == [
        ChosenManifest(0, "manifest", "d", 7, 1_700_000_000_000_000),
        ChosenManifest(0, "image", "d", 7, 1_700_000_000_000_000, ["v2"], [("v1", 17)]),
        ChosenManifest(0, "along", "e", 8, 1_700_000_000_000_000, [], [], Why.CHILD, "d"),
        ChosenManifest(0, "tag", "f", 9, 0, [], [("v3", 18)], Why.UNTAGGED),
    ]


def test_the_receipt_of_a_job() -> None:
    receipt = unpacked('{"plan": "p", "job": "j", "by": "alice"}', Receipt)
    assert (receipt.job, receipt.applied, receipt.freed_bytes) == ("j", None, 0)


def test_requests_of_jobs_of_every_kind() -> None:
    about = {"id": 1, "repository": "app", "named": True}
    purge = {
        "filters": ["app:.*"],
        "ago_seconds": 0.0,
        "keep": 3,
        "untagged": True,
        "untagged_only": False,
        "include_locked": True,
        "before": "2026-01-01T00:00:00+00:00",
        "expressions": [["app", ".*"]],
        "repositories": [about],
        "dry_run": False,
        "caps": {"max_manifests": 1, "max_bytes": None, "max_percent": None},
        "allow": ["only-tag"],
        "notes": [],
    }
    assert json.loads(json.dumps(plain(stored(purge, PurgeJob)))) == purge
    plan = {"plan": "p", "allow_smaller": False, "include_locked": False}
    plan |= {"repositories": [{"repository": "app"}]}
    assert stored(plan, PlanJob).plan == "p"
    retention = {
        "rules": [{"name": "old", "repositories": ".*", "tags": "x", "older_than": "1d"}],
        "untagged": [{"days": 7, "since": "2026-01-01T00:00:00+00:00"}],
        "at": "2026-01-01T00:00:00+00:00",
        "unpulled_since": "2025-12-25T00:00:00+00:00",
        "dry_run": False,
        "caps": {"max_manifests": None, "max_bytes": 5},
        "repositories": [about],
    }
    assert json.loads(json.dumps(plain(stored(retention, RetentionJob)))) == retention
    terms = stored(retention, Terms)
    assert (terms.caps.max_bytes, terms.keep, terms.allow) == (5, 0, ())
    assert stored(purge, Terms).include_locked
    assert stored(plan, Terms).unpulled_since is None


def test_findings_are_written_as_they_were_read() -> None:
    findings: dict[str, Any] = {
        "planned_bytes": 1,
        "planned_later_bytes": 0,
        "repositories": [],
        "warnings": HEAD["warnings"],
        "notes": ["n"],
        "stays": HEAD["stays"],
        "restorable": True,
    }
    assert json.loads(json.dumps(plain(stored(findings, Findings)))) == findings
    # An operation that is not begun is not written down: the first batch looks for it.
    assert "operation" not in plain(Findings())
    assert stored({}, Findings) == Findings()

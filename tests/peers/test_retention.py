"""Threads of peers.md about policies and pulls: what happened there must not happen here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.cleaning import finish, manifests, outcomes, purge, retag, retention, tags
from tests.support.cleaning import wait_days as wait
from tests.support.documents import given
from tests.support.registry import ALICE, push_image, push_index
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.job.batch import CHANGED
from ullage.cleanup.job.documents import Job
from ullage.cleanup.job.execution import work
from ullage.cleanup.retention.explain import explain_retention
from ullage.cleanup.retention.policy import set_retention, set_untagged
from ullage.cleanup.retention.run import start_run
from ullage.deletion.delete import delete_tag
from ullage.oci.digest import Digest
from ullage.oci.errors import ValueInvalid
from ullage.oci.reference import parse_reference, parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import LastPull, note_pull
from ullage.registry.pull.read import get_manifest
from ullage.registry.queries.audit import entries
from ullage.usage.why import explain
from ullage.worker import CHOOSERS

APP = parse_repository_name("app")
NODE, SCANNER, MIRROR = "containerd/2.0.0", "trivy/0.50.0", "harbor-registry-client"


def image(registry: Registry, tag: str | None = None, name: str = "app") -> Digest:
    """An image unlike all others, pushed as a client does."""
    image.count += 1  # type: ignore[attr-defined]
    return push_image(registry, name, tag, [b"peers %d" % image.count])  # type: ignore[attr-defined]


image.count = 0  # type: ignore[attr-defined]


def pull(registry: Registry, reference: str, agent: str = NODE) -> None:
    wanted = parse_reference(reference)
    note_pull(registry, get_manifest(registry, APP, wanted).id, wanted, agent)


def rules(registry: Registry, *those: dict[str, Any]) -> None:
    set_retention(registry, retention({"rules": list(those)}), ALICE)


def run(registry: Registry) -> Job:
    return finish(registry, str(start_run(registry, ALICE, dry_run=False).id))


def last_pull(registry: Registry, digest: Digest) -> LastPull:
    (place,) = given(explain(registry, digest, WITHOUT_ACCOUNTS).manifest)
    return given(place.last_pull)


# --- peers.md B4 ----------------------------------------------------------------------------------


def test_acr_520_a_tag_that_came_back_saves_what_retention_had_queued(registry: Registry) -> None:
    """Untag, tag again the next day; retention fired all the same: tag listed, manifest gone."""
    image(registry, "other")
    digest = image(registry, "v1")
    set_untagged(registry, "enabled", 7, ALICE)
    delete_tag(registry, APP, parse_tag("v1"), ALICE)
    wait(registry, 1)
    retag(registry, "v1", digest)
    wait(registry, 30)
    assert run(registry).manifests_deleted == 0
    # Untagged for real this time, queued, and tagged again before the deleting transaction.
    delete_tag(registry, APP, parse_tag("v1"), ALICE)
    wait(registry, 8)
    job_id = str(start_run(registry, ALICE, dry_run=False).id)
    work(registry, CHOOSERS, "worker", 1)
    retag(registry, "v1", digest)
    finish(registry, job_id)
    assert outcomes(registry, job_id) == {digest: CHANGED}
    assert get_manifest(registry, APP, parse_tag("v1")).digest == digest


# --- peers.md B19 ---------------------------------------------------------------------------------


def test_acr_654_the_last_pull_is_known_by_class_of_puller(registry: Registry) -> None:
    """No last pull at all, since 2022."""
    digest = image(registry, "v1")
    for agent in (NODE, SCANNER, "kaniko/v1.9.1", "skopeo/1.9.3", MIRROR):
        pull(registry, "v1", agent)
    assert sorted(last_pull(registry, digest).classes) == [
        *("ci", "human", "node", "replication", "scanner")
    ]


@pytest.mark.parametrize("agent", [SCANNER, MIRROR])
def test_harbor_15810_20084_scanners_and_mirrors_do_not_reset_the_last_pull(
    registry: Registry, agent: str
) -> None:
    """A nightly scan kept every image for ever."""
    for tag in ("scanned", "a", "b"):
        image(registry, tag)
    wait(registry, 90)
    for tag in ("a", "b"):
        pull(registry, tag)
    pull(registry, "scanned", agent)
    rules(registry, {"tags": ".*", "not_pulled_for": "30d"})
    run(registry)
    assert tags(registry) == ["a", "b"]


def test_harbor_18479_what_was_never_pulled_ages_from_its_push(registry: Registry) -> None:
    """Images that CI had just pushed died first, because nobody had pulled them yet."""
    for tag in ("old-a", "old-b", "old-c"):
        image(registry, tag)
    wait(registry, 29)
    for tag in ("old-a", "old-b"):
        pull(registry, tag)
    image(registry, "newborn")
    wait(registry, 2)
    rules(registry, {"tags": ".*", "not_pulled_for": "30d"})
    run(registry)
    assert tags(registry) == ["newborn", "old-a", "old-b"]


# --- peers.md B20 ---------------------------------------------------------------------------------


def test_containers_roadmap_1036_1078_what_a_node_pulled_by_digest_is_held(
    registry: Registry,
) -> None:
    """Lifecycle rules deleted images that ran in production; a restart was an outage."""
    child = image(registry)
    index = push_index(registry, "app", "v1-multi", [child])
    running, orphan = image(registry, "v1"), image(registry)
    image(registry, "v0")
    for tag in ("a", "b", "c"):
        image(registry, tag)
    wait(registry, 100)
    # As a cluster does: by digest, and of an index only its own platform.
    for digest in (running, orphan, child):
        pull(registry, digest)
    wait(registry, 6)
    rules(
        registry,
        {"name": "versions", "tags": "^v", "older_than": "30d"},
        {"name": "orphans", "untagged": True, "older_than": "7d"},
    )
    run(registry)
    assert {running, orphan, child, index} <= manifests(registry)
    assert tags(registry) == ["a", "b", "c", "v1", "v1-multi"]
    said = explain_retention(registry, APP, parse_tag("v1"))
    assert (said.goes, said.rule) == (False, "versions")
    assert "somebody may be running it" in said.because


def test_harbor_18794_only_an_explicit_override_crosses_the_hold_and_it_is_logged(
    registry: Registry,
) -> None:
    image(registry, "v1")
    for tag in ("a", "b"):
        image(registry, tag)
    wait(registry, 100)
    pull(registry, "v1")
    wait(registry, 1)
    rule = {"name": "versions", "tags": "^v", "older_than": "30d"}
    rules(registry, rule)
    run(registry)
    assert "v1" in tags(registry)
    rules(registry, rule | {"allow": ["pulled-recently"]})
    job = run(registry)
    assert "v1" not in tags(registry)
    # It is said, and who allowed it can be looked up.
    assert [each.rail for each in job.warnings] == ["pulled-recently"]
    found = registry.read(lambda tx: entries(tx, limit=10, action="policy.set"))
    assert found[0].subject == "alice"
    assert found[0].detail["rules"][0]["allow"] == ["pulled-recently"]


# --- peers.md B21 ---------------------------------------------------------------------------------


def test_containers_roadmap_921_2728_rules_about_pulls_delete(registry: Registry) -> None:
    """There, "since pulled" can only archive, for at least 90 days."""
    idle = image(registry, "idle")
    for tag in ("a", "b"):
        image(registry, tag)
    wait(registry, 90)
    for tag in ("a", "b"):
        pull(registry, tag)
    rules(registry, {"tags": ".*", "not_pulled_for": "60d"})
    assert run(registry).freed_bytes > 0
    assert idle not in manifests(registry)


# --- peers.md B23 ---------------------------------------------------------------------------------


def test_gitlab_325429_a_policy_does_not_wipe_repositories(registry: Registry) -> None:
    """A cleanup policy deleted all images of two repositories."""
    for name in ("one", "two"):
        for tag in ("v1", "v2"):
            image(registry, tag, name)
    wait(registry, 100)
    rules(registry, {"tags": ".*", "older_than": "90d"})
    job = run(registry)
    assert (job.tags_deleted, job.manifests_deleted) == (0, 0)
    assert [each.repository for each in job.warnings] == ["one", "two"]
    assert (tags(registry, "one"), tags(registry, "two")) == (["v1", "v2"], ["v1", "v2"])


@pytest.mark.parametrize("field", ["older_than", "not_pulled_for"])
def test_acr_cli_83_a_duration_never_wraps_round(registry: Registry, field: str) -> None:
    """`--ago 999999d` deleted everything."""
    for tag in ("v1", "v2", "v3"):
        image(registry, tag)
    with pytest.raises(ValueInvalid, match="longer than 100 years"):
        rules(registry, {"tags": "v1", field: "999999d"})
    rules(registry, {"tags": "v1", field: "36500d"})
    run(registry)
    assert purge(registry, "app:.*", ago="999999d", untagged=True).tags_deleted == 0
    assert tags(registry) == ["v1", "v2", "v3"]

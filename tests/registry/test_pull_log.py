"""What was pulled by which clients, and when last (peers.md B19 and C9), on both engines."""

from __future__ import annotations

import dataclasses
import threading
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.cleaning import purge, wait_days
from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.fixtures import Installation
from tests.support.registry import ALICE, push_image, push_index
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.plan.documents import PlanDocument
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.database.errors import DatabaseFull
from ullage.database.schema import cleaning, content
from ullage.database.transaction import Database, Transaction
from ullage.deletion.delete import delete_manifest, delete_tag
from ullage.documents import UNSET, plain, read
from ullage.oci.digest import Digest
from ullage.oci.errors import ValueInvalid
from ullage.oci.reference import parse_reference, parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import (
    HISTORY,
    LastPull,
    classifier,
    forget_old_pulls,
    get_pullers,
    note_pull,
    pulled_tags,
    pullers,
    set_pullers,
    write_pulls,
)
from ullage.registry.pull.pull_recorder import PullRecorder
from ullage.registry.pull.read import get_manifest
from ullage.registry.pull.user_agents import Puller, Pullers, PullersRequest
from ullage.registry.queries import pulls
from ullage.registry.queries.content.repositories import find_repository
from ullage.usage.usage import by_image
from ullage.usage.why import explain

APP = parse_repository_name("app")
NODE, SCANNER = "containerd/2.0.0", "trivy/0.50.0 go-containerregistry/v0.19.1"


def pull(registry: Registry, reference: str, agent: str = NODE) -> None:
    """As a client that GETs a manifest of `app`."""
    wanted = parse_reference(reference)
    note_pull(registry, get_manifest(registry, APP, wanted).id, wanted, agent)


def last(registry: Registry, digest: Digest) -> LastPull | None:
    """What `ullage why` says."""
    (place,) = given(explain(registry, digest, WITHOUT_ACCOUNTS).manifest)
    return place.last_pull


def tag_pulls(registry: Registry, *tags: str) -> dict[str, datetime]:
    def read(tx: Transaction) -> dict[str, datetime]:
        repository_id = find_repository(tx, APP)
        assert repository_id is not None
        names = sa.select(content.tags.c.name, content.tags.c.manifest_id)
        ids = {parse_tag(row[0]): row[1] for row in tx.execute_directly(names) if row[0] in tags}
        found = pulled_tags(tx, repository_id, ids, pullers(tx).counted)
        return {str(tag): at for tag, at in found.items()}

    write_pulls(registry)
    return registry.read(read)


# --- what counts for what -------------------------------------------------------------------------


def test_a_pull_by_a_tag_counts_for_the_tag_and_its_manifest(registry: Registry) -> None:
    digest = push_image(registry, "app", "v1", [b"x"])
    push_image(registry, "app", "v2", [b"x"])
    pull(registry, "v1")
    assert tag_pulls(registry, "v1", "v2") == {"v1": registry.now()}
    now = registry.now().isoformat()
    assert last(registry, digest) == LastPull(now, "node", True, {"node": now})


def test_a_pull_by_digest_counts_for_the_manifest_and_all_its_tags(registry: Registry) -> None:
    """containerd looks a tag up with HEAD, and then pulls by digest."""
    digest = push_image(registry, "app", "v1", [b"x"])
    push_image(registry, "app", "v2", [b"x"])
    pull(registry, digest)
    assert tag_pulls(registry, "v1", "v2") == dict.fromkeys(("v1", "v2"), registry.now())


def test_a_pull_of_a_child_counts_for_every_index_above_it(registry: Registry) -> None:
    """A node pulls a platform by digest, long after it resolved the tag."""
    child = push_image(registry, "app", None, [b"x"])
    other = push_image(registry, "app", None, [b"y"])
    inner = push_index(registry, "app", None, [child])
    outer = push_index(registry, "app", "v1", [inner, other])
    pull(registry, child)
    assert [last(registry, each) is not None for each in (child, inner, outer, other)] == [
        *(True, True, True, False)
    ]
    assert tag_pulls(registry, "v1") == {"v1": registry.now()}


def test_each_class_has_its_own_last_pull_and_time_only_grows(
    registry: Registry, clock: FakeClock
) -> None:
    digest = push_image(registry, "app", "v1", [b"x"])
    pull(registry, "v1")
    write_pulls(registry)
    clock.advance(60)
    pull(registry, "v1", SCANNER)
    clock.advance(-3600)
    pull(registry, "v1")
    found = last(registry, digest)
    assert found is not None
    assert (found.by, found.counts) == ("scanner", False)
    clock.advance(3600 - 60)
    assert found.classes["node"] == registry.now().isoformat()
    # A scanner's pull is known, and keeps nothing.
    assert tag_pulls(registry, "v1") == {"v1": registry.now()}


def test_pulls_go_with_what_was_pulled(registry: Registry) -> None:
    digest = push_image(registry, "app", "v1", [b"x"])
    push_image(registry, "app", "v2", [b"y"])
    for reference in ("v1", "v2", digest):
        pull(registry, reference)
    write_pulls(registry)
    delete_tag(registry, APP, parse_tag("v2"), ALICE)
    # What was pulled before it was deleted is not written down afterwards.
    pull(registry, digest)
    pull(registry, "v1")
    delete_manifest(registry, APP, digest, ALICE)
    assert write_pulls(registry)
    rows = registry.read(lambda tx: tx.execute_directly(sa.select(cleaning.tag_pulls)).all())
    assert rows == []
    left = registry.read(lambda tx: tx.execute_directly(sa.select(cleaning.manifest_pulls)).all())
    assert len(left) == 1


def test_several_processes_do_not_lose_or_regress_each_others_pulls(
    registry: Registry, clock: FakeClock
) -> None:
    """PostgreSQL: another process is another recorder on the same database."""
    digest = push_image(registry, "app", "v1", [b"x"])
    other = dataclasses.replace(registry, pull_recorder=PullRecorder())
    pull(other, "v1")
    late = clock.advance(5)
    pull(registry, "v1")
    write_pulls(registry)
    # The earlier one is written last.
    write_pulls(other)
    found = last(registry, digest)
    assert found is not None
    assert found.at == late.isoformat()
    (day,) = registry.read(lambda tx: pulls.history(tx, APP, clock() - timedelta(days=1)))
    assert (day.tag, day.puller, day.pulls, day.at) == ("v1", "node", 2, late)


def test_processes_that_write_and_delete_at_once_do_not_get_in_each_others_way(
    registry: Registry,
) -> None:
    """Each writes in its own order, while others delete what it writes about."""
    digests = [push_image(registry, "app", f"v{n}", [b"%d" % n]) for n in range(40)]
    processes = [dataclasses.replace(registry, pull_recorder=PullRecorder()) for _ in range(3)]
    written: list[bool] = []

    def write(process: Registry, step: int) -> None:
        for _ in range(5):
            for digest in digests[20:][::step]:
                pull(process, digest)
            for n in range(20, 40)[::step]:
                pull(process, f"v{n}")
            written.append(write_pulls(process))

    threads = [
        threading.Thread(target=write, args=(process, step))
        for process, step in zip(processes, (1, -1, 1), strict=True)
    ]
    # Pulls that wait while what they are about goes.
    for digest in digests[:20]:
        pull(registry, digest)
    for thread in threads:
        thread.start()
    for digest in digests[:20]:
        delete_manifest(registry, APP, digest, ALICE)
        write_pulls(registry)
    for thread in threads:
        thread.join()
    assert written == [True] * 15
    days = registry.read(lambda tx: pulls.history(tx, APP, registry.now()))
    assert {day.pulls for day in days if day.digest in digests[20:]} == {15}


def test_what_cannot_be_written_waits(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    digest = push_image(registry, "app", "v1", [b"x"])
    pull(registry, "v1")

    def full(self: Database, work: object, *, freeing: bool = False) -> None:
        raise DatabaseFull("no space")

    with monkeypatch.context() as broken:
        broken.setattr(type(registry.db), "write", full)
        assert not write_pulls(registry)
    clock.advance(1)
    pull(registry, "v1")
    assert last(registry, digest) is not None
    (day,) = registry.read(lambda tx: pulls.history(tx, APP, clock() - timedelta(days=1)))
    assert day.pulls == 2


def test_history_outlives_what_was_pulled_for_400_days(
    registry: Registry, clock: FakeClock
) -> None:
    digest = push_image(registry, "app", "v1", [b"x"])
    for _ in range(3):
        pull(registry, "v1")
    pull(registry, digest)
    write_pulls(registry)
    delete_manifest(registry, APP, digest, ALICE)
    days = registry.read(lambda tx: pulls.history(tx, APP, clock()))
    assert sorted((day.tag or "", day.pulls) for day in days) == [("", 1), ("v1", 3)]
    wait_days(registry, HISTORY.days)
    assert forget_old_pulls(registry) == 0
    wait_days(registry, 2)
    assert forget_old_pulls(registry) == 2
    assert forget_old_pulls(registry) == 0


def test_a_clean_stop_and_a_start_keep_pulls(installation: Installation) -> None:
    digest = push_image(installation.registry, "app", "v1", [b"x"])
    pull(installation.registry, "v1")
    write_pulls(installation.registry)
    installation.restart()
    assert last(installation.registry, digest) is not None


# --- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "puller"),
    [
        ("containerd/1.7.2", Puller.NODE),
        ("containerd/v2.0.0", Puller.NODE),
        ("cri-o/1.28.0 go/go1.20.4 os/linux arch/amd64", Puller.NODE),
        ("docker/24.0.5 go/go1.20.6 UpstreamClient(Docker-Client/24.0.5)", Puller.NODE),
        ("trivy/0.50.0 go-containerregistry/v0.19.1", Puller.SCANNER),
        ("grype/0.74.0", Puller.SCANNER),
        ("clair/4.7.2", Puller.SCANNER),
        ("harbor-registry-client", Puller.REPLICATION),
        ("regclient/regsync (v0.5.7)", Puller.REPLICATION),
        ("buildkit/v0.12", Puller.CI),
        ("kaniko/v1.9.1 go-containerregistry/v0.15", Puller.CI),
        ("Buildah/1.33.2", Puller.CI),
        ("libpod/4.3.1", Puller.HUMAN),
        ("skopeo/1.9.3", Puller.HUMAN),
        ("go-containerregistry/v0.19.1", Puller.HUMAN),
        ("python-requests/2.32.3", Puller.TOOL),
        ("ullage/0.1", Puller.TOOL),
        ("something of our own/1", Puller.OTHER),
        ("", Puller.OTHER),
    ],
)
def test_user_agents_tell_what_pulls(agent: str, puller: Puller) -> None:
    assert classifier(Pullers())(agent) is puller


def test_patterns_of_ones_own_come_first_and_classes_can_be_left_out(registry: Registry) -> None:
    digest = push_image(registry, "app", "v1", [b"x"])
    policy = {
        "patterns": [{"agent": "^containerd/.*mirror", "class": "replication"}],
        "ignored": ["human"],
    }
    document = set_pullers(registry, read(policy, PullersRequest, ValueInvalid), ALICE)
    assert {name: plain(document)[name] for name in policy} == policy
    assert get_pullers(registry) == document
    pull(registry, "v1", "containerd/2 of the mirror")
    found = last(registry, digest)
    assert found is not None
    # Replication is not left out any more.
    assert (found.by, found.counts) == ("replication", True)


@pytest.mark.parametrize(
    "document",
    [
        {"pattern": []},
        {"patterns": {}},
        {"patterns": [{"agent": "x"}]},
        {"patterns": [{"agent": "(", "class": "node"}]},
        {"patterns": [{"agent": "x", "class": "nodes"}]},
        {"patterns": [{"agent": "", "class": "node"}]},
        {"patterns": [{"agent": "x", "class": "node"}] * 101},
        {"ignored": ["nobody"]},
        {"ignored": "node"},
    ],
)
def test_a_policy_that_is_not_understood_is_refused(
    registry: Registry, document: dict[str, Any]
) -> None:
    with pytest.raises(ValueInvalid):
        set_pullers(registry, read(document, PullersRequest, ValueInvalid), ALICE)
    assert get_pullers(registry).patterns == []


# --- before something goes ------------------------------------------------------------------------


def plan_of(registry: Registry, *, computed: bool) -> PlanDocument:
    wanted = PlanRequest(repository=APP, tags=(parse_tag("v1"),), computed=computed)
    return make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)


@pytest.mark.parametrize("computed", [False, True])
def test_a_plan_names_what_was_pulled_in_the_last_seven_days(
    registry: Registry, computed: bool
) -> None:
    """peers.md C9: ACR only warns of systems that pull by digest."""
    digest = push_image(registry, "app", "v1", [b"x"])
    push_image(registry, "app", "v2", [b"y"])
    push_image(registry, "app", "v3", [b"z"])
    pull(registry, digest, SCANNER)
    assert "pulled-recently" not in [
        each.rail for each in plan_of(registry, computed=computed).warnings
    ]
    pull(registry, digest)
    wait_days(registry, 6.9)
    plan = plan_of(registry, computed=computed)
    (warning,) = [each for each in plan.warnings if each.rail == "pulled-recently"]
    assert warning.refuses == computed
    assert digest in warning.message
    assert given(plan.items[0].pulled).startswith("2026-01-01")
    wait_days(registry, 0.2)
    assert plan_of(registry, computed=computed).items[0].pulled is UNSET


def test_a_purge_by_filter_stops_at_what_was_pulled(registry: Registry) -> None:
    """peers.md B3: untagged includes "no recent digest pull"."""
    digests = [push_image(registry, "app", None, [b"%d" % n]) for n in range(2)]
    push_image(registry, "app", "v1", [b"z"])
    pull(registry, digests[0])
    line: dict[str, Any] = {"ago": None, "untagged_only": True}
    job = purge(registry, "ap+:.*", **line)
    assert (job.state, [each.rail for each in job.warnings]) == (
        "refused",
        ["pulled-recently"],
    )
    assert purge(registry, "app:.*", **line, dry_run=True).state == "done"
    assert purge(registry, "ap+:.*", **line, allow=("pulled-recently",)).manifests_deleted == 2


def test_the_bill_of_images_says_when_each_was_pulled(registry: Registry) -> None:
    digest = push_image(registry, "app", "v1", [b"x"])
    push_image(registry, "app", "v2", [b"x"])
    pull(registry, "v1")
    lines = {line.tag: line.last_pull for line in by_image(registry, APP, tags=True)}
    assert lines == {"v1": registry.now().isoformat(), "v2": None}
    (line,) = by_image(registry, APP, tags=False)
    assert (line.digest, line.last_pull) == (digest, registry.now().isoformat())


# --- what it costs --------------------------------------------------------------------------------


def test_recording_a_pull_costs_next_to_nothing(registry: Registry) -> None:
    """Less than 10 us of computing: the best of several goes, as machines are busy."""
    tag = parse_tag("v1")

    def go() -> float:
        began = time.thread_time()
        for n in range(1000):
            note_pull(registry, n % 50, tag, NODE)
        return (time.thread_time() - began) / 1000

    assert min(go() for _ in range(5)) < 10e-6


def test_what_waits_is_bounded(clock: FakeClock) -> None:
    recorder = PullRecorder(capacity=2)
    for n in range(5):
        recorder.note(n, None, NODE, clock())
    recorder.note(0, None, NODE, clock())
    taken = recorder.take()
    assert {key[0]: seen.pulls for key, seen in taken.items()} == {0: 2, 1: 1}

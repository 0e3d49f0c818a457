"""Tags that are written once, by rules (docs/guides/immutable.md): no way of moving or deleting."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.cleaning import begin as begin_purge
from tests.support.cleaning import finish, manifests, outcomes, purge, retag, tags, wait_days
from tests.support.documents import given
from tests.support.registry import ALICE, push_image, push_index
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.cleanup.plan.suggest import suggest
from ullage.cleanup.retention.documents import RetentionRequest, RuleDocument
from ullage.cleanup.retention.explain import explain_retention
from ullage.cleanup.retention.policy import set_retention
from ullage.deletion.closure import KeepReason, KeptBy
from ullage.deletion.delete import delete_manifest, delete_repository, delete_tag
from ullage.deletion.soft_delete import set_policy
from ullage.oci.digest import Digest
from ullage.oci.errors import (
    LockUnknown,
    ManifestUnknown,
    OperationDisallowed,
    PlanChanged,
    TooManyRequests,
    ValueInvalid,
)
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.locks import immutable_tags
from ullage.registry.locks.immutable_tags import ImmutableRule, list_rules, remove_rule, set_rule
from ullage.registry.pull.read import get_manifest
from ullage.registry.queries.audit import entries
from ullage.restore.restore import restore_operation
from ullage.usage.why import explain

APP = parse_repository_name("app")
V1, V2, RC = parse_tag("v1"), parse_tag("v2"), parse_tag("v1-rc1")
SAID = "tag 'v1' is immutable by the rule 'app:v*'"


def rule(registry: Registry, pattern: str = "app:v*", *excepted: str) -> None:
    set_rule(registry, ImmutableRule(pattern=pattern, excepted=excepted), ALICE)


def refused(work: Callable[[], object], said: str = SAID) -> None:
    with pytest.raises(OperationDisallowed) as error:
        work()
    assert said in error.value.message


# --- pushing --------------------------------------------------------------------------------------


def test_a_tag_is_written_once(registry: Registry) -> None:
    rule(registry, "app:v*", "v*-rc*")
    first = push_image(registry, "app", "v1", [b"one"])
    refused(lambda: push_image(registry, "app", "v1", [b"two"]))
    # Nothing of what was refused is left.
    assert manifests(registry) == {first}
    assert push_image(registry, "app", "v1", [b"one"]) == first
    push_image(registry, "app", "v1-rc1", [b"a"])
    push_image(registry, "app", "v1-rc1", [b"b"])
    push_image(registry, "app", "latest", [b"a"])
    push_image(registry, "app", "latest", [b"b"])
    push_image(registry, "other", "v1", [b"a"])
    push_image(registry, "other", "v1", [b"b"])


def test_tags_that_come_with_a_digest_are_refused_together(registry: Registry) -> None:
    """distribution-spec, tags given when pushing by digest: all of it or nothing."""
    rule(registry)
    one = push_image(registry, "app", "v1", [b"one"])
    two = push_image(registry, "app", "latest", [b"two"])
    refused(lambda: retag(registry, "v1", two))
    retag(registry, "v2", two)
    retag(registry, "v1", one)
    assert tags(registry) == ["latest", "v1", "v2"]


def test_a_rule_counts_for_tags_that_are_there_and_ends_when_it_is_removed(
    registry: Registry,
) -> None:
    old = push_image(registry, "app", "v1", [b"one"])
    rule(registry)
    refused(lambda: push_image(registry, "app", "v1", [b"two"]))
    remove_rule(registry, "app:v*", ALICE)
    push_image(registry, "app", "v1", [b"two"])
    delete_manifest(registry, APP, old, ALICE)


@pytest.mark.parametrize(
    ("pattern", "name", "tag", "means"),
    [
        ("release/*:v*", "release/app", "v1", True),
        ("release/*:v*", "release/deep/app", "v1", True),
        ("release/*:v*", "release", "v1", False),
        ("release/*:v*", "prerelease/app", "v1", False),
        ("release/*:v*", "release/app", "dev1", False),
        ("*:*", "any/thing", "latest", True),
        ("app:v?", "app", "v1", True),
        ("app:v?", "app", "v12", False),
        ("a.p:v1", "axp", "v1", False),
        ("app:v1.0", "app", "v1x0", False),
    ],
)
def test_a_pattern_is_of_whole_names(
    registry: Registry, pattern: str, name: str, tag: str, means: bool
) -> None:
    rule(registry, pattern)
    found = registry.read(lambda tx: immutable_tags.in_force(tx, parse_repository_name(name)))
    assert found.rule_of(tag) == (pattern if means else None)


def test_of_two_pushes_of_one_new_tag_one_is_written(registry: Registry) -> None:
    """The tag is looked at behind the repository's lock, so that the second push sees the first."""
    rule(registry)

    def push(image: bytes, number: int) -> Digest | None:
        try:
            return push_image(registry, "app", f"v{number}", [image])
        except OperationDisallowed:
            return None

    with ThreadPoolExecutor(4) as pool:
        pushes = [
            (f"v{number}", pool.submit(push, image, number))
            for number in range(10)
            for image in (b"one", b"two", b"three")
        ]
        done = [(tag, push.result()) for tag, push in pushes]
    written = {tag: digest for tag, digest in done if digest is not None}
    assert (len(written), sum(digest is not None for _, digest in done)) == (10, 10)
    for tag, digest in written.items():
        assert get_manifest(registry, APP, parse_tag(tag)).digest == digest


# --- deleting -------------------------------------------------------------------------------------


def test_no_way_of_deleting_gets_round_a_rule(registry: Registry) -> None:
    amd = push_image(registry, "app", None, [b"amd"])
    index = push_index(registry, "app", "v1", [amd])
    signature = push_image(registry, "app", None, [b"signature"], subject=index)
    rule(registry)
    refused(lambda: delete_tag(registry, APP, V1, ALICE))
    refused(lambda: delete_manifest(registry, APP, index, ALICE))
    refused(lambda: delete_repository(registry, APP, ALICE))
    with pytest.raises(ManifestUnknown):
        delete_tag(registry, APP, V2, ALICE)
    everything = {amd, index, signature}
    for despite in (False, True):
        job = purge(
            registry,
            "app:.*",
            untagged=True,
            allow=("empty-repository",),
            include_locked=despite,
        )
        assert [stay.held_by[0].by for stay in job.stays] == [SAID]
        assert manifests(registry) == everything
    plan = make_plan(registry, PlanRequest(repositories=(APP,)), WITHOUT_ACCOUNTS, ALICE)
    assert plan.repositories[0].locked == SAID
    apply_plan(registry, plan.id, ALICE)
    assert manifests(registry) == everything
    plan = make_plan(registry, PlanRequest(repository=APP, tags=(V1,)), WITHOUT_ACCOUNTS, ALICE)
    (stays,) = plan.stays
    assert (stays.digest, [*stays.held_by]) == (index, [KeptBy(KeepReason.IMMUTABLE, SAID)])
    why = explain(registry, index, WITHOUT_ACCOUNTS)
    assert KeptBy(KeepReason.IMMUTABLE, SAID) in given(why.manifest)[0].held_by


def test_what_no_rule_means_goes(registry: Registry) -> None:
    rule(registry, "app:v*", "v*-rc*")
    keep = push_image(registry, "app", "v1", [b"one"])
    gone = push_image(registry, "app", "v1-rc1", [b"two"])
    delete_tag(registry, APP, RC, ALICE)
    delete_manifest(registry, APP, gone, ALICE)
    push_image(registry, "app", "old", [b"three"])
    purge(registry, "app:.*", untagged=True, allow=("only-tag", "most-of-repository"))
    assert manifests(registry) == {keep}


def test_a_rule_that_comes_while_a_purge_or_a_plan_waits_is_respected(registry: Registry) -> None:
    """R28: asked again in the transaction that deletes."""
    image = push_image(registry, "app", "v1", [b"x"])
    push_image(registry, "app", "old", [b"y"])
    wanted = PlanRequest(repository=APP, digests=(image,))
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    job_id = begin_purge(registry, "app:v1")
    rule(registry)
    finish(registry, job_id)
    assert outcomes(registry, job_id)["v1"] == SAID
    with pytest.raises(PlanChanged):
        apply_plan(registry, plan.id, ALICE)
    assert tags(registry) == ["old", "v1"]


def test_an_orphan_with_an_immutable_tag_stays(registry: Registry) -> None:
    """A tag that attaches it to an image that is not there keeps nothing; a rule does."""
    absent = "sha256-" + "0" * 64 + ".sig"
    orphan = push_image(registry, "app", absent, [b"signature"])
    loose = push_image(registry, "app", None, [b"loose"])
    keep = push_image(registry, "app", "latest", [b"x"])
    rule(registry, "app:sha256-*")
    job = purge(registry, untagged_only=True, ago=None)
    assert (job.stays[0].digest, "immutable" in job.stays[0].held_by[0].by) == (orphan, True)
    assert manifests(registry) == {orphan, keep}
    assert loose not in manifests(registry)


def test_retention_and_suggestions_leave_such_tags(registry: Registry) -> None:
    image = push_image(registry, "app", "v1", [b"x"])
    push_image(registry, "app", "v2-rc1", [b"y"])
    newest = push_image(registry, "app", "latest", [b"z"])
    rule(registry, "app:v*", "v*-rc*")
    rules = (RuleDocument(name="all", tags=".*", older_than="0d"),)
    set_retention(registry, RetentionRequest(rules=rules), ALICE)
    found = explain_retention(registry, APP, V1)
    assert (found.goes, found.because) == (False, SAID)
    wait_days(registry, 400)
    assert explain_retention(registry, APP, parse_tag("v2-rc1")).goes
    assert explain_retention(registry, APP, V1).because == SAID
    plan = suggest(registry, 10**9, (), WITHOUT_ACCOUNTS, ALICE)
    going = {item.digest for item in plan.items}
    assert going
    assert not going & {image, newest}


# --- restoring ------------------------------------------------------------------------------------


def test_a_restore_does_not_move_a_tag_either(registry: Registry) -> None:
    set_policy(registry, ALICE, enabled=True)
    old = push_image(registry, "app", "v1", [b"old"])
    operation = given(delete_manifest(registry, APP, old, ALICE).operation)
    new = push_image(registry, "app", "v1", [b"new"])
    rule(registry)
    refused(lambda: restore_operation(registry, operation, ALICE, force=True))
    remove_rule(registry, "app:v*", ALICE)
    restore_operation(registry, operation, ALICE, force=True)
    assert manifests(registry) == {old, new}


def test_a_restore_brings_back_a_tag_that_is_immutable_since(registry: Registry) -> None:
    set_policy(registry, ALICE, enabled=True)
    image = push_image(registry, "app", "v1", [b"old"])
    operation = given(delete_manifest(registry, APP, image, ALICE).operation)
    rule(registry)
    restore_operation(registry, operation, ALICE)
    assert tags(registry) == ["v1"]


# --- setting --------------------------------------------------------------------------------------


def test_rules_are_audited_and_replaced_by_their_patterns(registry: Registry) -> None:
    rule(registry, "b:*")
    rule(registry, "a:*")
    rule(registry, "b:*", "latest")
    assert list_rules(registry).rules == [
        ImmutableRule(pattern="a:*"),
        ImmutableRule(pattern="b:*", excepted=("latest",)),
    ]
    remove_rule(registry, "a:*", ALICE)
    with pytest.raises(LockUnknown):
        remove_rule(registry, "a:*", ALICE)
    done = registry.read(lambda tx: entries(tx, limit=2))
    assert [(each.action, each.target, each.subject) for each in done] == [
        ("immutable.remove", "a:*", "alice"),
        ("immutable.set", "b:*", "alice"),
    ]
    assert done[1].detail == {"pattern": "b:*", "except": ["latest"]}


@pytest.mark.parametrize(
    ("pattern", "excepted"),
    [
        ("app", ()),
        (":v1", ()),
        ("app:", ()),
        ("app:v1:v2", ()),
        ("APP:v1", ()),
        (r"app:v\d+", ()),
        ("app:(v1|v2)", ()),
        ("app:" + "v" * 400, ()),
        ("app:v*", ("a/b",)),
        ("app:v*", ("",)),
    ],
)
def test_what_can_be_no_name_is_refused(
    registry: Registry, pattern: str, excepted: tuple[str, ...]
) -> None:
    with pytest.raises(ValueInvalid):
        rule(registry, pattern, *excepted)
    assert list_rules(registry).rules == []


def test_there_is_an_end_to_rules(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(immutable_tags, "MAX_RULES", 2)
    rule(registry, "a:*")
    rule(registry, "b:*")
    rule(registry, "b:*", "latest")
    with pytest.raises(TooManyRequests):
        rule(registry, "c:*")


def test_rules_are_compiled_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that moves a tag reads one row more of a rule's policy, and compiles nothing."""
    rule(registry, "other:*")
    push_image(registry, "app", "latest", [b"a"])
    push_image(registry, "app", "latest", [b"b"])
    monkeypatch.setattr(immutable_tags, "_compile", None)
    push_image(registry, "app", "latest", [b"c"])

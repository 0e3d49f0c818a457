"""Deployed images: how clusters name them, and that none is deleted (deletion.md section 9)."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from tests.support.cleaning import begin as begin_purge
from tests.support.cleaning import finish, job_of, manifests, outcomes, purge, retention, tags
from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.fixtures import Assemble
from tests.support.registry import ALICE, push_image, push_index
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.cleanup.guardrails import GUARDRAILS
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.cleanup.plan.suggest import suggest
from ullage.cleanup.retention import policy, run
from ullage.deletion.closure import KeepReason
from ullage.deletion.delete import delete_manifest, delete_repository, delete_tag
from ullage.documents import read
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import Locked, PlanChanged, SourceEmpty, SourceUnknown, ValueInvalid
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Limits, Registry
from ullage.registry.locks import deployments
from ullage.registry.locks.deployments import DeploymentReport, Reported
from ullage.registry.locks.reported_images import Identity, identities
from ullage.registry.queries.audit import entries
from ullage.usage.why import explain

APP = parse_repository_name("app")
HEX = "0123456789abcdef" * 4
DIGEST = Digest(f"sha256:{HEX}")
OTHER = Digest(f"sha256:{HEX[::-1]}")


def report(registry: Registry, *images: str | dict[str, Any], **more: Any) -> Reported:
    """Report images by their ids, as the cluster `prod`."""
    listed = [{"image_id": each} if isinstance(each, str) else each for each in images]
    source = more.pop("source", "prod")
    said = read({"images": listed, **more}, DeploymentReport, ValueInvalid)
    return deployments.report(registry, source, said, ALICE)


def pass_days(registry: Registry, days: float) -> None:
    assert isinstance(registry.now, FakeClock)
    registry.now.advance(timedelta(days=days).total_seconds())


@pytest.mark.parametrize(
    ("image", "image_id", "expected"),
    [
        # containerd names what it pulled; the repository may be another one than the pod's.
        ("reg.example/app:v1", f"reg.example/mirror/app@{DIGEST}", [Identity(DIGEST)]),
        ("app:v1", f"docker-pullable://reg.example/app@{DIGEST}", [Identity(DIGEST)]),
        # An image id: CRI-O's, or docker's of what was loaded.
        ("app:v1", DIGEST, [Identity(DIGEST)]),
        ("app:v1", f"docker://{DIGEST}", [Identity(DIGEST)]),
        ("app:v1", HEX, [Identity(DIGEST)]),
        (DIGEST, "", [Identity(DIGEST)]),
        # A pod that is pinned to an index reports the platform that it pulled.
        (f"reg.example/app@{OTHER}", f"app@{DIGEST}", [Identity(OTHER), Identity(DIGEST)]),
        (f"reg.example/app:v1@{OTHER}", "", [Identity(OTHER)]),
        # Not pulled yet: the tag counts, whatever the host.
        ("reg.example:5000/team/app:v1", "", [Identity(None, "team/app", "v1")]),
        ("localhost/app", "", [Identity(None, "app", "latest")]),
        ("team/app:v1", "", [Identity(None, "team/app", "v1")]),
        ("[::1]:5000/app:v1", "", [Identity(None, "app", "v1")]),
        ("app:v1", "reg.example/app:v1", [Identity(None, "app", "v1")]),
        ("", "", []),
        ("UPPER CASE", "", []),
    ],
)
def test_every_form_of_an_image_id(image: str, image_id: str, expected: list[Identity]) -> None:
    assert identities(image, image_id) == expected


class Family:
    """An index with two platforms and a signature; beside it an image of its own."""

    def __init__(self, registry: Registry) -> None:
        self.amd = push_image(registry, "app", None, [b"amd"], config=b'{"a":1}')
        self.arm = push_image(registry, "app", None, [b"arm"], config=b'{"a":2}')
        self.index = push_index(registry, "app", "v1", [self.amd, self.arm])
        self.signature = push_image(registry, "app", None, [b"sig"], subject=self.index)
        self.of_platform = push_image(registry, "app", None, [b"sbom"], subject=self.arm)
        self.other = push_image(registry, "app", "v2", [b"other"])
        # A second index over a platform that is not deployed itself.
        self.elsewhere = push_image(registry, "web", "v1", [b"web"])

    @property
    def all(self) -> set[Digest]:
        return {self.amd, self.arm, self.index, self.signature, self.of_platform}


@pytest.fixture
def family(registry: Registry) -> Family:
    return Family(registry)


def ways(registry: Registry, family: Family) -> dict[str, Callable[[], object]]:
    """Every way of deleting, each of which would take something of the family or all of it."""

    def plan(**wanted: Any) -> None:
        made = make_plan(registry, PlanRequest(**wanted), WITHOUT_ACCOUNTS, ALICE)
        apply_plan(registry, made.id, ALICE, allow=GUARDRAILS)

    def retain() -> None:
        # Rules leave a repository as it is of which they would take the most.
        for number in range(9):
            push_image(registry, "app", f"kept-{number}", [b"kept %d" % number])
        tagged = {"name": "old", "tags": "^v1$", "older_than": "1d"}
        orphans = {"name": "orphans", "untagged": True, "older_than": "1d"}
        rules = retention({"rules": [tagged, orphans]})
        policy.set_retention(registry, rules, ALICE)
        pass_days(registry, 2)
        finish(registry, run.start_run(registry, ALICE, dry_run=False).id)

    return {
        "manifest": lambda: delete_manifest(registry, APP, family.index, ALICE),
        "referrer": lambda: delete_manifest(registry, APP, family.signature, ALICE),
        "platform's referrer": lambda: delete_manifest(registry, APP, family.of_platform, ALICE),
        "repository": lambda: delete_repository(registry, APP, ALICE),
        "plan": lambda: plan(repository=APP, digests=(family.index, family.signature)),
        "plan of the repository": lambda: plan(repositories=(APP,)),
        "purge": lambda: purge(
            registry, "app:.*", untagged=True, include_locked=True, allow=("empty-repository",)
        ),
        "retention": retain,
        "purge of orphans": lambda: (
            delete_tag(registry, APP, parse_tag("v1"), ALICE),
            purge(registry, untagged_only=True, ago=None, include_locked=True),
        ),
    }


@pytest.mark.parametrize("named", ["index", "platform", "config", "tag"])
def test_no_way_of_deleting_takes_what_is_deployed(
    registry: Registry, family: Family, named: str
) -> None:
    """deletion.md section 9: index, children, referrers and configs, in one table of ways."""
    forms: dict[str, str | dict[str, Any]] = {
        "index": f"reg.example/app@{family.index}",
        "platform": f"docker-pullable://elsewhere/renamed@{family.amd}",
        "config": digest_of(b'{"a":1}'),
        "tag": {"image": "reg.example/app:v1"},
    }
    report(registry, forms[named])
    for name, delete in ways(registry, family).items():
        with suppress(Locked):
            delete()
        assert manifests(registry) >= family.all, name
    # What is in another repository, or of no family, is none of the guard's business.
    delete_repository(registry, parse_repository_name("web"), ALICE)


@pytest.mark.thorough
def test_every_way_of_deleting_deletes_what_is_not_deployed(
    registry: Registry, family: Family
) -> None:
    """So the ways above are ways."""
    report(registry, DIGEST)
    names = list(ways(registry, family))
    for number, name in enumerate(names):
        if number:
            family = Family(registry)
        ways(registry, family)[name]()
        assert not manifests(registry) >= family.all, name


def test_refusals_plans_purges_and_why_name_the_source(registry: Registry, family: Family) -> None:
    image = {"image_id": family.arm}
    report(registry, image | {"where": "shop/deployment/app"}, image | {"where": "shop/job/x"})
    words = "deployed in prod: shop/deployment/app and 1 more"
    with pytest.raises(Locked) as refused:
        delete_manifest(registry, APP, family.index, ALICE)
    assert refused.value.detail == f"{words} (repository 'app')"
    wanted = PlanRequest(repository=APP, digests=(family.index, family.other))
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    (stays,) = plan.stays
    assert [(each.kind, each.by) for each in stays.held_by] == [(KeepReason.DEPLOYED, words)]
    assert [item.digest for item in plan.items] == [family.other]
    job = purge(registry, "app:.*", untagged=True, dry_run=True)
    assert [([*stay.tags], stay.held_by[0].kind) for stay in job.stays] == [
        (["v1"], KeepReason.DEPLOYED)
    ]
    assert job.tag_count == 1
    why = explain(registry, family.index, WITHOUT_ACCOUNTS)
    assert (KeepReason.DEPLOYED, words) in [
        (each.kind, each.by) for each in given(why.manifest)[0].held_by
    ]


def test_a_tag_may_go_and_move_while_its_image_is_deployed(
    registry: Registry, family: Family
) -> None:
    """Nothing is lost by it; the image stays, and can be pulled by digest."""
    report(registry, family.index)
    delete_tag(registry, APP, parse_tag("v1"), ALICE)
    assert manifests(registry) >= family.all
    assert tags(registry) == ["v2"]


def test_a_tag_holds_what_it_points_to_and_what_it_pointed_to_first(registry: Registry) -> None:
    first = push_image(registry, "app", "v1", [b"1"])
    report(registry, {"image": "app:v1"})
    second = push_image(registry, "app", "v1", [b"2"])
    report(registry, {"image": "app:v1"})
    third = push_image(registry, "app", "v1", [b"3"])
    for digest in (first, third):
        with pytest.raises(Locked):
            delete_manifest(registry, APP, digest, ALICE)
    delete_manifest(registry, APP, second, ALICE)


def test_what_was_reported_before_it_was_pushed_is_protected(registry: Registry) -> None:
    push_image(registry, "app", "kept", [b"kept"])
    digest = push_image(registry, "app", "v1", [b"1"])
    delete_manifest(registry, APP, digest, ALICE)
    report(registry, digest, {"image": "app:v2"})
    assert push_image(registry, "app", "v1", [b"1"]) == digest
    later = push_image(registry, "app", "v2", [b"2"])
    for each in (digest, later):
        with pytest.raises(Locked):
            delete_manifest(registry, APP, each, ALICE)


def test_a_stale_source_protects_for_ever(registry: Registry, family: Family) -> None:
    report(registry, family.index)
    pass_days(registry, 365)
    with pytest.raises(Locked) as refused:
        delete_manifest(registry, APP, family.index, ALICE)
    assert "deployed in prod (stale, last reported " in str(refused.value.detail)
    (source,) = deployments.list_sources(registry)
    assert (source.stale, source.images) == (True, 1)
    deployments.forget_source(registry, "prod", ALICE)
    delete_manifest(registry, APP, family.index, ALICE)
    assert deployments.list_sources(registry) == []


def test_what_left_a_complete_report_stays_for_a_rollback(
    registry: Registry, family: Family
) -> None:
    report(registry, family.index, family.other)
    reported = report(registry, family.other, rollback="7d")
    assert (reported.added, reported.left, reported.source.recently) == (0, 1, 1)
    pass_days(registry, 6.9)
    # Further reports do not prolong it.
    report(registry, family.other)
    with pytest.raises(Locked) as refused:
        delete_manifest(registry, APP, family.index, ALICE)
    assert "not any more, kept until" in str(refused.value.detail)
    pass_days(registry, 0.2)
    delete_manifest(registry, APP, family.index, ALICE)
    assert report(registry, family.other).source.recently == 0


def test_a_report_that_is_not_complete_takes_nothing_away(
    registry: Registry, family: Family
) -> None:
    report(registry, family.index)
    reported = report(registry, family.other, complete=False)
    assert (reported.source.images, reported.source.recently) == (2, 0)
    assert report(registry, complete=False).source.images == 2
    with pytest.raises(Locked):
        delete_manifest(registry, APP, family.index, ALICE)


def test_an_empty_report_is_refused_unless_it_says_so(registry: Registry, family: Family) -> None:
    report(registry, family.index)
    with pytest.raises(SourceEmpty):
        report(registry)
    with pytest.raises(Locked):
        delete_manifest(registry, APP, family.index, ALICE)
    assert report(registry, empty_ok=True, rollback="0s").source.images == 0
    delete_manifest(registry, APP, family.index, ALICE)


def test_one_source_says_nothing_about_another(registry: Registry, family: Family) -> None:
    report(registry, family.index, source="prod")
    report(registry, family.other, source="staging")
    deployments.forget_source(registry, "staging", ALICE)
    with pytest.raises(Locked):
        delete_manifest(registry, APP, family.index, ALICE)
    with pytest.raises(SourceUnknown):
        deployments.forget_source(registry, "staging", ALICE)


@pytest.mark.parametrize(
    "body",
    [
        {"images": [{"image": "UPPER CASE"}]},
        {"images": [{"image": "app", "where": "a\x1b[2J"}]},
        {"images": [{"image": "app", "where": "x" * 201}]},
        {"images": [{"image": "app"}], "ttl": "1m"},
        {"images": [{"image": "app"}], "ttl": "31d"},
        {"images": [{"image": "app"}], "rollback": "soon"},
        {"images": [{"imageID": DIGEST}]},
        {},
    ],
    ids=json.dumps,
)
def test_what_is_not_understood_changes_nothing(registry: Registry, body: dict[str, Any]) -> None:
    report(registry, DIGEST)
    before = deployments.show_source(registry, "prod", "", 10)
    with pytest.raises(ValueInvalid):
        deployments.report(registry, "prod", read(body, DeploymentReport, ValueInvalid), ALICE)
    assert deployments.show_source(registry, "prod", "", 10) == before


def test_reports_are_audited_when_they_change_something(registry: Registry) -> None:
    for _ in range(3):
        report(registry, DIGEST)
    report(registry, OTHER)
    deployments.forget_source(registry, "prod", ALICE)
    found = registry.read(lambda tx: entries(tx, limit=100))
    assert [(each.action, each.target) for each in found] == [
        ("guard.forget", "prod"),
        ("guard.report", "prod"),
        ("guard.report", "prod"),
    ]


def test_a_report_that_comes_while_a_purge_runs_is_respected(
    registry: Registry, family: Family
) -> None:
    job = begin_purge(registry, "app:.*", untagged=True, allow=("empty-repository",))
    report(registry, family.arm)
    finish(registry, job)
    assert manifests(registry) >= family.all
    assert any("deployed in prod" in str(each) for each in outcomes(registry, job).values())


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_report_between_plan_and_apply_is_respected(
    assemble: Assemble, store: MemoryBlobStore, whole: bool, large: bool
) -> None:
    """A large plan looks outside its deleting transaction, and must look again in it."""
    registry = assemble(store, Limits(max_plan_at_once=1) if large else Limits())
    family = Family(registry)
    wanted = (
        PlanRequest(repositories=(APP,))
        if whole
        else PlanRequest(repository=APP, digests=(family.index,))
    )
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    report(registry, family.amd)
    if large and not whole:
        job = job_of(apply_plan(registry, plan.id, ALICE, allow=GUARDRAILS))
        assert finish(registry, job).manifests_deleted == 0
    else:
        with pytest.raises(PlanChanged):
            apply_plan(registry, plan.id, ALICE, allow=GUARDRAILS)
    assert manifests(registry) >= family.all


def test_suggest_leaves_out_what_is_deployed(registry: Registry, family: Family) -> None:
    pass_days(registry, 400)
    before = suggest(registry, 10**9, (APP,), WITHOUT_ACCOUNTS, ALICE)
    assert before.items
    report(registry, *[item.digest for item in before.items])
    after = suggest(registry, 10**9, (APP,), WITHOUT_ACCOUNTS, ALICE)
    assert not after.items

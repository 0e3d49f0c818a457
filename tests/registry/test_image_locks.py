"""Locks with a reason (peers.md C13): what they cover, and that nothing gets round them."""

from datetime import timedelta

import pytest

from tests.support.cleaning import begin as begin_purge
from tests.support.cleaning import finish, manifests, outcomes, purge, retag, tags
from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.registry import ALICE, push_blob, push_image, push_index
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.deletion.closure import KeepReason, KeptBy
from ullage.deletion.delete import delete_blob, delete_manifest, delete_repository, delete_tag
from ullage.oci.digest import Digest
from ullage.oci.errors import (
    Locked,
    LockUnknown,
    ManifestUnknown,
    NameUnknown,
    RegistryError,
    ValueInvalid,
)
from ullage.oci.reference import RepositoryName, Tag, parse_repository_name, parse_tag
from ullage.quantities import parse_until
from ullage.registry.context import Registry
from ullage.registry.locks.image_locks import expire_locks, lift_locks, list_locks, place_lock
from ullage.registry.queries.audit import entries
from ullage.usage.why import explain

APP = parse_repository_name("app")
V1, V2 = parse_tag("v1"), parse_tag("v2")


def hold(
    registry: Registry,
    reference: Tag | Digest | None = None,
    *,
    days: int | None = None,
    name: RepositoryName = APP,
) -> None:
    until = None if days is None else registry.now() + timedelta(days=days)
    place_lock(registry, name, reference, ALICE, reason="audit 7", owner="ops", until=until)


def pass_days(registry: Registry, days: float) -> None:
    assert isinstance(registry.now, FakeClock)
    registry.now.advance(days * 86_400)


class Family:
    """An index with two platforms and a signature, tagged v1; beside it an image of its own."""

    def __init__(self, registry: Registry) -> None:
        self.amd = push_image(registry, "app", None, [b"amd"])
        self.arm = push_image(registry, "app", None, [b"arm"])
        self.index = push_index(registry, "app", "v1", [self.amd, self.arm])
        self.signature = push_image(registry, "app", None, [b"signature"], subject=self.index)
        self.other = push_image(registry, "app", "v2", [b"other"])

    @property
    def all(self) -> set[Digest]:
        return {self.amd, self.arm, self.index, self.signature}


@pytest.fixture
def family(registry: Registry) -> Family:
    return Family(registry)


@pytest.mark.parametrize("by", ["tag", "digest", "repository", "platform"])
def test_no_way_of_deleting_gets_round_a_hold(registry: Registry, family: Family, by: str) -> None:
    """quay PROJQUAY-10504: delete by digest bypassed a tag's protection for years."""
    held = {"tag": V1, "digest": family.index, "repository": None, "platform": family.amd}[by]
    hold(registry, held)
    reason = r"held by ops: audit 7"
    for digest in (family.index, family.signature) if by != "platform" else (family.index,):
        with pytest.raises(Locked) as refused:
            delete_manifest(registry, APP, digest, ALICE)
        assert reason in str(refused.value.detail)
    with pytest.raises(Locked):
        delete_repository(registry, APP, ALICE)
    if by in ("tag", "repository"):
        with pytest.raises(Locked):
            delete_tag(registry, APP, V1, ALICE)
    for despite in (False, True):
        purge(
            registry,
            "app:.*",
            untagged=True,
            allow=("empty-repository",),
            include_locked=despite,
        )
        assert manifests(registry) >= family.all
    assert manifests(registry) >= family.all
    purge(registry, untagged_only=True, ago=None, include_locked=True)
    assert manifests(registry) >= family.all
    plan = make_plan(registry, PlanRequest(repositories=(APP,)), WITHOUT_ACCOUNTS, ALICE)
    assert reason in given(plan.repositories[0].locked)
    apply_plan(registry, plan.id, ALICE)
    assert manifests(registry) >= family.all


def test_what_is_not_covered_goes(registry: Registry, family: Family) -> None:
    hold(registry, V1)
    delete_manifest(registry, APP, family.other, ALICE)
    assert manifests(registry) == family.all


def test_plans_purges_and_why_say_who_holds_what_until_when_and_why(
    registry: Registry, family: Family
) -> None:
    hold(registry, V1, days=3)
    said = f"held by ops until {(registry.now() + timedelta(days=3)).isoformat()}: audit 7"
    wanted = PlanRequest(repository=APP, digests=(family.index, family.other))
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    (stays,) = plan.stays
    assert (stays.digest, [*stays.held_by]) == (family.index, [KeptBy(KeepReason.HOLD, said)])
    assert [item.digest for item in plan.items] == [family.other]
    job = purge(registry, "app:.*", untagged=True, dry_run=True, keep=0)
    assert [stay.held_by[0].by for stay in job.stays] == [said]
    assert job.tag_count == 1
    why = explain(registry, family.arm, WITHOUT_ACCOUNTS)
    assert KeptBy(KeepReason.HOLD, said) in given(why.manifest)[0].held_by


def test_it_ends_by_itself(registry: Registry, family: Family) -> None:
    hold(registry, family.index, days=2)
    pass_days(registry, 1.9)
    with pytest.raises(Locked):
        delete_manifest(registry, APP, family.index, ALICE)
    pass_days(registry, 0.2)
    assert list_locks(registry, WITHOUT_ACCOUNTS) == []
    delete_manifest(registry, APP, family.index, ALICE)
    expire_locks(registry)
    assert manifests(registry) == {family.other}


def test_lifting_is_audited(registry: Registry, family: Family) -> None:
    hold(registry, V1)
    hold(registry, V1)
    with pytest.raises(LockUnknown):
        lift_locks(registry, APP, V2, ALICE)
    with pytest.raises(LockUnknown):
        # Of exactly this: the tag's hold is not the repository's.
        lift_locks(registry, APP, None, ALICE)
    assert len(lift_locks(registry, APP, V1, ALICE)) == 2
    lifted = registry.read(lambda tx: entries(tx, limit=2))
    assert {(entry.action, entry.subject, entry.target) for entry in lifted} == {
        ("lock.lift", "alice", "v1")
    }
    assert lifted[0].detail["reason"] == "audit 7"
    delete_manifest(registry, APP, family.index, ALICE)


def test_a_tag_takes_its_hold_along_and_a_digest_keeps_its(registry: Registry) -> None:
    old = push_image(registry, "app", "v1", [b"old"])
    hold(registry, V1)
    new = push_image(registry, "app", "v1", [b"new"])
    delete_manifest(registry, APP, old, ALICE)
    with pytest.raises(Locked):
        delete_manifest(registry, APP, new, ALICE)


def test_a_hold_that_comes_while_a_purge_runs_is_respected(registry: Registry) -> None:
    """R28: asked again in the transaction that deletes."""
    orphan = push_image(registry, "app", None, [b"orphan"])
    push_image(registry, "app", "v1", [b"x"])
    job_id = begin_purge(registry, untagged_only=True, ago=None)
    hold(registry, orphan)
    finish(registry, job_id)
    assert outcomes(registry, job_id)[orphan] == "held by ops: audit 7"
    assert orphan in manifests(registry)


def test_a_hold_that_comes_while_tags_go_is_respected(registry: Registry) -> None:
    push_image(registry, "app", "v1", [b"x"])
    push_image(registry, "app", "v2", [b"y"])
    job_id = begin_purge(registry, "app:v1")
    hold(registry, V1)
    finish(registry, job_id)
    assert tags(registry) == ["v1", "v2"]


def test_pushing_is_not_held_up(registry: Registry, family: Family) -> None:
    hold(registry)
    retag(registry, "v3", family.index)
    push_blob(registry, "app", b"new")
    with pytest.raises(Locked):
        delete_blob(registry, APP, push_blob(registry, "app", b"loose"), ALICE)


@pytest.mark.parametrize(
    ("reference", "reason", "days", "error"),
    [
        (V2, "x", None, ManifestUnknown),
        (Digest("sha256:" + "0" * 64), "x", None, ManifestUnknown),
        (V1, " ", None, ValueInvalid),
        (V1, "x" * 1001, None, ValueInvalid),
        (V1, "x", -1, ValueInvalid),
    ],
)
def test_what_nobody_can_mean_is_refused(
    registry: Registry,
    reference: Tag | Digest,
    reason: str,
    days: int | None,
    error: type[RegistryError],
) -> None:
    push_image(registry, "app", "v1", [b"x"])
    until = None if days is None else registry.now() + timedelta(days=days)
    with pytest.raises(error):
        place_lock(registry, APP, reference, ALICE, reason=reason, owner=None, until=until)
    with pytest.raises(NameUnknown):
        place_lock(
            registry,
            parse_repository_name("absent"),
            None,
            ALICE,
            reason="x",
            owner=None,
            until=None,
        )


def test_an_end_is_a_date_or_a_duration(registry: Registry) -> None:
    now = registry.now()
    assert parse_until("30d", now) == now + timedelta(days=30)
    assert parse_until("2027-01-31", now).isoformat() == "2027-01-31T00:00:00+00:00"
    assert parse_until("2027-01-31T10:00:00+02:00", now).isoformat() == "2027-01-31T10:00:00+02:00"
    for wrong in ("", "tomorrow", "99999999d", "2027-13-01"):
        with pytest.raises(ValueInvalid):
            parse_until(wrong, now)


def test_a_repository_that_comes_back_is_free(registry: Registry) -> None:
    """A hold is of one generation; it cannot be deleted while it is held."""
    push_image(registry, "app", "v1", [b"x"])
    hold(registry, days=1)
    pass_days(registry, 2)
    delete_repository(registry, APP, ALICE)
    push_image(registry, "app", "v1", [b"x"])
    assert list_locks(registry, WITHOUT_ACCOUNTS) == []
    delete_repository(registry, APP, ALICE)

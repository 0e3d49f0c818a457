"""Use cases of several transactions, cut off after each of them: nothing is left half done.

What a killed process leaves is what its last commit left. So each use case here is cut off after
its first commit, after its second, and so on; each time `ullage check` finds nothing on what is
there, and what was to be done is done by the next attempt, or by the worker (deletion.md section 3;
reliability.md I23-I25).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from tests.support.cleaning import ask, finish, retag, retention, wait_days
from tests.support.clock import FakeClock
from tests.support.databases import emptied
from tests.support.fixtures import registry_on
from tests.support.planting import plant_image
from tests.support.registry import ALICE, push_image, push_index, settle
from tests.support.soundness import assert_sound
from tests.support.undoing import operations, soft, stands
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.check import check
from ullage.check.findings import Finding, Mode
from ullage.cleanup.job.execution import expire_jobs
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.cleanup.queries import jobs
from ullage.cleanup.retention.policy import set_retention
from ullage.cleanup.retention.run import start_run
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest, delete_repository, delete_tag
from ullage.oci.digest import Digest
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Limits, Registry
from ullage.restore import restore
from ullage.restore.deleted import expire_operations, free_all
from ullage.restore.restore import restore_operation

APP = parse_repository_name("app")
WEB = parse_repository_name("web")
ALLOW = ("empty-repository", "most-of-repository", "only-tag", "newest-image")
# More commits than any of these use cases makes.
MOST = 60


class Killed(BaseException):
    """What nobody catches, as a kill."""


class Mortal:
    """A database that commits so many times more, and then nothing ever again."""

    def __init__(self, db: Database, commits: int) -> None:
        self._db = db
        self.left = commits

    def __getattr__(self, name: str) -> Any:
        if self.left <= 0:
            raise Killed
        return getattr(self._db, name)

    def write(self, work: Any, *, freeing: bool = False) -> Any:
        if self.left <= 0:
            raise Killed
        outcome = self._db.write(work, freeing=freeing)
        self.left -= 1
        return outcome

    def write_each(self, works: Sequence[Any], *, hurried: bool = False) -> list[Any]:
        if self.left <= 0:
            raise Killed
        outcome = self._db.write_each(works, hurried=hurried)
        self.left -= 1
        return outcome


class UseCase(NamedTuple):
    """`act` is cut off and then called again, until it is done; `holds` is what is true then."""

    prepare: Callable[[Registry], None]
    act: Callable[[Registry], object]
    holds: Callable[[Registry], None]


# --- what there is --------------------------------------------------------------------------------


def _fill(registry: Registry) -> None:
    """Images that hang together in every way, beside some that do not, in two repositories."""
    for n in range(3):
        own = push_image(registry, APP, f"own-{n}", [b"own %d" % n, b"shared"])
        push_index(registry, APP, f"index-{n}", [own])
        push_image(registry, APP, None, [b"signed %d" % n], subject=own)
        plant_image(registry, WEB, f"web-{n}", [b"web %d" % n, b"shared"])


def _keep(registry: Registry) -> None:
    soft(registry)
    _fill(registry)


def _work_off(registry: Registry) -> None:
    """All that the worker does by itself."""
    with_jobs = registry.read(lambda tx: jobs.newest(tx, 100))
    for row in with_jobs:
        if row.finished_at is None:
            # Its claim ends by itself, or with its process.
            wait_days(registry, 1 / 1440)
            finish(registry, row.id, n=2)
    settle(registry)


def _after(registry: Registry, days: int) -> None:
    """So much later, the worker having done what was due in between."""
    settle(registry)
    wait_days(registry, days)
    settle(registry)


def _gone(registry: Registry) -> None:
    assert stands(registry, APP) == {}


# --- the use cases --------------------------------------------------------------------------------


def _delete_all(registry: Registry) -> None:
    """Three operations: whole repositories, an image, and a tag whose image stays."""
    _keep(registry)
    push_image(registry, APP, "alone", [b"alone"])
    delete_tag(registry, APP, parse_tag("alone"), ALICE)
    # The last comes back first: a tag needs its image.
    wait_days(registry, 1 / 1440)
    delete_manifest(registry, WEB, _digest(registry, WEB, "web-0"), ALICE)
    delete_repository(registry, APP, ALICE)


def _digest(registry: Registry, name: str, tag: str) -> Any:
    return next(digest for digest, (tags, _, _) in stands(registry, name).items() if tag in tags)


def _restore_all(registry: Registry) -> None:
    for operation in operations(registry):
        restore_operation(registry, operation.id, ALICE, force=True)


def _all_back(registry: Registry) -> None:
    assert operations(registry) == []
    tags = {tag for _, (tags, _, _) in stands(registry, APP).items() for tag in tags}
    assert tags >= {f"{what}-{n}" for what in ("own", "index") for n in range(3)} | {"alone"}
    assert len(stands(registry, WEB)) == 3


def _pushed_again(registry: Registry) -> None:
    """So that what was deleted comes back in batches, and one tag is in the way."""
    _delete_all(registry)
    push_image(registry, APP, "new", [b"new"])
    push_image(registry, APP, "own-1", [b"own 1 again"])


def _purged(registry: Registry) -> None:
    """One operation of a job, over two repositories, with tags and manifests."""
    _keep(registry)
    push_image(registry, APP, "stays", [b"stays"])
    retag(registry, "second", _digest(registry, APP, "stays"))
    finish(registry, ask(registry, "app:^(own|index|second)", "web:.*", untagged=True, allow=ALLOW))
    push_image(registry, APP, "new", [b"new"])


def _purge(registry: Registry) -> None:
    if not registry.read(lambda tx: jobs.newest(tx, 1)):
        ask(registry, "app:.*", untagged=True, allow=ALLOW)
    (row,) = registry.read(lambda tx: jobs.newest(tx, 1))
    if row.finished_at is None:
        wait_days(registry, 1 / 1440)
        finish(registry, row.id, n=2)


def _apply(whole: bool) -> Callable[[Registry], None]:
    def act(registry: Registry) -> None:
        if not stands(registry, APP):
            return
        digests = tuple(map(Digest, stands(registry, APP)))
        wanted = (
            PlanRequest(repositories=(APP, WEB))
            if whole
            else PlanRequest(repository=APP, digests=digests)
        )
        open_ = [row for row in registry.read(lambda tx: jobs.newest(tx, 9)) if not row.finished_at]
        if not open_:
            plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
            apply_plan(registry, plan.id, ALICE, allow=ALLOW)
        _work_off(registry)

    return act


def _retain(registry: Registry) -> None:
    if not registry.read(lambda tx: jobs.newest(tx, 1)):
        start_run(registry, ALICE, dry_run=False)
    _work_off(registry)


def _with_rules(registry: Registry) -> None:
    _fill(registry)
    allow = list(ALLOW[:3])
    tagged = {"name": "old", "tags": ".*", "older_than": "1d", "allow": allow}
    orphans = {"name": "orphans", "untagged": True, "older_than": "1d", "allow": allow}
    set_retention(registry, retention({"rules": [tagged, orphans]}), ALICE)
    _after(registry, days=30)


def _two_weeks_later(registry: Registry) -> None:
    _delete_all(registry)
    _after(registry, days=14)


def _expire(registry: Registry) -> None:
    while expire_operations(registry):
        pass
    settle(registry)


def _nothing_kept(registry: Registry) -> None:
    assert operations(registry) == []


def _free(registry: Registry) -> None:
    free_all(registry, WITHOUT_ACCOUNTS, ALICE)
    settle(registry)


def _delete(registry: Registry) -> None:
    if stands(registry, APP):
        delete_repository(registry, APP, ALICE)
    settle(registry)


def _old_job(registry: Registry) -> None:
    _fill(registry)
    finish(registry, ask(registry, "app:.*", untagged=True, allow=ALLOW))
    _after(registry, days=30)


def _forget_jobs(registry: Registry) -> None:
    while expire_jobs(registry):
        pass


def _no_jobs(registry: Registry) -> None:
    assert registry.read(lambda tx: jobs.newest(tx, 1)) == []


USE_CASES = {
    "restore": UseCase(_delete_all, _restore_all, _all_back),
    "restore-in-batches": UseCase(_pushed_again, _restore_all, lambda _: None),
    "restore-a-purge": UseCase(_purged, _restore_all, lambda _: None),
    "delete-repository": UseCase(_fill, _delete, _gone),
    "delete-repository-softly": UseCase(_keep, _delete, _gone),
    "apply-plan": UseCase(_fill, _apply(whole=False), _gone),
    "apply-plan-of-repositories": UseCase(_fill, _apply(whole=True), _gone),
    "purge": UseCase(_fill, _purge, _gone),
    "purge-softly": UseCase(_keep, _purge, _gone),
    "retention": UseCase(_with_rules, _retain, _gone),
    "expire-operations": UseCase(_two_weeks_later, _expire, _nothing_kept),
    "free-operations": UseCase(_delete_all, _free, _nothing_kept),
    "forget-jobs": UseCase(_old_job, _forget_jobs, _no_jobs),
}


def _findings(registry: Registry) -> set[Finding]:
    """What `ullage check` says; with nothing to say it ends with 0."""
    return set(check(registry, Mode.DEFAULT).findings)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("name", USE_CASES)
@pytest.mark.thorough
def test_what_is_cut_off_after_any_commit_is_whole_and_is_done_by_the_next_attempt(
    sqlite_db: Database,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    large: bool,
) -> None:
    """Once as small things are done, once in as many batches as there can be."""
    limits = Limits(max_plan_at_once=1) if large else Limits()
    if large:
        monkeypatch.setattr(restore, "WHOLE", 1)
        monkeypatch.setattr(restore, "BATCH", 1)
    use_case = USE_CASES[name]
    for commits in range(1, MOST):
        sqlite_db.write(emptied)
        registry = registry_on(sqlite_db, MemoryBlobStore(), clock, limits)
        use_case.prepare(registry)
        # What is overdue, where that is what the use case is about.
        before = _findings(registry)
        try:
            use_case.act(replace(registry, db=Mortal(registry.db, commits)))
            done = True
        except Killed:
            done = False
        new = _findings(registry) - before
        assert not new, f"{new} after {commits} commits"
        assert_sound(registry)
        if not done:
            use_case.act(registry)
        _work_off(registry)
        use_case.holds(registry)
        assert_sound(registry)
        if done:
            return
    pytest.fail(f"not done after {MOST} commits")

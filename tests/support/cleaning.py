"""Jobs carried out here and now, and what is in a registry: for tests of cleanup."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.support.clock import FakeClock
from tests.support.documents import given
from tests.support.registry import ALICE, put_manifest
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.guardrails import Caps
from ullage.cleanup.job.documents import Job
from ullage.cleanup.job.execution import work
from ullage.cleanup.job.jobs import get_items, get_job
from ullage.cleanup.plan.documents import Receipt
from ullage.cleanup.purge import purge_request, start_purge
from ullage.cleanup.retention.documents import RetentionRequest, RuleDocument
from ullage.database.transaction import Transaction
from ullage.documents import UnsetType, read
from ullage.oci.digest import Digest
from ullage.oci.errors import ValueInvalid
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.pull.read import get_manifest
from ullage.registry.queries.content.manifests import all_digests
from ullage.registry.queries.content.repositories import find_repository
from ullage.registry.queries.content.tags import all_tags
from ullage.worker import CHOOSERS


def retention(document: dict[str, Any]) -> RetentionRequest:
    """A retention policy as a client sends it."""
    return read(document, RetentionRequest, ValueInvalid)


def rules(*those: Any) -> tuple[RuleDocument, ...]:
    return retention({"rules": list(those)}).rules


def job_of(receipt: Receipt | UnsetType) -> str:
    """The job that carries a plan out."""
    return given(given(receipt).job)


def ask(
    registry: Registry,
    *filters: str,
    ago: str | None = "0d",
    caller: Caller = ALICE,
    **more: Any,
) -> str:
    """Ask for a purge; the job's id. Whatever there is was there for a moment."""
    if isinstance(registry.now, FakeClock):
        registry.now.advance(1)
    usual: dict[str, Any] = {
        "keep": 0,
        "untagged": False,
        "untagged_only": False,
        "include_locked": False,
        "dry_run": False,
        "caps": Caps(),
        "allow": (),
    }
    purge = purge_request(filters=filters, ago=ago, **(usual | more))
    return str(start_purge(registry, purge, WITHOUT_ACCOUNTS, caller).id)


def finish(registry: Registry, job_id: str, *, token: str = "worker", n: int = 100) -> Job:
    """Do all there is to do; the job when it is done."""
    while work(registry, CHOOSERS, token, n) is not None:
        pass
    return get_job(registry, job_id, WITHOUT_ACCOUNTS)


def purge(registry: Registry, *filters: str, ago: str | None = "0d", **more: Any) -> Job:
    """Ask for a purge and carry it out."""
    return finish(registry, ask(registry, *filters, ago=ago, **more))


def begin(registry: Registry, *filters: str, ago: str | None = "0d", **more: Any) -> str:
    """Ask for a purge and plan it, so that the next piece of work deletes."""
    job_id = ask(registry, *filters, ago=ago, **more)
    work(registry, CHOOSERS, "worker", 1)
    assert get_job(registry, job_id, WITHOUT_ACCOUNTS).state == "running"
    return job_id


def outcomes(registry: Registry, job_id: str) -> dict[str, str | None]:
    """What became of each item: by tag, or by digest."""
    items = get_items(registry, job_id, WITHOUT_ACCOUNTS, 0, 1000)
    return {item.tag or item.digest: item.reason or item.outcome for item in items}


def tags(registry: Registry, name: str = "app") -> list[str]:
    def read(tx: Transaction) -> list[str]:
        repository_id = find_repository(tx, parse_repository_name(name))
        return [] if repository_id is None else [*all_tags(tx, repository_id)]

    return registry.read(read)


def manifests(registry: Registry, name: str = "app") -> set[Digest]:
    def read(tx: Transaction) -> set[Digest]:
        repository_id = find_repository(tx, parse_repository_name(name))
        return set() if repository_id is None else set(all_digests(tx, repository_id))

    return registry.read(read)


def retag(registry: Registry, tag: str, digest: Digest, name: str = "app") -> None:
    """Push what is there again, under a tag."""
    repository = parse_repository_name(name)
    stored = get_manifest(registry, repository, digest)
    put_manifest(registry, repository, parse_tag(tag), stored.raw, stored.media_type, ALICE)


def wait_days(registry: Registry, days: float) -> None:
    assert isinstance(registry.now, FakeClock)
    registry.now.advance(timedelta(days=days).total_seconds())

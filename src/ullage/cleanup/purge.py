"""Purging by name, age and count, as `acr purge` does, on the server (azure.md section 4).

The answer is a job. Its repositories are found while it is asked for, so that it never reaches
further than the caller's rights do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ullage.authorization import Action, Principal
from ullage.cleanup.candidates import Kept, OrphanScope, Scope, TagScope, choose
from ullage.cleanup.filters import Filter, Purge, check_purge, parse_ago, parse_filter
from ullage.cleanup.guardrails import GUARDRAILS, Caps, RepositoryShare
from ullage.cleanup.job.documents import AboutRepository, Job, PurgeJob
from ullage.cleanup.job.jobs import start_job
from ullage.cleanup.job.planning import Chosen
from ullage.cleanup.plan.documents import KeptItem
from ullage.cleanup.queries import candidates
from ullage.cleanup.queries.jobs import Item, JobRow
from ullage.deletion.closure import Why
from ullage.documents import stored
from ullage.oci.errors import ValueInvalid
from ullage.oci.reference import RepositoryName
from ullage.patterns import Matches, any_of, part, whole
from ullage.registry.clients import Caller
from ullage.registry.context import Registry

RIGHTS = (Action.METADATA_READ, Action.DELETE)
# To unlock what is locked is to write its attributes.
RIGHTS_DESPITE_LOCKS = (*RIGHTS, Action.METADATA_WRITE)


@dataclass(frozen=True, slots=True)
class PurgeRequest:
    """A purge, and how much it may take."""

    purge: Purge
    dry_run: bool = False
    caps: Caps = field(default_factory=Caps)
    allow: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rights(self) -> tuple[Action, ...]:
        return RIGHTS_DESPITE_LOCKS if self.purge.include_locked else RIGHTS


def purge_request(
    *,
    filters: Sequence[str],
    ago: str | None,
    keep: int,
    untagged: bool,
    untagged_only: bool,
    include_locked: bool,
    dry_run: bool,
    caps: Caps,
    allow: Sequence[str],
) -> PurgeRequest:
    """A purge in a client's words, read strictly. Raises ValueInvalid."""
    age, cut = parse_ago(ago) if ago is not None else (timedelta(0), False)
    purge = Purge(
        filters=tuple(map(parse_filter, filters)),
        ago=age,
        keep=keep,
        untagged=untagged,
        untagged_only=untagged_only,
        include_locked=include_locked,
    )
    check_purge(purge, ago_given=ago is not None)
    notes = (f"{ago} is longer than 150 years, and counts as 150 years",) if cut else ()
    return PurgeRequest(purge, dry_run, caps, tuple(allow), notes)


def start_purge(
    registry: Registry, purge_request: PurgeRequest, principal: Principal, caller: Caller
) -> Job:
    """Queue a purge of those repositories that the caller may delete from.

    Raises ValueInvalid for what is no expression.
    """
    unknown = sorted(set(purge_request.allow) - set(GUARDRAILS))
    if unknown:
        raise ValueInvalid(
            {"unknown": unknown[:10]}, f"allow: expected some of {', '.join(GUARDRAILS)}"
        )
    return start_job(registry, "purge", request_of(registry, purge_request, principal), caller)


def request_of(registry: Registry, purge_request: PurgeRequest, principal: Principal) -> PurgeJob:
    """What a purge is to choose: its filters, and the repositories that it is about.

    Raises ValueInvalid for what is no expression.
    """
    purge = purge_request.purge
    matchers = [(whole(each.repository), part(each.tag), each) for each in purge.filters]
    found = [
        AboutRepository(
            name, repository_id, named=any(name == each.repository for each in purge.filters)
        )
        for repository_id, name in registry.read(candidates.repositories)
        if (not purge.filters or any(matches(name) for matches, _, _ in matchers))
        and principal.may_all(purge_request.rights, name)
    ]
    return PurgeJob(
        filters=[f"{each.repository}:{each.tag}" for each in purge.filters],
        ago_seconds=purge.ago.total_seconds(),
        keep=purge.keep,
        untagged=purge.untagged,
        untagged_only=purge.untagged_only,
        include_locked=purge.include_locked,
        before=(registry.now() - purge.ago).isoformat(),
        expressions=[(each.repository, each.tag) for each in purge.filters],
        repositories=found,
        dry_run=purge_request.dry_run,
        caps=purge_request.caps,
        allow=purge_request.allow,
        notes=purge_request.notes,
    )


def choose_purge(registry: Registry, job: JobRow, add: Callable[[Item], None]) -> Chosen:
    """Everything that the purge takes, as it was asked for."""
    stays: list[Kept] = []
    request = stored(job.request, PurgeJob)
    shares = choose_as_asked(registry, request, add, stays.append)
    return Chosen(shares, list(request.notes), stays=[kept_document(kept) for kept in stays])


def kept_document(kept: Kept) -> KeptItem:
    """What a lock keeps."""
    return KeptItem(
        repository=kept.repository,
        digest=kept.digest,
        tags=kept.tags,
        why=Why.ASKED,
        held_by=[kept.by],
    )


def choose_as_asked(
    registry: Registry,
    request: PurgeJob,
    add: Callable[[Item], None],
    stays: Callable[[Kept], None],
) -> list[RepositoryShare]:
    """Hand all that request_of() asks for to `add`, and what locks keep to `stays`."""
    filters = [Filter(*expressions) for expressions in request.expressions]
    matchers = [(whole(each.repository), part(each.tag)) for each in filters]
    cutoff = datetime.fromisoformat(request.before)
    shares: list[RepositoryShare] = []
    for found in request.repositories or ():
        name = RepositoryName(found.repository)
        scope = _scope(request, cutoff, [tag for matches, tag in matchers if matches(name)])
        share = choose(registry, found.id, name, scope, add, named=found.named, stays=stays)
        if share is not None:
            shares.append(share)
    return shares


def _scope(request: PurgeJob, cutoff: datetime, tags: Sequence[Matches]) -> Scope:
    orphans = request.untagged or request.untagged_only
    return Scope(
        tags=() if request.untagged_only else (TagScope(any_of(tags), cutoff, request.keep),),
        orphans=OrphanScope(cutoff, request.keep) if orphans else None,
        include_locked=request.include_locked,
    )

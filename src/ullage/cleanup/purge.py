"""Purging by name, age and count, as `acr purge` does, on the server (acr-contract section 4).

Whoever asks gets a job. Its repositories are found while it is asked for, so that it never reaches
further than the rights of whoever asks do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ullage.authorization import Action, Principal
from ullage.cleanup.candidates import OrphanScope, Scope, Stay, TagScope, choose
from ullage.cleanup.filters import Filter, Purge, check_purge, parse_ago, parse_filter
from ullage.cleanup.guardrails import RAILS, Caps, Swath
from ullage.cleanup.job.jobs import start_job
from ullage.cleanup.job.planning import Chosen
from ullage.cleanup.queries import candidates
from ullage.cleanup.queries.jobs import Item, JobRow
from ullage.deletion.closure import HeldBy, Why
from ullage.oci.errors import ValueInvalid
from ullage.oci.reference import RepositoryName
from ullage.patterns import Matches, any_of, part, whole
from ullage.registry.context import Caller, Registry

RIGHTS = (Action.METADATA_READ, Action.DELETE)
# To unlock what is locked is to write its attributes.
RIGHTS_DESPITE_LOCKS = (*RIGHTS, Action.METADATA_WRITE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A purge, and how much it may take."""

    purge: Purge
    dry_run: bool = False
    caps: Caps = field(default_factory=Caps)
    allow: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rights(self) -> tuple[Action, ...]:
        return RIGHTS_DESPITE_LOCKS if self.purge.include_locked else RIGHTS


def wanted(
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
) -> Wanted:
    """What somebody wants, read strictly. Raises ValueInvalid."""
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
    return Wanted(purge, dry_run, caps, tuple(allow), notes)


def start_purge(
    registry: Registry, wanted: Wanted, principal: Principal, caller: Caller
) -> dict[str, Any]:
    """Queue a purge of those repositories that the caller may delete from; the job as JSON.

    Raises ValueInvalid for what is no expression.
    """
    unknown = sorted(set(wanted.allow) - set(RAILS))
    if unknown:
        raise ValueInvalid({"unknown": unknown[:10]}, f"allow: expected some of {', '.join(RAILS)}")
    more = {
        "dry_run": wanted.dry_run,
        "caps": asdict(wanted.caps),
        "allow": list(wanted.allow),
        "notes": list(wanted.notes),
    }
    return start_job(registry, "purge", request_of(registry, wanted, principal) | more, caller)


def request_of(registry: Registry, wanted: Wanted, principal: Principal) -> dict[str, Any]:
    """What a purge is to choose, as JSON: its filters, and the repositories that it is about.

    Raises ValueInvalid for what is no expression.
    """
    purge = wanted.purge
    matchers = [(whole(each.repository), part(each.tag), each) for each in purge.filters]
    found = [
        {
            "id": repository_id,
            "repository": name,
            "named": any(name == each.repository for each in purge.filters),
        }
        for repository_id, name in registry.read(candidates.repositories)
        if (not purge.filters or any(matches(name) for matches, _, _ in matchers))
        and principal.may_all(wanted.rights, name)
    ]
    return {
        "filters": [f"{each.repository}:{each.tag}" for each in purge.filters],
        "ago_seconds": purge.ago.total_seconds(),
        "keep": purge.keep,
        "untagged": purge.untagged,
        "untagged_only": purge.untagged_only,
        "include_locked": purge.include_locked,
        "before": (registry.now() - purge.ago).isoformat(),
        "expressions": [[each.repository, each.tag] for each in purge.filters],
        "repositories": found,
    }


def choose_purge(registry: Registry, job: JobRow, add: Callable[[Item], None]) -> Chosen:
    """Everything that the purge takes, as it was asked for."""
    stays: list[Stay] = []
    swaths = choose_as_asked(registry, job.request, add, stays.append)
    return Chosen(swaths, list(job.request["notes"]), stays=[stay_shown(stay) for stay in stays])


def stay_shown(stay: Stay) -> dict[str, Any]:
    """What a lock keeps, as JSON."""
    return {
        "repository": stay.repository,
        "digest": stay.digest,
        "tags": list(stay.tags),
        "why": Why.ASKED,
        "held_by": [{"kind": HeldBy.LOCK, "by": stay.because}],
    }


def choose_as_asked(
    registry: Registry,
    request: Mapping[str, Any],
    add: Callable[[Item], None],
    stays: Callable[[Stay], None],
) -> list[Swath]:
    """Hand all that request_of() asks for to `add`, and what locks keep to `stays`."""
    filters = [Filter(*expressions) for expressions in request["expressions"]]
    matchers = [(whole(each.repository), part(each.tag)) for each in filters]
    cutoff = datetime.fromisoformat(request["before"])
    swaths: list[Swath] = []
    for found in request["repositories"]:
        name = RepositoryName(found["repository"])
        scope = _scope(request, cutoff, [tag for matches, tag in matchers if matches(name)])
        swath = choose(registry, found["id"], name, scope, add, named=found["named"], stays=stays)
        if swath is not None:
            swaths.append(swath)
    return swaths


def _scope(request: Mapping[str, Any], cutoff: datetime, tags: Sequence[Matches]) -> Scope:
    keep = request["keep"]
    orphans = request["untagged"] or request["untagged_only"]
    return Scope(
        tags=() if request["untagged_only"] else (TagScope(any_of(tags), cutoff, keep),),
        orphans=OrphanScope(cutoff, keep) if orphans else None,
        include_locked=request["include_locked"],
    )

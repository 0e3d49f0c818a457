"""The retention policy: rules as they are set, az's policy beside them, and when they ran last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ullage.cleanup.queries import jobs
from ullage.cleanup.retention.documents import (
    RetentionDocument,
    RetentionRequest,
    StoredUntagged,
    UntaggedPolicy,
)
from ullage.cleanup.retention.rules import (
    Decider,
    Matches,
    Retention,
    Rule,
    Untagged,
    parse_days,
    retention_document,
    retention_of,
)
from ullage.database.transaction import Transaction
from ullage.documents import changed, plain, stored
from ullage.oci.errors import ValueInvalid
from ullage.patterns import part, whole
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.queries import policies

KIND = "retention"
POLICY = "retention"
# When rules ran last, in a row of its own: no request sets it.
LAST_RUN = "retention.last"


def find_retention(tx: Transaction, *, lock: bool = False) -> Retention:
    """The policy that is in force."""
    found = policies.find(tx, POLICY, lock=lock)
    if found is None:
        return Retention()
    document = dict(found.document)
    untagged = stored(document.pop("untagged", {}), StoredUntagged)
    return retention_of(stored(document, RetentionRequest), _untagged(untagged))


def _untagged(document: StoredUntagged) -> Untagged:
    since, updated = document.since, document.updated
    return Untagged(
        enabled=document.enabled,
        days=Untagged().days if document.days is None else document.days,
        since=datetime.fromisoformat(since) if since else None,
        updated=datetime.fromisoformat(updated) if updated else None,
    )


def _put(tx: Transaction, retention: Retention, now: datetime) -> None:
    untagged = retention.untagged
    kept = StoredUntagged(
        untagged.enabled,
        untagged.days,
        untagged.since.isoformat() if untagged.since else None,
        untagged.updated.isoformat() if untagged.updated else None,
    )
    document = plain(retention_document(retention)) | {"untagged": plain(kept)}
    policies.put(tx, POLICY, document, now)
    if policies.find(tx, LAST_RUN) is None:
        # After setting rules there is the time of one interval to look at what they would do.
        note_run(tx, now, ran=False)
    # What older rules have chosen and not yet deleted stays.
    jobs.cancel_open(tx, KIND)


def note_run(tx: Transaction, now: datetime, *, ran: bool) -> None:
    """From when the next interval counts: rules ran, or were set for the first time."""
    policies.put(tx, LAST_RUN, {"at": now.isoformat(), "ran": ran}, now)


def counts_from(tx: Transaction) -> datetime | None:
    """From when the interval to the next run counts; None while there are no rules."""
    found = policies.find(tx, LAST_RUN)
    return None if found is None else datetime.fromisoformat(found.document["at"])


def last_run(tx: Transaction) -> datetime | None:
    """When rules ran last; None if that is not known, or they never did."""
    found = policies.find(tx, LAST_RUN)
    ran = found is not None and found.document.get("ran", False)
    return counts_from(tx) if ran else None


def get_retention(registry: Registry) -> RetentionDocument:
    """The rules, and when they run."""

    def read(tx: Transaction) -> RetentionDocument:
        retention, last, since = find_retention(tx), last_run(tx), counts_from(tx)
        running = bool(retention.in_force()) and since is not None
        return changed(
            retention_document(retention),
            last_run=last.isoformat() if last else None,
            next_run=(since + retention.every).isoformat() if running and since else None,
        )

    return registry.read(read)


def set_retention(
    registry: Registry, document: RetentionRequest, caller: Caller
) -> RetentionDocument:
    """Set the rules, in place of all that were. Raises ValueInvalid."""
    compiled(retention_of(document, Untagged()).rules)

    def put(tx: Transaction) -> None:
        wanted = retention_of(document, find_retention(tx, lock=True).untagged)
        _put(tx, wanted, registry.now())
        detail = plain(retention_document(wanted))
        registry.audit(tx, caller, "policy.set", target=POLICY, detail=detail)

    registry.write(put)
    return get_retention(registry)


def get_untagged(registry: Registry) -> UntaggedPolicy:
    """`az acr config retention show` (azure.md section 3.5)."""
    untagged = registry.read(find_retention).untagged
    return UntaggedPolicy(
        untagged.days,
        untagged.updated.isoformat() if untagged.updated else None,
        "enabled" if untagged.enabled else "disabled",
    )


def set_untagged(
    registry: Registry, status: str | None, days: object, caller: Caller
) -> UntaggedPolicy:
    """`az acr config retention update` (azure.md section 3.3). Raises ValueInvalid."""
    if status not in (None, "enabled", "disabled"):
        raise ValueInvalid(message="status: expected enabled or disabled")
    checked = None if days is None else parse_days(days)
    now = registry.now()

    def put(tx: Transaction) -> None:
        before = find_retention(tx, lock=True)
        old = before.untagged
        enabled = old.enabled if status is None else status == "enabled"
        new = Untagged(
            enabled=enabled,
            days=old.days if checked is None else checked,
            since=(old.since if old.enabled else now) if enabled else None,
            updated=now,
        )
        _put(tx, replace(before, untagged=new), now)
        detail = {"enabled": new.enabled, "days": new.days}
        registry.audit(tx, caller, "policy.set", target="untagged", detail=detail)

    registry.write(put)
    return get_untagged(registry)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A rule with what tells which names it means."""

    rule: Rule
    repository: Matches
    tag: Matches


def compiled(rules: Sequence[Rule]) -> list[Compiled]:
    """Raises ValueInvalid for what is no expression."""
    return [Compiled(rule, whole(rule.repositories), part(rule.tags or "")) for rule in rules]


def decider(rules: Sequence[Compiled], name: str, now: datetime) -> Decider | None:
    """Decides about a repository; None if no rule is about it."""
    mine = [(each.rule, each.tag) for each in rules if each.repository(name)]
    return Decider(mine, now) if mine else None

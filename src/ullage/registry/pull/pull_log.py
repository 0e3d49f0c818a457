"""Pulls by class of puller, and the last of each: what policies have to know before they delete.

Recorded off the way of pulls (pull_recorder.py): the worker writes down every few seconds, and at a
clean stop. A crash forgets the last seconds. Several processes write the same rows; the later
moment stays.

A pull by a tag counts for the tag and for what it points to, a pull by digest for the manifest, and
for every index that lists it: nodes resolve a tag once, and then pull a platform by its digest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from ullage.database.transaction import Transaction
from ullage.documents import Document, Time, plain
from ullage.oci.digest import Digest
from ullage.oci.errors import RegistryError
from ullage.oci.reference import RepositoryName, Tag
from ullage.patterns import Matches, part
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.pull.pull_recorder import MAX_AGENT, Pulls, Seen
from ullage.registry.pull.user_agents import (
    USUAL,
    Puller,
    PullerName,
    Pullers,
    PullersDocument,
    PullersRequest,
    parse_pullers,
    pullers_document,
    pullers_of,
)
from ullage.registry.queries import policies, pulls
from ullage.registry.queries.content.remove_manifests import parents_of
from ullage.registry.queries.content.repositories import require_repository
from ullage.registry.queries.pulls import PulledMost, PullsOfDay

log = logging.getLogger(__name__)

POLICY = "pullers"
# What is remembered for replays.
HISTORY = timedelta(days=400)
MAX_HISTORY = 2_000_000
# Indexes of indexes of …: none are nested deeper.
MAX_DEPTH = 8
# Manifests that one transaction writes about.
AT_ONCE = 250


def note_pull(registry: Registry, manifest_id: int, reference: Tag | Digest, agent: str) -> None:
    """A manifest was handed out. Costs a microsecond or two."""
    tag = None if isinstance(reference, Digest) else reference
    registry.pull_recorder.note(manifest_id, tag, agent[:MAX_AGENT], registry.now())


def write_pulls(registry: Registry) -> bool:
    """Write down what waits; False if that failed, and it waits on.

    Returns when everything that was noted before has been tried, also by another thread.
    """
    with registry.pull_recorder.writing:
        taken = registry.pull_recorder.take()
        if not taken:
            return True
        try:
            classify = classifier(registry.read(pullers))
            keys = sorted(taken, key=lambda key: key[0])
            while keys:
                some = {key: taken[key] for key in keys[:AT_ONCE]}
                registry.write(lambda tx, some=some: _write(tx, some, classify))  # type: ignore[misc]
                for key in some:
                    _tally(registry, key, taken[key], classify)
                    del taken[key]
                keys = keys[AT_ONCE:]
        except RegistryError as error:
            log.warning("pulls are not written down yet: %s", error)
            registry.pull_recorder.put_back(taken)
            return False
    return True


def _tally(
    registry: Registry,
    key: tuple[int, Tag | None, str],
    seen: Seen,
    classify: Callable[[str], Puller],
) -> None:
    _, tag, agent = key
    by = "digest" if tag is None else "tag"
    registry.tallies.add("pulls", by, classify(agent), n=seen.pulls)


def _write(tx: Transaction, taken: Pulls, classify: Callable[[str], Puller]) -> None:
    listed_by = _indexes(tx, {key[0] for key in taken})
    there = pulls.lock_manifests(tx, listed_by.keys())
    manifests: dict[tuple[int, str], tuple[datetime, datetime | None]] = {}
    tags: dict[tuple[int, str, str], datetime] = {}
    days: dict[tuple[str, str, str, str], tuple[int, datetime]] = {}
    for (manifest_id, tag, agent), seen in taken.items():
        manifest, puller = there.get(manifest_id), classify(agent)
        for id_ in (manifest_id, *listed_by[manifest_id]):
            if id_ in there:
                by_digest = seen.at if tag is None or id_ != manifest_id else None
                at, known = manifests.get((id_, puller), (seen.at, None))
                manifests[id_, puller] = (max(at, seen.at), _latest(known, by_digest))
            if id_ in there and id_ != manifest_id:
                # No pull of its own, but a sign of use: rules are tried out on it.
                _count(days, there[id_], "", puller, Seen(0, seen.at))
        if manifest is None:
            continue
        if tag is not None:
            of_tag = (manifest.repository_id, tag, puller)
            tags[of_tag] = max(seen.at, tags.get(of_tag, seen.at))
        _count(days, manifest, tag or "", puller, seen)
    pulls.note_manifests(tx, manifests)
    locked = pulls.lock_tags(tx, {key[:2] for key in tags}) if tags else set()
    pulls.note_tags(tx, {key: at for key, at in tags.items() if key[:2] in locked})
    pulls.note_days(tx, days)


def _count(
    days: dict[tuple[str, str, str, str], tuple[int, datetime]],
    manifest: pulls.Pulled,
    tag: str,
    puller: Puller,
    seen: Seen,
) -> None:
    key = (manifest.repository, manifest.digest, tag, puller)
    number, last = days.get(key, (0, seen.at))
    days[key] = (number + seen.pulls, max(last, seen.at))


def _latest(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _indexes(tx: Transaction, ids: Collection[int]) -> dict[int, set[int]]:
    """Each manifest, also those found, and all indexes above it."""
    above: dict[int, set[int]] = {id_: set() for id_ in ids}
    fresh = set(ids)
    parents: dict[int, dict[int, Digest]] = {}
    for _ in range(MAX_DEPTH):
        found = parents_of(tx, fresh) if fresh else {}
        parents |= found
        fresh = {parent for those in found.values() for parent in those} - parents.keys()
    for id_ in ids:
        waiting = [*parents.get(id_, ())]
        while waiting:
            parent = waiting.pop()
            if parent not in above[id_]:
                above[id_].add(parent)
                waiting += parents.get(parent, ())
    for those in [*above.values()]:
        for parent in those:
            above.setdefault(parent, set())
    return above


# --- classes of pullers ---------------------------------------------------------------------------


def pullers(tx: Transaction) -> Pullers:
    """The policy that is in force."""
    found = policies.find(tx, POLICY)
    return Pullers() if found is None else parse_pullers(found.document)


@lru_cache(maxsize=4)
def classifier(policy: Pullers) -> Callable[[str], Puller]:
    """Tells a User-Agent's class, and remembers its answers."""
    matchers: list[tuple[Matches, Puller]] = [
        (part(each.agent), each.puller) for each in (*policy.patterns, *USUAL)
    ]

    @lru_cache(maxsize=4096)
    def classify(agent: str) -> Puller:
        return next((puller for matches, puller in matchers if matches(agent)), Puller.OTHER)

    return classify


def get_pullers(registry: Registry) -> PullersDocument:
    """The policy, with the usual patterns that come behind its own."""
    return pullers_document(registry.read(pullers), USUAL)


def set_pullers(registry: Registry, request: PullersRequest, caller: Caller) -> PullersDocument:
    """Set the policy. Pulls keep the class that they were given when they were written down.

    Raises ValueInvalid.
    """
    wanted = pullers_of(request)
    classifier(wanted)
    document = plain(pullers_document(wanted))

    def put(tx: Transaction) -> None:
        policies.put(tx, POLICY, document, registry.now())
        registry.audit(tx, caller, "policy.set", target=POLICY, detail=document)

    registry.write(put)
    return get_pullers(registry)


# --- the last ones --------------------------------------------------------------------------------


class LastPull(Document, frozen=True):
    """The last pull of a manifest, and the last by each class of pullers."""

    at: Time
    by: PullerName
    # Whether pulls by this class keep an image.
    counts: bool
    classes: dict[str, Time]


def last_pulls(tx: Transaction, ids: Collection[int]) -> dict[int, LastPull]:
    """The last pulls of those of these manifests that were pulled."""
    counted = pullers(tx).counted
    return {
        id_: LastPull(
            found[0].at.isoformat(),
            found[0].puller,
            found[0].puller in counted,
            {each.puller: each.at.isoformat() for each in found},
        )
        for id_, found in pulls.last_by_class(tx, ids).items()
    }


def pulled_tags(
    tx: Transaction, repository_id: int, tags: Mapping[Tag, int], counted: Collection[str]
) -> dict[Tag, datetime]:
    """When these tags (and the manifests that they point to) were pulled last.

    By the tag itself, or its manifest by digest: a pull by another tag of it does not count.
    """
    found = pulls.by_tag(tx, repository_id, tags.keys(), counted)
    by_digest = pulls.by_digest(tx, set(tags.values()), counted)
    for tag, manifest_id in tags.items():
        if manifest_id in by_digest:
            found[tag] = max(by_digest[manifest_id], found.get(tag, by_digest[manifest_id]))
    return found


@dataclass(frozen=True, slots=True)
class PullHistory:
    """A repository's pulls of the last `days` days, today the last; days count from 1970."""

    first_day: int
    days: int
    by_day: Sequence[PullsOfDay]
    most: Sequence[PulledMost]


def pull_history(registry: Registry, name: RepositoryName, days: int, n: int) -> PullHistory:
    """What was pulled how often, by whom; the `n` that were pulled most. Raises NameUnknown.

    Costs what was pulled in these days, a row for each tag, class and day.
    """
    write_pulls(registry)
    today = (registry.now() - datetime(1970, 1, 1, tzinfo=UTC)).days
    first = today - days + 1

    def read(tx: Transaction) -> PullHistory:
        require_repository(tx, name)
        return PullHistory(
            first,
            days,
            pulls.pulls_by_day(tx, name, first),
            pulls.most_pulled(tx, name, first, n),
        )

    return registry.snapshot(read)


def pulled_words(digest: Digest, at: datetime) -> str:
    return f"{digest} at {at.isoformat(timespec='seconds')}"


# --- forgetting -----------------------------------------------------------------------------------


def forget_old_pulls(registry: Registry) -> int:
    """Forget what is too old, or too much, to be replayed, a day at a time; how much that was."""
    forgotten = 0
    while some := _forget_a_day(registry):
        forgotten += some
    return forgotten


def _forget_a_day(registry: Registry) -> int:
    limit = registry.now() - HISTORY

    def too_old(tx: Transaction) -> datetime | None:
        oldest = pulls.oldest_day(tx)
        if oldest is None:
            return None
        next_day = oldest + timedelta(days=1)
        return next_day if next_day < limit or pulls.count_history(tx) > MAX_HISTORY else None

    before = registry.read(too_old)
    if before is None:
        return 0
    return registry.write(lambda tx: pulls.forget_history(tx, before), freeing=True)

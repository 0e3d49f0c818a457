"""A plan that frees so many bytes: the fewest orphans, then old images, and nothing more.

Which set is the smallest is as hard as packing a knapsack. What is done: always take whatever frees
the most beside what is taken already, in the end leave out what is not needed. A layer of several
images counts when the last of them is taken. So a set is small rather than the smallest, but what
it frees is exact, as the plan of it is made as any other.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from ullage.authorization import Principal
from ullage.cleanup.guardrails import RepositoryShare
from ullage.cleanup.plan.documents import Asked, PlanDocument
from ullage.cleanup.plan.from_filter import ORPHAN, ChosenItems, forecast_items, plan_selection
from ullage.cleanup.purge import RIGHTS
from ullage.cleanup.queries import candidates
from ullage.cleanup.queries.jobs import Item, ItemKind
from ullage.database.transaction import Transaction
from ullage.deletion.closure import StoredGraph, Why, what_goes
from ullage.deletion.unlocked import unlocked
from ullage.documents import UNSET
from ullage.oci.digest import Digest
from ullage.oci.errors import NameUnknown
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import image_locks, immutable_tags
from ullage.registry.pull.pull_log import pullers, write_pulls
from ullage.registry.pull.user_agents import RECENTLY
from ullage.registry.queries import attributes, pulls
from ullage.registry.queries.content.manifests import find_manifests
from ullage.registry.queries.references import repositories
from ullage.registry.queries.references.manifests import tags_on
from ullage.usage.images import MemoryGraph, load
from ullage.usage.queries.usage import BlobRow

# Images are given up by how long ago they were pushed, tagged or pulled, the longest first; never
# those of less than the last.
AGES = (timedelta(days=365), timedelta(days=90), timedelta(days=30))
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Image:
    """Something that may go: an image, with all that goes along."""

    repository_id: int
    digest: Digest
    # 0 for what nothing leads to; then the lots by age.
    lot: int
    tags: int
    blobs: Counter[BlobRow]
    # Why it may go, for people.
    because: str


@dataclass(slots=True)
class _Stock:
    """What there is to choose from in one repository."""

    name: RepositoryName
    sums: candidates.Sums
    images: list[_Image] = field(default_factory=list)


def suggest(
    registry: Registry,
    free: int,
    names: Sequence[RepositoryName],
    principal: Principal,
    caller: Caller,
) -> PlanDocument:
    """A plan that frees at least `free` bytes, or as many as it may, of these or all repositories.

    Only of those that the caller may delete from. Never what is locked, the newest image of a
    repository, more than half of its tags, a tagged image that was pushed or pulled within a month,
    or an orphan that was pulled within a week. Reads what these repositories hold into memory, one
    after the other. Raises NameUnknown.
    """
    write_pulls(registry)
    stocks: dict[int, _Stock] = {}
    there = registry.read(candidates.repositories)
    missing = set(names) - {name for _, name in there}
    if missing:
        raise NameUnknown({"name": min(missing)})
    now = registry.now()
    for repository_id, name in there:
        if principal.may_all(RIGHTS, name) and (not names or name in names):
            stock = registry.snapshot(partial(_stock, at=(repository_id, name), now=now))
            if stock is not None:
                stocks[repository_id] = stock
    chosen = _choose([image for stock in stocks.values() for image in stock.images], free)
    chosen = _within_rails(chosen, stocks)
    items, shares, reasons = registry.snapshot(lambda tx: _items(tx, stocks, chosen, now))
    found = registry.snapshot(lambda tx: forecast_items(tx, registry, items))
    enough = found.freed_bytes + found.later_bytes >= free
    selection = ChosenItems(
        items,
        shares,
        Asked(free_bytes=free, repositories=names or UNSET),
        notes=[] if enough else ["there is not so much that may go"],
        reasons=reasons,
    )
    return plan_selection(registry, selection, principal, caller)


# --- what there is --------------------------------------------------------------------------------


def _stock(tx: Transaction, at: tuple[int, RepositoryName], now: datetime) -> _Stock | None:
    repository_id, name = at
    sums = candidates.sums(tx, repository_id)
    if sums is None:
        return None
    stock = _Stock(name, sums)
    if not sums.writable:
        return stock
    graph = load(tx, repository_id)
    locked = set(attributes.locks_on(tx, graph.rows.keys()))
    locked |= image_locks.covered(tx, repository_id, now).of(graph.rows.keys()).keys()
    locked |= immutable_tags.on_manifests(
        tx, immutable_tags.in_force(tx, name), graph.rows.keys()
    ).keys()
    standing = candidates.standing(tx, graph.rows.keys())
    roots = [row for row in graph.rows.values() if graph.is_image(row) and row.id not in locked]
    newest = repositories.share(tx, repository_id).newest_manifest_id
    if newest is None and roots:
        # Without any tag, the image that was pushed last stands for the repository.
        newest = max(roots, key=lambda row: (standing[row.id].updated_at, row.id)).id
    spared = graph.parts(newest) if newest is not None else set()
    pulled = pulls.of_manifests(tx, graph.rows.keys(), pullers(tx).counted)
    for row in roots:
        used_at = max(standing[row.id].updated_at, pulled.get(row.id, _NEVER))
        lot = _lot(graph, row.id, now - used_at, pulled=row.id in pulled)
        going = what_goes(graph, [row]).going.keys()
        if lot is None or not going or going & spared or going & locked:
            continue
        blobs = Counter(blob for id_ in going for blob in graph.blobs.get(id_, ()))
        # A tag that attaches an orphan to an image that is not there is no loss.
        tags = sum(len(graph.tags_on.get(id_, ())) for id_ in going) if lot else 0
        because = _because(lot, pulled.get(row.id), now)
        stock.images.append(_Image(repository_id, row.digest, lot, tags, blobs, because))
    return stock


def _because(lot: int, pulled_at: datetime | None, now: datetime) -> str:
    """With which lot it goes and when it was pulled, for people."""
    unused = f"not used for {AGES[lot - 1].days} d" if lot else ORPHAN
    pulled = "never pulled" if pulled_at is None else f"pulled {(now - pulled_at).days} d ago"
    return f"{unused}, {pulled}"


def _lot(graph: MemoryGraph, id_: int, unused: timedelta, *, pulled: bool) -> int | None:
    """With which lot it goes, if it was not pushed, tagged or pulled for so long."""
    if not graph.own_tags(graph.rows[id_]):
        # It is pulled by its digest.
        return None if pulled and unused < RECENTLY else 0
    return next((lot for lot, least in enumerate(AGES, 1) if unused >= least), None)


# --- choosing -------------------------------------------------------------------------------------


class _Greedy:
    """What would come back, image by image. A blob is freed with the last manifest that has it."""

    def __init__(self, images: Iterable[_Image]) -> None:
        self.images = list(images)
        self.freed = 0
        self.taken: dict[int, None] = {}
        self._left: dict[BlobRow, int] = {}
        self._needing: dict[BlobRow, list[int]] = {}
        self._most: dict[BlobRow, int] = {}
        for number, image in enumerate(self.images):
            for blob, count in image.blobs.items():
                self._left[blob] = blob.manifest_refs
                self._needing.setdefault(blob, []).append(number)
                self._most[blob] = max(count, self._most.get(blob, 0))
        self.gains = [self._gain(image) for image in self.images]

    def _gain(self, image: _Image) -> int:
        return sum(blob.size for blob, count in image.blobs.items() if self._left[blob] <= count)

    def share(self, number: int) -> float:
        """What an image gives back in the long run."""
        return sum(blob.size / self._left[blob] for blob in self.images[number].blobs)

    def take(self, number: int) -> list[int]:
        """Take an image; which others free more by now."""
        self.freed += self.gains[number]
        self.taken[number] = None
        risen: list[int] = []
        for blob, count in self.images[number].blobs.items():
            self._left[blob] -= count
            if not 0 < self._left[blob] <= self._most[blob]:
                continue
            for other in self._needing[blob]:
                if other not in self.taken and self.images[other].blobs[blob] == self._left[blob]:
                    self.gains[other] += blob.size
                    risen.append(other)
        return risen

    def leave_out(self, goal: int) -> None:
        """Put back whatever is not needed, the latest first."""
        for number in reversed(list(self.taken)):
            image = self.images[number]
            lost = sum(blob.size for blob in image.blobs if self._left[blob] <= 0)
            if self.freed - lost >= goal:
                self.freed -= lost
                del self.taken[number]
                for blob, count in image.blobs.items():
                    self._left[blob] += count


def _choose(images: Sequence[_Image], goal: int) -> list[_Image]:
    """The fewest that free as much, the first lots first."""
    greedy = _Greedy(images)
    for lot in range(len(AGES) + 1):
        if greedy.freed >= goal:
            break
        _take_lot(greedy, lot, goal)
    greedy.leave_out(goal)
    return [greedy.images[number] for number in greedy.taken]


def _take_lot(greedy: _Greedy, lot: int, goal: int) -> None:
    members = [number for number, image in enumerate(greedy.images) if image.lot == lot]
    left = set(members)
    queue = [(-greedy.gains[number], number) for number in members]
    heapq.heapify(queue)
    idle = sorted(members, key=lambda number: (-greedy.share(number), number), reverse=True)
    while greedy.freed < goal and left:
        number = _next(greedy, queue, idle, left)
        if greedy.gains[number] > goal - greedy.freed:
            # The last one: of those that are enough, the one that frees the least.
            missing = goal - greedy.freed
            enough = (each for each in left if greedy.gains[each] >= missing)
            number = min(enough, key=lambda each: (greedy.gains[each], each))
        left.discard(number)
        for other in greedy.take(number):
            if other in left:
                heapq.heappush(queue, (-greedy.gains[other], other))


def _next(
    greedy: _Greedy, queue: list[tuple[int, int]], idle: list[int], left: Collection[int]
) -> int:
    """What frees the most now; if nothing frees anything alone, what has the largest share."""
    while queue:
        gain, number = heapq.heappop(queue)
        if number in left and -gain == greedy.gains[number] > 0:
            return number
    while idle[-1] not in left:
        idle.pop()
    return idle.pop()


def _within_rails(chosen: Sequence[_Image], stocks: Mapping[int, _Stock]) -> list[_Image]:
    """Without what would take more than half of a repository's tags."""
    within: list[_Image] = []
    tags: Counter[int] = Counter()
    for image in chosen:
        going = tags[image.repository_id] + image.tags
        if going * 2 <= stocks[image.repository_id].sums.tags or not image.tags:
            tags[image.repository_id] = going
            within.append(image)
    return within


# --- the plan -------------------------------------------------------------------------------------


def _items(
    tx: Transaction, stocks: Mapping[int, _Stock], chosen: Sequence[_Image], now: datetime
) -> tuple[list[Item], list[RepositoryShare], dict[int, str]]:
    """What goes with the chosen images, decided as for any deletion; and why each may go."""
    wanted: dict[int, list[Digest]] = {}
    because: dict[tuple[int, Digest], str] = {}
    for image in chosen:
        wanted.setdefault(image.repository_id, []).append(image.digest)
        because[image.repository_id, image.digest] = image.because
    items: list[Item] = []
    shares: list[RepositoryShare] = []
    reasons: dict[int, str] = {}
    for repository_id, digests in wanted.items():
        stock = stocks[repository_id]
        rows = find_manifests(tx, repository_id, digests)
        roots = [rows[digest] for digest in digests if digest in rows]
        graph = StoredGraph(tx, repository_id)
        going = unlocked(tx, stock.name, repository_id, roots, graph, now).going
        standing = candidates.standing(tx, going.keys())
        tags = tags_on(tx, going.keys())
        # By kind, as a job deletes those of a kind together.
        kinds = {id_: _kind(each.why, standing[id_].referenced) for id_, each in going.items()}
        for id_, member in sorted(going.items(), key=lambda each: kinds[each[0]]):
            kind = kinds[id_]
            seen_at = standing[id_].updated_at
            digest = member.row.digest
            items.append(Item(repository_id, stock.name, kind, None, digest, id_, seen_at))
            if (repository_id, digest) in because:
                reasons[id_] = because[repository_id, digest]
        sums = stock.sums
        tag_count = sum(map(len, tags.values()))
        shares.append(RepositoryShare(stock.name, sums.manifests, len(going), sums.tags, tag_count))
    return items, shares, reasons


def _kind(why: Why, tagged: bool) -> ItemKind:
    if why is not Why.ASKED:
        return "along"
    return "image" if tagged else "manifest"

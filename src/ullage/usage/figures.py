"""A registry in numbers, as those that watch it ask for them; none costs a pass over everything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.registry.context import Registry
from ullage.registry.queries.counters import totals
from ullage.usage.overview import Overview, find_overview
from ullage.usage.queries import figures


@dataclass(frozen=True, slots=True)
class Figures:
    """What a registry has, and what waits in it. Moments are None where nothing waits."""

    counters: dict[str, int]
    tombstones: int
    tombstone_due: datetime | None
    reviews: int
    uploads: int
    upload_began: datetime | None
    operations: int
    jobs: list[tuple[str, str, int]]
    last_retention: datetime | None
    # None until it was first taken; with the lines of the largest repositories.
    overview: Overview | None


def figures_of(registry: Registry, repositories: int) -> Figures:
    """Numbers of this moment, and the kept bill with that many lines. Raises Unavailable."""

    def read(tx: Transaction) -> Figures:
        buried, due = figures.tombstones(tx)
        uploads, began = figures.uploads(tx)
        return Figures(
            counters=totals(tx),
            tombstones=buried,
            tombstone_due=due,
            reviews=figures.reviews(tx),
            uploads=uploads + len(registry.memory_sessions or ()),
            upload_began=began,
            operations=figures.operations(tx),
            jobs=figures.jobs(tx),
            last_retention=figures.last_retention(tx),
            overview=overview,
        )

    overview = find_overview(registry, "repository", repositories)
    return registry.snapshot(read)

"""Is everything as it should be? The invariants of docs/reference/check.md, verified and repaired.

The check runs beside pushes and deletions and never stops them. It looks at rows page by page, each
page in one snapshot, and asks the store about their bytes outside of any transaction. So what it
sees may be outdated when it is compared; so every suspect is looked at again before it counts:

- A fact of the database alone is checked again in a later snapshot.
- Bytes that are missing or wrong count if the row that names them is still there *afterwards*: rows
  are written after their bytes and removed before them, and no storage key is used twice.
- Unknown bytes count if no row names them *after* they were seen to be there.

Repairs are limited to steps that cannot lose anything, each in a transaction that looks once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ullage.check import blobs, rows, store
from ullage.check.findings import Mode, Report
from ullage.check.run import Progress, Run
from ullage.database.errors import DatabaseBroken, DatabaseBusy, DatabaseUnusable
from ullage.documents import plain
from ullage.oci.errors import StorageFull, Unavailable
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import Damaged


class CheckImpossible(Exception):
    """The database or the store did not answer, so nothing is known. The text says which."""


def check(
    registry: Registry,
    mode: Mode,
    *,
    repair: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Verify the registry while it works; with `repair`, repair what can be repaired safely.

    Exit codes: 0 nothing found; 1 something that does no harm, or that was repaired; 2 damage.
    Raises CheckImpossible.
    """
    running = Run(registry, mode, repair)
    for step in _steps(running):
        if progress is not None:
            progress(step)
    return running.report()


def run_check(
    registry: Registry, request: dict[str, Any], caller: Caller
) -> Iterator[dict[str, Any]]:
    """The check as an answer to `{"mode": "fast" | "default" | "deep", "repair": bool}`.

    Yields {"progress": …} at intervals, and at the end the report, or {"error": text} if the check
    is impossible. That it repairs is in the audit log from its beginning on. Raises ValueError for
    another request.
    """
    mode, repair = Mode(request.get("mode", "default")), request.get("repair", False)
    if not isinstance(repair, bool):
        raise ValueError(f"repair: {repair!r} - expected true or false")
    running = Run(registry, mode, repair)
    said = time.monotonic()
    try:
        if repair:
            with _check_errors():
                detail = {"mode": mode.value}
                registry.write(lambda tx: registry.audit(tx, caller, "check.repair", detail=detail))
        for step in _steps(running):
            if time.monotonic() - said >= 0.2:
                said = time.monotonic()
                yield {"progress": plain(step)}
    except CheckImpossible as error:
        yield {"error": str(error)}
    else:
        registry.tallies.findings = dict(running.left)
        yield plain(running.report())


# What references say comes first, because it decides what may be repaired later; counters come
# last, because repairs change what they count.
_STAGES: tuple[Callable[[Run], Iterator[Progress]], ...] = (
    rows.integrity,
    rows.survey,
    rows.manifests,
    rows.tags,
    rows.links,
    blobs.blobs,
    store.uploads,
    store.tombstones,
    rows.forgotten,
    rows.jobs,
    rows.operations,
    store.objects,
    rows.counters,
)


def _steps(run: Run) -> Iterator[Progress]:
    """Do all of it, saying from time to time how far it is. Raises CheckImpossible."""
    with _check_errors():
        for stage in _STAGES:
            if run.mode is Mode.FAST and stage is store.objects:
                continue
            try:
                yield from stage(run)
            except (DatabaseUnusable, Damaged) as error:
                # What the engine said, in full.
                message = str(error.__cause__ or error)
                run.found("I29", "corruption", "the database", message)
    if run.repaired:
        run.registry.wake()


@contextmanager
def _check_errors() -> Iterator[None]:
    try:
        yield
    except (Unavailable, StorageFull, DatabaseBusy, DatabaseBroken) as error:
        raise CheckImpossible(f"the database: {error}") from error
    except OSError as error:
        raise CheckImpossible(f"the blob store: {error}") from error

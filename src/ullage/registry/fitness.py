"""Whether a registry can do its work: what `/readyz` asks of each part.

A part is fit, or a sentence says why not. A full disk is no reason: a full registry has to go on
deleting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ullage.oci.errors import RegistryError
from ullage.registry.context import Registry
from ullage.registry.queries.identity import own_store

# The worker comes round at least every half minute; a piece of its work takes seconds.
ROUND_SECONDS = 600.0
# The thread that gives space back.
SPACE = "space"


def database_fault(registry: Registry) -> str | None:
    """Why the database cannot be used, as far as a read shows; None if it can."""
    if registry.unready is not None:
        return registry.unready
    try:
        registry.read(own_store)
    except RegistryError as error:
        return error.message
    return None


def store_fault(registry: Registry) -> str | None:
    """Why blobs can be neither read nor stored; None if they can, or if only room is missing."""
    try:
        registry.blobs.probe()
    except OSError as error:
        return error.strerror or str(error)
    return None


def worker_fault(registry: Registry) -> str | None:
    """Why no space is given back; None if the worker comes round, or was never started."""
    age = registry.rounds.ages().get(SPACE)
    if age is None or age <= ROUND_SECONDS:
        return None
    return f"it came round {age:.0f} s ago"


CHECKS: Mapping[str, Callable[[Registry], str | None]] = {
    "database": database_fault,
    "store": store_fault,
    "worker": worker_fault,
}

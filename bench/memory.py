"""Memory of the server process, in MiB: anonymous pages, not the disk cache."""

from __future__ import annotations

from collections.abc import Callable

from bench.measure import Result, Row
from bench.servers import Place, Ullage

MIB = 1024 * 1024


def idle(row: Row, place: Place, rounds: int, progress: Callable[[str], None]) -> Result:
    """After the start and one request."""
    result = Result(row, place.peer("idle-peer").name)
    for number in range(rounds):
        progress(f"{row.name}: round {number + 1} of {rounds}")
        for figures, server in (
            (result.ullage, Ullage(place.folder / f"idle-ullage-{number}", place.tls)),
            (result.peer, place.peer(f"idle-peer-{number}")),
        ):
            server.start()
            try:
                figures.append((server.resident_bytes() or 0) / MIB)
            finally:
                server.stop()
    return result


ROWS = (Row("memory-idle", "memory, idle", "MiB", whole=idle),)

"""Rounds, medians and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.servers import DockerRegistry, Process, Running, Ullage

Peer = DockerRegistry | Running
Server = Ullage | Peer


@dataclass(frozen=True)
class Row:
    """One path: how to get a server ready for it, and how to measure it once."""

    name: str
    title: str
    # "requests/s", "MiB/s", "images/s": more is better; "s", "MiB": less is better.
    unit: str
    prepare: Callable[[Server], object]
    # Gets what `prepare` returned; one figure in `unit`.
    once: Callable[[Server, object], float]
    # What physics gives, measured in the same rounds.
    floor: Callable[[Path], float] | None = None
    needs: tuple[str, ...] = ()

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")


@dataclass
class Result:
    row: Row
    peer_name: str
    ullage: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times better than the peer."""
        return self._better(self.peer)

    @property
    def floor_ratio(self) -> float | None:
        """The share of what the machine can do."""
        return self._better(self.floor) if self.floor else None

    def _better(self, others: Sequence[float]) -> float:
        own, other = statistics.median(self.ullage), statistics.median(others)
        return own / other if self.row.more_is_better else other / own

    def document(self) -> dict[str, object]:
        figures = {key: value for key, value in asdict(self).items() if key != "row"}
        return {
            "row": self.row.name,
            "title": self.row.title,
            "unit": self.row.unit,
            "ratio": self.ratio,
            "floor_ratio": self.floor_ratio,
            **figures,
        }


def rows(
    chosen: Sequence[Row],
    ullage: Ullage,
    peer: Peer,
    folder: Path,
    rounds: int,
    progress: Callable[[str], None],
) -> Iterator[Result]:
    """Measure each row: a warm-up, then `rounds` times one after the other."""
    servers: tuple[Server, Server] = (ullage, peer)
    started = [server for server in servers if isinstance(server, Process)]
    try:
        for server in started:
            server.start()
        for row in chosen:
            result = Result(row, peer.name)
            ready = [row.prepare(server) for server in servers]
            for number in range(rounds + 1):
                progress(
                    f"{row.name}: round {number} of {rounds}" if number else f"{row.name}: warm-up"
                )
                figures = [
                    row.once(server, state) for server, state in zip(servers, ready, strict=True)
                ]
                floor = row.floor(folder) if row.floor else None
                if number:
                    result.ullage.append(figures[0])
                    result.peer.append(figures[1])
                    result.floor += [] if floor is None else [floor]
            yield result
    finally:
        progress("")
        for server in started:
            server.stop()

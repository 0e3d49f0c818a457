"""Rounds, medians and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field

from bench.servers import DockerRegistry, Place, Running, Ullage
from bench.several import Several

Peer = Ullage | DockerRegistry | Running
Server = Several | Peer


def _nothing(_: Server) -> None:
    return None


@dataclass(frozen=True)
class Row:
    """One path: how to get a server ready for it, and how to measure it once."""

    name: str
    title: str
    # "requests/s", "MiB/s", "images/s": more is better; "s", "MiB": less is better.
    unit: str
    prepare: Callable[[Server], object] = _nothing
    # Gets what `prepare` returned; one figure in `unit`.
    once: Callable[[Server, object], float] | None = None
    # In place of these: a row that starts and stops its servers itself.
    whole: Callable[..., Result] | None = None
    # What physics gives, measured in the same rounds.
    floor: Callable[[Place], float] | None = None
    needs: tuple[str, ...] = ()
    # Takes minutes, whatever the number of rounds: not for a quick look.
    slow: bool = False

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
    ullage_name: str = Ullage.name

    @property
    def ratio(self) -> float:
        """How many times better than the peer."""
        return self._better(self.peer)

    @property
    def floor_ratio(self) -> float | None:
        """The share of what the machine can do."""
        return self._better(self.floor) if self.floor else None

    def _better(self, others: Sequence[float]) -> float:
        # Of each round by itself: what slows the machine down for a while slows down both.
        pairs = zip(self.ullage, others, strict=True)
        more = self.row.more_is_better
        return statistics.median(own / other if more else other / own for own, other in pairs)

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
    ullage: Ullage | Several,
    peer: Peer,
    place: Place,
    rounds: int,
    progress: Callable[[str], None],
    *,
    restart: bool = False,
) -> Iterator[Result]:
    """Measure each row: a warm-up, then `rounds` times one after the other.

    With `restart` servers start anew for each round. Two starts of one program differ for as long
    as they run (where their memory lies, which processor a thread is on): only several starts tell
    one commit from another.
    """
    together = [row for row in chosen if row.once]
    with _running(ullage, peer) if together else nullcontext():
        for row in together:
            yield _row(row, ullage, peer, place, rounds, progress, restart=restart)
    for row in chosen:
        if row.whole:
            yield row.whole(row, place=place, rounds=rounds, progress=progress)
    progress("")


@contextmanager
def _running(*servers: Server) -> Iterator[None]:
    ours = _ours(servers)
    try:
        for server in ours:
            server.start()
        yield
    finally:
        for server in ours:
            server.stop()


def _ours(servers: Sequence[Server]) -> Sequence[Ullage | Several | DockerRegistry]:
    """Those that are started and stopped here."""
    return [server for server in servers if not isinstance(server, Running)]


def _row(
    row: Row,
    ullage: Ullage | Several,
    peer: Peer,
    place: Place,
    rounds: int,
    progress: Callable[[str], None],
    *,
    restart: bool,
) -> Result:
    assert row.once
    result = Result(row, peer.name, ullage_name=ullage.name)
    states = (row.prepare(ullage), row.prepare(peer))
    for number in range(rounds + 1):
        progress(f"{row.name}: round {number} of {rounds}" if number else f"{row.name}: warm-up")
        if number and restart:
            for server in _ours((ullage, peer)):
                server.restart()
        own, other = row.once(ullage, states[0]), row.once(peer, states[1])
        floor = row.floor(place) if row.floor else None
        if number:
            result.ullage.append(own)
            result.peer.append(other)
            result.floor += [] if floor is None else [floor]
    return result

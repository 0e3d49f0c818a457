"""How far a gate has come, in a file of its own: whatever ends a run, the next goes on there."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self


@dataclass
class Progress:
    """What was done of one gate, on one commit. Counts are of each of its runs, in order."""

    gate: str
    commit: str
    counts: list[int] = field(default_factory=list)
    seconds: float = 0.0
    # The next dice; no two chunks have the same.
    seed: int = 1
    # Everything that the tests noted, added up.
    figures: dict[str, float] = field(default_factory=dict)
    # Why the last chunk failed.
    failure: str | None = None

    @classmethod
    def load(cls, folder: Path, gate: str, commit: str) -> Self:
        """What there is of this commit; a new beginning if there is nothing, or if it failed."""
        path = _path(folder, gate)
        found = cls(**json.loads(path.read_text())) if path.exists() else None
        if found is None or found.commit != commit or found.failure is not None:
            return cls(gate, commit)
        return found

    def save(self, folder: Path) -> None:
        """All of it or nothing, whatever happens meanwhile."""
        folder.mkdir(parents=True, exist_ok=True)
        path = _path(folder, self.gate)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self), indent=1))
        fresh.replace(path)

    def add(self, run: int, count: int, seconds: float, figures: dict[str, float]) -> None:
        """One more chunk went well."""
        self.counts += [0] * (run + 1 - len(self.counts))
        self.counts[run] += count
        self.seconds += seconds
        self.seed += 1
        self.figures = dict(Counter(self.figures) + Counter(figures))

    def count_of(self, run: int) -> int:
        return self.counts[run] if run < len(self.counts) else 0

    @property
    def count(self) -> int:
        return sum(self.counts)


def _path(folder: Path, gate: str) -> Path:
    return folder / f"{gate}.json"

"""What the next process needs to go on with an object: the line of text that a row keeps."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks that one request has stored, one after the other: `full` ones, and one of `rest`.

    `name` is random, so no two requests ever write a block of the same name.
    """

    name: str
    full: int
    rest: int = 0

    @property
    def count(self) -> int:
        return self.full + (1 if self.rest else 0)


def block_id(name: str, number: int) -> str:
    """All ids of one blob are of one length, as the service wants it."""
    return f"{name}{number:08x}"


@dataclass(frozen=True, slots=True)
class State:
    """An object that is not committed: its blocks in their order. `block` is bytes of a full one.

    `committing`: a commit may have begun, and what it was made of is more than these blocks.
    """

    key: str
    block: int
    runs: tuple[Run, ...] = ()
    committing: bool = False

    @property
    def size(self) -> int:
        """Bytes of the object so far."""
        return sum(run.full * self.block + run.rest for run in self.runs)

    @property
    def ids(self) -> list[str]:
        return [block_id(run.name, number) for run in self.runs for number in range(run.count)]

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return sum(run.count for run in self.runs)

    def with_block(self, name: str, size: int) -> State:
        """As it is with one more block, of the run `name`: the last one, or one that is new."""
        last = self.runs[-1] if self.runs else None
        before = self.runs
        if last is not None and last.name == name:
            before = before[:-1]
        else:
            last = Run(name, 0)
        grown = (
            replace(last, full=last.full + 1) if size == self.block else replace(last, rest=size)
        )
        return replace(self, runs=(*before, grown))

    def cut(self, offset: int) -> State | None:
        """Without what lies beyond `offset`; None if no block ends there."""
        kept: list[Run] = []
        left = offset
        for run in self.runs:
            if left <= 0:
                break
            full = min(run.full, left // self.block)
            left -= full * self.block
            rest = run.rest if full == run.full and run.rest <= left else 0
            left -= rest
            kept.append(Run(run.name, full, rest))
            if full < run.full:
                break
        if left:
            return None
        return replace(self, runs=tuple(kept))

    def __str__(self) -> str:
        found = {
            "key": self.key,
            "block": self.block,
            "runs": [[run.name, run.full, run.rest] for run in self.runs],
            "committing": self.committing,
        }
        return json.dumps({name: value for name, value in found.items() if value})


def parse_state(text: str) -> State:
    """Read what `str` made of a state. Raises OSError(EINVAL) for anything else."""
    try:
        found = json.loads(text)
        return State(
            key=str(found["key"]),
            block=int(found["block"]),
            runs=tuple(
                Run(str(name), int(full), int(rest)) for name, full, rest in found.get("runs", ())
            ),
            committing=bool(found.get("committing", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(
            errno.EINVAL, f"no state of an upload to a container: {text[:80]!r}"
        ) from error

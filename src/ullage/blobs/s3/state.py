"""What the next process needs to go on with an object: the line of text that a row keeps."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class State:
    """An object that is not committed: the parts of a multipart upload, and a tail behind them.

    `part` is the bytes of each part, `etags` are those of the parts in order; `tail` is the place
    of the object that has the bytes after them, `tail_size` how many those are. `committing` says
    that a commit of these bytes and others may have begun.
    """

    key: str
    part: int
    multipart: str = ""
    etags: tuple[str, ...] = ()
    tail: str = ""
    tail_size: int = 0
    committing: bool = False

    @property
    def whole(self) -> int:
        """Bytes in parts."""
        return len(self.etags) * self.part

    @property
    def size(self) -> int:
        """Bytes of the object so far."""
        return self.whole + self.tail_size

    def __str__(self) -> str:
        found = {
            "key": self.key,
            "part": self.part,
            "mpu": self.multipart,
            "parts": [etag.strip('"') for etag in self.etags],
            "tail": [self.tail, self.tail_size] if self.tail else [],
            "committing": self.committing,
        }
        return json.dumps({name: value for name, value in found.items() if value})


def parse_state(text: str) -> State:
    """Read what `str` made of a state. Raises OSError(EINVAL) for anything else."""
    try:
        found = json.loads(text)
        tail, size = found.get("tail") or ("", 0)
        return State(
            key=str(found["key"]),
            part=int(found["part"]),
            multipart=str(found.get("mpu", "")),
            etags=tuple(f'"{etag}"' for etag in found.get("parts", ())),
            tail=str(tail),
            tail_size=int(size),
            committing=bool(found.get("committing", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(errno.EINVAL, f"no state of an upload to a bucket: {text[:80]!r}") from error

"""A million digests by number, with the size of the blob that each names, in 60 bytes each."""

from __future__ import annotations

from array import array
from bisect import bisect_left

_WIDTHS = {"sha256": 32, "sha512": 64}


class Digests:
    """Numbers for digests: those of blobs that are there in order, then those only named.

    Blobs are added in the order of their digests, algorithm by algorithm.
    """

    def __init__(self) -> None:
        # Of each algorithm: the number of its first blob, and the digests in one piece.
        self._blobs: dict[str, tuple[int, bytearray]] = {}
        self._absent: dict[str, int] = {}
        self._names: list[str] = []
        self.sizes = array("q")
        self.disk_sizes = array("q")

    def __len__(self) -> int:
        """Blobs that are there, and others that were named."""
        return len(self.sizes) + len(self._absent)

    def add(self, algorithm: str, hexadecimal: str, size: int, disk_size: int) -> None:
        """A blob that is there."""
        _, digests = self._blobs.setdefault(algorithm, (len(self.sizes), bytearray()))
        digests += bytes.fromhex(hexadecimal)
        self.sizes.append(size)
        self.disk_sizes.append(disk_size)

    def is_there(self, number: int) -> bool:
        return number < len(self.sizes)

    def number(self, digest: str) -> int:
        """Of any well-formed digest; it gets one if it has none yet."""
        algorithm, _, hexadecimal = digest.partition(":")
        found = self._find(algorithm, bytes.fromhex(hexadecimal))
        if found is not None:
            return found
        number = self._absent.setdefault(digest, len(self))
        if number == len(self) - 1 and len(self._names) < len(self._absent):
            self._names.append(digest)
        return number

    def _find(self, algorithm: str, raw: bytes) -> int | None:
        if algorithm not in self._blobs:
            return None
        first, digests = self._blobs[algorithm]
        width = _WIDTHS[algorithm]
        count = len(digests) // width
        place = bisect_left(
            range(count), raw, key=lambda at: bytes(digests[at * width : (at + 1) * width])
        )
        there = place < count and digests[place * width : (place + 1) * width] == raw
        return first + place if there else None

    def digest(self, number: int) -> str:
        if not self.is_there(number):
            return self._names[number - len(self.sizes)]
        for algorithm, (first, digests) in self._blobs.items():
            width = _WIDTHS[algorithm]
            at = (number - first) * width
            if 0 <= at < len(digests):
                return f"{algorithm}:{digests[at : at + width].hex()}"
        raise IndexError(number)


class Rows:
    """Rows of numbers, all in one piece."""

    def __init__(self) -> None:
        self._numbers = array("l")
        self._ends = array("l", [0])

    def append(self, numbers: list[int]) -> None:
        self._numbers.extend(numbers)
        self._ends.append(len(self._numbers))

    def __getitem__(self, row: int) -> array[int]:
        return self._numbers[self._ends[row] : self._ends[row + 1]]

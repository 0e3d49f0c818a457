"""A million digests by number, with the size of the blob that each names, in 60 bytes each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

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
        # Of each algorithm: how many blobs there are before those with each two first bytes.
        self._starts: dict[str, array[int]] = {}
        self.sizes = array("q")
        self._disk_sizes = array("q")
        self._again = bytearray()

    def __len__(self) -> int:
        """Blobs that are there, and others that were named."""
        return len(self.sizes) + len(self._absent)

    def add(
        self, algorithm: str, hexadecimal: str, size: int, disk_size: int, *, again: bool = False
    ) -> None:
        """A blob that is there; `again` if it is another name of a file that was met before."""
        _, digests = self._blobs.setdefault(algorithm, (len(self.sizes), bytearray()))
        digests += bytes.fromhex(hexadecimal)
        self._starts.clear()
        self.sizes.append(size)
        self._disk_sizes.append(disk_size)
        self._again.append(again)

    def given_back(self, numbers: Iterable[int]) -> tuple[int, int, int]:
        """Files, bytes and bytes of the disk that these blobs have for themselves.

        What is another name of a file that was met before gives nothing back.
        """
        files = size = disk_size = 0
        for number in numbers:
            if not self._again[number]:
                files += 1
                size += self.sizes[number]
                disk_size += self._disk_sizes[number]
        return files, size, disk_size

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
        width, starts = _WIDTHS[algorithm], self._starts_of(algorithm)
        prefix = raw[0] << 8 | raw[1]
        begin, end = starts[prefix], starts[prefix + 1]
        place = begin + bisect_left(
            range(begin, end), raw, key=lambda at: bytes(digests[at * width : (at + 1) * width])
        )
        there = place < end and digests[place * width : (place + 1) * width] == raw
        return first + place if there else None

    def _starts_of(self, algorithm: str) -> array[int]:
        """Most of a search, done once for all: digests are spread evenly."""
        starts = self._starts.get(algorithm)
        if starts is None:
            digests, width = self._blobs[algorithm][1], _WIDTHS[algorithm]
            counts = array("l", [0]) * (1 << 16)
            for high, low in zip(digests[::width], digests[1::width], strict=True):
                counts[high << 8 | low] += 1
            starts = self._starts[algorithm] = array("l", accumulate(counts, initial=0))
        return starts

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

"""Numbers of digests: what is found, in which order, and what is only named."""

import hashlib
import random

import pytest

from ullage.survey.digests import Digests


def _digest(algorithm: str, number: int) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, str(number).encode()).hexdigest()}"


@pytest.mark.parametrize("count", [0, 1, 2, 3000])
def test_every_blob_is_found_by_its_digest_and_its_number(count: int) -> None:
    digests = Digests()
    there: list[str] = []
    for algorithm in ("sha256", "sha512"):
        there += sorted(_digest(algorithm, number) for number in range(count))
    for size, digest in enumerate(there):
        algorithm, _, hexadecimal = digest.partition(":")
        digests.add(algorithm, hexadecimal, size, 4096)
    absent = [_digest("sha256", -number) for number in range(1, 50)]
    asked = [*there, *absent, *there[:20], *absent]
    random.Random(count).shuffle(asked)
    numbers = {digest: digests.number(digest) for digest in asked}
    assert [numbers[digest] for digest in there] == list(range(len(there)))
    assert sorted(numbers[digest] for digest in absent) == list(
        range(len(there), len(there) + len(absent))
    )
    for digest, number in numbers.items():
        assert digests.number(digest) == number
        assert digests.digest(number) == digest
        assert digests.is_there(number) is (number < len(there))
    assert len(digests) == len(there) + len(absent)
    assert list(digests.sizes) == list(range(len(there)))

"""Decisions: durations and sizes read strictly, and what is too much at once."""

from datetime import timedelta

import pytest

from ullage.cleanup.guardrails import Caps, Guardrail, RepositoryShare, guardrails
from ullage.oci.errors import ValueInvalid
from ullage.quantities import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0d", timedelta()),
        ("7d", timedelta(days=7)),
        ("36h", timedelta(hours=36)),
        ("2d3h6m", timedelta(days=2, hours=3, minutes=6)),
        ("1h30m5s250ms", timedelta(hours=1, minutes=30, seconds=5, milliseconds=250)),
        ("90m", timedelta(minutes=90)),
        ("500ms", timedelta(milliseconds=500)),
        ("36500d", timedelta(days=36500)),
    ],
)
def test_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", "d", "-7d", "+7d", " 7d", "7d ", "7 d", "7D", "1.5d", "7d7d", "6m2d", "1e9d"),
        *("\u0667d", "7d\n", "36501d", "999999d", "999999999d", "9999999999999999999d", "876001h"),
    ],
)
def test_durations_that_are_refused(text: str) -> None:
    """acr-cli#83: `--ago 999999d` deleted everything. It never wraps round, it is an error."""
    with pytest.raises(ValueInvalid):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("0", 0), ("1048576", 1048576), ("10B", 10), ("10kB", 10_000), ("10KB", 10_000)),
        *(("10GB", 10**10), ("10G", 10**10), ("1.5GiB", 3 * 2**29), ("1 MiB", 2**20)),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1.5", "0.1B", "10gb", "10 GB ", "GB", "1,5GB", "10EB", "9223372036854775808"],
)
def test_sizes_that_are_refused(text: str) -> None:
    with pytest.raises(ValueInvalid):
        parse_size(text)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (RepositoryShare("a", 10, 0, 5, 0, None), []),
        (RepositoryShare("a", 10, 5, 5, 1, None), []),
        (RepositoryShare("a", 10, 6, 5, 1, None), [Guardrail.MOST]),
        (RepositoryShare("a", 10, 10, 0, 0, None), [Guardrail.EMPTIES, Guardrail.MOST]),
        (RepositoryShare("a", 10, 1, 1, 1, "v1"), [Guardrail.ONLY_TAG, Guardrail.NEWEST]),
        (RepositoryShare("a", 10, 3, 3, 3, None), [Guardrail.ONLY_TAG]),
    ],
)
def test_rails_by_what_goes(part: RepositoryShare, expected: list[Guardrail]) -> None:
    for computed in (False, True):
        found = guardrails([part], 0, Caps(), computed=computed)
        assert [warning.rail for warning in found] == expected
        assert all(warning.refuses is computed for warning in found)

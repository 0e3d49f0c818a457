"""Decisions: what is too much at once."""

import pytest

from ullage.cleanup.guardrails import Caps, Guardrail, RepositoryShare, guardrails


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

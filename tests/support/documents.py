"""What a document has, where it may have it or not."""

from __future__ import annotations

from typing import TypeVar

from ullage.documents import UNSET, UnsetType

T = TypeVar("T")


def given(value: T | UnsetType | None) -> T:
    """A member that is there."""
    assert value is not None
    assert not isinstance(value, UnsetType), UNSET
    return value

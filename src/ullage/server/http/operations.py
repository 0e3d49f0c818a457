"""What a route of `/api/v1` takes and answers, for its description (server/api/openapi.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ullage.documents import RequestBody
from ullage.oci.errors import RegistryError


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of a query string: a text, unless its `schema` says more."""

    name: str
    description: str
    schema: Mapping[str, Any] | None = None
    required: bool = False
    example: str | int | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """The types of a route's answers by status, and of its request: any of them, or none.

    An answer without a body has no type.
    """

    answers: Mapping[int, type[Any] | None]
    request: tuple[type[RequestBody], ...] = ()
    query: tuple[Parameter, ...] = ()
    # What else it may raise than every route may.
    errors: tuple[type[RegistryError], ...] = ()
    # Header fields of an answer that is no error.
    headers: tuple[str, ...] = ()
    # A request body.
    example: Mapping[str, Any] | None = None


def page(largest: str) -> tuple[Parameter, Parameter]:
    """How a list is read page by page; `largest` is the page without `n`."""
    count = {"type": "integer", "minimum": 0}
    return (
        Parameter("n", f"at most so many entries; {largest} if it is left out", count, example=100),
        Parameter("last", "go on behind this one: what the Link of the page before has"),
    )

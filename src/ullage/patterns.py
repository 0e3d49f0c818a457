"""Regular expressions that users send, on an engine whose time is linear in what it reads.

The syntax is RE2's, as with acr (azure.md section 4.1): no look-around, no back-references, and so
no expression that never ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import re2

from ullage.oci.errors import ValueInvalid, shown

MAX_PATTERN = 1000
# What one expression may take; RE2 refuses what needs more.
MAX_MEMORY_BYTES = 1 << 20

Matches = Callable[[str], bool]


def whole(pattern: str) -> Matches:
    """Whether an expression matches a whole text. Raises ValueInvalid."""
    compiled = _compiled(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def part(pattern: str) -> Matches:
    """Whether an expression matches some part of a text. Raises ValueInvalid."""
    compiled = _compiled(pattern)
    return lambda text: compiled.search(text) is not None


def glob(pattern: str) -> Matches:
    """Whether a pattern of names matches a whole text: `*` is any characters, `?` is one."""
    some = {"*": ".*", "?": "."}
    return whole("".join(some.get(each) or re.escape(each) for each in pattern))


def any_of(some: Sequence[Matches]) -> Matches:
    """Whether one of several matches."""
    return lambda text: any(matches(text) for matches in some)


def _compiled(pattern: str) -> Any:
    if len(pattern) > MAX_PATTERN:
        raise ValueInvalid(message=f"an expression is longer than {MAX_PATTERN} characters")
    options = re2.Options()
    options.max_mem = MAX_MEMORY_BYTES
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueInvalid(
            {"pattern": pattern[:200]}, f"{shown(pattern)} is no expression: {said}"[:300]
        ) from None

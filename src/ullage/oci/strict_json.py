r"""JSON that all readers read alike.

RFC 8259 leaves room for two readers to see two things in one document, and Python's `json` accepts
more than the RFC does. A registry stores bytes for other programs to read, so what could be read in
two ways, or could not be stored by a database, is refused: see `loads`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import TypeAlias

from ullage.oci.errors import shown

JSONValue: TypeAlias = "bool | int | float | str | list[JSONValue] | dict[str, JSONValue] | None"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_INTEGER_DIGITS = 19
_MAX_FLOAT_CHARACTERS = 64

_ESCAPE = re.compile(r"\\.", re.DOTALL)
# A string, which may be unfinished (the parser will say so), or anything else but a bracket.
_NOT_A_BRACKET = re.compile(r'"[^"]*"?|[^][{}"]+')
# May find a little more than it should, in a text with a literal backslash: what it finds is looked
# at again.
_SUSPICIOUS_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class JSONInvalid(ValueError):
    """The bytes are not a JSON text that all readers read alike. The text says what was met."""


def loads(raw: bytes, max_depth: int = 32) -> JSONValue:
    r"""Read one JSON text in UTF-8, with arrays and objects at most `max_depth` deep.

    Raises JSONInvalid, and nothing else, for anything that RFC 8259 does not allow, and for a byte
    order mark, other encodings than UTF-8, a key twice in one object, NaN and Infinity, floats
    beyond the range of a double or of more than 64 characters, integers of more than 19 digits,
    NUL characters ("\u0000") and halves of surrogate pairs.
    """
    text = _decode(raw)
    _check_depth(text, max_depth)
    try:
        value: JSONValue = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JSONInvalid(f"not JSON: {error}") from None
    except RecursionError:
        raise JSONInvalid("nested too deep") from None
    if _SUSPICIOUS_ESCAPE.search(text):
        _check_strings(value)
    return value


def _decode(raw: bytes) -> str:
    # json.loads would take UTF-16 and UTF-32 as well, which other readers do not.
    if raw.startswith(_BYTE_ORDER_MARK):
        raise JSONInvalid("a byte order mark at the start: expected plain UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JSONInvalid(f"byte {error.start} is not UTF-8") from None


def _check_depth(text: str, max_depth: int) -> None:
    """Refuse deep nesting before the parser, which is recursive, meets it."""
    if text.count("[") + text.count("{") <= max_depth:
        return
    if "\\" in text:
        text = _ESCAPE.sub("", text)
    depth = 0
    for bracket in _NOT_A_BRACKET.sub("", text):
        if bracket in "[{":
            depth += 1
            if depth > max_depth:
                raise JSONInvalid(f"nested too deep: expected at most {max_depth} levels")
        else:
            depth -= 1


def _check_strings(value: JSONValue) -> None:
    for text in _strings(value):
        found = _UNSTORABLE.search(text)
        if found:
            what = "a NUL character" if found[0] == "\x00" else "half of a surrogate pair"
            raise JSONInvalid(f"{what} in a string")


def _strings(value: JSONValue) -> Iterator[str]:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            yield from value
            pending.extend(value.values())


def _object(pairs: list[tuple[str, JSONValue]]) -> dict[str, JSONValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise JSONInvalid(f"the key {shown(_first_repeated(pairs))} is twice in one object")
    return members


def _first_repeated(pairs: list[tuple[str, JSONValue]]) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key is repeated")


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_INTEGER_DIGITS:
        raise JSONInvalid(f"an integer of more than {_MAX_INTEGER_DIGITS} digits")
    return int(text)


def _float(text: str) -> float:
    if len(text) > _MAX_FLOAT_CHARACTERS:
        raise JSONInvalid(f"a number of more than {_MAX_FLOAT_CHARACTERS} characters")
    value = float(text)
    if not math.isfinite(value):
        raise JSONInvalid(f"the number {text} is beyond the range of a double")
    return value


def _constant(text: str) -> JSONValue:
    raise JSONInvalid(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_constant,
)

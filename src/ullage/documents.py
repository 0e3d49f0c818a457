"""JSON documents as types: requests, answers, and what the database keeps of them.

A type is the whole truth about a document: one decoder reads it, `plain` writes it, and the OpenAPI
description follows from it (server/api/openapi.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_args

import msgspec

# For those that declare documents.
from msgspec import UNSET as UNSET
from msgspec import Meta as Meta
from msgspec import UnsetType as UnsetType

from ullage.oci.errors import RegistryError

T = TypeVar("T")
# A member whose name on the wire is none that Python can have.
member = msgspec.field
# The same document with other values.
changed = msgspec.structs.replace
# What is not a document of the kind that was asked for.
NotOfKind = msgspec.ValidationError

# RFC 3339, with an offset: as datetime.isoformat writes it.
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
# What a client may ask for at most: SQL has no larger numbers.
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(min_length=1)]
Duration = Annotated[str, Meta(title="a duration such as 7d")]
Size = Annotated[Count | str, Meta(title="a size such as 1048576 or 10GB")]
# Where OpenAPI keeps the schemas of documents.
SCHEMAS = "#/components/schemas/"


def any_of(*kinds: type) -> Any:
    """The type of a member that is one of several documents, which msgspec would have tagged.

    To be written down, not read. Type checkers are told the union itself.
    """
    schema = {"anyOf": [{"$ref": f"{SCHEMAS}{kind.__name__}"} for kind in kinds]}
    return Annotated[Any, Meta(extra_json_schema=schema)]


class Document(msgspec.Struct, frozen=True):
    """An answer, or what is stored: a reader passes over what it does not know.

    A member that is UNSET is left out; one that is None is null.
    """


class RequestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client sends. A misspelt word is refused: it must not mean "without it"."""


def plain(document: object) -> Any:
    """A document, or anything with documents in it, in types that the json module writes."""
    return msgspec.to_builtins(document, enc_hook=_as_text)


def _as_text(value: object) -> str:
    """Names and digests are texts of classes of their own."""
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError(f"no JSON for {type(value)}")


def packed(document: object) -> bytes:
    """A document as JSON, for the database."""
    return msgspec.json.encode(document, enc_hook=_as_text)


def unpacked(stored: bytes | str, kind: type[T]) -> T:
    """What `packed` made, also an older version of it, if that had nothing else in it."""
    return msgspec.json.decode(stored, type=kind)


def schemas(kinds: Iterable[type]) -> dict[str, dict[str, Any]]:
    """JSON Schemas (2020-12) of these types, and of those that they refer to, by name."""
    return msgspec.json.schema_components(kinds, ref_template=SCHEMAS + "{name}")[1]


# --- reading --------------------------------------------------------------------------------------

_WHERE = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(\w+)")
_AT_MOST = re.compile(r" of length <= (\d+)")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "str": "a text",
    "array": "a list",
    "object": "an object",
}


def stored(value: object, kind: type[T]) -> T:
    """What json.loads made of the database's JSON, as a document of this kind."""
    return msgspec.convert(value, kind)


def read(value: object, kind: type[T], refusal: type[RegistryError], whose: str = "") -> T:
    """What json.loads made of a client's text, as a document of this kind.

    Nothing is turned into another type: `"7"` is no number, 1.0 and true are none. Raises `refusal`
    with a message that begins with `whose` it is, and says which member is wrong.
    """
    begin = f"{whose}: " if whose else ""
    known: set[str] = set(getattr(kind, "__struct_encode_fields__", ()))
    unknown = sorted(value.keys() - known) if isinstance(value, dict) and known else []
    if unknown:
        detail = {"unknown": unknown[:10]}
        raise refusal(detail, f"{begin}unknown: {', '.join(unknown[:10])}"[:300])
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise refusal(message=f"{begin}{_in_words(str(error), kind)}"[:300]) from None


def _in_words(problem: str, kind: type) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.keep`" for people: "keep: expected …"."""
    found = _WHERE.fullmatch(problem)
    what, where = (found[1], found[2] or "") if found else (problem, "")
    missing, expected = _MISSING.fullmatch(what), _EXPECTED.match(what)
    unknown = _UNKNOWN.fullmatch(what)
    if missing:
        where, what = f"{where}.{missing[1]}".strip("."), "it is missing"
    elif unknown:
        what = f"unknown: {unknown[1]}"
    elif expected and expected[1] in _WORDS:
        most = _AT_MOST.search(what)
        words = _title(kind, where.split(".")) or _WORDS[expected[1]]
        what = f"expected {words}" + (f" of at most {most[1]}" if most else "")
    return f"{where}: {what}" if where else what


def _title(kind: object, path: Sequence[str]) -> str | None:
    """What a member's type calls its values, if it has a word for them."""
    name, *rest = path
    for part in _parts(kind):
        if isinstance(part, Meta) and part.title and not name:
            return part.title
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            for field in msgspec.structs.fields(part):
                if field.encode_name == name.partition("[")[0]:
                    return _title(field.type, rest or [""])
    return None


def _parts(kind: object) -> Iterator[object]:
    """A type with all that it is made of."""
    yield kind
    for part in (*get_args(kind), *getattr(kind, "__metadata__", ())):
        yield from _parts(part)

"""Members of JSON objects, read one at a time: what is wrong with one is said with its place."""

from __future__ import annotations

import json

from ullage.oci.errors import ManifestInvalid, shown
from ullage.oci.strict_json import JSONValue

Object = dict[str, JSONValue]


def read_string(value: JSONValue, where: str) -> str:
    if not isinstance(value, str):
        raise expected(where, value, "a string")
    return value


def read_object(value: JSONValue, where: str) -> Object:
    if not isinstance(value, dict):
        raise expected(where, value, "an object")
    return value


def folded(*names: str) -> dict[str, str]:
    return {name.casefold(): name for name in names}


def refuse_other_names(members: Object, fields: dict[str, str], prefix: str) -> None:
    """Refuse `Layers` for `layers`: readers written in Go take either, and the last one wins.

    `fields`: from the case-folded name to the right one.
    """
    for key in members:
        meant = fields.get(key.casefold(), key)
        if meant != key:
            raise ManifestInvalid(message=f"{prefix}{shown(key)} - expected it spelled `{meant}`")


def expected(where: str, value: JSONValue, what: str) -> ManifestInvalid:
    return ManifestInvalid(message=f"{where}: {_brief(value)} - expected {what}")


def _brief(value: JSONValue) -> str:
    match value:
        case None:
            return "missing or null"
        case str():
            return shown(value)
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return json.dumps(value)

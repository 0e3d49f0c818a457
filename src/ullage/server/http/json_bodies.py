"""JSON objects that come as request bodies, read strictly: a misspelt word is an error."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request

from ullage.authorization import Action, Principal
from ullage.cleanup.plan.plan import Caps, parse_size
from ullage.oci.errors import ManifestTooLarge, PlanInvalid, ValueInvalid
from ullage.oci.reference import RepositoryName
from ullage.oci.strict_json import JSONInvalid, JSONValue, loads
from ullage.server.http.authentication import Challenge
from ullage.server.http.context import Context
from ullage.server.http.errors import FormTooLarge

# A list of 10,000 digests fits.
MAX_BODY_BYTES = 1024 * 1024
_CAPS = {"max_manifests", "max_bytes", "max_percent"}


async def read_body(context: Context, request: Request) -> Mapping[str, JSONValue]:
    """The JSON object that was sent; {} if nothing was. Raises PlanInvalid, FormTooLarge."""
    try:
        async with context.bodies.whole(request, MAX_BODY_BYTES) as raw:
            value = loads(raw) if raw else {}
    except ManifestTooLarge:
        raise FormTooLarge(message=f"the body is longer than {MAX_BODY_BYTES} bytes") from None
    except JSONInvalid as error:
        raise PlanInvalid(message=f"the body is {error}") from None
    if not isinstance(value, dict):
        raise PlanInvalid(message="expected a JSON object")
    return value


def caps(value: JSONValue) -> Caps:
    if value is None:
        return Caps()
    if not isinstance(value, dict):
        raise PlanInvalid(message="caps: expected an object")
    only(value, _CAPS)
    size = value.get("max_bytes")
    return Caps(
        max_manifests=number(value, "max_manifests"),
        max_bytes=parse_size(size) if isinstance(size, str) else number(value, "max_bytes"),
        max_percent=number(value, "max_percent"),
    )


def only(body: Mapping[str, Any], known: set[str]) -> None:
    """A misspelt word must not mean "without it" where something is deleted."""
    unknown = sorted(body.keys() - known)
    if unknown:
        raise PlanInvalid({"unknown": unknown[:10]}, f"unknown: {', '.join(unknown[:10])}"[:200])


def texts(body: Mapping[str, JSONValue], name: str) -> list[str]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise PlanInvalid(message=f"{name}: expected a list of texts")
    return [str(each) for each in value]


def flag(body: Mapping[str, JSONValue], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise PlanInvalid(message=f"{name}: expected true or false")
    return value


def number(body: Mapping[str, JSONValue], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PlanInvalid(message=f"{name}: expected a whole number")
    return value


def is_id(text: str) -> bool:
    """Whether a plan or a job may be called so."""
    return len(text) == 32 and set(text) <= set(string.hexdigits.lower())


def seen(text: str | None) -> int:
    """How many items the client has seen already."""
    if text is None:
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueInvalid({"last": text[:40]}, "last: expected the number of items seen so far")
    return int(text)


def require(principal: Principal, names: Iterable[RepositoryName], *actions: Action) -> None:
    """Raises Challenge with all that the caller lacks."""
    lacking = [(name, [a for a in actions if not principal.may(a, name)]) for name in names]
    missing = [
        {"Type": "repository", "Name": name, "Action": action}
        for name, those in lacking
        for action in those
    ]
    if missing:
        wanted = ",".join(actions)
        scope = " ".join(f"repository:{name}:{wanted}" for name, those in lacking if those)
        raise Challenge(missing, scope, "insufficient_scope")

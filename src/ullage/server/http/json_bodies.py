"""JSON objects that come as request bodies, read strictly: a misspelt word is an error."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import TypeVar

from ullage import documents
from ullage.authorization import Action, Principal
from ullage.oci.errors import ManifestTooLarge, PlanInvalid, RegistryError, ValueInvalid
from ullage.oci.reference import RepositoryName
from ullage.oci.strict_json import JSONInvalid, JSONValue, loads
from ullage.server.http.authentication import Challenge
from ullage.server.http.context import Context
from ullage.server.http.errors import FormTooLarge
from ullage.server.http.request import Request

# A list of 10,000 digests fits.
MAX_BODY_BYTES = 1024 * 1024
T = TypeVar("T", bound=documents.RequestBody)


async def read_body(
    context: Context,
    request: Request,
    kind: type[T],
    refusal: type[RegistryError] = PlanInvalid,
    most: int = MAX_BODY_BYTES,
) -> T:
    """What was sent in at most so many bytes, as a document of this kind.

    Raises `refusal`, and FormTooLarge. What is no JSON object is no plan (PlanInvalid) where plans
    are asked for, and elsewhere a malformed value (ValueInvalid).
    """
    no_object = PlanInvalid if refusal is PlanInvalid else ValueInvalid
    return documents.read(await read_object(context, request, no_object, most), kind, refusal)


async def read_object(
    context: Context,
    request: Request,
    refusal: type[RegistryError] = PlanInvalid,
    most: int = MAX_BODY_BYTES,
) -> dict[str, JSONValue]:
    """The JSON object that was sent; {} if nothing was. Raises `refusal`, FormTooLarge."""
    try:
        async with context.bodies.whole(request, most) as raw:
            value = loads(raw) if raw else {}
    except ManifestTooLarge:
        raise FormTooLarge(message=f"the body is longer than {most} bytes") from None
    except JSONInvalid as error:
        raise refusal(message=f"the body is {error}") from None
    if not isinstance(value, dict):
        raise refusal(message="expected a JSON object")
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

"""Beginnings of digests and ids, as tables show them: any that is unique stands for the whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from ullage.cli.client.registry import RemoteRegistry
from ullage.cli.shell.errors import Failure, Refused

Kind = Literal["plans", "jobs", "operations"]
_ID = re.compile(r"[0-9a-f]{7,31}")
_DIGEST = re.compile(r"(?:sha(?:256|512):)?[0-9a-f]{7,127}")
_WHOLE = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_SHOWN = 5


def whole_id(registry: RemoteRegistry, text: str, kind: Kind) -> str:
    """The id of the plan, job or operation that begins so.

    What nothing begins with stays as it is: the registry says so in its own words. Raises Failure
    where several do.
    """
    if not _ID.fullmatch(text):
        return text
    return _only(text, _beginning(registry, text).get(kind, ()))


def is_short(digest: str) -> bool:
    """Whether it is no whole digest, but may be the beginning of one."""
    return bool(_DIGEST.fullmatch(digest)) and not _WHOLE.fullmatch(digest)


def whole_digest(registry: RemoteRegistry, text: str, repository: str | None = None) -> str:
    """The digest that begins so: of a manifest of the repository; without one, of any or a blob.

    As whole_id.
    """
    if not is_short(text):
        return text
    found = _beginning(registry, text)
    digests = [
        each["digest"]
        for each in found.get("manifests", ())
        if repository in (None, each["repository"])
    ]
    if repository is None:
        digests += found.get("blobs", ())
    return _only(text, sorted(set(digests)))


def only_beginning(text: str, digests: Iterable[str]) -> str:
    """The one of these digests that begins so. As whole_id."""
    digits = text.rpartition(":")[2]
    found = [each for each in digests if each.rpartition(":")[2].startswith(digits)]
    return _only(text, sorted(found))


def _beginning(registry: RemoteRegistry, text: str) -> dict[str, Any]:
    try:
        data = registry.get(f"/api/v1/ids/{text}").data
    except Refused as error:
        # Registries other than Ullage have no such answer.
        if error.status != 404:
            raise
        return {}
    return data if isinstance(data, dict) else {}


def _only(text: str, found: Sequence[str]) -> str:
    if len(found) > 1:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise Failure(f"'{text}' begins several: {', '.join(found[:_SHOWN])}{more}.")
    return found[0] if found else text

"""`ullage why`: what holds a manifest or a layer, or what it waits for.

Registries other than Ullage have no such answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ullage.cli.client.ids import whole_digest
from ullage.cli.client.image_names import digest_of_tag, parse_image
from ullage.cli.client.scopes import READ_ALL, scope_of
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import ago, minute, short_digests

_ALGORITHMS = ("sha256", "sha512")


def why(invocation: Invocation) -> Result:
    digest = digest_meant(invocation, invocation.given.digest)
    data = invocation.registry(READ_ALL).get(f"/api/v1/why/{quote(digest, safe=':')}").data
    meant = "" if digest == invocation.given.digest else f"{digest}: "
    invocation.console.note(f"{meant}{data['because']}")
    return Result(data, lambda: _why_rows(data))


def digest_meant(invocation: Invocation, text: str) -> str:
    """What is meant: a digest or its first digits, alone or of a repository; or `R:T`."""
    named = text.partition("@")[0].rpartition(":")
    if "@" in text or (named[1] and named[0] not in _ALGORITHMS):
        image = parse_image(text)
        registry = invocation.registry(scope_of(image.repository, "metadata_read"))
        return digest_of_tag(registry, image)
    return whole_digest(invocation.registry(READ_ALL), text)


def _why_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [
        {"Repository": place["repository"], "HeldBy": f"{each['kind']} {each['by']}"}
        for place in data.get("manifest", [])
        for each in place["held_by"]
    ]
    rows += [
        {"Repository": place["repository"], "HeldBy": _kept(place)}
        for place in data.get("manifest", [])
        if "operation" in place
    ]
    rows += [
        {"Repository": place["repository"], "HeldBy": _last_pull(place["last_pull"])}
        for place in data.get("manifest", [])
        if place.get("last_pull")
    ]
    blob = data.get("blob", {})
    short = short_digests(manifest["digest"] for manifest in blob.get("held_by", []))
    for manifest in blob.get("held_by", []):
        tags = ", ".join(manifest["tags"]) or "(untagged)"
        held_by = f"{short[manifest['digest']]} {tags}"
        if "operation" in manifest:
            held_by += f", {_kept(manifest)}"
        rows.append({"Repository": manifest["repository"], "HeldBy": held_by})
    for wait in blob.get("waits", []):
        kind = "lease" if wait["leased"] else "review"
        rows.append(
            {"Repository": wait["repository"], "HeldBy": f"{kind} until {minute(wait['until'])}"}
        )
    rows += [
        {"Repository": None, "HeldBy": f"deleted, due {minute(each['due'])}"}
        for each in data.get("deleted", [])
    ]
    return rows


def _last_pull(pull: Mapping[str, Any]) -> str:
    """No reason to stay, but something to know before it goes."""
    return f"(pulled {ago(pull['at'])}, by: {pull['by']})"


def _kept(place: Mapping[str, Any]) -> str:
    return f"soft-deleted until {minute(place['soft_deleted_until'])}: {place['operation']}"


COMMANDS = (
    Command(
        ("why",),
        "Say what holds a manifest or a layer, or what it waits for.",
        (
            Flag(
                ("digest",),
                "Its digest, or the first digits of it, or an image as name:tag.",
                "DIGEST",
                required=True,
            ),
            *flags.REGISTRY,
        ),
        why,
        examples=("ullage why sha256:" + "0" * 64, "ullage why 0a1b2c3", "ullage why hello:v1"),
        exits=MISSING,
    ),
)

"""`ullage why`: what holds a manifest or a layer, or what it waits for.

Registries other than Ullage have no such answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ullage.cli.client.scopes import READ_ALL
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import age


def why(invocation: Invocation) -> Result:
    registry = invocation.registry(READ_ALL)
    data = registry.get(f"/api/v1/why/{quote(invocation.given.digest, safe=':')}").data
    invocation.console.note(data["because"])
    return Result(data, lambda: _why_rows(data))


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
    for manifest in blob.get("held_by", []):
        tags = ", ".join(manifest["tags"]) or "(untagged)"
        held_by = f"{manifest['digest']} {tags}"
        if "operation" in manifest:
            held_by += f", {_kept(manifest)}"
        rows.append({"Repository": manifest["repository"], "HeldBy": held_by})
    for wait in blob.get("waits", []):
        kind = "lease" if wait["leased"] else "review"
        rows.append({"Repository": wait["repository"], "HeldBy": f"{kind} until {wait['until']}"})
    rows += [
        {"Repository": None, "HeldBy": f"deleted, due {each['due']}"}
        for each in data.get("deleted", [])
    ]
    return rows


def _last_pull(pull: Mapping[str, Any]) -> str:
    """No reason to stay, but something to know before it goes."""
    return f"(pulled {age(pull['at'])} ago, by: {pull['by']})"


def _kept(place: Mapping[str, Any]) -> str:
    return f"soft-deleted until {place['soft_deleted_until']}: {place['operation']}"


COMMANDS = (
    Command(
        ("why",),
        "Say what holds a manifest or a layer, or what it waits for.",
        (Flag(("digest",), "Its digest.", "DIGEST", required=True), *flags.REGISTRY),
        why,
        examples=("ullage why sha256:" + "0" * 64,),
        exits=MISSING,
    ),
)

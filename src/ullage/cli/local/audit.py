"""`ullage audit` and `ullage key`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ullage.cli.local.accounts import manage
from ullage.cli.local.places import PLACE
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import age, minute


def list_entries(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = without_none(
        subject=given.subject,
        action=given.action,
        repository=given.repository,
        since=given.since,
        until=given.until,
        top=given.top,
    )
    return manage(invocation, "audit list", arguments, _entries)


def rotate_key(invocation: Invocation) -> Result:
    return manage(invocation, "key rotate", {"revoke": invocation.given.revoke}, _keys)


def list_keys(invocation: Invocation) -> Result:
    return manage(invocation, "key list", {}, _keys)


def revoke_key(invocation: Invocation) -> Result:
    return manage(invocation, "key revoke", {"kid": invocation.given.kid}, _keys)


def _keys(keys: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "Key": key["kid"],
            "Signs": "yes" if key["signs"] else "",
            "Created": age(key["creationDate"]),
            "Retired": age(key["retirementDate"]) if key["retirementDate"] else "",
        }
        for key in keys
    ]


def _entries(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "At": minute(entry["at"]),
            "Subject": entry["subject"] or "-",
            "Action": entry["action"],
            "Repository": entry["repository"],
            "Target": entry["target"],
        }
        for entry in entries
    ]


COMMANDS = (
    Command(("key", "list"), "List the keys that sign and verify access tokens.", PLACE, list_keys),
    Command(
        ("key", "rotate"),
        "Sign with a new key from now on; tokens signed before stay valid until they expire.",
        (Flag(("--revoke",), "End all tokens; all clients log in again."), *PLACE),
        rotate_key,
    ),
    Command(
        ("key", "revoke"),
        "End the tokens that a key signed. If it is the one that signs, a new one does.",
        (Flag(("kid",), "The key, as `ullage key list` shows it.", required=True), *PLACE),
        revoke_key,
        exits=MISSING,
    ),
    Command(
        ("audit", "list"),
        "Show who changed what, newest first.",
        (
            Flag(("--subject",), "Only of this account.", "NAME"),
            Flag(("--action",), "Only this action, such as manifest.delete.", "ACTION"),
            Flag(("--repository",), "Only in this repository.", "REPOSITORY"),
            Flag(("--since",), "Not before: 2026-11-23T10:00:00Z, or 24h.", "TIME"),
            Flag(("--until",), "Before.", "TIME"),
            Flag(("--top",), "At most this many, the newest. Default: 100.", "NUMBER", kind=int),
            *PLACE,
        ),
        list_entries,
        examples=("ullage audit list --since 24h", "ullage audit list --repository team/app"),
    ),
)

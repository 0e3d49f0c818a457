"""`ullage upload`: the upload sessions of all, and ending those of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ullage.cli.local.accounts import manage
from ullage.cli.local.places import PLACE
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.invocation import Invocation, Result, without_none


def list_uploads(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = without_none(repository=given.repository, account=given.account)
    return manage(invocation, "upload list", arguments, _rows)


def cancel(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = without_none(
        upload=given.upload, repository=given.repository, account=given.account
    )
    return manage(invocation, "upload cancel", arguments, _rows)


def _rows(uploads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "Upload": upload["upload"],
            "Repository": upload["repository"],
            "Account": upload["account"] or "-",
            "Bytes": upload["bytes"],
            "Expires": upload["expires_at"][:16],
        }
        for upload in uploads
    ]


_REPOSITORY = Flag(("--repository",), "Only in this repository.", "REPOSITORY")
_ACCOUNT = Flag(("--account",), "Only of this account.", "NAME")

COMMANDS = (
    Command(
        ("upload", "list"),
        "List the upload sessions that are open.",
        (_REPOSITORY, _ACCOUNT, *PLACE),
        list_uploads,
    ),
    Command(
        ("upload", "cancel"),
        "End upload sessions, and give back their bytes. Their clients begin again.",
        (Flag(("upload",), "Only this one."), _REPOSITORY, _ACCOUNT, *PLACE),
        cancel,
        examples=("ullage upload cancel --account ci",),
        exits=MISSING,
    ),
)

"""`ullage upload`: the upload sessions of all, and ending those of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ullage.cli.local.accounts import manage
from ullage.cli.local.places import PLACE
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import minute, short_ids, size


def list_uploads(invocation: Invocation) -> Result:
    given = invocation.given
    arguments = without_none(repository=given.repository, account=given.account)
    return manage(invocation, "upload list", arguments, _rows)


def cancel(invocation: Invocation) -> Result:
    given = invocation.given
    upload = None if given.upload is None else _whole(invocation, given.upload)
    arguments = without_none(upload=upload, repository=given.repository, account=given.account)
    return manage(invocation, "upload cancel", arguments, _rows)


def _whole(invocation: Invocation, text: str) -> str:
    """The id of the session that begins so, as the list shows it; what begins none as it is."""
    uploads = manage(invocation, "upload list", {}, _rows).data
    found = [each["upload"] for each in uploads if each["upload"].startswith(text)]
    if len(found) > 1:
        raise Failure(f"'{text}' begins several: {', '.join(found[:5])}.")
    return found[0] if found else text


def _rows(uploads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    short = short_ids(upload["upload"] for upload in uploads)
    return [
        {
            "Upload": short[upload["upload"]],
            "Repository": upload["repository"],
            "Account": upload["account"] or "-",
            "Bytes": size(upload["bytes"]),
            "Expires": minute(upload["expires_at"]),
        }
        for upload in uploads
    ]


_UPLOAD = Flag(("upload",), "Only this one: its id, or the first digits of it.")
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
        (
            Flag(("upload",), "Only this one: its id, or the first digits of it."),
            _REPOSITORY,
            _ACCOUNT,
            *PLACE,
        ),
        cancel,
        examples=("ullage upload cancel --account ci",),
        exits=MISSING,
    ),
)

"""`ullage lock`, `unlock` and `lock list`: locks with a reason, which nothing gets round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ullage.cli.client.ids import whole_digest
from ullage.cli.client.scopes import scope_of
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import age, minute, short_digests

LOCKS = "/api/v1/locks"


def lock(invocation: Invocation) -> Result:
    given = invocation.given
    if given.reason is None:
        raise Failure("Usage error: --reason is required: say why.")
    target = _target(invocation, given.what)
    registry = invocation.registry(_scope(target))
    body = without_none(reason=given.reason, owner=given.owner, until=given.until)
    placed = registry.post(LOCKS, target | body).data
    return Result(placed, lambda: _rows([placed]))


def unlock(invocation: Invocation) -> Result:
    target = _target(invocation, invocation.given.what)
    registry = invocation.registry(_scope(target))
    lifted = registry.delete(f"{LOCKS}?{urlencode(target)}").data["locks"]
    for each in lifted:
        invocation.console.note(f"Lifted: {each['reason']} ({each['owner'] or 'anonymous'})")
    return Result(lifted, lambda: _rows(lifted))


def list_locks(invocation: Invocation) -> Result:
    name = invocation.given.repository
    registry = invocation.registry(scope_of(name or "*", "metadata_read"))
    found = registry.get(LOCKS, {"repository": name}).data["locks"]
    return Result(found, lambda: _rows(found))


def _target(invocation: Invocation, text: str) -> dict[str, str]:
    """`R`, `R:T` or `R@D`; here a name alone is the whole repository."""
    repository, at, digest = text.partition("@")
    if at:
        reading = invocation.registry(scope_of(repository, "metadata_read"))
        return {"repository": repository, "digest": whole_digest(reading, digest, repository)}
    repository, colon, tag = text.partition(":")
    return {"repository": repository} | ({"tag": tag} if colon else {})


def _scope(target: Mapping[str, str]) -> str:
    return scope_of(target["repository"], "metadata_read,metadata_write")


def _rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    short = short_digests(each["digest"] for each in found if each["digest"])
    return [
        {
            "Repository": each["repository"],
            "What": each["tag"] or short.get(each["digest"], "(everything)"),
            "Owner": each["owner"],
            "Until": minute(each["until"]) if each["until"] else None,
            "Age": age(each["created"]),
            "Reason": each["reason"],
        }
        for each in found
    ]


_WHAT = Flag(
    ("what",),
    "A repository, one of its tags as repository:tag, or a manifest as repository@digest.",
    "WHAT",
    required=True,
)

COMMANDS = (
    Command(
        ("lock",),
        "Keep a repository, tag or image from being deleted, and say why.",
        (
            _WHAT,
            Flag(("--reason",), "Why: shown wherever it keeps something.", "TEXT"),
            Flag(
                ("--until",),
                "When it ends by itself: 2027-01-31, or 30d from now. Default: when lifted.",
                "WHEN",
            ),
            Flag(("--owner",), "Whose wish it is, if not yours.", "NAME"),
            *flags.REGISTRY,
        ),
        lock,
        more="A lock of an image covers all that belongs to it: its platforms, and its signatures. "
        "A lock of a tag covers the tag and the image it points to, and goes along when the tag is "
        "pushed again: to keep one image, lock its digest. Plans and purges show what a lock "
        "keeps; no deletion gets round it, also not with --include-locked.",
        examples=(
            "ullage lock hello:v1 --reason 'audit 2026-114' --until 90d",
            "ullage lock hello@sha256:" + "0" * 64 + " --reason 'runs in production'",
        ),
        exits=MISSING,
    ),
    Command(
        ("unlock",),
        "Lift the locks of exactly this; the audit log has who did.",
        (_WHAT, *flags.REGISTRY),
        unlock,
        exits=MISSING,
    ),
    Command(
        ("lock", "list"),
        "List what is locked, by whom, until when and why.",
        (flags.REPOSITORY, *flags.REGISTRY),
        list_locks,
        exits=MISSING,
    ),
)

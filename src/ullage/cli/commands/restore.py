"""`ullage restore`, `ullage deleted` and `ullage config soft-delete`: deletions taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ullage.cli.client.ids import whole_id
from ullage.cli.client.registry import RemoteRegistry
from ullage.cli.client.scopes import CHANGE_ALL, scope_of
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.console import confirm
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import age, exact, images_in, minute, short_ids, size

DELETED = "/api/v1/deleted"
POLICY = "/api/v1/policies/soft-delete"
_READ = scope_of("*", "deleted_read")
_RESTORE = scope_of("*", "deleted_read,deleted_restore")
_FREE = scope_of("*", "deleted_read,deleted_restore,delete")
# Giving a hundred thousand manifests back takes a while.
_SECONDS = 600
# az's words (azure.md section 3.4).
_FEWER_DAYS = (
    "Soft-delete purge scheduling is determined by a registry's current soft-delete retention days "
    "policy at the time of purge. By reducing the retention days policy, you are changing the "
    "scheduled purge date of previously deleted artifacts. In doing so, you may be scheduling some "
    "artifacts in a soft-deleted state for immediate purge. Do you wish to proceed?"
)
_DISABLING = (
    "Disabling soft-delete does not affect purge behavior for previously deleted artifacts. "
    "Artifacts currently in a soft-deleted state will continue to be purged in accordance with the "
    "current soft-delete retention days policy."
)
_LEAST_DAYS, _MOST_DAYS = 1, 90


def _path(operation: str) -> str:
    return f"{DELETED}/{quote(operation, safe='')}"


# --- restoring ------------------------------------------------------------------------------------


def restore(invocation: Invocation) -> Result:
    given = invocation.given
    registry = invocation.registry(_RESTORE)
    path = _path(whole_id(registry, given.operation, "operations"))
    if given.force and not given.yes:
        found = registry.get(path).data
        confirm(
            f"Restoring {images_in(found)} overwrites tags that point to something else by now. "
            "Are you sure you want to continue?",
            yes=False,
        )
    done = registry.post(f"{path}/restore", {"force": given.force}, _SECONDS).data
    invocation.console.note(
        f"Restored {images_in(done)} in {', '.join(done['repositories']) or 'no repository'}."
    )
    if done["overwritten"]:
        invocation.console.warning(
            f"Overwritten: {', '.join(done['overwritten'])}. To have them back: "
            f"ullage restore {done['overwritten_by']} --force"
        )
    if done["missing"]:
        invocation.console.warning(
            f"What these tags pointed to is gone: {', '.join(done['missing'])}"
        )
    return Result(done, lambda: [{"Repository": name} for name in done["repositories"]])


# --- what was deleted -----------------------------------------------------------------------------


def list_deleted(invocation: Invocation) -> Result:
    registry = invocation.registry(_READ)
    found = list(registry.pages(DELETED, "operations", invocation.given.top))
    return Result(found, lambda: _rows(found))


def show_deleted(invocation: Invocation) -> Result:
    registry = invocation.registry(_READ)
    operation = whole_id(registry, invocation.given.operation, "operations")
    found = registry.get(_path(operation)).data
    return Result(found, lambda: _rows([found]))


def _rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    short = short_ids(operation["id"] for operation in found)
    return [
        {
            "Operation": short[operation["id"]],
            "What": operation["kind"],
            "Repository": _some_of(operation["repositories"]),
            "Manifests": operation["manifest_count"],
            "Tags": operation["tag_count"],
            "Holds": size(operation["exclusive_bytes"]),
            "Age": age(operation["deleted"]),
            "By": operation["by"],
            "Until": minute(operation["until"]),
        }
        for operation in found
    ]


def _some_of(parts: Sequence[Mapping[str, Any]]) -> str | None:
    more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
    return f"{parts[0]['repository']}{more}" if parts else None


def free(invocation: Invocation) -> Result:
    """`ullage purge --deleted`."""
    given = invocation.given
    registry = invocation.registry(_FREE)
    if given.operation:
        operation = whole_id(registry, given.operation, "operations")
        freed = _free_one(registry, operation, yes=given.yes)
    else:
        freed = _free_all(registry, yes=given.yes)
    invocation.console.note(
        f"Gave up {len(freed['operations'])} deletions for good, frees "
        f"{exact(freed['freed_bytes'])}."
    )
    return Result(freed, lambda: [{"Operation": each} for each in freed["operations"]])


def _free_one(registry: RemoteRegistry, operation: str, *, yes: bool) -> dict[str, Any]:
    if not yes:
        found = registry.get(_path(operation)).data
        _ask(images_in(found), found["exclusive_bytes"])
    freed: dict[str, Any] = registry.delete(_path(operation)).data
    return freed or {"operations": [operation], "freed_bytes": 0}


def _free_all(registry: RemoteRegistry, *, yes: bool) -> dict[str, Any]:
    if not yes:
        bill = registry.get("/api/v1/usage", {"top": "0"}).data.get("registry", {})
        _ask("everything that was deleted", bill.get("soft_deleted_bytes"))
    freed: dict[str, Any] = registry.delete(DELETED).data
    return freed


def _ask(what: str, count: int | None) -> None:
    gives = f"This gives back {size(count)}.\n" if count is not None else ""
    confirm(
        f"{gives}Are you sure you want to give up {what}, so that it cannot be restored any more?",
        yes=False,
    )


# --- the policy -----------------------------------------------------------------------------------


def show_policy(invocation: Invocation) -> Result:
    return _policy(invocation.registry(_READ).get(POLICY).data)


def update_policy(invocation: Invocation) -> Result:
    given = invocation.given
    if given.days is not None and not _LEAST_DAYS <= given.days <= _MOST_DAYS:
        raise Failure(f"Invalid value for days: should be from {_LEAST_DAYS} to {_MOST_DAYS}")
    registry = invocation.registry(CHANGE_ALL)
    old = registry.get(POLICY).data
    if old["status"] == "enabled" and given.status == "disabled":
        invocation.console.warning(_DISABLING)
    if given.days is not None and given.days < old["retentionDays"]:
        confirm(_FEWER_DAYS, given.yes)
    changes = without_none(status=given.status, retentionDays=given.days)
    return _policy(registry.patch(POLICY, changes).data)


def _policy(data: dict[str, Any]) -> Result:
    return Result(data, lambda: [{"Status": data["status"], "Days": data["retentionDays"]}])


_OPERATION = Flag(
    ("operation",), "The operation's id, or its first digits.", "OPERATION", required=True
)

COMMANDS = (
    Command(
        ("restore",),
        "Take a deletion back: its images with all their tags, children and referrers.",
        (
            _OPERATION,
            Flag(
                ("--force", "-f"),
                "Overwrite tags that point to something else by now; that can be taken back too.",
            ),
            flags.YES,
            *flags.REGISTRY,
        ),
        restore,
        more="For what was deleted while soft delete was on. The id comes from `ullage deleted "
        "list`, a receipt, a job or the header Ullage-Operation. What was pushed again since stays "
        "as it is.",
        examples=("ullage restore 0123456789abcdef0123456789abcdef",),
        exits=MISSING,
    ),
    Command(
        ("deleted", "list"),
        "List the deletions that can be taken back, the last first.",
        (flags.TOP, *flags.REGISTRY),
        list_deleted,
        more="Holds is what giving up this one alone would free.",
        examples=("ullage deleted list",),
    ),
    Command(
        ("deleted", "show"),
        "Show what one deletion took, the bytes that it holds, and until when.",
        (_OPERATION, *flags.REGISTRY),
        show_deleted,
        exits=MISSING,
    ),
    Command(
        ("config", "soft-delete", "show"),
        "Show whether deletions can be taken back, and for how many days.",
        flags.REGISTRY,
        show_policy,
    ),
    Command(
        ("config", "soft-delete", "update"),
        "Keep what is deleted for some days, so that it can be restored.",
        (
            Flag(
                ("--status",),
                "Whether what is deleted from now on is kept.",
                "STATUS",
                choices=("enabled", "disabled"),
            ),
            Flag(
                ("--days",),
                "For how many days, 1 to 90; at first 7. Counts for what is deleted already, too.",
                "DAYS",
                kind=int,
            ),
            flags.YES,
            *flags.REGISTRY,
        ),
        update_policy,
        more="For administrators. Bytes come back when the days are over, or with `ullage purge "
        "--deleted`.",
        examples=("ullage config soft-delete update --status enabled --days 14",),
    ),
)

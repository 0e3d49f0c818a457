"""`ullage purge`: what `acr purge` does, done by the registry (azure.md section 4)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ullage.cli.client.registry import RemoteRegistry
from ullage.cli.client.scopes import scope_of
from ullage.cli.commands.job import UNFINISHED, finish, image_of, items_of, queued
from ullage.cli.commands.restore import free
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import size

PURGE = "/api/v1/purge"
FILTER_RIGHTS = "metadata_read,delete"
_DRY_RUN = (
    "DRY RUN: The following output shows what WOULD be deleted if the purge command was executed. "
    "Nothing is deleted."
)
# azure.md section 4.1.
_MOST_CONCURRENCY = 32
_TOO_MANY = f"Specified concurrency value too large. Set to maximum value: {_MOST_CONCURRENCY} "


def purge(invocation: Invocation) -> Result:
    given = invocation.given
    if given.deleted or given.operation:
        return _purge_deleted(invocation)
    if (given.concurrency or 0) > _MOST_CONCURRENCY:
        invocation.console.warning(_TOO_MANY)
    rights = f"{FILTER_RIGHTS},metadata_write" if given.include_locked else FILTER_RIGHTS
    registry = invocation.registry(*filter_scopes(given.filter or [], rights))
    job = registry.post(PURGE, _request(given)).data
    if given.no_wait:
        return queued(invocation, job)
    job = finish(invocation, registry, job)
    if job["state"] == "refused":
        raise _refused(job)
    text = "".join(f"{line}\n" for line in _lines(registry, job))
    if job["state"] in ("failed", "cancelled"):
        invocation.console.error(
            f"The purge was not completed: job {job['id']} has {job['state']}."
        )
        return _result(invocation, job, text, 1)
    return _result(invocation, job, text, 0)


def _purge_deleted(invocation: Invocation) -> Result:
    given = invocation.given
    others = (given.filter, given.ago, given.keep, given.untagged, given.untagged_only)
    if any(each is not None and each is not False for each in others) or given.dry_run:
        raise Failure("--deleted gives up what was deleted already, and takes --operation only.", 2)
    if not given.deleted:
        raise Failure("--operation goes with --deleted.", 2)
    return free(invocation)


def _result(invocation: Invocation, job: dict[str, Any], text: str, code: int) -> Result:
    """acr's lines, unless some format was asked for."""
    if invocation.given.output is None and invocation.given.query is None:
        return Result(text=text, code=code)
    return Result(job, code=code)


def filter_scopes(filters: list[str], rights: str) -> list[str]:
    """What to ask the token endpoint for: repositories that are named, else all."""
    names = [each.rpartition(":")[0] for each in filters]
    if names and all(re.fullmatch(r"[a-z0-9][a-z0-9._/-]*", name) for name in names):
        return [scope_of(name, rights) for name in dict.fromkeys(names)]
    return [scope_of("*", rights)]


def _request(given: Any) -> dict[str, Any]:
    caps = without_none(
        max_manifests=given.max_manifests,
        max_bytes=given.max_bytes,
        max_percent=given.max_percent,
    )
    return filter_of(given) | {
        "include_locked": given.include_locked,
        "dry_run": given.dry_run,
        "caps": caps,
        "allow": given.allow or [],
    }


def filter_of(given: Any) -> dict[str, Any]:
    """What FILTER_FLAGS say, for a purge or a plan."""
    return without_none(
        filters=given.filter or [],
        ago=given.ago,
        keep=given.keep or 0,
        untagged=given.untagged,
        untagged_only=given.untagged_only,
    )


def _refused(job: Mapping[str, Any]) -> Failure:
    refusing = [warning for warning in job["warnings"] if warning["refuses"]]
    guardrails = sorted({warning["rail"] for warning in refusing})
    return Failure(
        f"Nothing was deleted: the purge {refusing[0]['message']}.",
        hint=f"To do so all the same: --allow {' --allow '.join(guardrails)}. "
        "A repository whose name is written out in a filter needs no such leave.",
    )


# --- acr's lines ----------------------------------------------------------------------------------


def _lines(registry: RemoteRegistry, job: Mapping[str, Any]) -> Iterator[str]:
    """azure.md section 4.3."""
    dry = job["request"]["dry_run"]
    if dry:
        yield _DRY_RUN
    yield from _of_items(registry, job, dry=dry)
    yield ""
    if dry:
        yield f"Number of tags to be deleted: {job['tag_count']}"
        yield f"Number of manifests to be deleted: {job['manifest_count']}"
        yield f"Space to be freed: {_bytes(job['planned_bytes'], job['planned_later_bytes'])}"
        return
    yield f"Number of deleted tags: {job['tags_deleted']}"
    yield f"Number of deleted manifests: {job['manifests_deleted']}"
    yield f"Space freed: {_bytes(job['freed_bytes'], job['freed_later_bytes'])}"
    if job.get("operation"):
        yield f"To take it back: ullage restore {job['operation']}"


def _bytes(now: int, later: int) -> str:
    more = f", {size(later)} more later" if later else ""
    return f"{size(now)} ({now} bytes){more}"


def _of_items(registry: RemoteRegistry, job: Mapping[str, Any], *, dry: bool) -> Iterator[str]:
    address = registry.origin.address
    verb = "Would delete" if dry else "Deleting"
    headed = None
    for item in items_of(registry, job["id"]):
        part = (item["repository"], item["kind"])
        if part != headed:
            headed = part
            yield f"{verb} {item['kind']}s for repository: {item['repository']}"
        what = f"{address}/{image_of(item)}"
        if dry:
            yield f"Would delete: {what}"
        elif item["outcome"] == "deleted":
            yield f"Deleted {what}"
        elif item["outcome"] == "skipped":
            yield f"Skipped {what}, {item['reason']}"


FILTER_FLAGS = (
    Flag(
        ("--filter", "-f"),
        "REPOSITORY:TAG, two regular expressions; the first has to match a whole name, the "
        "second some part of a tag. Repeatable.",
        "FILTER",
        repeatable=True,
    ),
    Flag(("--ago",), "Only what was updated longer ago, such as 7d or 2d3h6m.", "DURATION"),
    Flag(
        ("--keep",),
        "Keep so many of the newest that would go: tags, and again manifests.",
        "NUMBER",
        kind=int,
    ),
    Flag(("--untagged",), "Then also delete manifests that nothing leads to."),
    Flag(
        ("--untagged-only",),
        "Only these, and no tags. Without --filter in all repositories.",
    ),
)

COMMANDS = (
    Command(
        ("purge",),
        "Delete tags by name and age, and manifests that nothing leads to.",
        (
            *FILTER_FLAGS,
            Flag(("--dry-run",), "Say what would be deleted, and delete nothing."),
            Flag(("--include-locked",), "Delete locked tags and manifests too."),
            Flag(
                ("--allow",),
                "Run into this rail all the same: empty-repository, only-tag, "
                "most-of-repository or pulled-recently. Repeatable.",
                "RAIL",
                repeatable=True,
            ),
            Flag(("--max-manifests",), "Refuse to delete more.", "NUMBER", kind=int),
            Flag(("--max-bytes",), "Refuse to free more, such as 10GB.", "SIZE"),
            Flag(
                ("--max-percent",),
                "Refuse to delete more of a repository's tags.",
                "NUMBER",
                kind=int,
            ),
            Flag(("--no-wait",), "Leave it to the registry and return at once."),
            Flag(
                ("--deleted",),
                "Give up what was deleted while soft delete was on, so that its bytes come back "
                "now. Takes only --operation, and asks first.",
            ),
            Flag(("--operation",), "With --deleted: only this deletion.", "OPERATION"),
            flags.YES,
            Flag(
                ("--concurrency",),
                "Ignored: the registry deletes by itself.",
                "NUMBER",
                kind=int,
            ),
            Flag(("--repository-page-size",), "Ignored.", "NUMBER", kind=int, hidden=True),
            Flag(("--filter-timeout-seconds",), "Ignored.", "NUMBER", kind=int, hidden=True),
            Flag(("--config", "-c"), "Ignored.", "FILE", repeatable=True, hidden=True),
            *flags.REGISTRY,
        ),
        purge,
        more="As acr purge does, with acr's lines as output; but the registry does all of it, in "
        "seconds, and what it chose is looked at again when it is deleted: whatever was pushed, "
        "tagged or locked meanwhile stays. Platforms of an index that is there and signatures of "
        "an image that is there are never chosen. Deleting a tag frees nothing: --untagged also "
        "takes the images that lose their last tag. Interrupted, the registry goes on; see "
        "`ullage job`.",
        examples=(
            "ullage purge --filter 'hello:.*' --ago 30d --keep 3 --untagged --dry-run",
            "ullage purge --untagged-only --ago 7d",
            "ullage purge --deleted",
            "ullage purge --filter 'ci/.*:^pr-' --ago 2d --untagged --allow only-tag",
        ),
        exits=MISSING | UNFINISHED,
    ),
)

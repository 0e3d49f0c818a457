"""`ullage job`: long work that a registry does, to watch, look up and cancel."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ullage.cli.client.ids import whole_id
from ullage.cli.client.registry import RemoteRegistry
from ullage.cli.client.scopes import DELETE_ALL, READ_ALL
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.console import Gauge
from ullage.cli.shell.errors import Failure, Refused, Unreachable
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import age, counted, short_ids, size

JOBS = "/api/v1/jobs"
_ITEMS_AT_ONCE = 1000
# How often to ask: at once at first, as most jobs are short.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
# For how long a registry that is away is asked again; answers that say that it is just starting.
PATIENCE_SECONDS = 60.0
_PASSING = (429, 502, 503, 504)


def path_of(job_id: str) -> str:
    return f"{JOBS}/{quote(job_id, safe='')}"


def follow(invocation: Invocation, registry: RemoteRegistry, job: dict[str, Any]) -> dict[str, Any]:
    """Wait for a job to end, with a bar on a terminal; the job as it ended."""
    pause = _FIRST_PAUSE
    gauge = Gauge()
    try:
        while job["finished"] is None:
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            job = _patiently(invocation, registry, job["id"])
            draw(gauge, job)
    except KeyboardInterrupt:
        gauge.clear()
        invocation.console.note(
            f"The registry goes on. Watch: ullage job watch {job['id']}; "
            f"stop: ullage job cancel {job['id']}"
        )
        raise
    gauge.clear()
    return job


def draw(gauge: Gauge, job: Mapping[str, Any]) -> None:
    """How far it is. While it is planned there are only items: what it comes to is not known."""
    total = job["tag_count"] + job["manifest_count"]
    if job["state"] != "running":
        gauge.say(f"Planning … {counted(total, 'item')} so far")
        return
    planned = job.get("planned_bytes", 0) + job.get("planned_later_bytes", 0)
    freed = job["freed_bytes"] + job["freed_later_bytes"]
    done = job["tags_deleted"] + job["manifests_deleted"]
    gauge.show("Deleting", done, total, f"{size(freed)} of {size(planned)}")


def _patiently(invocation: Invocation, registry: RemoteRegistry, job_id: str) -> dict[str, Any]:
    """The job as it is now; a registry that is away, as while it restarts, is asked again.

    Raises Failure, which names the command that goes on, when it stays away.
    """
    began = time.monotonic()
    noted = False
    while True:
        try:
            found: dict[str, Any] = registry.get(path_of(job_id)).data
            return found
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.status not in _PASSING:
                raise
            if time.monotonic() - began >= PATIENCE_SECONDS:
                hint = f"{error.hint} The job goes on with the registry: ullage job watch {job_id}"
                raise Failure(str(error), error.code, hint.strip()) from error
        if not noted:
            noted = True
            invocation.console.note(
                f"The registry is away; asking again for {PATIENCE_SECONDS:g} s."
            )
        time.sleep(_LONGEST_PAUSE)


def items_of(registry: RemoteRegistry, job_id: str) -> Iterator[dict[str, Any]]:
    """All a job is about, in order, page by page."""
    query: dict[str, str | None] = {"n": str(_ITEMS_AT_ONCE)}
    while True:
        reply = registry.get(f"{path_of(job_id)}/items", query)
        yield from reply.data["items"]
        if reply.next_page is None:
            return
        query = dict(reply.next_page)


def finish(invocation: Invocation, registry: RemoteRegistry, job: dict[str, Any]) -> dict[str, Any]:
    """Wait as `follow` does, and print the job's messages."""
    job = follow(invocation, registry, job)
    for line in messages(job):
        invocation.console.warning(line)
    return job


def queued(invocation: Invocation, job: dict[str, Any]) -> Result:
    """For --no-wait."""
    invocation.console.note(f"Job {job['id']} is queued: ullage job watch {job['id']}")
    return Result(job)


def messages(job: Mapping[str, Any]) -> list[str]:
    """A job's notes, the guardrails that it ran into, and what was kept."""
    warnings = (f"The {job['kind']} {warning['message']}." for warning in job["warnings"])
    return [*(f"{note}." for note in job["notes"]), *warnings, *kept(job.get("stays", ()))]


def kept(stays: Sequence[Mapping[str, Any]]) -> list[str]:
    """What locks with a reason, rules and clusters keep; other locks are no news."""
    return [
        f"{stay['repository']}{_reference(stay)} stays: {reason['by']}."
        for stay in stays
        for reason in stay["held_by"]
        if reason["kind"] in ("immutable", "deployed") or reason["by"].startswith("held by ")
    ]


def _reference(stay: Mapping[str, Any]) -> str:
    return f":{stay['tags'][0]}" if stay["tags"] else f"@{stay['digest']}"


def _job_id(invocation: Invocation, registry: RemoteRegistry) -> str:
    return whole_id(registry, invocation.given.job, "jobs")


def show(invocation: Invocation) -> Result:
    registry = invocation.registry(READ_ALL)
    job = registry.get(path_of(_job_id(invocation, registry))).data
    return Result(job, lambda: _rows([job]))


def list_jobs(invocation: Invocation) -> Result:
    jobs = invocation.registry(READ_ALL).get(JOBS).data["jobs"]
    return Result(jobs, lambda: _rows(jobs))


def items(invocation: Invocation) -> Result:
    registry = invocation.registry(READ_ALL)
    found = list(items_of(registry, _job_id(invocation, registry)))
    return Result(found, lambda: [item_row(item) for item in found])


def watch(invocation: Invocation) -> Result:
    registry = invocation.registry(READ_ALL)
    job_id = _job_id(invocation, registry)
    job = finish(invocation, registry, registry.get(path_of(job_id)).data)
    return Result(job, lambda: _rows([job]), code=0 if job["state"] == "done" else 1)


def cancel(invocation: Invocation) -> Result:
    registry = invocation.registry(DELETE_ALL)
    path = path_of(_job_id(invocation, registry))
    registry.delete(path)
    job = follow(invocation, registry, registry.get(path).data)
    return Result(job, lambda: _rows([job]))


def _rows(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    short = short_ids(job["id"] for job in jobs)
    return [
        {
            "Job": short[job["id"]],
            "Kind": f"{job['kind']} (dry run)" if job["request"].get("dry_run") else job["kind"],
            "State": job["state"],
            "Age": age(job["created"]),
            "By": job["by"],
            "Tags": f"{job['tags_deleted']}/{job['tag_count']}",
            "Manifests": f"{job['manifests_deleted']}/{job['manifest_count']}",
            "Freed": size(job["freed_bytes"]),
        }
        for job in jobs
    ]


def item_row(item: Mapping[str, Any], pending: str | None = None) -> dict[str, Any]:
    """`pending` is the outcome of what was only planned."""
    return {
        "Image": image_of(item),
        "Outcome": item["outcome"] or pending,
        "Reason": item["reason"],
    }


def image_of(item: Mapping[str, Any]) -> str:
    """`R:T` of a tag, `R@D` of a manifest."""
    named = f":{item['tag']}" if item["tag"] else f"@{item['digest']}"
    return f"{item['repository']}{named}"


UNFINISHED = {1: "The job did not do everything, or any other error."}
_JOB = Flag(("job",), "The job's id, or its first digits.", "JOB", required=True)

COMMANDS = (
    Command(
        ("job", "list"),
        "List the last jobs, newest first.",
        flags.REGISTRY,
        list_jobs,
    ),
    Command(
        ("job", "show"),
        "Show how a job stands, or what it did.",
        (_JOB, *flags.REGISTRY),
        show,
        exits=MISSING,
    ),
    Command(
        ("job", "items"),
        "List everything that a job is about, and what became of it.",
        (_JOB, *flags.REGISTRY),
        items,
        exits=MISSING,
    ),
    Command(
        ("job", "watch"),
        "Wait until a job has ended.",
        (_JOB, *flags.REGISTRY),
        watch,
        exits=MISSING | UNFINISHED,
    ),
    Command(
        ("job", "cancel"),
        "Stop a job. What it has deleted stays deleted.",
        (_JOB, *flags.REGISTRY),
        cancel,
        exits=MISSING,
    ),
)

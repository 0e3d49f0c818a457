"""Jobs: long cleaning that goes on in the background, with its progress and what came of it."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ullage.authorization import Action
from ullage.cleanup.job import jobs
from ullage.cleanup.job.documents import Job
from ullage.oci.errors import JobUnknown
from ullage.server.http.json_bodies import is_id, require, seen
from ullage.server.http.permissions import KNOWN
from ullage.server.http.routes import Route
from ullage.server.ui.visit import Visit

ITEMS = 100


async def list_jobs(visit: Visit) -> Response:
    """The last jobs, newest first."""
    found = await visit.run(jobs.list_jobs, visit.registry, visit.principal)
    return await visit.page("jobs.html", jobs=[(job, _percent(job)) for job in found])


async def show_job(visit: Visit, job_id: str) -> Response:
    """How a job stands and what it is about; with `part=progress`, only how it stands."""
    job_id, query = _checked(job_id), visit.query
    job = await visit.run(jobs.get_job, visit.registry, job_id, visit.principal)
    values: dict[str, Any] = {"job": job, "percent": _percent(job), "names": _names(job)}
    if query.one("part") == "progress":
        return await visit.page("progress.html", **values)
    items = await visit.run(
        jobs.get_items,
        *(visit.registry, job_id, visit.principal, seen(query.one("last")), ITEMS),
    )
    lacking = await visit.run(jobs.lacking_to_cancel, visit.registry, job_id, visit.principal)
    return await visit.page(
        "job.html",
        **values,
        items=items,
        next=f"?last={items[-1].position}" if len(items) == ITEMS else None,
        may_cancel=not lacking and job.finished is None and not job.cancelled,
        may_restore=visit.may_all(_names(job), Action.DELETED_RESTORE),
    )


async def cancel_job(visit: Visit, job_id: str) -> Response:
    """Let a job do nothing more; what it has deleted stays deleted."""
    await visit.form()
    job_id = _checked(job_id)
    lacking = await visit.run(jobs.lacking_to_cancel, visit.registry, job_id, visit.principal)
    require(visit.principal, map(visit.name, lacking), Action.DELETE)
    await visit.run(jobs.cancel_job, visit.registry, job_id, visit.principal, visit.caller)
    return visit.redirect(f"jobs/{job_id}")


def _names(job: Job) -> list[str]:
    return [share.repository for share in job.repositories]


def _percent(job: Job) -> str:
    """How much of what was chosen is done, as the width of a bar."""
    chosen = job.manifest_count + job.tag_count
    done = job.manifests_deleted + job.tags_deleted
    if job.finished is not None:
        return "100"
    return f"{min(100 * done / chosen, 100) if chosen else 0:.0f}"


def _checked(job_id: str) -> str:
    if not is_id(job_id):
        raise JobUnknown({"job": job_id[:64]})
    return job_id


_ONE = "/ui/jobs/{job}"
ROUTES = (
    Route("ui-jobs", "GET", "/ui/jobs", list_jobs, KNOWN),
    Route("ui-job", "GET", _ONE, show_job, KNOWN),
    Route("ui-job-cancel", "POST", f"{_ONE}/cancel", cancel_job, KNOWN),
)

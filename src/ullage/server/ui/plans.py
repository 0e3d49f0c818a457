"""Plans: what a deletion would do, the button that does exactly that, and the receipt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from ullage.authorization import Action
from ullage.cleanup import purge
from ullage.cleanup.guardrails import Caps
from ullage.cleanup.plan import apply, from_filter, plan, suggest
from ullage.cleanup.plan.documents import PlanDocument, PlanItem
from ullage.cleanup.plan.preview import PlanRequest
from ullage.documents import UNSET
from ullage.oci.digest import parse_digest
from ullage.oci.errors import PlanChanged, PlanInvalid, PlanRefused, PlanUnknown, ValueInvalid
from ullage.oci.reference import parse_tag
from ullage.quantities import parse_size
from ullage.server.api.jobs import require_some
from ullage.server.http.errors import status_of
from ullage.server.http.forms import Form
from ullage.server.http.json_bodies import is_id, require
from ullage.server.http.permissions import ALL_REPOSITORIES, KNOWN
from ullage.server.http.routes import Route
from ullage.server.ui.formats import address
from ullage.server.ui.visit import Visit

# Of what goes and of what stays.
MAX_SHOWN = 200
# A plan of more is made again where its images are chosen.
MAX_REPEATED = 200


@dataclass(frozen=True, slots=True)
class Going:
    """A manifest that goes, as far from the left as it is below what was asked for."""

    item: PlanItem
    depth: int


# --- making ---------------------------------------------------------------------------------------


async def make_plan(visit: Visit) -> Response:
    """Plan what a form chooses: images, repositories, a filter, or so many bytes."""
    form = await visit.form()
    if form.one("free") is not None:
        made = await _suggested(visit, form)
    elif form.one("filter") is not None:
        made = await _filtered(visit, form)
    else:
        wanted = _wanted(visit, form)
        if not (wanted.repositories or wanted.digests or wanted.tags):
            # Nothing was ticked: back to where it can be.
            return visit.redirect(f"repositories/{address(wanted.repository or '')}")
        require(visit.principal, wanted.names(), Action.METADATA_READ)
        made = await visit.run(
            plan.make_plan, visit.registry, wanted, visit.principal, visit.caller
        )
    return visit.redirect(f"plans/{made.id}")


def _wanted(visit: Visit, form: Form) -> PlanRequest:
    """Raises errors of names, tags and digests."""
    name = form.one("repository")
    if form.one("whole") and name is not None:
        return PlanRequest(repositories=(visit.name(name),))
    if form.all("repositories"):
        return PlanRequest(repositories=tuple(map(visit.name, form.all("repositories"))))
    return PlanRequest(
        repository=visit.name(name or ""),
        digests=tuple(map(parse_digest, form.all("digest"))),
        tags=tuple(map(parse_tag, form.all("tag"))),
    )


async def _suggested(visit: Visit, form: Form) -> PlanDocument:
    text = (form.one("free") or "").strip()
    free = parse_size(text)
    if not free:
        raise PlanInvalid(message=visit.text("expected a size such as 50GB"))
    principal = visit.principal
    if not any(grant.actions >= set(purge.RIGHTS) for grant in principal.grants):
        require(principal, [ALL_REPOSITORIES], *purge.RIGHTS)
    return await visit.run(suggest.suggest, visit.registry, free, (), principal, visit.caller)


async def _filtered(visit: Visit, form: Form) -> PlanDocument:
    keep = (form.one("keep") or "0").strip() or "0"
    if not keep.isascii() or not keep.isdecimal() or len(keep) > 9:
        raise ValueInvalid({"keep": keep[:40]}, "keep: expected a whole number")
    wanted = purge.purge_request(
        filters=[line.strip() for line in form.all("filter") if line.strip()],
        ago=(form.one("ago") or "").strip() or None,
        keep=int(keep),
        untagged=form.one("untagged") in ("with", "only"),
        untagged_only=form.one("untagged") == "only",
        include_locked=False,
        dry_run=False,
        caps=Caps(),
        allow=(),
    )
    require_some(visit.principal, wanted)
    return await visit.run(
        from_filter.plan_filter, visit.registry, wanted, visit.principal, visit.caller
    )


# --- looking and deleting -------------------------------------------------------------------------


async def show_plan(visit: Visit, plan_id: str) -> Response:
    """What would go and what stays; once it was carried out, what came of it."""
    return await _page(visit, await _found(visit, plan_id))


async def apply_plan(visit: Visit, plan_id: str) -> Response:
    """Delete what the plan shows; if that has changed, show the difference and delete nothing."""
    form = await visit.form()
    found = await _found(visit, plan_id)
    rights = [Action.DELETE]
    if found.asked.include_locked:
        rights.append(Action.METADATA_WRITE)
    require(visit.principal, map(visit.name, found.names()), *rights)
    try:
        receipt = await visit.run(
            apply.apply_plan,
            *(visit.registry, found.id, visit.caller),
            allow_smaller=form.one("allow_smaller") == "1",
            allow=form.all("allow"),
        )
    except (PlanChanged, PlanRefused) as error:
        return await _page(visit, found, error)
    if receipt.job and receipt.applied is None:
        return visit.redirect(f"jobs/{receipt.job}")
    return visit.redirect(f"plans/{found.id}")


async def _found(visit: Visit, plan_id: str) -> PlanDocument:
    if not is_id(plan_id):
        raise PlanUnknown({"plan": plan_id[:64]})
    return await visit.run(plan.get_plan, visit.registry, plan_id, visit.principal)


async def _page(
    visit: Visit, found: PlanDocument, problem: PlanChanged | PlanRefused | None = None
) -> Response:
    changed: Mapping[str, Any] = {}
    if isinstance(problem, PlanChanged) and isinstance(problem.detail, dict):
        changed = problem.detail
    names = found.names()
    return await visit.page(
        "plan.html",
        200 if problem is None else status_of(problem),
        plan=found,
        receipt=found.receipt or None,
        going=[*_tree(found.items)][:MAX_SHOWN],
        omitted=max(0, len(found.items) - MAX_SHOWN),
        problem=problem,
        difference=changed if "added" in changed else None,
        refusing=[warning for warning in found.warnings if warning.refuses],
        telling=[warning for warning in found.warnings if not warning.refuses],
        names=names,
        paths={name: f"repositories/{address(name)}" for name in names},
        repeat=_repeat(found),
        may_delete=visit.may_all(names, Action.DELETE),
        may_restore=visit.may_all(names, Action.DELETED_RESTORE),
    )


def _tree(items: Sequence[PlanItem]) -> Iterator[Going]:
    """What was asked for, each with what goes along below it."""
    below: dict[str, list[PlanItem]] = {}
    there = {item.digest for item in items}
    for item in items:
        above = item.of if item.of is not UNSET and item.of in there else ""
        below.setdefault(above, []).append(item)
    waiting = [Going(item, 0) for item in reversed(below.get("", []))]
    while waiting:
        going = waiting.pop()
        yield going
        inner = below.pop(going.item.digest, [])
        waiting += [Going(item, going.depth + 1) for item in reversed(inner)]


def _repeat(found: PlanDocument) -> list[tuple[str, str]] | None:
    """The fields of a form that plans the same again; None where that is chosen elsewhere."""
    asked = found.asked
    if asked.repositories:
        return [("repositories", name) for name in asked.repositories]
    if not asked.repository:
        return None
    digests, tags = asked.digests or (), asked.tags or ()
    if len(digests) + len(tags) > MAX_REPEATED:
        return None
    fields = [("digest", digest) for digest in digests] + [("tag", tag) for tag in tags]
    return [("repository", asked.repository), *fields]


ROUTES = (
    Route("ui-plan-make", "POST", "/ui/plans", make_plan, KNOWN),
    Route("ui-plan", "GET", "/ui/plans/{plan}", show_plan, KNOWN),
    Route("ui-apply", "POST", "/ui/plans/{plan}/apply", apply_plan, KNOWN),
)

"""The editor of retention rules: what they would have done, before they are set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.responses import Response

from ullage.cleanup.retention import backtest, explain, policy, run
from ullage.cleanup.retention.documents import (
    MAX_RULES,
    BacktestReport,
    RetentionDocument,
    RetentionRequest,
    RuleDocument,
)
from ullage.documents import plain
from ullage.oci.errors import RegistryError, ValueInvalid
from ullage.oci.reference import parse_tag
from ullage.server.http.errors import status_of
from ullage.server.http.forms import Form
from ullage.server.http.permissions import POLICY_READ, POLICY_WRITE
from ullage.server.http.routes import Route
from ullage.server.ui.visit import Visit

USUAL_SINCE = "90d"
# Of what would have gone.
MAX_SHOWN = 50
_WEEK = timedelta(days=7)
_PLOT_HEIGHT = 120.0
# What a card has, in the words of the API; a ticked box is "1".
_TEXTS = ("name", "repositories", "tags", "older_than", "not_pulled_for")
_BLANK = RuleDocument(name="", repositories="", tags="")


@dataclass(frozen=True, slots=True)
class Week:
    """A bar of the plot: what would have gone in a week, and what of it was pulled later."""

    start: datetime
    gone: int
    regretted: int
    x: int
    y: str
    height: str
    regret_y: str
    regret_height: str


async def show_editor(visit: Visit) -> Response:
    """The rules as they are set, as cards."""
    found = await visit.run(policy.get_retention, visit.registry)
    return await _page(visit, found, [*found.rules])


async def edit(visit: Visit) -> Response:
    """What a button of the editor does: move a card, add one, try the rules, or set them."""
    form = await visit.form()
    found = await visit.run(policy.get_retention, visit.registry)
    rules = _rules(form)
    do, _, place = (form.one("do") or "").partition(" ")
    if do in ("up", "down", "remove", "add"):
        return await _page(visit, found, _rearranged(rules, do, int(place or 0)), form)
    try:
        wanted = [_as_text(rule) for rule in rules]
        if do == "save":
            return await _save(visit, form, wanted)
        since = form.one("since") or USUAL_SINCE
        report = await visit.run(
            backtest.try_rules, visit.registry, wanted, backtest.parse_since(since)
        )
    except RegistryError as error:
        return await _page(visit, found, rules, form, problem=error)
    return await _page(visit, found, rules, form, report=report)


async def _save(visit: Visit, form: Form, rules: Sequence[RuleDocument]) -> Response:
    """Raises Challenge, ValueInvalid."""
    visit.require(POLICY_WRITE)
    request = RetentionRequest(
        enabled=form.one("enabled") == "1", every=form.one("every") or None, rules=tuple(rules)
    )
    await visit.run(policy.set_retention, visit.registry, request, visit.caller)
    return visit.redirect("retention?saved=1")


async def run_now(visit: Visit) -> Response:
    """Run the rules that are set, or let them choose without deleting; it is a job."""
    form = await visit.form()
    dry_run = form.one("trial") == "1"
    job = await visit.run(run.start_run, visit.registry, visit.caller, dry_run=dry_run)
    return visit.redirect(f"jobs/{job.id}")


async def _page(
    visit: Visit,
    found: RetentionDocument,
    rules: Sequence[RuleDocument],
    form: Form | None = None,
    *,
    report: BacktestReport | None = None,
    problem: RegistryError | None = None,
) -> Response:
    query = visit.query
    name, tag = query.one("repository") or "", query.one("tag") or ""
    explanation = None
    if name and tag:
        explanation = await visit.run(
            explain.explain_retention, visit.registry, visit.name(name), parse_tag(tag)
        )
    return await visit.page(
        "retention.html",
        200 if problem is None else status_of(problem),
        found=found,
        rules=rules,
        enabled=found.enabled if form is None else form.one("enabled") == "1",
        every=found.every if form is None else form.one("every") or "",
        since=USUAL_SINCE if form is None else form.one("since") or USUAL_SINCE,
        changes=_changes(found.rules, rules),
        report=report,
        weeks=_weeks(report) if report is not None else (),
        plot_height=int(_PLOT_HEIGHT),
        regrets=[each for each in report.deleted if each.pulled_later][:MAX_SHOWN]
        if report
        else (),
        gone=report.deleted[:MAX_SHOWN] if report else (),
        problem=problem,
        saved=query.one("saved") is not None,
        explanation=explanation,
        asked=(name, tag),
        may_write=not POLICY_WRITE.missing(visit.principal, None),
    )


# --- cards ----------------------------------------------------------------------------------------


def _rules(form: Form) -> list[RuleDocument]:
    """The cards of a form, as they were filled in. Raises ValueInvalid."""
    count = min(_number(form.one("count") or "0"), MAX_RULES)
    return [_rule(form, place) for place in range(count)]


def _rule(form: Form, place: int) -> RuleDocument:
    texts = {name: (form.one(f"{name}-{place}") or "").strip() for name in _TEXTS}
    keep_newest = (form.one(f"keep_newest-{place}") or "").strip()
    return RuleDocument(
        **texts,
        untagged=form.one(f"about-{place}") == "untagged",
        keep=form.one(f"effect-{place}") == "keep",
        keep_newest=_number(keep_newest) if keep_newest else None,
        allow=tuple(form.all(f"allow-{place}")),
    )


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueInvalid({"number": text[:40]}, "expected a whole number")
    return int(text)


def _as_text(rule: RuleDocument) -> RuleDocument:
    """The rule as it is set: what was left empty is left out."""
    texts = {name: getattr(rule, name) or None for name in _TEXTS}
    if rule.untagged:
        texts["tags"] = None
    if rule.keep:
        texts["older_than"] = texts["not_pulled_for"] = None
    return RuleDocument(
        **texts,
        untagged=rule.untagged,
        keep=rule.keep,
        keep_newest=None if rule.keep else rule.keep_newest,
        allow=() if rule.keep else rule.allow,
    )


def _rearranged(rules: Sequence[RuleDocument], do: str, place: int) -> list[RuleDocument]:
    cards = [*rules]
    if do == "add":
        return [*cards, _BLANK] if len(cards) < MAX_RULES else cards
    if not 0 <= place < len(cards):
        return cards
    card = cards.pop(place)
    if do != "remove":
        cards.insert(max(place - 1, 0) if do == "up" else place + 1, card)
    return cards


def _changes(
    before: Sequence[RuleDocument], after: Sequence[RuleDocument]
) -> list[tuple[str, str]]:
    """What setting these rules would change, a line each: its sign, and the rule in words."""
    old = [_in_words(rule) for rule in before]
    new = [_in_words(_as_text(rule)) for rule in after]
    if old == new:
        return []
    gone = [("-", line) for line in old if line not in new]
    come = [("+", line) for line in new if line not in old]
    return [*gone, *come] or [("=", line) for line in new]


def _in_words(rule: RuleDocument) -> str:
    return ", ".join(f"{key}: {value}" for key, value in plain(rule).items())


# --- the plot -------------------------------------------------------------------------------------


def _weeks(report: BacktestReport) -> list[Week]:
    """A bar for each week, the last one to the right."""
    since, until = datetime.fromisoformat(report.since), datetime.fromisoformat(report.until)
    count = max(1, -(-(until - since) // _WEEK))
    places = [(datetime.fromisoformat(each.deleted) - since) // _WEEK for each in report.deleted]
    gone = Counter(places)
    regretted = Counter(
        place for place, each in zip(places, report.deleted, strict=True) if each.pulled_later
    )
    most = max(gone.values(), default=0) or 1
    return [_week(since + n * _WEEK, n, gone[n], regretted[n], most) for n in range(count)]


def _week(start: datetime, place: int, gone: int, regretted: int, most: int) -> Week:
    height, red = _PLOT_HEIGHT * gone / most, _PLOT_HEIGHT * regretted / most
    return Week(
        start,
        gone,
        regretted,
        place * 20,
        f"{_PLOT_HEIGHT - height:.1f}",
        f"{height:.1f}",
        f"{_PLOT_HEIGHT - height:.1f}",
        f"{red:.1f}",
    )


ROUTES = (
    Route("ui-retention", "GET", "/ui/retention", show_editor, POLICY_READ),
    Route("ui-retention", "POST", "/ui/retention", edit, POLICY_READ),
    Route("ui-retention-run", "POST", "/ui/retention/run", run_now, POLICY_WRITE),
)

"""`ullage plan`, `suggest` and `apply`: what would give space back, shown and then carried out.

Registries other than Ullage have no such answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from ullage.cli.client.ids import is_short, whole_id
from ullage.cli.client.registry import RemoteRegistry, Reply
from ullage.cli.client.scopes import DELETE_ALL, scope_of
from ullage.cli.commands.delete_images import images_given
from ullage.cli.commands.job import follow, messages, path_of
from ullage.cli.commands.purge import FILTER_FLAGS, FILTER_RIGHTS, filter_of, filter_scopes
from ullage.cli.commands.repository import complete_image
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.console import Gauge, confirm, working
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import (
    Figure,
    age,
    ago,
    counted,
    exact,
    grouped,
    images_in,
    minute,
    short_digests,
    size,
)

PLANS = "/api/v1/plans"
# A plan of a hundred thousand manifests takes seconds, deleting them longer.
_SECONDS = 600
# As many digits of an id are shown.
_SHORT = 8


def plan(invocation: Invocation) -> Result:
    given = invocation.given
    by_filter = bool(given.filter or given.untagged_only)
    if by_filter + bool(given.repository) + bool(given.image) != 1:
        raise Failure("Usage error: You need to provide one of --image, --repository and --filter")
    if by_filter:
        request = filter_of(given)
        registry = invocation.registry(*filter_scopes(given.filter or [], FILTER_RIGHTS))
    else:
        request = (
            {"repositories": given.repository}
            if given.repository
            else _images(invocation, given.image)
        )
        names = given.repository or [request["repository"]]
        registry = invocation.registry(*(scope_of(name, "metadata_read") for name in names))
    # Whoever explains one manifest wants it found among all.
    return _planned(invocation, registry, PLANS, request, whole=bool(given.explain))


def suggest(invocation: Invocation) -> Result:
    given = invocation.given
    names = given.repository or []
    scopes = [scope_of(name, FILTER_RIGHTS) for name in names or ["*"]]
    registry = invocation.registry(*scopes)
    request: dict[str, Any] = {"free": given.free}
    request |= {"repositories": names} if names else {}
    return _planned(invocation, registry, "/api/v1/suggest", request)


def make_screen(
    invocation: Invocation, registry: RemoteRegistry, request: Mapping[str, Any]
) -> Result:
    """Make a plan and show what it comes to, without everything that goes."""
    with working("Looking for what may go"):
        found: dict[str, Any] = registry.post(PLANS, request, _SECONDS, {"n": "0"}).data
    return Result(found, lambda: _parts(found), after=screen(found))


def _planned(
    invocation: Invocation,
    registry: RemoteRegistry,
    path: str,
    request: Mapping[str, Any],
    *,
    whole: bool = False,
) -> Result:
    """Make a plan and show it: on a terminal what it comes to, else with everything that goes."""
    given = invocation.given
    in_short = invocation.table and not given.all and not whole
    with working("Looking for what may go"):
        reply = registry.post(path, request, _SECONDS, {"n": "0"} if in_short else None)
        found: dict[str, Any] = reply.data
    if not in_short:
        _read_items(registry, found, reply)
    after = screen(found)
    if whole:
        return replace(_explained(found, given.explain), after=after)
    return Result(found, lambda: (_parts if in_short else _plan_rows)(found), after=after)


def _images(invocation: Invocation, values: list[str]) -> dict[str, Any]:
    images = [complete_image(invocation, image) for image in images_given(values)]
    repositories = sorted({image.repository for image in images})
    if len(repositories) != 1:
        raise Failure("A plan of images is of one repository; make one for each.")
    return {
        "repository": repositories[0],
        "digests": [image.digest for image in images if image.digest],
        "tags": [image.tag for image in images if not image.digest],
    }


def _read_items(registry: RemoteRegistry, found: dict[str, Any], reply: Reply) -> None:
    """All that goes, which comes in pages."""
    gauge = Gauge()
    while reply.next_page is not None:
        gauge.show("Reading the plan", len(found["items"]), found["item_count"])
        reply = registry.get(f"{PLANS}/{found['id']}", reply.next_page)
        found["items"] += reply.data["items"]
    gauge.clear()


# --- one screen -----------------------------------------------------------------------------------

# Of 24 lines, what is left for repositories, and for warnings below so many rows or below fewer.
_PARTS, _WARNINGS, _ROWS_AND_WARNINGS = 9, 4, 14


def _parts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each repository, those that give back the most first, and what they come to."""
    parts = [part for part in found["repositories"] if part["manifests"] or part["tags"]]
    parts.sort(key=lambda part: (-part.get("bytes", 0), part["repository"]))
    shown, rest = parts[:_PARTS], parts[_PARTS:]
    if len(rest) == 1:
        shown, rest = parts, []
    rows = [_part(part["repository"], [part]) for part in shown]
    if rest:
        rows.append(_part(f"({len(rest):,} more repositories)", rest))
    if len(parts) > 1:
        rows.append(_part("(all of them)", parts))
    return rows


def _part(name: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    oldest = min((part["oldest"] for part in parts if "oldest" in part), default=None)
    newest = max((part["newest"] for part in parts if "newest" in part), default=None)
    return {
        "Repository": name,
        "Manifests": grouped(sum(part["manifests"] for part in parts)),
        "Tags": grouped(sum(part["tags"] for part in parts)),
        "Bytes": size(sum(part.get("bytes", 0) for part in parts)),
        "Oldest": Figure(age(oldest) if oldest else ""),
        "Newest": Figure(age(newest) if newest else ""),
    }


def screen(found: Mapping[str, Any]) -> list[str]:
    """What there is to say below the table: warnings, then bytes, then the next command."""
    short = found["id"][:_SHORT]
    refusing = _refusing(found, ())
    allow = "".join(f" --allow {rail}" for rail in refusing)
    return [
        *_warnings(found),
        *_frees(found),
        *_restorable(found),
        f"Until {minute(found['expires'])}: ullage apply {short}{allow}"
        if found["manifest_count"] or found["tag_count"]
        else "Nothing would be deleted.",
    ]


def _warnings(found: Mapping[str, Any]) -> list[str]:
    """What refuses first. More than a few are counted by what they are about."""
    room = max(_WARNINGS, _ROWS_AND_WARNINGS - len(found["repositories"]))
    lines = [f"Note: {note}." for note in found.get("notes", ())]
    lines += [_locked(part) for part in found["repositories"] if "locked" in part]
    warnings = sorted(found["warnings"], key=lambda warning: not warning["refuses"])
    by_rail: dict[str, list[Mapping[str, Any]]] = {}
    for warning in warnings:
        by_rail.setdefault(warning["rail"], []).append(warning)
    if len(lines) + len(warnings) <= room:
        by_rail = {str(number): [warning] for number, warning in enumerate(warnings)}
    for some in by_rail.values():
        more = f", and {len(some) - 1:,} more like this" if len(some) > 1 else ""
        kind = "Refused" if some[0]["refuses"] else "Note"
        lines.append(f"{kind}: {some[0]['message']} ({some[0]['rail']}){more}.")
    if len(lines) > room:
        rest = len(lines) - room + 1
        lines = [*lines[: room - 1], f"… and {rest:,} more notes: -o json has them."]
    stays = len(found["stays"])
    if stays:
        lines.append(f"{counted(stays, 'manifest')} would have gone and are kept: --all says why.")
    return lines


def _frees(found: Mapping[str, Any]) -> list[str]:
    later = found["freed_later_bytes"]
    return [
        f"Deletes {images_in(found)}; {size(found['kept_bytes'])} are shared and stay.",
        f"Frees {exact(found['freed_bytes'])}" + (f", {size(later)} later." if later else "."),
    ]


def _restorable(found: Mapping[str, Any]) -> list[str]:
    until = found.get("restorable_until")
    return [f"It can be taken back; freed later, at {minute(until)}."] if until else []


def _locked(part: Mapping[str, Any]) -> str:
    return f"Repository {part['repository']} stays: {part['locked']}."


def _refusing(found: Mapping[str, Any], allowed: Collection[str]) -> list[str]:
    """The rails that refuse, but for those that may be run into."""
    refusing = {warning["rail"] for warning in found["warnings"] if warning["refuses"]}
    return sorted(refusing - set(allowed))


# --- everything that goes -------------------------------------------------------------------------


def _plan_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    items = [*found["items"], *found["stays"]]
    short = short_digests(
        [str(item[key]) for item in items for key in ("digest", "of") if key in item]
    )
    return [
        {
            "Repository": item["repository"],
            "Digest": short[item["digest"]],
            "Tags": ", ".join(item["tags"]),
            "": _fate(item),
            "Why": _why(item, short),
        }
        for item in items
    ]


def _fate(item: Mapping[str, Any]) -> str:
    if "held_by" in item:
        return "stays"
    return "loses its tags" if item["why"] == "untagged" else "goes"


def _why(item: Mapping[str, Any], short: Mapping[str, str]) -> str:
    if "held_by" in item:
        return "; ".join(
            f"{each['kind']} {short.get(each['by'], each['by'])}" for each in item["held_by"]
        )
    words = {
        "asked": "asked for",
        "repository": "the whole repository",
        "untagged": "only these tags go",
    }
    reason = item.get("because") or words.get(item["why"], str(item["why"]))
    reason = f"{reason} of {short[item['of']]}" if "of" in item else reason
    return f"{reason}; pulled {ago(item['pulled'])}" if "pulled" in item else reason


def _explained(found: Mapping[str, Any], digest: str) -> Result:
    """One manifest or blob of the plan: why it goes, or stays."""
    parts = {name: found[name] for name in ("items", "stays", "later", "kept")}
    data = {
        name: [item for item in items if _is_called(item["digest"], digest)]
        for name, items in parts.items()
    }
    data = {name: items for name, items in data.items() if items}
    if not data:
        raise Failure(f"{digest} is not in this plan.")
    return Result(data)


def _is_called(digest: str, text: str) -> bool:
    """Whether it is this digest, or begins so."""
    return digest == text or (
        is_short(text) and (digest.startswith(text) or digest.partition(":")[2].startswith(text))
    )


def apply(invocation: Invocation) -> Result:
    given = invocation.given
    registry = invocation.registry(DELETE_ALL)
    path = f"{PLANS}/{quote(whole_id(registry, given.plan, 'plans'), safe='')}"
    found = registry.get(path, {"n": "0"}).data
    if "receipt" in found:
        return _applied(invocation, registry, found["receipt"])
    _require_something(found, given.allow or ())
    if not given.yes:
        lines = [*_warnings(found), *_frees(found), *_restorable(found)]
        confirm("\n".join([*lines, "Are you sure you want to continue?"]), yes=False)
    request = {"allow_smaller": given.allow_smaller, "allow": given.allow or []}
    with working("Deleting"):
        receipt = registry.post(f"{path}/apply", request, _SECONDS).data
    if "job" in receipt:
        return _followed(invocation, registry, receipt)
    _report(invocation, receipt)
    return _receipt(receipt)


def _require_something(found: Mapping[str, Any], allow: Collection[str]) -> None:
    """Refuse what would be refused before anything is asked, the reason first."""
    if not found["manifest_count"] and not found["tag_count"]:
        why = [part["locked"] for part in found["repositories"] if "locked" in part]
        why += [keeper["by"] for item in found["stays"] for keeper in item["held_by"]]
        reason = f"{why[0]}: " if why else ""
        raise Failure(f"{reason}nothing of the plan may be deleted.")
    refusing = _refusing(found, allow)
    if refusing:
        message = next(each["message"] for each in found["warnings"] if each["rail"] in refusing)
        flags_for = " ".join(f"--allow {rail}" for rail in refusing)
        raise Failure(
            f"Nothing was deleted: the plan {message}.", hint=f"To do so all the same: {flags_for}"
        )


def _applied(invocation: Invocation, registry: RemoteRegistry, receipt: dict[str, Any]) -> Result:
    """A plan is carried out once: when that was, and what came of it."""
    if receipt["applied"] is None:
        return _followed(invocation, registry, receipt)
    by = f" by {receipt['by']}" if receipt["by"] else ""
    invocation.console.note(
        f"This plan was applied already, at {minute(receipt['applied'])}{by}. It:"
    )
    _report(invocation, receipt)
    return _receipt(receipt)


def _followed(invocation: Invocation, registry: RemoteRegistry, receipt: dict[str, Any]) -> Result:
    """A large plan is carried out by a job: its receipt is whole when that is done."""
    if invocation.given.no_wait:
        invocation.console.note(
            f"Job {receipt['job']} carries it out: ullage job watch {receipt['job']}"
        )
        return Result(receipt)
    job = follow(invocation, registry, registry.get(path_of(receipt["job"])).data)
    if job["state"] != "done":
        for line in messages(job):
            invocation.console.warning(line)
        raise Failure(f"The plan was not carried out: job {job['id']} was {job['state']}.")
    path = f"{PLANS}/{quote(receipt['plan'], safe='')}"
    receipt = registry.get(path, {"n": "0"}).data["receipt"]
    _report(invocation, receipt)
    skipped = job["manifest_count"] - job["manifests_deleted"]
    if skipped:
        invocation.console.warning(
            f"{counted(skipped, 'manifest')} changed meanwhile and stay: "
            f"ullage job items {job['id']}"
        )
    return _receipt(receipt)


def _receipt(receipt: dict[str, Any]) -> Result:
    """On a terminal what was said is all there is to see."""
    return Result(receipt, list)


def _report(invocation: Invocation, receipt: Mapping[str, Any]) -> None:
    """What was deleted, and how to take it back."""
    invocation.console.note(f"Deleted {images_in(receipt)}, freed {exact(receipt['freed_bytes'])}.")
    if receipt.get("operation"):
        until = receipt.get("restorable_until")
        when = f"Until {minute(until)} it" if until else "It"
        invocation.console.note(f"{when} can be taken back: ullage restore {receipt['operation']}")


_REPOSITORIES = Flag(
    ("--repository",), "A whole repository. Repeatable.", "REPOSITORY", repeatable=True
)
_IMAGES = Flag(
    flags.IMAGE.names,
    "The image: name:tag or name@digest; name alone is name:latest. Repeatable, all of one "
    "repository. `-` reads images from standard input, `name@-` digests or tags, one a line.",
    "IMAGE",
    repeatable=True,
)
_ALL = Flag(("--all",), "A line for each manifest that goes or is kept, with the reason.")

COMMANDS = (
    Command(
        ("plan",),
        "Say what deleting images, repositories or what a filter finds would free, to the byte.",
        (
            _REPOSITORIES,
            _IMAGES,
            *FILTER_FLAGS,
            Flag(("--explain",), "Only this manifest or layer of the plan.", "DIGEST"),
            _ALL,
            *flags.REGISTRY,
        ),
        plan,
        more="Nothing is deleted. The plan has an id, by which `ullage apply` carries out exactly "
        "this for an hour. A table says what goes of each repository and how old it is, the lines "
        "below it what to know before, and which bytes come back at once and which when a lease "
        "ends. All manifests that go and why, and what stays and what holds it: --all, or -o json.",
        examples=(
            "ullage plan --image hello:v1",
            "ullage plan --repository hello --repository team/web",
            "ullage plan --filter 'ci/.*:^pr-' --ago 7d --keep 3 --untagged",
        ),
        exits=MISSING,
    ),
    Command(
        ("suggest",),
        "Find the fewest orphans, then old images, that free so much, as a plan.",
        (
            Flag(("--free",), "How much, such as 50GB.", "SIZE", required=True),
            Flag(("--repository",), "Only of this one. Repeatable.", "REPOSITORY", repeatable=True),
            _ALL,
            *flags.REGISTRY,
        ),
        suggest,
        more="Nothing is deleted; `ullage apply` carries the plan out. First goes what nothing "
        "leads to, then tagged images that are older than a year, than 90 days, than 30 days. What "
        "is locked stays, and so do the newest image of each repository and half of its tags. What "
        "comes back is exact; a set is found by always taking what frees the most, so that it is "
        "small, if not always the smallest there is.",
        examples=("ullage suggest --free 50GB", "ullage suggest --free 2GiB --repository ci/web"),
        exits=MISSING,
    ),
    Command(
        ("apply",),
        "Carry out a plan: exactly what it shows, or nothing.",
        (
            Flag(("plan",), "The plan's id.", "PLAN", required=True),
            Flag(("--allow-smaller",), "Go on if only less would be deleted than was shown."),
            Flag(
                ("--allow",),
                "Run into this rail all the same: empty-repository, most-of-repository, only-tag, "
                "newest-image, pulled-recently, max-manifests or max-bytes. Repeatable.",
                "RAIL",
                repeatable=True,
            ),
            Flag(("--no-wait",), "Leave a large plan to the registry and return at once."),
            flags.YES,
            *flags.REGISTRY,
        ),
        apply,
        more="If the registry has changed since, nothing is deleted and the difference is named. A "
        "plan of more than a thousand manifests, or of a filter, is a job of the registry: "
        "interrupted, the registry goes on (see `ullage job`), and what changes meanwhile stays.",
        examples=("ullage apply 0123456789abcdef0123456789abcdef --yes",),
        exits=MISSING,
    ),
)

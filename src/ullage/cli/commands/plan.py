"""`ullage plan`, `suggest` and `apply`: what would give space back, shown and then carried out.

Registries other than Ullage have no such answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ullage.cli.client.registry import RemoteRegistry, Reply
from ullage.cli.client.scopes import DELETE_ALL, scope_of
from ullage.cli.commands.delete_images import images_given
from ullage.cli.commands.job import follow, messages, path_of
from ullage.cli.commands.purge import FILTER_FLAGS, FILTER_RIGHTS, filter_of, filter_scopes
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.console import confirm
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import age, counted, images_in, short_digests, size

PLANS = "/api/v1/plans"
# A plan of a hundred thousand manifests takes seconds, deleting them longer.
_SECONDS = 600


def plan(invocation: Invocation) -> Result:
    given = invocation.given
    by_filter = bool(given.filter or given.untagged_only)
    if by_filter + bool(given.repository) + bool(given.image) != 1:
        raise Failure("Usage error: You need to provide one of --image, --repository and --filter")
    if by_filter:
        request = filter_of(given)
        registry = invocation.registry(*filter_scopes(given.filter or [], FILTER_RIGHTS))
    else:
        request = {"repositories": given.repository} if given.repository else _images(given.image)
        names = given.repository or [request["repository"]]
        registry = invocation.registry(*(scope_of(name, "metadata_read") for name in names))
    found = _whole(registry, registry.post(PLANS, request, _SECONDS))
    for text in _summary(found):
        invocation.console.note(text)
    if given.explain:
        return _explained(found, given.explain)
    return Result(found, lambda: _plan_rows(found))


def suggest(invocation: Invocation) -> Result:
    given = invocation.given
    names = given.repository or []
    scopes = [scope_of(name, FILTER_RIGHTS) for name in names or ["*"]]
    registry = invocation.registry(*scopes)
    request: dict[str, Any] = {"free": given.free}
    request |= {"repositories": names} if names else {}
    found = _whole(registry, registry.post("/api/v1/suggest", request, _SECONDS))
    for text in _summary(found):
        invocation.console.note(text)
    return Result(found, lambda: _plan_rows(found))


def _images(values: list[str]) -> dict[str, Any]:
    images = images_given(values)
    repositories = sorted({image.repository for image in images})
    if len(repositories) != 1:
        raise Failure("A plan of images is of one repository; make one for each.")
    return {
        "repository": repositories[0],
        "digests": [image.digest for image in images if image.digest],
        "tags": [image.tag for image in images if not image.digest],
    }


def _whole(registry: RemoteRegistry, reply: Reply) -> dict[str, Any]:
    """A plan with all of its items, which come in pages."""
    found: dict[str, Any] = reply.data
    while reply.next_page is not None:
        reply = registry.get(f"{PLANS}/{found['id']}", reply.next_page)
        found["items"] += reply.data["items"]
    return found


def _summary(found: Mapping[str, Any]) -> list[str]:
    later = found["freed_later_bytes"]
    return [
        f"Deletes {images_in(found)}, frees {size(found['freed_bytes'])} "
        f"({found['freed_bytes']} bytes)"
        + (f", {size(later)} more later" if later else "")
        + f"; {size(found['kept_bytes'])} are shared and stay.",
        *_restorable(found),
        *(f"Note: {note}." for note in found.get("notes", ())),
        *(_locked(part) for part in found["repositories"] if "locked" in part),
        *(
            f"{'Refused' if warning['refuses'] else 'Note'}: {warning['message']} "
            f"({warning['rail']})."
            for warning in found["warnings"]
        ),
        f"Plan {found['id']} is good until {found['expires']}: ullage apply {found['id']}",
    ]


def _restorable(found: Mapping[str, Any]) -> list[str]:
    until = found.get("restorable_until")
    return [f"It can be taken back; freed later, at {until}."] if until else []


def _locked(part: Mapping[str, Any]) -> str:
    return f"Repository {part['repository']} stays: {part['locked']}."


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
    reason = words.get(item["why"], str(item["why"]))
    reason = f"{reason} of {short[item['of']]}" if "of" in item else reason
    return f"{reason}; pulled {age(item['pulled'])} ago" if "pulled" in item else reason


def _explained(found: Mapping[str, Any], digest: str) -> Result:
    """One manifest or blob of the plan: why it goes, or stays."""
    parts = {name: found[name] for name in ("items", "stays", "later", "kept")}
    data = {
        name: [item for item in items if item["digest"] == digest] for name, items in parts.items()
    }
    data = {name: items for name, items in data.items() if items}
    if not data:
        raise Failure(f"{digest} is not in this plan.")
    return Result(data)


def apply(invocation: Invocation) -> Result:
    given = invocation.given
    registry = invocation.registry(DELETE_ALL)
    path = f"{PLANS}/{quote(given.plan, safe='')}"
    if not given.yes:
        lines = _summary(registry.get(path, {"n": "0"}).data)[:-1]
        confirm("\n".join([*lines, "Are you sure you want to continue?"]), yes=False)
    request = {"allow_smaller": given.allow_smaller, "allow": given.allow or []}
    receipt = registry.post(f"{path}/apply", request, _SECONDS).data
    if "job" in receipt:
        return _followed(invocation, registry, receipt)
    _report(invocation, receipt)
    return Result(receipt)


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
    return Result(receipt)


def _report(invocation: Invocation, receipt: Mapping[str, Any]) -> None:
    """What was deleted, and how to take it back."""
    invocation.console.note(
        f"Deleted {images_in(receipt)}, freed {size(receipt['freed_bytes'])} "
        f"({receipt['freed_bytes']} bytes)."
    )
    if receipt.get("operation"):
        until = receipt.get("restorable_until")
        when = f"Until {until} it" if until else "It"
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


COMMANDS = (
    Command(
        ("plan",),
        "Say what deleting images, repositories or what a filter finds would free, to the byte.",
        (
            _REPOSITORIES,
            _IMAGES,
            *FILTER_FLAGS,
            Flag(("--explain",), "Only this manifest or layer of the plan.", "DIGEST"),
            *flags.REGISTRY,
        ),
        plan,
        more="Nothing is deleted. The plan has an id, by which `ullage apply` carries out exactly "
        "this for an hour. Shown are all manifests that go and why, what stays and what holds it, "
        "the bytes that come back at once, and those that come back when a lease ends.",
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

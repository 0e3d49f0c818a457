"""`ullage status`: a registry on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ullage.cli.local.places import REGISTRY, place_of
from ullage.cli.local.settings import setting_flags
from ullage.cli.shell.commands import Command
from ullage.cli.shell.console import working
from ullage.cli.shell.groups import LOCAL
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import counted, cut, grouped, manifests_and_tags, minute, size

# Of 24 lines, what is left for jobs and for warnings.
_JOBS, _WARNINGS = 2, 4
_WIDTH, _BAR, _LABEL = 79, 40, 14


def status(invocation: Invocation) -> Result:
    place = place_of(invocation, usual=True)
    with working("Looking at the registry"):
        data = place.status()
    if invocation.table:
        return Result(text="".join(f"{cut(line, _WIDTH)}\n" for line in screen(data)))
    return Result(data)


def screen(data: Mapping[str, Any]) -> Iterator[str]:
    """What there is to know, at most 23 lines of 79 columns."""
    disk, sums = data["disk"], data["registry"]
    yield _line("disk", _disk(disk))
    yield _line("growth", f"{size(disk['grown_bytes'])} came in 7 days{_full_in(disk)}")
    yield _line("", _bar(sums))
    yield _line("", "# a tag leads to it   . none does   - leased, restorable, going")
    as_of = f"  (as of {minute(data['as_of'])})" if "as_of" in data else ""
    yield _line("tagged", f"{size(sums['tagged_bytes'])}{as_of}")
    yield _line("untagged", size(sums["untagged_bytes"]))
    kept = sums["leased_bytes"] + sums["uploading_bytes"] + sums["pending_bytes"]
    yield _line("in between", f"{size(kept)} leased to pushes, being uploaded or erased")
    yield _line(
        "images",
        f"{counted(sums['manifest_count'], 'manifest')} in "
        f"{data['repository_count']:,} repositories",
    )
    yield from _largest(data["largest"])
    yield _line("retention", _retention(data["retention"]))
    yield _line("soft delete", _soft_delete(data["soft_delete"]))
    uploads = data["uploads"]
    yield _line("uploads", f"{uploads['count']} open, {size(uploads['bytes'])}")
    yield from _jobs(data["jobs"])
    yield from _warnings(data["warnings"])
    if sums["untagged_bytes"]:
        yield _line("next", f"ullage suggest --free {_half(sums['untagged_bytes'])}")


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}".rstrip()


def _disk(disk: Mapping[str, Any]) -> str:
    used, free = disk["used_bytes"], disk["free_bytes"]
    if free is None:
        return f"{size(used)} used"
    return f"{size(used)} used, {size(free)} free"


def _full_in(disk: Mapping[str, Any]) -> str:
    if disk["free_bytes"] is None or not disk["grown_bytes"]:
        return ""
    days = disk["free_bytes"] * 7 // disk["grown_bytes"]
    return f"; full in {days:,} days like these"


def _bar(sums: Mapping[str, Any]) -> str:
    """The whole disk's bytes: what tags lead to, what none leads to, what is on its way."""
    everything = sums["disk_bytes"]
    if not everything:
        return f"[{' ' * _BAR}] nothing is stored"
    tagged = round(_BAR * sums["tagged_bytes"] / everything)
    untagged = min(_BAR - tagged, round(_BAR * sums["untagged_bytes"] / everything))
    return f"[{'#' * tagged}{'.' * untagged}{'-' * (_BAR - tagged - untagged)}]"


def _largest(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for number, entry in enumerate(entries[:3]):
        name = cut(str(entry["name"] or "(being erased)"), 40)
        share = f"{name:<40} {size(entry['fair_share_bytes']):>9}"
        yield _line("largest" if not number else "", share)


def _retention(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "no rules: nothing is deleted by itself"
    when = f"at {minute(run['at'])}" if run["at"] else "does not run"
    what = manifests_and_tags(run["manifest_count"], run["tag_count"])
    later = run["freed_later_bytes"]
    more = f", {size(later)} later" if later else ""
    return f"{when}: {what}, frees {size(run['freed_bytes'])}{more}"


def _soft_delete(policy: Mapping[str, Any]) -> str:
    state = f"{policy['days']} days" if policy["enabled"] else "off"
    return f"{state}, {size(policy['bytes'])} can be restored"


def _jobs(jobs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not jobs:
        yield _line("jobs", "none runs")
    for number, job in enumerate(jobs[:_JOBS]):
        done = (
            f"{grouped(job['manifests_deleted'])} of {counted(job['manifest_count'], 'manifest')}"
        )
        more = f", and {len(jobs) - _JOBS} more" if number == _JOBS - 1 < len(jobs) - 1 else ""
        yield _line("" if number else "jobs", f"{job['id'][:8]} {job['kind']}: {done}{more}")


def _warnings(warnings: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(warnings[:_WARNINGS]):
        yield _line("" if number else "warning", text)


def _half(count: int) -> str:
    """A round amount to begin with, as `--free` takes it."""
    half = count // 2
    for unit, length in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if half >= length:
            return f"{half // length}{unit}"
    return f"{max(half, 1)}"


COMMANDS = (
    Command(
        ("status",),
        LOCAL["status"],
        (*setting_flags("data", "database", "storage"), *REGISTRY),
        status,
        more="The disk and how fast it fills, what tags lead to and what none does, what the next "
        "run of the retention rules will free and when, what can be restored, open uploads, jobs "
        "that run, and what needs a person. For those that may read all repositories.",
        examples=("ullage status", "ullage status --data /srv/registry -o json"),
    ),
)

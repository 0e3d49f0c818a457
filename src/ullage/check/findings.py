"""What a check finds, and its report in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from ullage.database.transaction import Transaction

# How many findings of one invariant, and images of one finding, are named; the others are counted.
KEPT_FINDINGS = 1000
NAMED_IMAGES = 20
# Said of work that is late.
WORKER = "; is the server running?"

# What a report counts, and the word for one of them.
KINDS = {
    "repositories": "repository",
    "manifests": "manifest",
    "tags": "tag",
    "blobs": "blob",
    "links": "link",
    "uploads": "upload",
    "tombstones": "tombstone",
    "objects": "object",
}

Severity = Literal["corruption", "security", "leak", "accounting", "hygiene", "warning"]
DAMAGE = ("corruption", "security")
# While one of these is damaged, what looks unused may be what the damaged row referred to. So
# nothing is given up then: keeping too much is harmless.
REFERENCES = frozenset({"I1", "I3", "I4", "I5", "I6", "I11", "I19", "I29", "I32"})


class Mode(Enum):
    """How much is looked at; each includes the ones before."""

    FAST = "fast"  # the database, with every manifest's bytes
    DEFAULT = "default"  # that each blob's file is there with the right size, and no other
    DEEP = "deep"  # that each blob's bytes have its digest


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    `invariant` is its number in docs/reference/check.md. `affected` names images that need what is
    damaged, as repository:tag or repository@digest; `affected_count` is how many there are.
    """

    invariant: str
    severity: Severity
    subject: str
    message: str
    repaired: bool = False
    affected: tuple[str, ...] = ()
    affected_count: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. Sizes are bytes, `checked` counts things by kind.

    `counts` are the findings by severity, with those that are too many to be listed (`omitted`);
    `repaired` of them were mended, `mendable` could be.
    """

    mode: Mode
    repair: bool
    findings: tuple[Finding, ...]
    omitted: int
    counts: dict[str, int]
    repaired: int
    mendable: int
    checked: dict[str, int]
    bytes: dict[str, int]
    seconds: float
    exit_code: int


Mend = Callable[[Transaction], bool]


@dataclass(frozen=True, slots=True)
class Issue:
    """A finding, what mends it, and which images need what is damaged."""

    finding: Finding
    # Run in a transaction; False if there was nothing to mend any more.
    mend: Mend | None = None
    # Done to the store, outside of any transaction; False as above.
    clear: Callable[[], bool] | None = None
    # Mending relies on references, or gives something up because nothing seems to refer to it.
    trusts_references: bool = False
    # Done also by a check that only looks: clients must not be told that these bytes are there.
    at_once: bool = False
    # Said once it is mended, if that is not the end of the damage.
    aftermath: str | None = None
    images: Callable[[Transaction], tuple[list[str], int]] | None = None

    @property
    def mendable(self) -> bool:
        return self.mend is not None or self.clear is not None


def issue_of(invariant: str, severity: Severity, subject: str, message: str) -> Issue:
    return Issue(Finding(invariant, severity, subject, message))


def done(work: Callable[[Transaction], None]) -> Mend:
    def mend(tx: Transaction) -> bool:
        work(tx)
        return True

    return mend


# --- for people -----------------------------------------------------------------------------------


def render(report: Report) -> str:
    """A report as text: a line for each finding, what was looked at, and what to do."""
    lines = [_finding_line(finding) for finding in report.findings]
    if report.omitted:
        lines.append(f"… and {report.omitted} more")
    lines += [_summary(report), _verdict(report), *_advice(report)]
    return "\n".join(_printable(line) for line in lines)


def _finding_line(finding: Finding) -> str:
    repaired = "repaired: " if finding.repaired else ""
    line = f"{finding.severity} {finding.invariant}: {finding.subject}: {repaired}{finding.message}"
    if not finding.affected_count:
        return line
    more = finding.affected_count - len(finding.affected)
    return f"{line}; affects {', '.join(finding.affected)}" + (f" and {more} more" * bool(more))


def _summary(report: Report) -> str:
    checked = ", ".join(
        f"{report.checked[many]} {one if report.checked[many] == 1 else many}"
        for many, one in KINDS.items()
    )
    size = Counter(report.bytes)
    stored = (
        f"{size['stored']} bytes stored: {size['blobs']} of blobs, {size['uploads']} of uploads, "
        f"{size['pending']} to be erased, {size['unknown']} unknown. "
    )
    hashed = f"{size['hashed']} bytes hashed. " if size["hashed"] else ""
    return (
        f"Checked ({report.mode.value}): {checked}. {stored * (report.mode is not Mode.FAST)}"
        f"{hashed}{report.seconds:.1f} s."
    )


def _verdict(report: Report) -> str:
    counts = report.counts
    if not counts:
        return "Everything is as it should be."
    found = ", ".join(f"{count} {severity}" for severity, count in counts.items())
    repaired = f"; {report.repaired} of them repaired" if report.repair else ""
    return f"Found {sum(counts.values())}: {found}{repaired}."


def _advice(report: Report) -> Iterator[str]:
    left = [finding for finding in report.findings if not finding.repaired]
    damaged = {finding.invariant for finding in left if finding.severity in DAMAGE}
    if report.mendable and not report.repair:
        yield "Next: check with --repair, which mends what can be mended without losing anything."
    if "I2" in damaged:
        yield (
            "Next: push the affected images again: clients upload blobs that are quarantined. "
            "Or put the files back from a backup and check with --repair."
        )
    if damaged & REFERENCES:
        yield (
            "Next: push the affected images again, or restore the database from a backup. "
            "Until then nothing is given up that might belong to them."
        )
    if any(finding.invariant == "I30" for finding in left):
        yield "Next: remove or mend the odd entries of the store by hand; they are left alone."


def _printable(line: str) -> str:
    """Names of files come from anywhere, and must not control a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in line
    )

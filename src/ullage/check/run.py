"""One run of a check: rows page by page, suspects once more, what is found counted and repaired."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from ullage.check.findings import (
    DAMAGE,
    KEPT_FINDINGS,
    KINDS,
    REFERENCES,
    Finding,
    Issue,
    Mode,
    Report,
    Severity,
    issue_of,
)
from ullage.check.queries.paging import After, Only, Which
from ullage.database.transaction import Transaction, chunks
from ullage.oci.errors import StorageFull, Unavailable
from ullage.registry.context import Registry

# Rows, and entries of the store's listing, that are looked at together.
BATCH = 1000
# The worker is late when something has been due for this long.
OVERDUE = timedelta(hours=1)
# What is repaired in one transaction; pushes on SQLite wait for it.
_MENDED_TOGETHER = 100
_NOT_WHILE_DAMAGED = "; kept while references are damaged"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check has come: `done` of about `total` things of this kind; None if not known."""

    stage: str
    done: int
    total: int | None
    hashed_bytes: int


class _Row(Protocol):
    @property
    def key(self) -> Any: ...


R = TypeVar("R", bound=_Row)


def _ready(row: object) -> Iterator[Progress]:
    """Nothing to look at before this row is checked."""
    return iter(())


class Run:
    """What a check has found so far, and how it goes through more."""

    def __init__(self, registry: Registry, mode: Mode, repair: bool) -> None:
        self.registry = registry
        self.mode = mode
        # How much was looked at, and how many rows to expect, by kind; bytes by what they are of.
        self.checked: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.expected: dict[str, int] = {}
        self.store_is_empty = False
        self.store_is_own = True
        self.repaired = 0
        self._repair = repair
        self._findings: list[Finding] = []
        self._kept: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        # What was not repaired, by invariant.
        self.left: Counter[str] = Counter()
        self._mendable = 0
        self._damaged = False
        self._references_damaged = False
        self._started = time.monotonic()

    def report(self) -> Report:
        harmless = 1 if self._counts else 0
        return Report(
            mode=self.mode,
            repair=self._repair,
            findings=tuple(self._findings),
            omitted=self._counts.total() - len(self._findings),
            counts=dict(self._counts),
            repaired=self.repaired,
            mendable=self._mendable,
            checked={kind: self.checked[kind] for kind in KINDS},
            bytes=dict(self.bytes),
            seconds=round(time.monotonic() - self._started, 3),
            exit_code=2 if self._damaged else harmless,
        )

    # --- walking ---

    def walk(
        self,
        kind: str,
        fetch: Callable[[Transaction, Which[Any]], Sequence[R]],
        find_issues: Callable[[R], Iterator[Issue]],
        names: Callable[[R], object] = lambda row: None,
        look: Callable[[R], Iterator[Progress]] = _ready,
    ) -> Iterator[Progress]:
        """Check every row, after a `look` at its bytes.

        `names` is what must still be the same afterwards for the result to count.
        """
        after = None
        while rows := self._fetch(fetch, After(after, BATCH)):
            after = rows[-1].key
            suspects = []
            for row in rows:
                yield from look(row)
                if any(True for _ in find_issues(row)):
                    suspects.append(row.key)
                self.checked[kind] += 1
            if suspects:
                yield from self._confirm(suspects, fetch, find_issues, names, look)
            yield self.progress(kind)

    def _confirm(
        self,
        keys: Sequence[Any],
        fetch: Callable[[Transaction, Which[Any]], Sequence[R]],
        find_issues: Callable[[R], Iterator[Issue]],
        names: Callable[[R], object],
        look: Callable[[R], Iterator[Progress]],
    ) -> Iterator[Progress]:
        found = []
        for row in self._fetch(fetch, Only(keys)):
            yield from look(row)
            found.append((row, list(find_issues(row))))
        there = {row.key: names(row) for row in self._fetch(fetch, Only(keys))}
        self.record(
            [
                issue
                for row, issues in found
                if row.key in there and there[row.key] == names(row)
                for issue in issues
            ]
        )

    def _fetch(
        self, fetch: Callable[[Transaction, Which[Any]], Sequence[R]], which: Which[Any]
    ) -> Sequence[R]:
        return self.registry.snapshot(lambda tx: fetch(tx, which))

    def progress(self, stage: str) -> Progress:
        return Progress(stage, self.checked[stage], self.expected.get(stage), self.bytes["hashed"])

    # --- recording and repairing ---

    def found(self, invariant: str, severity: Severity, subject: str, message: str) -> None:
        self.record([issue_of(invariant, severity, subject, message)])

    def record(self, issues: Sequence[Issue]) -> None:
        for issue in issues:
            if issue.finding.severity in DAMAGE and issue.finding.invariant in REFERENCES:
                self._references_damaged = True
        for some in chunks(issues, _MENDED_TOGETHER):
            outcome = [
                mended or self._clear(issue)
                for issue, mended in zip(some, self._mend(some), strict=True)
            ]
            for issue, mended in zip(some, outcome, strict=True):
                self._keep(issue, mended)

    def _mend(self, issues: Sequence[Issue]) -> list[bool]:
        """Repair what can be, in one transaction; returns what was repaired."""
        wanted = [issue.mend if self._is_to_be_mended(issue) else None for issue in issues]
        if not any(wanted):
            return [False] * len(wanted)
        try:
            return self.registry.write(
                lambda tx: [mend is not None and mend(tx) for mend in wanted], freeing=True
            )
        except (StorageFull, Unavailable):
            if self._repair:
                raise
            # Looking goes on where nothing can be written.
            return [False] * len(wanted)

    def _clear(self, issue: Issue) -> bool:
        return issue.clear is not None and self._is_to_be_mended(issue) and issue.clear()

    def _is_to_be_mended(self, issue: Issue) -> bool:
        return (self._repair or issue.at_once) and not self._is_suspended(issue)

    def _is_suspended(self, issue: Issue) -> bool:
        return issue.trusts_references and self._references_damaged

    def _keep(self, issue: Issue, mended: bool) -> None:
        finding = issue.finding
        if mended and issue.aftermath is not None:
            finding = replace(finding, message=f"{finding.message}; {issue.aftermath}")
        elif mended:
            finding = replace(finding, repaired=True)
        elif self._repair and self._is_suspended(issue):
            finding = replace(finding, message=f"{finding.message}{_NOT_WHILE_DAMAGED}")
        self._counts[finding.severity] += 1
        self.repaired += finding.repaired
        self._mendable += issue.mendable and not mended and not self._is_suspended(issue)
        self._damaged |= finding.severity in DAMAGE and not finding.repaired
        self._kept[finding.invariant] += 1
        self.left[finding.invariant] += not finding.repaired
        if self._kept[finding.invariant] <= KEPT_FINDINGS:
            if issue.images is not None:
                named, count = self.registry.read(issue.images)
                finding = replace(finding, affected=tuple(named), affected_count=count)
            self._findings.append(finding)

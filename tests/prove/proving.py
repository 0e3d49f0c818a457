"""Carrying gates out, a chunk at a time, each with dice of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.prove.gates import Gate, Run
from tests.prove.page import Row, put_row
from tests.prove.progress import Progress
from tests.prove.runner import Ran, RunTests


def commit_of(root: Path) -> str:
    """The commit that is checked out, with a + if files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    # What proving itself writes is no difference.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/proof.md")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


@dataclass(frozen=True)
class Proving:
    """`folder` keeps the progress, `page` the table."""

    folder: Path
    page: Path
    commit: str
    run_tests: RunTests
    say: Callable[[str], object] = print

    def prove(self, gate: Gate, count: int | None = None, *, again: bool = False) -> bool:
        """Do what is left of the gate; whether it holds. Writes its row."""
        progress = Progress(gate.id, self.commit)
        if not again:
            progress = Progress.load(self.folder, gate.id, self.commit)
        wanted = gate.count if count is None or not gate.count else count
        skipped = ""
        for number, run in enumerate(gate.runs):
            skipped = skipped or self._carry_out(gate, number, run, wanted, progress)
        self._write_row(gate, wanted, progress, skipped)
        return progress.failure is None and not skipped

    def _carry_out(self, gate: Gate, number: int, run: Run, wanted: int, progress: Progress) -> str:
        """One of the gate's runs; the reason if this machine cannot."""
        target = round(wanted * run.share) if wanted else 1
        while progress.failure is None and (left := target - progress.count_of(number)) > 0:
            asked = min(run.chunk, left)
            environment = dict(run.environment) | {"ULLAGE_SEED": str(progress.seed)}
            environment["ULLAGE_FUZZ_SEED"] = environment["ULLAGE_SEED"]
            if run.variable is not None:
                environment[run.variable] = str(asked)
            ran = self.run_tests(run.tests, environment, self.folder / gate.id)
            if ran.failure is not None:
                self._failed(gate, progress, ran)
                return ""
            done = self._done(run, ran, asked)
            if done <= 0:
                return "; ".join(ran.skipped) or "nothing was counted"
            progress.add(number, done, ran.seconds, ran.figures)
            progress.save(self.folder)
            self.say(f"{gate.id}: {progress.count} {gate.unit} in {progress.seconds:.0f} s")
        return ""

    @staticmethod
    def _done(run: Run, ran: Ran, asked: int) -> int:
        if not ran.passed:
            return 0
        if run.counted is None:
            return ran.passed
        return asked if run.counted == "asked" else int(ran.figures.get(run.counted, 0))

    def _failed(self, gate: Gate, progress: Progress, ran: Ran) -> None:
        progress.failure = f"with ULLAGE_SEED={progress.seed}: {ran.failure}"
        progress.seconds += ran.seconds
        progress.save(self.folder)
        kept = self.folder / f"{gate.id}-failed.txt"
        said = self.folder / gate.id / "said.txt"
        if said.exists():
            shutil.copy(said, kept)
        self.say(f"{gate.id}: FAILED {progress.failure}")

    def _write_row(self, gate: Gate, wanted: int, progress: Progress, skipped: str) -> None:
        if progress.failure is not None:
            result = f"**failed** with dice {progress.seed}"
        elif skipped:
            result = f"not run: {skipped}"
        else:
            result = "passed"
        if gate.lacks:
            result += f" ({gate.lacks})"
        put_row(
            self.page,
            Row(
                gate.id,
                gate.title,
                f"{progress.count:,} {gate.unit}",
                f"{gate.count:,}" if gate.count else "all",
                f"{progress.seconds:,.0f}",
                progress.commit,
                result,
            ),
        )

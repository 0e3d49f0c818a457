"""One run of pytest, and what its tests noted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ran:
    """How it ended. `figures` are the properties that tests recorded, added up where numbers."""

    passed: int
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)
    # The end of what pytest said, if a test failed or pytest did.
    failure: str | None = None
    # Why tests were skipped.
    skipped: tuple[str, ...] = ()


RunTests = Callable[[Sequence[str], Mapping[str, str], Path], Ran]


def run_pytest(tests: Sequence[str], environment: Mapping[str, str], folder: Path) -> Ran:
    """Run these tests in a process of its own; all it says is in `folder`.

    Raises KeyboardInterrupt if that process is ended by a signal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, log = folder / "report.xml", folder / "said.txt"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-o", "junit_family=xunit1", f"--junitxml={report}", *tests]
    began = time.monotonic()
    with log.open("wb") as said:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    seconds = time.monotonic() - began
    if done.returncode < 0:
        # Somebody ended it, which says nothing about what is tried.
        raise KeyboardInterrupt(f"pytest was ended by signal {-done.returncode}")
    if not report.exists():
        return Ran(0, seconds, failure=f"pytest ended with {done.returncode}: {_end_of(log)}")
    ran = read_report(report, seconds)
    if done.returncode == 0:
        return ran
    return Ran(ran.passed, seconds, ran.figures, _end_of(log), ran.skipped)


def read_report(path: Path, seconds: float) -> Ran:
    """What a JUnit report says, apart from failures."""
    passed, figures, skipped = 0, dict[str, float](), list[str]()
    for case in ElementTree.parse(path).iter("testcase"):
        skip = case.find("skipped")
        if skip is not None:
            skipped.append(skip.get("message", ""))
        elif case.find("failure") is None and case.find("error") is None:
            passed += 1
        for noted in case.iter("property"):
            try:
                value = float(noted.get("value", ""))
            except ValueError:
                continue
            figures[noted.get("name", "")] = figures.get(noted.get("name", ""), 0) + value
    return Ran(passed, seconds, figures, skipped=tuple(dict.fromkeys(skipped)))


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]

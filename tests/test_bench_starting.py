"""The program that measures how long a start takes (bench/starting.py)."""

from pathlib import Path

import pytest

from bench.starting import measured
from tests.support.server import run_ullage

pytestmark = pytest.mark.thorough


def test_a_start_with_much_left_over_is_measured_and_takes_all_of_it_on(tmp_path: Path) -> None:
    """What it puts into a registry is what a registry leaves: a check finds nothing wrong."""
    start = measured(tmp_path / "data", None, sessions=40, tombstones=100, kill=True)
    assert start.processor_seconds > 0
    assert start.seconds > 0
    done = run_ullage("check", "--data", tmp_path / "data")
    assert done.returncode <= 1, done.stdout

"""`make prove` itself: it goes on where it was, begins anew where it must, and says how it went."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.prove.gates import ABSENT, GATES, Gate, Run
from tests.prove.page import HEAD, Row, put_row
from tests.prove.proving import Proving
from tests.prove.runner import ROOT, Ran, read_report, run_pytest

PAGE = f"# Title\n\n{HEAD}\nEnd.\n"
KILLS = Gate(
    "G4",
    "kills",
    "kills",
    100,
    (Run(("a",), "struck", "KILLS", 30, share=0.6), Run(("b",), "struck", "KILLS", 30, share=0.4)),
)


class Pretended:
    """In the place of pytest: what was asked for, and answers that go as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.fail_at = 0
        self.skip = False

    def __call__(self, tests: Sequence[str], environment: Mapping[str, str], folder: Path) -> Ran:
        self.asked.append((tests[0], environment["KILLS"], environment["ULLAGE_SEED"]))
        if self.skip:
            return Ran(0, 1.0, skipped=("no PostgreSQL here",))
        if len(self.asked) == self.fail_at:
            return Ran(0, 1.0, failure="assert lost == 0")
        return Ran(1, 2.0, {"struck": float(environment["KILLS"]), "acknowledged": 5})


@pytest.fixture
def tests() -> Pretended:
    return Pretended()


@pytest.fixture
def proving(tmp_path: Path, tests: Pretended) -> Proving:
    page = tmp_path / "proof.md"
    page.write_text(PAGE)
    return Proving(tmp_path / "progress", page, "abc", tests, say=lambda text: None)


def test_a_gate_is_done_in_chunks_each_with_other_dice(proving: Proving, tests: Pretended) -> None:
    assert proving.prove(KILLS)
    assert tests.asked == [("a", "30", "1"), ("a", "30", "2"), ("b", "30", "3"), ("b", "10", "4")]
    assert "| G4 | kills | 100 kills | 100 | 8 | abc | passed |" in proving.page.read_text()


def test_what_was_done_is_not_done_again(proving: Proving, tests: Pretended) -> None:
    assert proving.prove(KILLS, 50)
    assert proving.prove(KILLS, 100)
    assert sum(int(kills) for _, kills, _ in tests.asked) == 100
    assert len({seed for _, _, seed in tests.asked}) == len(tests.asked)


def test_an_interrupted_run_goes_on(proving: Proving, tests: Pretended) -> None:
    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    first = Proving(proving.folder, proving.page, "abc", tests, say=interrupted)
    with pytest.raises(KeyboardInterrupt):
        first.prove(KILLS)
    assert proving.prove(KILLS)
    assert sum(int(kills) for _, kills, _ in tests.asked) == 100


@pytest.mark.parametrize(("commit", "again"), [("def", False), ("abc", True)])
def test_another_commit_or_a_wish_begins_anew(
    proving: Proving, tests: Pretended, commit: str, again: bool
) -> None:
    proving.prove(KILLS)
    other = Proving(proving.folder, proving.page, commit, tests, say=lambda text: None)
    assert other.prove(KILLS, again=again)
    assert sum(int(kills) for _, kills, _ in tests.asked) == 200


def test_a_failure_ends_the_gate_and_says_its_dice(proving: Proving, tests: Pretended) -> None:
    tests.fail_at = 2
    assert not proving.prove(KILLS)
    assert "**failed** with dice 2" in proving.page.read_text()
    assert len(tests.asked) == 2
    tests.fail_at = 0
    assert proving.prove(KILLS)
    assert "| 100 kills | 100 |" in proving.page.read_text()


def test_what_cannot_run_here_is_not_called_passed(proving: Proving, tests: Pretended) -> None:
    tests.skip = True
    assert not proving.prove(KILLS)
    assert "not run: no PostgreSQL here" in proving.page.read_text()


def test_each_gate_has_one_row_the_newest(tmp_path: Path) -> None:
    page = tmp_path / "proof.md"
    page.write_text(PAGE)
    for gate, result in (("G10", "old"), ("G4", "first"), ("G10", "new")):
        put_row(page, Row(gate, "what", "1", "1", "1", "abc", result))
    text = page.read_text()
    assert text.index("| G4 |") < text.index("| G10 |")
    assert "old" not in text
    assert text.endswith("\n\nEnd.\n")


def test_a_report_is_read_as_pytest_writes_it(tmp_path: Path) -> None:
    program = tmp_path / "test_small.py"
    program.write_text(
        "import pytest\n"
        "def test_one(record_property):\n    record_property('struck', 20)\n"
        "def test_two(record_property):\n    record_property('struck', 3)\n"
        "def test_three():\n    pytest.skip('not here')\n"
    )
    ran = run_pytest([str(program)], {}, tmp_path / "report")
    assert (ran.passed, ran.figures, ran.failure) == (2, {"struck": 23.0}, None)
    assert "not here" in ran.skipped[0]
    program.write_text("def test_one():\n    assert False\n")
    assert "assert False" in (run_pytest([str(program)], {}, tmp_path / "report").failure or "")
    assert read_report(tmp_path / "report" / "report.xml", 1.0).passed == 0


def test_gates_name_tests_that_exist() -> None:
    assert not {gate.id for gate in GATES} & ABSENT.keys()
    for gate in GATES:
        for run in gate.runs:
            for test in run.tests:
                path, _, name = test.partition("::")
                assert (ROOT / path).exists(), test
                assert not name or f"def {name}(" in (ROOT / path).read_text(), test

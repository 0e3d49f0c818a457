"""What is written stays true: links lead somewhere, the tour names what is there, and no file names
the machine it is from.
"""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.support.require import require_command

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

_CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_INLINE_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE_LINK = re.compile(r"^\s*\[[^\]]+\]:\s*<?(\S+?)>?\s*$", re.MULTILINE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)

# Each pattern is written so that it does not match itself.
_OF_ONE_MACHINE = {
    "a path of the machine it was written on": re.compile(r"/(work|root|tmp/(v|plan))/"),
    "where packages come from": re.compile(
        r"(?<![\w-])--(extra-)?index[-]url|--find[-]links|--trusted[-]host"
        r"|\bpypi[.]|\bpythonhosted[.]|\bregistry[.]npmjs|\bdeb[.]debian[.]"
    ),
}


def local_links(page: str) -> list[str]:
    """The targets in Markdown text that are files of ours, without their anchors."""
    text = _CODE.sub("", page)
    targets = [*_INLINE_LINK.findall(text), *_REFERENCE_LINK.findall(text)]
    files = (target.partition("#")[0] for target in targets if not _ELSEWHERE.match(target))
    return [file for file in files if file]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    targets = local_links(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_links_are_found_outside_code_only() -> None:
    page = (
        'See [a](docs/a.md#part), ![b](<b.png> "B"), [c](https://example.org/c), [d](#here)\n'
        "and `[e](e.md)`.\n```\n[f](f.md)\n```\n[g]: g.md\n"
    )
    assert local_links(page) == ["docs/a.md", "b.png", "g.md"]


# --- the tour -------------------------------------------------------------------------------------

TOUR = ROOT / "docs" / "design" / "tour.md"
_STEP = re.compile(r"^(?:\d+\.|-) .*(?:\n +.*)*", re.MULTILINE)
_QUOTED = re.compile(r"`([^`\n]+)`")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)?")


@cache
def defined_in(module: str) -> frozenset[str]:
    """Functions, classes, constants, and members of classes, these with their class and without."""
    tree = ast.parse((ROOT / "src" / "ullage" / module).read_text("utf-8"))
    names = {name for node in tree.body for name in _names_of(node)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            members = {name for inner in node.body for name in _names_of(inner)}
            names |= members | {f"{node.name}.{member}" for member in members}
    return frozenset(names)


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def missing_in(tour: str) -> list[str]:
    """The files of each step that are not there, and its names that none of them defines."""
    found = []
    for step in _STEP.findall(tour):
        quoted = _QUOTED.findall(step)
        modules = [text for text in quoted if text.endswith(".py")]
        there = [name for name in modules if (ROOT / "src" / "ullage" / name).is_file()]
        found += [name for name in modules if name not in there and not (ROOT / name).is_file()]
        defined = frozenset[str]().union(*map(defined_in, there))
        found += [
            text for text in quoted if _NAME.fullmatch(text) and text not in defined | {*modules}
        ]
    return found


def test_all_that_the_tour_names_is_there() -> None:
    tour = TOUR.read_text("utf-8")
    assert len(_STEP.findall(tour)) > 30
    assert missing_in(tour) == []


def test_a_dead_name_in_the_tour_is_caught() -> None:
    tour = (
        "1. `worker.py`: `Worker.wake`, `stop`, `CHOOSERS`, `Worker.sleep`,\n"
        "   `BatchPace`, `nap`\n"
        "- `registry/nowhere.py`: `Registry`\n"
    )
    assert missing_in(tour) == ["Worker.sleep", "nap", "registry/nowhere.py", "Registry"]


# --- where files come from ------------------------------------------------------------------------


@cache
def repository_files() -> tuple[Path, ...]:
    """Every file that is, or will be, committed."""
    listed = subprocess.run(
        [require_command("git"), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = (ROOT / name for name in sorted(set(listed.stdout.split("\0"))) if name)
    return tuple(path for path in paths if path.is_file())


@pytest.mark.parametrize("what", _OF_ONE_MACHINE)
def test_no_file_names_the_machine_it_was_made_on(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in repository_files()
        for match in _OF_ONE_MACHINE[what].finditer(path.read_text("utf-8", errors="replace"))
    ]
    assert found == [], what


@pytest.mark.parametrize(
    ("what", "start", "end"),  # In two pieces, or this file would be found itself.
    [
        ("a path of the machine it was written on", "cd /wor", "k/main"),
        ("a path of the machine it was written on", "/roo", "t/.venv"),
        ("a path of the machine it was written on", "/tmp/", "v/bin/python"),
        ("where packages come from", "pip install --inde", "x-url=x"),
        ("where packages come from", "https://pyp", "i.org/simple"),
    ],
)
def test_a_planted_trace_of_the_machine_is_caught(what: str, start: str, end: str) -> None:
    assert _OF_ONE_MACHINE[what].search(start + end)

"""What is written stays true: links lead somewhere, and no file names the machine it is from."""

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

"""What the papers name exists: files, make targets, pages, rooms, libraries, words of rules."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.test_docs import PAGES, ROOT, local_links
from ullage.cleanup.retention.rules import Rule

# --- what the papers name ---------------------------------------------------------------------

# Pages that send people to files. The reference and the design of a protocol are no such pages:
# their `a/b` are addresses, keys and repositories.
SENDING = ("CONTRIBUTING.md", "SECURITY.md", "docs/README.md", "docs/design/architecture.md")
# What only looks like a file of ours: a repository, and what a reader makes.
NO_FILES = {"a/b", "dist/", "bNNNN_what.py"}
_SPAN = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"(?:[\w.-]+/)+[\w.-]*|[\w.-]+\.(?:py|md|toml|txt|yaml)|Makefile")
_MODULE = re.compile(r"python -m ([a-z_.]+)")
_TARGET = re.compile(r"(?:^    |`)make ([a-z][a-z-]*)", re.MULTILINE)
_PLACES = (ROOT, ROOT / "src" / "ullage", ROOT / "docs" / "design")


def named_files(page: str) -> list[str]:
    """What a page names as `path/file.py` or `path/`, without what is said not to be a file."""
    spans = [span for span in _SPAN.findall(page) if _FILE.fullmatch(span)]
    return [span for span in spans if span not in NO_FILES]


def is_there(name: str) -> bool:
    """Whether a file has this path, from the root or in the package."""
    return any((place / name).exists() for place in _PLACES)


@pytest.mark.parametrize("page", SENDING)
def test_every_file_that_a_page_sends_people_to_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = named_files(text)
    assert [name for name in found if not is_there(name)] == []
    modules = [name.replace(".", "/") for name in _MODULE.findall(text) if "." in name]
    assert [name for name in modules if not (ROOT / f"{name}.py").exists()] == []


def test_a_planted_name_of_no_file_is_caught() -> None:
    found = named_files("`src/ullage/cellar.py`, `docs/`, `make test`, `a/b`, `GET /v2/`, `x`")
    assert found == ["src/ullage/cellar.py", "docs/"]
    assert [is_there(name) for name in found] == [False, True]


def makefile_targets() -> list[str]:
    """The targets that `make help` shows."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_in_the_papers_exists(page: Path) -> None:
    named = set(_TARGET.findall(page.read_text(encoding="utf-8")))
    assert named <= set(makefile_targets())


def test_contributing_tells_of_the_targets_that_one_works_with() -> None:
    named = set(_TARGET.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert named >= {"quick", "test", "format", "audit", "lock", "release"}


@pytest.mark.parametrize("index", ["docs/README.md", "docs/design/README.md"])
def test_every_page_is_in_the_index_of_its_folder(index: str) -> None:
    folder = (ROOT / index).parent
    linked = {(folder / link).resolve() for link in local_links((ROOT / index).read_text("utf-8"))}
    missing = {page for page in folder.rglob("*.md") if page.resolve() not in linked}
    assert sorted(str(page.relative_to(ROOT)) for page in missing - {ROOT / index}) == []


# --- the house --------------------------------------------------------------------------------

_TREE_NAME = re.compile(r"(?<![\w/.])([a-z_]\w*(?:/|\.py))(?=[\s,;(]|$)")


def tree_of(page: str) -> list[tuple[str, list[str]]]:
    """The lines of the picture of the house: the room, and what each names in it."""
    picture = page.partition("```\nsrc/ullage/\n")[2].partition("```")[0]
    found: list[tuple[str, list[str]]] = []
    room = ""
    for line in picture.splitlines():
        names = _TREE_NAME.findall(line)
        if line.startswith("  ") and not line.startswith("   ") and names:
            room = names[0]
        found.append((room, names))
    return found


def test_the_picture_of_the_house_is_the_house() -> None:
    """Every room is in it, and nothing that is not there."""
    package = ROOT / "src" / "ullage"
    lines = tree_of((ROOT / "docs/design/architecture.md").read_text(encoding="utf-8"))
    rooms = {f"{path.name}{'/' if path.is_dir() else ''}" for path in package.iterdir()}
    rooms -= {"__init__.py", "__main__.py", "__pycache__/", "py.typed"}
    named = {name for _, names in lines for name in names if (package / name).exists()}
    assert rooms - named == set()
    wrong = [
        f"{room} {name}"
        for room, names in lines
        for name in names
        if not (package / name).exists() and not (package / room / name).exists()
    ]
    assert wrong == []
    assert sum(len(names) for _, names in lines) > len(rooms), "rooms only, or nothing was read"


def test_every_library_has_its_reason() -> None:
    """docs/design/dependencies.md names what pyproject.toml asks for, extras and groups as well."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    asked = [project["project"]["dependencies"], *extras.values(), *groups.values()]
    names = {re.split(r"[\[<>=;\s]", line)[0] for lines in asked for line in lines}
    page = (ROOT / "docs/design/dependencies.md").read_text(encoding="utf-8")
    # In the first column of the tables of libraries, spelled as the package index does.
    tables = re.findall(r"^\| library \|.*\n\| ---.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    cells = [row.split("|")[1].partition("(")[0] for table in tables for row in table.splitlines()]
    listed = {name for cell in cells for name in _SPAN.findall(cell)}
    assert (names - listed, listed - names) == (set(), set())


def test_what_the_package_imports_is_what_it_asks_for() -> None:
    """No library is there only because another one brings it along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["cloud"], *extras["postgres"], *extras["tui"]]
    names = {re.split(r"[\[<>=;\s]", line)[0] for line in asked}
    imported = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"^ *(?:from|import) (\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    brings = packages_distributions()
    found = imported & brings.keys() - {"ullage"} - sys.stdlib_module_names
    brought_by = {name: {_spelled(of) for of in brings[name]} for name in found}
    assert {name: of for name, of in brought_by.items() if not of & names} == {}
    assert len(found) > 10


def _spelled(distribution: str) -> str:
    """As the package index spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("page", ["docs/guides/retention.md", "docs/reference/api.md"])
def test_every_word_of_a_retention_rule_is_documented(page: str) -> None:
    # When az's policy was switched on is nothing that a rule says.
    words = {*Rule.__dataclass_fields__, "untagged"} - {"since"}
    text = (ROOT / page).read_text(encoding="utf-8")
    assert {word for word in words if f"`{word}`" not in text} == set()

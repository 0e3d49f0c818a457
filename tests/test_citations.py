"""Citations lead somewhere: the page, the section, the rule, the number and the test exist.

What is understood, in comments, docstrings and other strings of Python and in all of Markdown:

    deletion.md section 3.2         docs/design/store.md        store.md, "After a crash"
    azure.md section 0, rule 10     azure.md section 4.2, step 3
    R12, F15-F17, S24, I14, G8      races, faults, checks, invariants, figures
    peers.md B13 and C6

A page is named by its path or, if no other has its name, by its name alone. "Bytes in S3" is no
false alarm: there is a check S3. An S67 would be a mistake in any case.
"""

import io
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "bench", "docs")
# They plant dead links and dead citations.
PLANTING = {ROOT / "tests" / "test_docs.py", Path(__file__).resolve()}
TEXTS = {
    folder: [
        path
        for path in sorted((ROOT / folder).rglob("*") if folder else ROOT.glob("*.md"))
        if path.suffix in (".py", ".md", ".mako") and path not in PLANTING
    ]
    for folder in ("", *FOLDERS)
}
PAGES = {path for texts in TEXTS.values() for path in texts if path.suffix == ".md"}
# Pages of the OCI image specification, which are cited by their names.
FOREIGN = frozenset(
    ["descriptor.md", "manifest.md", "image-index.md", "annotations.md", "layer.md", "artifact.md"]
)
# Where each kind of number is defined, and how many there are.
DEFINED_IN = {
    "R": ("deletion.md", 35),
    "F": ("reliability.md", 52),
    "I": ("reliability.md", 34),
    "S": ("reliability.md", 66),
    "G": ("reliability.md", 24),
    "B": ("peers.md", 25),
    "C": ("peers.md", 15),
}

_N = r"\d+(?:\.\d+)?"
_LIST = rf"{_N}(?:(?:, and |, | and | to |-){_N})*"
_PAGE = re.compile(r"(?<![\w./*-])((?:\.\./)*(?:[\w-]+/)*[\w-]+\.md)\b")
_SECTIONS = re.compile(
    rf"{_PAGE.pattern},? sections? (?P<sections>{_LIST})"
    rf"(?:,? (?:rule|promise|step)s? (?P<items>{_LIST}))?"
)
_TITLE = re.compile(rf'{_PAGE.pattern}(?: section {_N})?, "(?P<title>[^"]+)"')
_NUMBER = re.compile(r"(?<![\w%./#:+\\-])([RFISG])(\d{1,2})(?:-\1(\d{1,2}))?(?![\w%])")
_PEERS = re.compile(r"peers\.md ((?:[BC]\d+(?:, and |, | and | to )?)+)")
_TEST = re.compile(r"\b(test_\w+)(…|\*)?")
# What a text has that cites anything; most have not, and need no closer look.
_ANY = re.compile(r"\.md\b|\b[RFISG]\d|\bacr-contract\b|[Ii]ssue \d")
# Papers that are not in the repository.
_ELSEWHERE = re.compile(r"\bacr-contract\b|(?<![\w/#-])[Ii]ssue \d+")
_HEADING = re.compile(rf"^#{{2,6}} ({_N})\.? ", re.MULTILINE)
_ROW = re.compile(r"^\| ([A-Z])(\d{1,2}) \|", re.MULTILINE)


# --- what there is --------------------------------------------------------------------------------


def page_named(name: str, cited_in: Path) -> Path | None:
    """The page of ours that a name means in this file."""
    for path in (ROOT / name, (cited_in.parent / name).resolve()):
        if path in PAGES:
            return path
    found = [path for path in PAGES if path.as_posix().endswith(f"/{name}")]
    return found[0] if len(found) == 1 else None


@cache
def sections_of(page: Path) -> dict[str, str]:
    """The numbered sections of a page, with their text up to the next heading of any kind."""
    parts = _HEADING.split(page.read_text("utf-8"))
    return {number: re.split(r"^#", text, flags=re.M)[0] for number, text in _pairs(parts[1:])}


def _pairs(parts: list[str]) -> list[tuple[str, str]]:
    return list(zip(parts[::2], parts[1::2], strict=True))


@cache
def numbers_in(name: str) -> list[tuple[str, int]]:
    """The numbers that a page of ours defines: the first cells of its tables."""
    page = page_named(name, ROOT / "README.md")
    assert page is not None, name
    return [(letter, int(number)) for letter, number in _ROW.findall(page.read_text("utf-8"))]


def is_defined(letter: str, number: int) -> bool:
    return (letter, number) in numbers_in(DEFINED_IN[letter][0])


@cache
def known_tests() -> frozenset[str]:
    """Names of test functions and of test modules."""
    modules = [*(ROOT / "tests").rglob("*.py")]
    functions = (re.findall(r"def (test_\w+)", path.read_text("utf-8")) for path in modules)
    return frozenset(path.stem for path in modules).union(*functions)


# --- what is cited --------------------------------------------------------------------------------


def prose_of(path: Path) -> str:
    """Markdown whole, of Python its comments and strings; each on one line."""
    text = path.read_text("utf-8")
    if path.suffix == ".py" and _ANY.search(text):
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
        text = "\n".join(token.string for token in tokens if token.type in kinds)
    return on_one_line(text)


def on_one_line(text: str) -> str:
    return re.sub(r"[ \t]*\n[ \t]*(?:[#>] *)?", " ", text)


def plain(text: str) -> str:
    """Without marks of Markdown, and what ends a sentence."""
    return on_one_line(text).replace("`", "").rstrip(".,:")


def dead(text: str, cited_in: Path) -> list[str]:
    """The citations in a text that lead nowhere."""
    found = [f"{match[0]} is not in the repository" for match in _ELSEWHERE.finditer(text)]
    for match in _PAGE.finditer(text):
        if match[1] not in FOREIGN and page_named(match[1], cited_in) is None:
            found.append(f"there is no page {match[1]}")
    for match in _SECTIONS.finditer(text):
        found += _dead_sections(match, cited_in)
    for match in _TITLE.finditer(text):
        page = page_named(match[1], cited_in)
        if page and plain(match["title"]) not in plain(page.read_text("utf-8")):
            found.append(f'{match[1]} does not say "{match["title"]}"')
    for match in _NUMBER.finditer(text):
        first, last = int(match[2]), int(match[3] or match[2])
        found += [
            f"{match[1]}{number} is not defined"
            for number in range(first, last + 1)
            if not is_defined(match[1], number)
        ]
    for match in _PEERS.finditer(text):
        for letter, number in re.findall(r"([BC])(\d+)", match[1]):
            if not is_defined(letter, int(number)):
                found.append(f"peers.md has no {letter}{number}")
    if cited_in.suffix == ".md":
        found += _dead_tests(text)
    return found


def _dead_sections(match: re.Match[str], cited_in: Path) -> list[str]:
    page = page_named(match[1], cited_in)
    if page is None:
        return []  # That there is no such page is said already.
    there = sections_of(page)
    cited = re.findall(_N, match["sections"])
    missing = [number for number in cited if number not in there]
    if missing:
        return [f"{match[1]} has no section {number}" for number in missing]
    items = re.findall(_N, match["items"] or "")
    text = there[cited[-1]]
    return [
        f"{match[1]} section {cited[-1]} has no number {item}"
        for item in items
        if not re.search(rf"^{item}\. ", text, re.MULTILINE)
    ]


def _dead_tests(text: str) -> list[str]:
    there = known_tests()
    return [
        f"there is no {match[0]}"
        for match in _TEST.finditer(text)
        if not (any(name.startswith(match[1]) for name in there) if match[2] else match[1] in there)
    ]


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", TEXTS)
def test_every_citation_leads_somewhere(folder: str) -> None:
    assert [
        f"{path.relative_to(ROOT)}: {complaint}"
        for path in TEXTS[folder]
        for complaint in dead(prose_of(path), path)
    ] == []


@pytest.mark.parametrize("letter", DEFINED_IN)
def test_every_number_is_defined_once(letter: str) -> None:
    page, count = DEFINED_IN[letter]
    numbers = sorted(number for each, number in numbers_in(page) if each == letter)
    assert numbers == list(range(1, count + 1))


def test_check_reports_no_invariant_that_the_design_has_not() -> None:
    assert set(numbers_in("check.md")) <= set(numbers_in("reliability.md"))


def test_the_sections_of_azure_md_are_those_that_comments_cite() -> None:
    """The numbers of a page that is cited a hundred times do not move."""
    page = page_named("azure.md", ROOT / "README.md")
    assert page is not None
    expected = {"0": 0, "1": 9, "2": 11, "3": 7, "4": 3, "5": 6, "6": 0}
    found = sections_of(page).keys()
    assert {n: sum(each.startswith(f"{n}.") for each in found) for n in expected} == expected


@pytest.mark.parametrize(
    ("citation", "complaint"),
    [
        ("as nowhere.md says", "there is no page nowhere.md"),
        ("docs/design/nowhere.md has it", "there is no page docs/design/nowhere.md"),
        ("[here](../nowhere/store.md)", "there is no page ../nowhere/store.md"),
        ("README.md of elsewhere/README.md", "there is no page elsewhere/README.md"),
        ("(azure.md section 3.9)", "azure.md has no section 3.9"),
        ("azure.md, section 7", "azure.md has no section 7"),
        ("docs/design/deletion.md\n# section 3.9", "docs/design/deletion.md has no section 3.9"),
        ("azure.md sections 1.2 to 1.19 and 1.6", "azure.md has no section 1.19"),
        ("policies.md section 1", "policies.md has no section 1"),
        ("azure.md section 0, rule 11", "azure.md section 0 has no number 11"),
        ("azure.md section 4.2 step 6", "azure.md section 4.2 has no number 6"),
        ("deletion.md section 1, promises 1, 6 and 7", "deletion.md section 1 has no number 7"),
        ('store.md, "How bytes sing"', 'store.md does not say "How bytes sing"'),
        ("(race R36)", "R36 is not defined"),
        ("deletion.md R99", "R99 is not defined"),
        ("F51-F53: two registries", "F53 is not defined"),
        ("S66 and S67", "S67 is not defined"),
        ("I35.", "I35 is not defined"),
        ("G0", "G0 is not defined"),
        ("peers.md B25, B26 and C6", "peers.md has no B26"),
        ("acr-contract 2.4", "acr-contract is not in the repository"),
        ("(issue 4)", "issue 4 is not in the repository"),
    ],
)
def test_a_planted_dead_citation_is_caught(citation: str, complaint: str) -> None:
    assert dead(on_one_line(citation), ROOT / "src" / "ullage" / "x.py") == [complaint]


@pytest.mark.parametrize(
    "citation",
    [
        "azure.md sections 1.2 to 1.4 and 1.6, docs/reference/azure.md",
        "azure.md section 0, rule 10; deletion.md section 1, promises 1 and 3",
        'R1, R35, F1-F52, S66, I34, G24; peers.md B1 to B25; check.md, "No false alarms"',
        "OCI image-spec, descriptor.md, 'Digests'; manifest.md",
        "bytes in S3, in R2; E501, S390, F_1, SHA-F99, %F0%9F, #F90, x.S99, 0xF99, sha256:F99",
        "Azure/acr#749, aws/containers-roadmap#1036; the issue is old",
    ],
)
def test_what_is_right_or_no_citation_is_let_through(citation: str) -> None:
    assert dead(citation, ROOT / "src" / "ullage" / "x.py") == []


def test_a_test_that_a_page_names_has_to_be_there() -> None:
    page = ROOT / "docs" / "design" / "deletion.md"
    assert dead("`test_r03_head_against_deletion`, `test_races`, `test_r16_…`", page) == []
    assert dead("`test_r99_nothing`, `test_r99_…`", page) == [
        "there is no test_r99_nothing",
        "there is no test_r99_…",
    ]


def test_of_python_only_comments_and_strings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text('F99 = S99  # R98\n"""see\n    nowhere.md"""\nprint(f"I97 {x}")\n', "utf-8")
    assert dead(prose_of(path), path) == [
        "there is no page nowhere.md",
        "R98 is not defined",
        "I97 is not defined",
    ]

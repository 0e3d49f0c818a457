"""What make offers: shown whole by `make help`, and nothing chosen or tagged by accident."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.require import require_command

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make here; what surrounds this test (`make test JOBS=4`, say) is none of its business."""
    surroundings = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ
    }
    return subprocess.run(
        [require_command("make"), *arguments],
        cwd=ROOT,
        env=surroundings | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def what_it_would_do(*arguments: str, **environment: str) -> str:
    """The commands that make would run, `.venv` being up to date or not."""
    # Lines that go on do so with a backslash.
    done = make("--dry-run", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", " ")


def test_help_shows_every_target_on_one_line_of_a_terminal() -> None:
    done = make("help")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split()
    assert [line.split()[1] for line in lines] == phony
    assert {line.index(line.split()[2]) for line in lines} == {17}, "not in one column"
    assert max(map(len, lines)) <= 80


def test_every_rule_is_in_help_or_makes_the_file_it_names() -> None:
    rules = re.findall(r"^([^\s#:=]+):(?!=)", MAKEFILE, re.MULTILINE)
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split()
    files = {"$(VENV)/runtime.stamp", "$(VENV)/dev.stamp", "$(AUDIT)/audit.stamp"}
    assert set(rules) - {".PHONY", ".DELETE_ON_ERROR"} == {*phony, *files}


def test_quick_is_lint_and_the_tests_that_need_no_other_server() -> None:
    commands = what_it_would_do("quick")
    for part in ("ruff check .", "ruff format --check .", "-m mypy"):
        assert part in commands
    marks = re.findall(r'-m pytest .* -m "([^"]+)" .* tests/$', commands, re.MULTILINE)
    assert marks == ["not (postgresql or client or browser or slow or thorough)"]
    left_out = re.findall(r"--ignore (\S+)", commands)
    areas = ("access", "clients", "crash", "peers", "prove", "tls")
    assert left_out == [f"tests/{area}" for area in areas]
    assert [folder for folder in left_out if not (ROOT / folder).is_dir()] == []


def test_quick_of_an_area_takes_all_of_its_tests_on_sqlite_but_the_slow_ones() -> None:
    commands = what_it_would_do("quick", "AREA=cleanup")
    marks = re.findall(r'-m pytest .* -m "([^"]+)" .* tests/cleanup$', commands, re.MULTILINE)
    assert marks == ["not (postgresql or client or browser or slow)"]
    assert "--ignore" not in commands


def test_an_area_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    done = make("quick", "AREA=cellar")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no tests/cellar; areas: " in done.stderr
    assert " cleanup " in done.stderr


@pytest.mark.parametrize("target", ["quick", "release"])
def test_the_environment_chooses_no_area_and_tags_no_version(target: str) -> None:
    """CI systems set VERSION for their own ends."""
    plain = what_it_would_do(target)
    assert what_it_would_do(target, VERSION="9.9.9", AREA="cleanup") == plain
    assert "9.9.9" in what_it_would_do("release", "VERSION=9.9.9")


def test_audit_looks_at_all_that_is_pinned_and_skips_nothing() -> None:
    commands = what_it_would_do("audit")
    audited = set(re.findall(r"-r (\S+)", commands.partition("pip-audit")[2]))
    assert audited == {path.name for path in ROOT.glob("constraints*.txt")}
    assert "--strict" in commands


def test_what_is_pinned_is_pinned_by_its_hashes() -> None:
    for path in ROOT.glob("constraints*.txt"):
        text = path.read_text(encoding="utf-8")
        pinned = re.findall(r"^(\S+?)==\S+(?: ;.*)? \\\n    --hash=sha256:", text, re.MULTILINE)
        named = re.findall(r"^[a-z0-9].*$", text, re.MULTILINE)
        assert len(pinned) == len(named) > 20, path.name


def test_every_extra_of_an_installation_is_pinned() -> None:
    """Also `tui`, which no server needs; what only tests need is in constraints-dev.txt."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    pinned = re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    for name in extras.keys() - {"dev"}:
        wanted = {re.split(r"[\[<>=]", each)[0] for each in extras[name]}
        assert wanted - set(pinned) == set(), name
        assert f"--extra {name}" in MAKEFILE


def test_a_container_build_is_sent_nothing_that_git_ignores() -> None:
    """`docker build .`, as in the README, would send .venv and the data to the daemon."""
    ignored, sent = (
        {
            line.strip("/").removeprefix("**/")
            for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
            if line and not line.startswith("#")
        }
        for name in (".gitignore", ".dockerignore")
    )
    assert ignored | {".git"} == sent
    assert "README.md" not in sent


def test_a_commit_is_checked_as_lint_does_and_nothing_is_fetched_for_it() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    lint = what_it_would_do("lint")
    for hook in hooks:
        assert hook["entry"].removesuffix(" --force-exclude") in lint
    assert len(hooks) == 3

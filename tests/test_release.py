"""`make release` refuses what is no release, builds what is one, and publishes nothing."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.support.require import require_command
from ullage import __version__

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[1]
PAPERS = ("LICENSE", "README.md", "SECURITY.md", "pyproject.toml", ".gitignore", "tools", "docs")
# Releasing does not look at more of the package than this.
PACKAGE = {
    "__init__.py": f'__version__ = "{__version__}"\n',
    "__main__.py": "from ullage import __version__\n\nprint(__version__)\n",
    "py.typed": "",
}
CHANGES = f"# Changes\n\n## {__version__}, 2026-12-01\n\n- A thing that users see.\n"
_PERSON = {f"GIT_{who}_{what}": "tester" for who in ("AUTHOR", "COMMITTER") for what in ("NAME",)}
_PERSON |= {f"GIT_{who}_EMAIL": "tester@example.org" for who in ("AUTHOR", "COMMITTER")}


class Checkout:
    """A repository of its own: the papers as they are here, and a package, `whole` or in short."""

    def __init__(self, folder: Path, *, whole: bool = False) -> None:
        self.folder = folder
        package = folder / "src" / "ullage"
        package.mkdir(parents=True)
        for name in PAPERS + (("src",) if whole else ()):
            _copy(ROOT / name, folder / name)
        for name, text in () if whole else PACKAGE.items():
            (package / name).write_text(text, encoding="utf-8")
        self.git("init", "--quiet")
        self.write("CHANGELOG.md", CHANGES)
        self.commit()

    def git(self, *arguments: str) -> str:
        git = require_command("git")
        done = subprocess.run(
            [git, *arguments],
            cwd=self.folder,
            env=os.environ | _PERSON,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A change")

    def release(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As make does it."""
        return subprocess.run(
            [sys.executable, "-m", "tools.release", *arguments],
            cwd=self.folder,
            env=os.environ | _PERSON | {"PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def refusal(self, *arguments: str) -> str:
        """Why there is no release; nothing was built, and nothing tagged."""
        tags = self.git("tag")
        done = self.release(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("ERROR: "), done.stderr
        assert done.stderr.count("\n") == 1, "a traceback, or more than one line"
        assert not (self.folder / "dist").exists()
        assert self.git("tag") == tags
        return done.stderr


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_without_a_version_it_builds_and_tags_nothing(checkout: Checkout) -> None:
    done = checkout.release()
    assert done.returncode == 0, done.stderr
    assert checkout.git("tag") == ""
    assert f"not made yet: make release VERSION={__version__}" in done.stdout
    built = sorted((checkout.folder / "dist").iterdir())
    assert [file.name for file in built] == [
        f"ullage-{__version__}-py3-none-any.whl",
        f"ullage-{__version__}.tar.gz",
    ]
    for file in built:
        assert f"dist/{file.name}" in done.stdout
        assert hashlib.sha256(file.read_bytes()).hexdigest() in done.stdout


def test_what_is_built_says_what_it_is_and_carries_the_licence(tmp_path: Path) -> None:
    """PEP 639: an SPDX expression, and the licence's text in what is given away."""
    checkout = Checkout(tmp_path / "checkout", whole=True)
    done = checkout.release()
    assert done.returncode == 0, done.stderr
    wheel, source = sorted((checkout.folder / "dist").iterdir())
    with zipfile.ZipFile(wheel) as files:
        about = f"ullage-{__version__}.dist-info"
        metadata = message_from_bytes(files.read(f"{about}/METADATA"))
        licence = files.read(f"{about}/licenses/LICENSE")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Author"] == "The Ullage authors"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Keywords"]
    # PEP 639 does not allow both, and there is no address to name yet.
    assert [line for line in metadata.get_all("Classifier") or [] if "License" in line] == []
    assert metadata.get_all("Project-URL") is None
    assert licence == (ROOT / "LICENSE").read_bytes()
    with tarfile.open(source) as files_of_source:
        names = {name.partition("/")[2] for name in files_of_source.getnames()}
    assert names >= {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "pyproject.toml"}


def test_the_same_commit_gives_the_same_bytes(checkout: Checkout) -> None:
    first, second = checkout.release(), checkout.release()
    assert (first.returncode, first.stdout) == (0, second.stdout)


def test_with_its_version_it_is_tagged_with_its_changes(checkout: Checkout) -> None:
    done = checkout.release("--version", __version__)
    assert done.returncode == 0, done.stderr
    assert f"git push REMOTE v{__version__}" in done.stdout
    assert checkout.git("rev-parse", f"v{__version__}^{{}}") == checkout.git("rev-parse", "HEAD")
    message = checkout.git("tag", "--list", "--format=%(contents)", f"v{__version__}")
    assert message == f"Ullage {__version__}\n\n- A thing that users see."
    # Once more, say because the upload was cut off: the same, and the tag stays.
    assert checkout.release("--version", __version__).stdout == done.stdout


def test_another_version_than_that_of_the_code_is_refused(checkout: Checkout) -> None:
    assert f"says {__version__}" in checkout.refusal("--version", "99.0.0")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ("# Changes\n", "the first section is ''"),
        ("# Changes\n\n## Unreleased\n\n- New.\n", "the first section is 'Unreleased'"),
        (CHANGES.replace("## ", "## Unreleased\n\n- New.\n\n## "), "is 'Unreleased'"),
        (CHANGES.replace(", 2026-12-01", ""), f"expected '{__version__}, YYYY-MM-DD'"),
        (CHANGES.replace(__version__, "99.0.0"), "is '99.0.0, 2026-12-01'"),
        (f"# Changes\n\n## {__version__}, 2026-12-01\n\n## 0.0.1, 2026-01-01\n\n- Old.\n", "empty"),
    ],
)
def test_a_version_without_its_changes_is_refused(
    checkout: Checkout, changes: str, why: str
) -> None:
    checkout.write("CHANGELOG.md", changes)
    checkout.commit()
    assert why in checkout.refusal()


def test_what_is_not_committed_is_not_released(checkout: Checkout) -> None:
    checkout.write("src/ullage/new.py", "")
    assert "the tree is not clean: ?? src/ullage/new.py" in checkout.refusal()
    checkout.git("clean", "--force", "--quiet")
    checkout.write("README.md", "changed")
    assert "the tree is not clean: M README.md" in checkout.refusal()


def test_a_version_is_given_to_one_commit_only(checkout: Checkout) -> None:
    checkout.git("tag", f"v{__version__}")
    checkout.write("README.md", "# Another\n")
    checkout.commit()
    assert "another commit's tag" in checkout.refusal()
    assert "another commit's tag" in checkout.refusal("--version", __version__)


def test_a_wheel_that_does_not_run_is_no_release(checkout: Checkout) -> None:
    main = checkout.folder / "src" / "ullage" / "__main__.py"
    main.write_text("raise SystemExit('broken')\n", encoding="utf-8")
    checkout.commit()
    done = checkout.release("--version", __version__)
    assert done.returncode == 1
    assert "`ullage version` from" in done.stderr
    assert "broken" in done.stderr
    assert checkout.git("tag") == ""

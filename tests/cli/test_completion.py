"""Completion, asked as the shells ask."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Ullage
from tests.server.pushing import push_image
from tests.support.require import require_command
from tests.support.server import UllageServer, command_environment
from ullage.cli.candidates import candidates


def words(*line: str) -> list[str]:
    return [word for word, _ in candidates(line)]


def test_commands_and_flags_are_completed() -> None:
    assert words("rep") == ["repository"]
    assert {"serve", "repository", "login"} <= set(words(""))
    assert words("repository", "show-") == ["show-tags", "show-manifests"]
    assert words("repository", "show-tags", "--or") == ["--orderby"]
    assert words("repository", "show-tags", "--orderby", "") == ["time_asc", "time_desc"]
    assert words("repository", "list", "-o", "js") == ["json", "jsonc"]
    assert words("completion", "") == ["bash", "zsh", "fish"]
    assert words("nonsense", "") == []


def test_commands_of_this_machine_are_completed_too(ullage: Ullage) -> None:
    assert words("token", "cred") == ["credential"]
    assert words("serve", "--tls-n") == ["--tls-names"]
    assert "--fast" in words("check", "")
    ullage("config", "set", "registries.mine=https://registry.example.com")
    assert words("user", "list", "--registry", "") == ["mine"]
    assert words("user", "show", "--name", "") == []


def test_repositories_and_tags_are_asked_of_the_registry(
    here: UllageServer, client: httpx.Client, name: str, ullage: Ullage
) -> None:
    push_image(client, name, "v1")
    push_image(client, name, "v2")
    assert name in words("repository", "show-tags", "--repository", name[:5])
    assert words("repository", "delete", "--image", f"{name}:v") == [f"{name}:v1", f"{name}:v2"]
    assert words("manifest", "show", "--name", f"{name}:v1") == [f"{name}:v1"]
    ullage("config", "set", f"registries.mine={here.url}")
    assert words("repository", "list", "--name", "") == ["mine"]
    assert words("repository", "show-tags", "-n", "http://127.0.0.1:1", "--repository", "") == []


def test_help_stands_beside_each_in_one_line(ullage: Ullage) -> None:
    done = ullage("__complete", "repository", "unt")
    assert done.out == "untag\tTake a tag away. The image stays, and its space.\n"


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """`ullage` on the PATH, as it is when installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "ullage"
    script.write_text('#!/bin/sh\nexec python -m ullage "$@"\n')
    script.chmod(0o755)
    (folder / "python").symlink_to(Path(sys.executable))
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return command_environment({"PATH": path, "HOME": os.environ["HOME"]})


BASH = """
eval "$(ullage completion bash)"
COMP_LINE="$1" COMP_POINT=${#1}
_ullage_complete
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ullage repo", ["repository"]),
        ("ullage repository show --rep", ["--repository"]),
        ("ullage repository show --image {name}:", ["v1", "v2"]),
        ("ullage repository show --repository {name}", ["{name}"]),
    ],
)
@pytest.mark.thorough
def test_bash_completes(
    program: dict[str, str],
    here: UllageServer,
    client: httpx.Client,
    name: str,
    line: str,
    expected: list[str],
) -> None:
    """bash cuts words at colons: behind one only the rest is put."""
    push_image(client, name, "v1")
    push_image(client, name, "v2")
    done = subprocess.run(
        [require_command("bash"), "-c", BASH, "bash", line.format(name=name)],
        env={**program, "ULLAGE_REGISTRY": here.host},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [word.format(name=name) for word in expected], done.stderr


ZSH = """
autoload -Uz compinit && compinit -u -D
_describe() { print -l -- ${(P)2} }
eval "$(ullage completion zsh)"
words=(ullage repository show-t) CURRENT=3
_ullage
"""


@pytest.mark.client
def test_zsh_completes(program: dict[str, str]) -> None:
    done = subprocess.run(
        [require_command("zsh"), "-fc", ZSH], env=program, capture_output=True, text=True
    )
    assert done.stdout == "show-tags:List the tags of a repository.\n", done.stderr


@pytest.mark.client
def test_fish_completes(program: dict[str, str]) -> None:
    script = 'ullage completion fish | source; complete -C "ullage repository show-t"'
    done = subprocess.run(
        [require_command("fish"), "--no-config", "-c", script],
        env=program,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "show-tags\tList the tags of a repository.\n", done.stderr

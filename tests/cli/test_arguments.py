"""Reading a line as az does: what is accepted, and az's words for what is not."""

from typing import Any

import pytest

from tests.cli.conftest import Ullage
from ullage.cli import table
from ullage.cli.shell.commands import parse


def given(*line: str) -> Any:
    command = table.find(line[:2])
    assert command is not None
    return parse(command, line[2:])


def test_flags_may_be_shortened_joined_and_in_any_case() -> None:
    found = given("repository", "show-tags", "--repo=hello", "-nreg", "--orderby", "TIME_DESC")
    assert (found.repository, found.registry, found.orderby) == ("hello", "reg", "time_desc")
    assert given("repository", "list", "-o", "JSON").output == "json"


@pytest.mark.parametrize(
    ("value", "expected"), [([], "true"), (["true"], "true"), (["False"], "false")]
)
def test_a_lock_flag_has_three_states(value: list[str], expected: str) -> None:
    """azure.md section 3.3."""
    line = ("repository", "update", "--image", "a", "--delete-enabled", *value)
    assert given(*line).delete_enabled == expected
    assert given("repository", "update", "--image", "a").delete_enabled is None


def test_the_deprecated_resource_group_is_taken_and_ignored() -> None:
    assert given("repository", "list", "-g", "group").top is None


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        (["repository", "show-tags"], 2, "the following arguments are required: --repository\n"),
        (
            ["repository", "show-tags", "--repository", "r", "--orderby", "x"],
            2,
            (
                "ullage repository show-tags: 'x' is not a valid value for '--orderby'. Allowed "
                "values: time_asc, time_desc.\n"
            ),
        ),
        (
            ["repository", "update", "--repository", "r", "--delete-enabled", "maybe"],
            2,
            (
                "ullage repository update: 'maybe' is not a valid value for '--delete-enabled'. "
                "Allowed values: true, false.\n"
            ),
        ),
        (["repository", "list", "--top", "a"], 2, "argument --top: invalid int value: 'a'\n"),
        (["repository", "list", "--nonsense"], 2, "unrecognized arguments: --nonsense\n"),
        (
            ["repository", "list", "--onlyshow-errors"],
            2,
            "unrecognized arguments: --onlyshow-errors. Did you mean --only-show-errors?\n",
        ),
        (
            ["repository", "list", "--query", "[?"],
            2,
            "argument --query: invalid jmespath_type value: '[?': ",
        ),
        (
            ["repository", "nonsense"],
            2,
            "'nonsense' is misspelled or not recognized by the system.\n",
        ),
        (
            ["repositry", "list"],
            2,
            (
                "'repositry' is misspelled or not recognized by the system. "
                "Did you mean 'repository'?\n"
            ),
        ),
        (
            ["repository", "show"],
            1,
            (
                "Usage error: You need to provide either --image IMAGE | --repository REPOSITORY, "
                "but not both\n"
            ),
        ),
        (
            ["repository", "delete", "--image", "a", "--repository", "b"],
            1,
            (
                "Usage error: You need to provide either --image IMAGE | --repository REPOSITORY, "
                "but not both\n"
            ),
        ),
        (
            ["repository", "untag", "--image", "a@sha256:1"],
            1,
            "The name of the image may include a tag in the format 'name:tag'.\n",
        ),
        (
            ["repository", "list", "-p", "secret"],
            1,
            "Please also specify username if password is specified.\n",
        ),
        (
            ["repository", "list", "-u", "me"],
            1,
            "Please specify both username and password in non-interactive mode.\n",
        ),
        (
            ["manifest", "list"],
            1,
            (
                "You must provide either a fully qualified repository specifier such as "
                "'myregistry.azurecr.io/hello-world' as a positional parameter or provide "
                "'-r MyRegistry -n hello-world' argument values.\n"
            ),
        ),
        (
            ["manifest", "show", "127.0.0.1:5000/a", "-n", "a"],
            1,
            (
                "You must provide either a fully qualified manifest specifier such as "
                "'myregistry.azurecr.io/hello-world:latest' as a positional parameter or provide "
                "'-r MyRegistry -n hello-world:latest' argument values.\n"
            ),
        ),
        (
            ["manifest", "show", "foo"],
            1,
            (
                "The positional parameter 'manifest_id' must be a fully qualified manifest "
                "specifier such as 'myregistry.azurecr.io/hello-world:latest' or "
                "'myregistry.azurecr.io/hello-world@sha256:abc123'.\n"
            ),
        ),
        (
            ["manifest", "list", "127.0.0.1:5000/a:v1"],
            1,
            "The positional parameter 'repo_id' should not include a tag or digest.\n",
        ),
        (
            ["manifest", "list-metadata", "-n", "a:v1"],
            1,
            "Parameter 'name' refers to a repository and should not include a tag or digest.\n",
        ),
        (["config", "set", "nonsense=1"], 2, "'nonsense' is no key. Keys: registry, output, ca_f"),
        (["config", "set", "output=nonsense"], 2, "output: 'nonsense' - expected one of json, "),
        (["config", "set", "registry"], 2, "'registry' - expected KEY=VALUE\n"),
        (["completion", "tcsh"], 2, "'tcsh' - expected bash, zsh or fish\n"),
    ],
)
def test_wrong_usage_is_told_in_azs_words(
    ullage: Ullage, line: list[str], code: int, expected: str
) -> None:
    """azure.md sections 3.2 and 3.3; az 2.45 was asked the same."""
    done = ullage(*line)
    assert done.err.startswith(f"ERROR: {expected}"), done
    assert (done.code, done.out) == (code, "")

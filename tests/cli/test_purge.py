"""`ullage purge` and `ullage job` on a real server (azure.md section 4)."""

import json
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.server.pushing import push_image
from tests.support.server import UllageServer

pytestmark = pytest.mark.usefixtures("here")


def answer(done: Done) -> Any:
    assert done.code == 0, done
    return json.loads(done.out)


def tags_of(client: httpx.Client, name: str) -> list[str]:
    return list(client.get(f"/v2/{name}/tags/list").json()["tags"] or [])


def test_acr_lines(ullage: Ullage, client: httpx.Client, here: UllageServer, name: str) -> None:
    """azure.md section 4.3: what scripts that read acr's output find."""
    digest = push_image(client, name, "v1", (b"only in v1",))
    push_image(client, name, "v2", (b"v2",))
    line = ("purge", "--filter", f"{name}:^v1$", "--ago", "0d", "--untagged")
    image, manifest = f"{here.host}/{name}:v1", f"{here.host}/{name}@{digest}"
    done = ullage(*line, "--dry-run")
    assert done.code == 0
    assert done.out.splitlines()[:8] == [
        (
            "DRY RUN: The following output shows what WOULD be deleted if the purge command was "
            "executed. Nothing is deleted."
        ),
        f"Would delete tags for repository: {name}",
        f"Would delete: {image}",
        f"Would delete manifests for repository: {name}",
        f"Would delete: {manifest}",
        "",
        "Number of tags to be deleted: 1",
        "Number of manifests to be deleted: 1",
    ]
    assert tags_of(client, name) == ["v1", "v2"]
    done = ullage(*line)
    assert done.out.splitlines() == [
        f"Deleting tags for repository: {name}",
        f"Deleted {image}",
        f"Deleting manifests for repository: {name}",
        f"Deleted {manifest}",
        "",
        "Number of deleted tags: 1",
        "Number of deleted manifests: 1",
        "Space freed: 10 B (10 bytes)",
    ]
    assert client.get(f"/v2/{name}/manifests/{digest}").status_code == 404


def test_every_flag_of_acr_purge_is_understood(ullage: Ullage, name: str) -> None:
    """azure.md section 4.1."""
    done = ullage(
        *("purge", "-f", f"{name}:a", "--filter", f"{name}:b", "--ago", "2d3h6m", "--keep", "1"),
        *("--untagged", "--dry-run", "--include-locked", "--verbose", "--concurrency", "40"),
        *("--repository-page-size", "100", "--filter-timeout-seconds", "60"),
    )
    assert done.code == 0
    assert "Specified concurrency value too large. Set to maximum value: 32" in done.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("--ago", "1d"), "--filter is required when not using --untagged-only"),
        (("--filter", "a:b"), "--ago is required when not using --untagged-only"),
        (("--filter", "ab", "--ago", "1d"), "unable to correctly parse filter flag"),
        (("--filter", ":b", "--ago", "1d"), "missing repository name/expression"),
        (("--filter", "a:", "--ago", "1d"), "missing tag name/expression"),
        (("--filter", "a:(", "--ago", "1d"), "missing )"),
    ],
)
def test_what_is_wrong_is_said_in_acr_words(
    ullage: Ullage, line: tuple[str, ...], said: str
) -> None:
    done = ullage("purge", *line)
    assert (done.code, done.out) == (1, "")
    assert said in done.err


def test_a_duration_beyond_all_reason_warns(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    """acr-cli#83."""
    push_image(client, name, "v1", (b"x",))
    done = ullage("purge", "--filter", f"{name}:.*", "--ago", "999999d", "--untagged")
    assert "counts as 150 years" in done.err
    assert tags_of(client, name) == ["v1"]


def test_an_expression_does_not_empty_a_repository(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    """gitlab#325429; and the command says how to do it all the same."""
    push_image(client, name, "v1", (b"x",))
    line = ("purge", "--filter", f"{name}$:.*", "--ago", "0d", "--untagged")
    done = ullage(*line)
    assert (done.code, done.out) == (1, "")
    assert f"deletes everything in {name}" in done.err
    assert "--allow empty-repository --allow most-of-repository --allow only-tag" in done.err
    guardrails = ("empty-repository", "most-of-repository", "only-tag")
    done = ullage(*line, *(word for rail in guardrails for word in ("--allow", rail)))
    assert (done.code, client.get(f"/v2/{name}/tags/list").status_code) == (0, 404)


def test_jobs_are_watched_and_looked_up(ullage: Ullage, client: httpx.Client, name: str) -> None:
    push_image(client, name, "v1", (b"x",))
    line = ("purge", "--filter", f"{name}:.*", "--ago", "0d", "--no-wait", "-o", "json")
    job = answer(ullage(*line))
    watched = answer(ullage("job", "watch", job["id"]))
    assert (watched["state"], watched["tags_deleted"]) == ("done", 1)
    assert answer(ullage("job", "show", job["id"])) == watched
    assert job["id"] in [each["id"] for each in answer(ullage("job", "list"))]
    (item,) = answer(ullage("job", "items", job["id"]))
    assert (item["tag"], item["outcome"]) == ("v1", "deleted")
    assert f"{name}:v1" in ullage("job", "items", job["id"], "-o", "table").out
    # What is done is not undone by cancelling.
    assert answer(ullage("job", "cancel", job["id"]))["state"] == "done"
    assert ullage("job", "show", "0" * 32).code == 3
    assert ullage("job", "show", "nonsense").code == 3

"""Many images at once: from flags or from standard input."""

import io
import json
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.server.pushing import push_image

pytestmark = pytest.mark.usefixtures("here")

UNKNOWN = "sha256:" + "0" * 64


@pytest.fixture
def digests(client: httpx.Client, name: str) -> list[str]:
    """Twelve images, each under a tag of its own."""
    return sorted(push_image(client, name, f"v{n}", (b"base", b"%d" % n)) for n in range(12))


def given(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def result(done: Done) -> Any:
    return json.loads(done.out)


def left(client: httpx.Client, name: str) -> int:
    listed = client.get(f"/v2/{name}/tags/list")
    return len(listed.json()["tags"]) if listed.status_code == 200 else 0


def test_digests_on_standard_input_are_deleted(
    ullage: Ullage,
    client: httpx.Client,
    name: str,
    digests: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given(monkeypatch, *digests, "", *digests)
    done = ullage("repository", "delete", "--image", f"{name}@-", "--yes")
    assert (done.code, done.err) == (0, "Deleted 12 of 12.\n")
    assert result(done) == {
        "deleted": [f"{name}@{digest}" for digest in digests],
        "gone": [],
        "failed": [],
    }
    assert left(client, name) == 0


def test_images_on_standard_input_and_in_flags_are_deleted(
    ullage: Ullage,
    client: httpx.Client,
    name: str,
    digests: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given(monkeypatch, f"{name}:v0", f"{name}@{digests[7]}")
    line = ("--image", "-", "--image", f"{name}:v1", "--yes", "-o", "none")
    done = ullage("repository", "delete", *line)
    assert (done.code, done.out) == (0, "")
    assert left(client, name) in (9, 10)


def test_one_failure_stops_no_other_and_is_explained(
    ullage: Ullage, client: httpx.Client, name: str, digests: list[str]
) -> None:
    """Locked, unknown and gone ones among others; exit code 1."""
    locked = f"{name}@{digests[3]}"
    ullage("manifest", "update-metadata", "--name", locked, "--delete-enabled", "false")
    images = [*(f"{name}@{digest}" for digest in digests), f"{name}@{UNKNOWN}", f"{name}:nope"]
    flags = [word for image in images for word in ("--image", image)]
    done = ullage("repository", "delete", *flags, "--yes")
    assert done.code == 1
    first, *reasons = done.err.splitlines()
    assert first == "Deleted 11 of 14. Gone already: 1. Failed: 2."
    assert sorted(reason.split(": ")[1] for reason in reasons) == sorted([locked, f"{name}:nope"])
    found = result(done)
    assert found["gone"] == [f"{name}@{UNKNOWN}"]
    because = {one["image"]: one["reason"] for one in found["failed"]}
    assert "The operation is disallowed" in because[locked]
    assert "the specified tag does not exist" in because[f"{name}:nope"]
    assert left(client, name) == 1


def test_nothing_on_standard_input_is_nothing_to_do(
    ullage: Ullage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The article's script on a repository without orphans."""
    given(monkeypatch)
    done = ullage("repository", "delete", "--image", "app@-", "--yes")
    assert (done.code, done.out, done.err) == (0, "", "Nothing to delete.\n")
    given(monkeypatch, "not/an@image@at:all")
    assert ullage("repository", "delete", "--image", "-", "--yes").code == 1

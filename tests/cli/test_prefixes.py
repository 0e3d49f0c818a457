"""Any unique beginning of seven digits or more stands for a digest or an id (faults B39)."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.server.pushing import push_image
from ullage.cli.client.ids import is_short, only_beginning
from ullage.cli.shell.errors import Failure

pytestmark = [pytest.mark.usefixtures("here"), pytest.mark.thorough]


def answer(done: Done) -> Any:
    assert done.code == 0, done
    return json.loads(done.out)


@pytest.fixture
def image(client: httpx.Client, name: str) -> str:
    """The digest of name:v1, beside which there is another image."""
    push_image(client, name, "v2", (b"v2 of " + name.encode(),))
    return str(push_image(client, name, "v1", (b"v1 of " + name.encode(),)))


@pytest.mark.parametrize(
    "short", [lambda digest: digest[:14], lambda digest: digest[7:19]], ids=["algorithm", "digits"]
)
@pytest.mark.parametrize(
    "line",
    [
        "repository show --image R@D",
        "manifest show --name R@D",
        "manifest show-metadata --name R@D",
        "manifest list-referrers --name R@D",
        "retention explain R@D",
        "plan --image R@D",
        "plan --image R:v1 --explain D",
        "why D",
        "why R@D",
        "why R:v1",
        "lock R@D --reason short",
        "unlock R@D",
        "repository update --image R@D --delete-enabled true",
        "repository delete --image R@D --yes",
        "manifest delete --name R@D --yes",
    ],
)
def test_a_digest_is_meant_by_its_first_digits(
    ullage: Ullage, image: str, name: str, line: str, short: Callable[[str], str]
) -> None:
    if line.startswith("unlock"):
        assert ullage("lock", f"{name}@{image}", "--reason", "short").code == 0
    done = ullage(*line.replace("R", name, 1).replace("D", short(image)).split())
    assert done.code == 0, done
    if line.startswith(("plan", "why")):
        assert image in done.out


def test_many_images_are_meant_by_first_digits_of_standard_input(
    ullage: Ullage, client: httpx.Client, image: str, name: str
) -> None:
    line = ("repository", "delete", "--yes")
    done = ullage(*line, "--image", f"{name}@{image[7:17]}", "--image", f"{name}:v2")
    assert answer(done)["failed"] == []
    assert client.get(f"/v2/{name}/tags/list").status_code == 404


def test_plans_jobs_and_operations_are_meant_by_what_tables_show(
    ullage: Ullage, client: httpx.Client, image: str, name: str
) -> None:
    soft = ("config", "soft-delete", "update")
    answer(ullage(*soft, "--status", "enabled"))
    try:
        plan = answer(ullage("plan", "--filter", f"{name}:^v1$", "--ago", "0d", "--untagged"))
        receipt = answer(ullage("apply", plan["id"][:8], "--yes"))
        job = receipt["job"]
        shown = ullage("job", "list", "-o", "table").out.split()
        assert job[:8] in shown
        for command in ("show", "watch", "items"):
            assert answer(ullage("job", command, job[:8]))
        operation = receipt["operation"]
        assert operation[:8] in ullage("deleted", "list", "-o", "table").out.split()
        assert answer(ullage("deleted", "show", operation[:8]))["id"] == operation
        restore = ("manifest", "restore", "--name", name, "--digest", image[7:15])
        assert ullage(*restore).code == 0
        assert answer(ullage("restore", operation[:8]))["repositories"] == [name]
    finally:
        ullage(*soft, "--status", "disabled")
    assert client.get(f"/v2/{name}/manifests/v1").status_code == 200


def test_what_begins_nothing_is_not_found_in_the_registrys_own_words(
    ullage: Ullage, name: str
) -> None:
    for line in (("job", "show"), ("apply",), ("deleted", "show"), ("why",)):
        done = ullage(*line, "0123456")
        assert done.code in (1, 3), done
        assert done.err.count("ERROR") == 1


def test_what_begins_several_is_refused_with_their_names() -> None:
    digests = [f"sha256:{'a' * 60}{number:04}" for number in range(7)]
    with pytest.raises(Failure, match=r"'aaaaaaa' begins several: sha256:a+0000, .* and 2 more\."):
        only_beginning("aaaaaaa", digests)
    assert only_beginning("a" * 60 + "0003", digests) == digests[3]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("sha256:0123456", True),
        ("0123456", True),
        ("012345", False),
        ("sha256:" + "0" * 64, False),
        ("sha512:" + "0" * 64, True),
        ("latest1", False),
    ],
)
def test_seven_digits_are_enough(text: str, short: bool) -> None:
    assert is_short(text) is short

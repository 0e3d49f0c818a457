"""azure.md section 3.4: questions, at a terminal."""

import httpx
import pytest

from tests.cli.terminal import at_terminal
from tests.server.pushing import push_image
from tests.support.server import UllageServer

pytestmark = pytest.mark.thorough

SURE = "Are you sure you want to continue? (y/n): "


@pytest.fixture
def pushed(client: httpx.Client, name: str) -> str:
    """A manifest with two tags, of 20 KiB that nothing else has."""
    layers = (b"x" * 20 * 1024 + name.encode(),)
    push_image(client, name, "v3", layers)
    return push_image(client, name, "latest", layers)


def exists(client: httpx.Client, name: str) -> bool:
    return client.get(f"/v2/{name}/manifests/latest").status_code == 200


def without_bytes(screen: str) -> str:
    """The screen without the one line that az does not have."""
    return "".join(
        line for line in screen.splitlines(keepends=True) if not line.startswith("This gives back ")
    )


@pytest.mark.parametrize(
    ("answers", "code", "gone"),
    [
        (["y"], 0, True),
        (["Y"], 0, True),
        (["n"], 1, False),
        (["N"], 1, False),
        (["yes", "", "nonsense", "y"], 0, True),
        (["no", "n"], 1, False),
    ],
)
def test_deleting_by_tag_asks_until_the_answer_is_y_or_n(
    here: UllageServer,
    client: httpx.Client,
    name: str,
    pushed: str,
    answers: list[str],
    code: int,
    gone: bool,
) -> None:
    """azure.md section 3.6: the prompt names the manifest and both its tags."""
    line = ["repository", "delete", "--image", f"{name}:v3"]
    ended, screen = at_terminal(line, answers, {"ULLAGE_REGISTRY": here.host})
    question = (
        f"This operation will delete the manifest '{pushed}' and all the following images: "
        f"'{name}:latest', '{name}:v3'.\n{SURE}"
    )
    expected = "".join(f"{question}{answer}\n" for answer in answers)
    assert without_bytes(screen) == expected + ("" if gone else "ERROR: Operation cancelled.\n")
    assert (ended, exists(client, name)) == (code, not gone)


def test_a_manifest_without_tags_is_asked_for_by_its_digest(
    here: UllageServer, client: httpx.Client, name: str, pushed: str
) -> None:
    for tag in ("v3", "latest"):
        client.delete(f"/v2/{name}/manifests/{tag}")
    line = ["repository", "delete", "--image", f"{name}@{pushed}"]
    ended, screen = at_terminal(line, ["y"], {"ULLAGE_REGISTRY": here.host})
    expected = f"This operation will delete the manifest '{pushed}'.\n{SURE}y\n"
    assert (ended, without_bytes(screen)) == (0, expected)


def test_a_repository_and_an_artifact_have_questions_of_their_own(
    here: UllageServer, client: httpx.Client, name: str, pushed: str
) -> None:
    environment = {"ULLAGE_REGISTRY": here.host}
    whole = ["repository", "delete", "--repository", name]
    ended, screen = at_terminal(whole, ["n"], environment)
    assert without_bytes(screen) == (
        f"Are you sure you want to delete the repository '{name}' and all images under it? "
        "(y/n): n\nERROR: Operation cancelled.\n"
    )
    ended, screen = at_terminal(["manifest", "delete", "-n", f"{name}:v3"], ["y"], environment)
    assert (ended, without_bytes(screen)) == (
        0,
        (
            f"Are you sure you want to delete the artifact '{pushed}' and all manifests that refer "
            "to it? (y/n): y\n"
        ),
    )
    assert not exists(client, name)


def test_several_images_are_one_question(
    here: UllageServer, client: httpx.Client, name: str, pushed: str
) -> None:
    other = push_image(client, name, "v4", (b"other",))
    line = ["repository", "delete", "--image", f"{name}:v3", "--image", f"{name}:v4", "-o", "none"]
    ended, screen = at_terminal(line, ["y"], {"ULLAGE_REGISTRY": here.host})
    text = without_bytes(screen)
    assert text.count("Are you sure") == 1
    assert (
        f"the manifest '{pushed}' and all the following images: '{name}:latest', '{name}:v3'.\n"
        in text
    )
    assert f"the manifest '{other}' and all the following images: '{name}:v4'.\n" in text
    assert "Deleting [" in text
    assert text.endswith("Deleted 2 of 2.\n")
    assert ended == 0


def test_a_table_is_the_default_at_a_terminal(here: UllageServer, name: str, pushed: str) -> None:
    line = ["repository", "show-tags", "--repository", name]
    _, screen = at_terminal(line, [], {"ULLAGE_REGISTRY": here.host})
    assert screen.splitlines()[0].split() == ["Tag", "Digest", "Age", "Locked"]
    _, coloured = at_terminal([*line, "-o", "jsonc"], [], {"ULLAGE_REGISTRY": here.host})
    assert "\x1b[" in coloured

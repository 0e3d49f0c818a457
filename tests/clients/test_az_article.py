"""The article, section by section, by Azure's own command line and by ours in its place.

azure.md section 3.6. Both follow the same steps at a registry of their own, and what they print is
compared.
"""

import json
import re
from collections.abc import Callable
from functools import cache

import pytest

from tests.clients.azure import Azure, Ours, Registry, Said, Shell
from tests.clients.programs import payload
from tests.server.pushing import push_image, put_manifest
from tests.support.article import script
from ullage.oci.digest import Digest

pytestmark = pytest.mark.client

NAME = "acr-helloworld"
BASE = payload("the base that all share")
DELETE = "az acr repository delete --name myregistry"
SHOW = f"az acr repository show-manifests --name myregistry --repository {NAME}"
ORPHANS = f'{SHOW}  --query "[?tags==null].digest"'
SURE = "Are you sure you want to continue? (y/n): "
_TIME = re.compile(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{7}Z")
# What ullage says before it asks, and az does not.
_GIVES_BACK = re.compile(r"^This gives back .*\n", re.MULTILINE)

Tool = Callable[[Registry], Shell]
Told = dict[str, Said]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tool], Told]:
    """What a command line tells whoever follows the article with it."""

    @cache
    def follow(tool: Tool) -> Told:
        with Registry(tmp_path_factory.mktemp("article")) as registry:
            return the_article(registry, tool(registry))

    return follow


@pytest.mark.slow
@pytest.mark.parametrize("tool", [Azure, Ours], ids=["az", "ullage"])
def test_the_article_is_true(told: Callable[[Tool], Told], tool: Tool) -> None:
    """Every command in it does what it says there, and shows what it shows there."""
    assert told(tool)


@pytest.mark.slow
def test_ullage_tells_what_az_tells(told: Callable[[Tool], Told]) -> None:
    """Field by field, and question by question up to the line that az does not have."""
    az, ours = told(Azure), told(Ours)
    assert list(az) == list(ours)
    for step, said in az.items():
        assert plain(ours[step]) == plain(said), step


def plain(said: Said) -> tuple[int, str, str]:
    """Without the times, and without the line that az does not have."""
    out, err = (_GIVES_BACK.sub("", _TIME.sub("TIME", text)) for text in (said.out, said.err))
    return said.code, out, err


def the_article(registry: Registry, az: Shell) -> Told:
    """Follow it from its "Delete untagged images" on, whose images the other sections delete."""
    view = registry.view
    told: Told = {}
    # Somebody else's image keeps the base.
    push(registry, "library/base", "1")

    # Push the image with the tag latest, and look at the manifests of the repository.
    first = push(registry, NAME, "latest", "v1")
    shown = told["one manifest"] = az(SHOW)
    assert [(one["digest"], one["tags"]) for one in shown.json] == [(first, ["latest"])]
    assert _TIME.fullmatch(shown.json[0]["timestamp"])

    # Change it, push it with the same tag, look again: there is an orphan.
    second = push(registry, NAME, "latest", "v2")
    shown = told["an orphan"] = az(SHOW)
    tags = {one["digest"]: one["tags"] for one in shown.json}
    assert tags == {first: None, second: ["latest"]}
    assert '"tags": null' in shown.out

    # List untagged images.
    listed = told["untagged"] = az(ORPHANS)
    assert listed.json == [first]
    listed = told["untagged, for a script"] = az(f"{ORPHANS} -o tsv")
    assert listed.out == f"{first}\n"

    # Delete all untagged images: by default, the script deletes nothing.
    everything = ("library/base:1", f"{NAME}@{first}", f"{NAME}:latest")
    said = told["the script as it comes"] = az(script(NAME, enabled=False))
    assert (said.code, said.err) == (0, "")
    assert said.out == "No data deleted. Set ENABLE_DELETE=true to enable image deletion.\n"
    view.assert_disk_holds(*everything)

    # Set ENABLE_DELETE=true.
    def run_the_script(_: str) -> None:
        said = told["the script with ENABLE_DELETE=true"] = az(script(NAME, enabled=True))
        assert (said.code, said.out) == (0, "")
        assert f"WARNING: This operation will delete the manifest '{first}'\n" in said.err

    gone = view.assert_deletion_frees(
        f"{NAME}@{first}", kept=("library/base:1", f"{NAME}:latest"), delete=run_the_script
    )
    assert len(gone) == 1, "its own layer; the base and the config stay"
    assert az(ORPHANS).json == []

    # Delete by tag: the question names the other tag, too.
    latest = push(registry, NAME, "latest", "v3")
    assert push(registry, NAME, "v3", "v3") == latest
    put_manifest(registry.http, NAME, "v2", view.manifest(f"{NAME}@{second}"))
    by_tag = f"{DELETE} --image {NAME}:latest"
    question = (
        f"This operation will delete the manifest '{latest}' and all the following images: "
        f"'{NAME}:latest', '{NAME}:v3'.\n"
    )
    said = told["delete by tag, no"] = az.typed(by_tag, "n")
    assert said.code == 1
    assert without_line(said.out) == f"{question}{SURE}n\nERROR: Operation cancelled.\n"
    view.assert_disk_holds("library/base:1", f"{NAME}:v2", f"{NAME}:v3")

    def delete_by_tag(_: str) -> None:
        said = told["delete by tag"] = az.typed(by_tag, "y")
        assert (said.code, without_line(said.out)) == (0, f"{question}{SURE}y\n")

    view.assert_deletion_frees(
        f"{NAME}@{latest}", kept=("library/base:1", f"{NAME}:v2"), delete=delete_by_tag
    )
    assert view.tags(NAME) == ["v2"]

    # Delete by manifest digest.
    third = push(registry, NAME, "v1", "v1")

    def delete_by_digest(image: str) -> None:
        said = told["delete by digest"] = az.typed(f"{DELETE} --image {image}", "y")
        assert said.code == 0
        assert without_line(said.out) == (
            f"This operation will delete the manifest '{second}' and all the following images: "
            f"'{NAME}:v2'.\n{SURE}y\n"
        )

    view.assert_deletion_frees(
        f"{NAME}@{second}", kept=("library/base:1", f"{NAME}:v1"), delete=delete_by_digest
    )

    # Deleting by tag is not untagging, which frees nothing.
    said = told["untag"] = az(f"az acr repository untag --name myregistry --image {NAME}:v1")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert (view.tags(NAME), view.has_manifest(f"{NAME}@{third}")) == ([], True)
    view.assert_disk_holds("library/base:1", f"{NAME}@{third}")

    # Delete the repository. (On a terminal ullage counts what went; az prints it as JSON.)
    def delete_repository(_: str) -> None:
        said = told["delete the repository"] = az.typed(
            f"{DELETE} --repository {NAME} -o json", "y"
        )
        assert said.code == 0
        question, _, answer = without_line(said.out).partition("y\n")
        assert question == (
            f"Are you sure you want to delete the repository '{NAME}' and all images under it? "
            "(y/n): "
        )
        assert json.loads(answer) == {"manifestsDeleted": [third], "tagsDeleted": None}

    view.assert_deletion_frees(
        f"{NAME}@{third}", kept=("library/base:1",), delete=delete_repository
    )
    said = told["what is left"] = az("az acr repository list --name myregistry")
    assert said.json == ["library/base"]
    return told


def push(registry: Registry, name: str, tag: str, *own: str) -> Digest:
    """Push an image over the base, with layers that are its own."""
    return push_image(registry.http, name, tag, (BASE, *map(payload, own)))


def without_line(screen: str) -> str:
    return _GIVES_BACK.sub("", screen)

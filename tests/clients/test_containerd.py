"""containerd, against a real server process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.containerd import Containerd
from tests.clients.layout import Image, archive, write_image
from tests.clients.view import View
from tests.support.server import UllageServer

pytestmark = pytest.mark.client


@pytest.fixture
def containerd() -> Iterator[Containerd]:
    with Containerd() as containerd:
        yield containerd


@pytest.fixture
def pushed(
    containerd: Containerd, registry: UllageServer, tmp_path: Path
) -> tuple[Containerd, dict[str, str]]:
    """Three images with one base layer, pushed to two repositories; each one's name and digest."""
    digests = {}
    for image in ("app:v1", "app:v2", "team/other:1"):
        folder, name = tmp_path / image.replace("/", "-"), f"{registry.host}/{image}"
        digests[image] = write_image(folder, Image(("base", image)), name)
        containerd.load(archive(folder))
        containerd.push(name)
    return containerd, digests


def test_delete_gives_back_what_only_that_image_had(
    pushed: tuple[Containerd, dict[str, str]], registry: UllageServer, view: View
) -> None:
    """It asks for every blob before it uploads, and mounts without asking the source."""
    containerd, digests = pushed
    kept = ("app:v2", "team/other:1")
    gone = view.assert_deletion_frees(f"app@{digests['app:v1']}", kept=kept)
    assert len(gone) == 2, "its config and its layer; the base stays"
    for image in kept:
        containerd.fetch(f"{registry.host}/{image}")
    view.assert_deletion_frees(f"app@{digests['app:v2']}", kept=("team/other:1",))
    view.assert_deletion_frees(f"team/other@{digests['team/other:1']}", kept=())


@pytest.mark.parametrize("registry", [("--lease", "8s")], indirect=True)
def test_an_image_pushed_again_unchanged_gives_back_its_bytes_when_the_lease_ends(
    pushed: tuple[Containerd, dict[str, str]], registry: UllageServer, view: View
) -> None:
    """It finds every blob there, then the manifest: no manifest redeems what it was promised.

    docs/design/deletion.md section 3.2: too long is harmless.
    """
    containerd, digests = pushed
    containerd.push(f"{registry.host}/app:v1")
    kept = ("app:v2", "team/other:1")
    view.assert_deletion_frees(f"app@{digests['app:v1']}", kept=kept)

"""The main job, by a real Docker daemon: deleting an image frees its own layers and no other."""

from pathlib import Path

import pytest

from tests.clients.dockerd import Docker
from tests.clients.programs import make_immutable, write_app_context, write_base_context
from tests.clients.view import DOCKER_LIST, View
from tests.support.server import UllageServer

pytestmark = pytest.mark.client


@pytest.fixture(scope="module")
def images(docker_daemon: Docker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the images v1, v2 and other: one base layer, and one of each its own."""
    folder = tmp_path_factory.mktemp("images")
    docker_daemon.build(write_base_context(folder / "base"), "base")
    names = ("v1", "v2", "other")
    for name in names:
        context = write_app_context(folder / name, "base", f"this is {name}")
        docker_daemon.build(context, name)
    docker_daemon.docker("image", "save", "--output", folder / "images.tar", *names)
    return folder / "images.tar"


@pytest.fixture
def built(images: Path, docker: Docker) -> Docker:
    """The daemon with just these images, as if it had built them in this test."""
    docker.docker("image", "load", "--quiet", "--input", images)
    return docker


def test_a_replaced_image_is_deleted_by_digest_and_gives_back_its_own_layers(
    built: Docker, registry: UllageServer, view: View
) -> None:
    """Build, push, re-push, pull and run, delete the old: docs/design/deletion.md section 1."""
    host = registry.host
    v1 = built.push("v1", f"{host}/app:latest")
    other = built.push("other", f"{host}/team/other:latest")
    assert v1 == view.digest("app:latest")
    view.assert_disk_holds("app:latest", "team/other:latest")

    v2 = built.push("v2", f"{host}/app:latest")
    assert (view.tags("app"), view.digest("app:latest")) == (["latest"], v2)
    view.assert_disk_holds(f"app@{v1}", f"app@{v2}", "team/other:latest")

    # Untagged is not gone: it pulls by digest, and runs.
    _assert_runs(built, f"{host}/app@{v1}", "this is v1")
    _assert_runs(built, f"{host}/app:latest", "this is v2")
    inspected = built.docker("image", "inspect", f"{host}/app:latest")
    assert f"{host}/app@{v2}" in inspected

    gone = view.assert_deletion_frees(f"app@{v1}", kept=("app:latest", "team/other:latest"))
    assert len(gone) == 2, "its config and its layer; the base stays"

    built.forget_everything()
    refused = built.attempt("pull", f"{host}/app@{v1}")
    assert refused.returncode != 0
    assert "manifest unknown" in refused.stderr
    _assert_runs(built, f"{host}/app:latest", "this is v2")
    _assert_runs(built, f"{host}/team/other@{other}", "this is other")


def test_a_layer_mounted_from_another_repository_outlives_it(
    built: Docker, registry: UllageServer, view: View
) -> None:
    """distribution-spec, "Mounting a blob from another repository"."""
    host = registry.host
    digest = built.push("v1", f"{host}/first:1")
    assert built.push("v1", f"{host}/second:1") == digest
    built.push("v2", f"{host}/second:2")
    view.assert_disk_holds("first:1", "second:1", "second:2")

    kept = ("second:1", "second:2")
    assert not view.assert_deletion_frees(f"first@{digest}", kept=kept), "second needs all of it"
    assert view.repositories() == ["second"]
    _assert_runs(built, f"{host}/second:1", "this is v1")

    gone = view.assert_deletion_frees(f"second@{digest}", kept=("second:2",))
    assert len(gone) == 2, "its config and its layer; the base stays"
    view.assert_deletion_frees(f"second@{view.digest('second:2')}", kept=())
    assert view.repositories() == []


def test_an_image_pushed_twice_gives_back_its_bytes_at_once(
    built: Docker, registry: UllageServer, view: View
) -> None:
    """docs/design/deletion.md section 3: whatever the daemon asks, its manifest redeems."""
    host = registry.host
    for name in ("v1", "v2", "other"):
        built.docker("tag", name, f"{host}/app:{name}")
    for _ in range(2):
        built.docker("push", "--quiet", "--all-tags", f"{host}/app")
    view.assert_disk_holds("app:v1", "app:v2", "app:other")
    view.assert_deletion_frees(f"app@{view.digest('app:v1')}", kept=("app:v2", "app:other"))
    view.assert_deletion_frees(f"app@{view.digest('app:v2')}", kept=("app:other",))
    view.assert_deletion_frees(f"app@{view.digest('app:other')}", kept=())


def test_what_was_deleted_everywhere_is_uploaded_again(
    built: Docker, registry: UllageServer, view: View
) -> None:
    """The daemon remembers where its layers were, and asks to mount them from there in vain."""
    for repository in ("first", "second"):
        image = f"{repository}@{built.push('v1', f'{registry.host}/{repository}:1')}"
        view.assert_deletion_frees(image, kept=())
    digest = built.push("v1", f"{registry.host}/third:1")
    view.assert_disk_holds("third:1")
    _assert_runs(built, f"{registry.host}/third:1", "this is v1")
    view.assert_deletion_frees(f"third@{digest}", kept=())


def test_a_manifest_list_takes_its_images_along(
    built: Docker, registry: UllageServer, view: View
) -> None:
    """`docker manifest push` mounts from another repository; deletion.md section 2."""
    host = registry.host
    tagged = built.push("v1", f"{host}/app:v1")
    elsewhere = built.push("v2", f"{host}/team/other:v2")
    built.docker(
        "manifest", "create", "--insecure", f"{host}/app:all", f"{host}/app:v1",
        f"{host}/team/other:v2",
    )  # fmt: skip
    built.docker("manifest", "push", "--insecure", f"{host}/app:all")
    assert view.media_type("app:all") == DOCKER_LIST
    children = [child["digest"] for child in view.manifest("app:all")["manifests"]]
    assert children == [tagged, elsewhere]

    kept = ("app:v1", "team/other:v2")
    assert not view.assert_deletion_frees(f"app@{view.digest('app:all')}", kept=kept)
    # The tagged image stays; the other one was in this repository for the list only.
    assert view.has_manifest("app:v1")
    assert not view.has_manifest(f"app@{elsewhere}")
    gone = view.assert_deletion_frees(f"team/other@{elsewhere}", kept=("app:v1",))
    assert len(gone) == 2, "its config and its layer; the base stays"


def _assert_runs(docker: Docker, image: str, message: str) -> None:
    """Pull the image with nothing of it at hand, and run it."""
    docker.forget_everything()
    docker.docker("pull", "--quiet", image)
    assert docker.run(image) == message


def test_a_refusal_by_a_rule_is_told_in_its_words(
    built: Docker, registry: UllageServer, view: View
) -> None:
    """docs/guides/immutable.md: a tag is written once, and the client says which rule says so."""
    host = registry.host
    make_immutable(registry, "app:v*")
    digest = built.push("v1", f"{host}/app:v1")
    assert built.push("v1", f"{host}/app:v1") == digest
    built.docker("image", "tag", "v2", f"{host}/app:v1")
    refused = built.attempt("push", f"{host}/app:v1")
    said = "tag 'v1' is immutable by the rule 'app:v*'"
    assert (refused.returncode, said in refused.stderr) == (1, True), refused
    assert view.digest("app:v1") == digest

"""skopeo, against a real server process: layouts in and out, copies inside, deletes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.containers import Skopeo
from tests.clients.layout import Image, read_contents, write_image, write_index
from tests.clients.programs import make_immutable
from tests.clients.view import DOCKER_MANIFEST, OCI_INDEX, View
from tests.support.server import UllageServer

pytestmark = pytest.mark.client


@pytest.fixture
def skopeo() -> Iterator[Skopeo]:
    with Skopeo() as skopeo:
        yield skopeo


def test_delete_gives_back_what_only_that_image_had(
    skopeo: Skopeo, registry: UllageServer, view: View, tmp_path: Path
) -> None:
    """`skopeo delete` resolves the tag, then deletes the manifest (deletion.md section 2)."""
    host = registry.host
    for name in ("v1", "v2", "other"):
        write_image(tmp_path / name, Image(("base", name)))
    skopeo.copy(f"oci:{tmp_path}/v1", f"docker://{host}/app:v1")
    skopeo.copy(f"oci:{tmp_path}/v2", f"docker://{host}/app:v2")
    # Mounts the base from app; the second time everything is there already.
    for _ in range(2):
        skopeo.copy(f"oci:{tmp_path}/other", f"docker://{host}/team/other:1")
    assert skopeo.list_tags(f"{host}/app") == ["v1", "v2"]
    assert skopeo.inspect(f"{host}/app:v2")["Labels"] == {"layers": "base v2"}
    view.assert_disk_holds("app:v1", "app:v2", "team/other:1")

    def delete(image: str) -> None:
        skopeo.delete(f"{host}/{image}")

    kept = ("app:v2", "team/other:1")
    gone = view.assert_deletion_frees("app:v1", kept=kept, delete=delete)
    assert len(gone) == 2, "its config and its layer; the base stays"
    assert skopeo.list_tags(f"{host}/app") == ["v2"]

    view.assert_deletion_frees("app:v2", kept=("team/other:1",), delete=delete)
    assert view.repositories() == ["team/other"]
    view.assert_deletion_frees("team/other:1", kept=(), delete=delete)


def test_a_multi_platform_index_comes_back_byte_for_byte(
    skopeo: Skopeo, registry: UllageServer, view: View, tmp_path: Path
) -> None:
    """`--all`, from a layout through two repositories to a layout; then the index is deleted."""
    host = registry.host
    images = [Image(("base", "amd64")), Image(("base", "arm64"), "arm64")]
    index = write_index(tmp_path / "in", images)
    skopeo.copy(f"oci:{tmp_path}/in", f"docker://{host}/app:multi", "--all")
    assert (view.digest("app:multi"), view.media_type("app:multi")) == (index, OCI_INDEX)
    skopeo.copy(f"docker://{host}/app:multi", f"docker://{host}/team/copy:multi", "--all")
    view.assert_disk_holds("app:multi")
    skopeo.copy(f"docker://{host}/team/copy@{index}", f"oci:{tmp_path}/out:multi", "--all")
    assert read_contents(tmp_path / "out") == read_contents(tmp_path / "in")

    single = write_image(tmp_path / "single", Image(("base", "single")))
    skopeo.copy(f"oci:{tmp_path}/single", f"docker://{host}/app:single")
    kept = ("team/copy:multi", "app:single")
    assert not view.assert_deletion_frees(f"app@{index}", kept=kept), "the copy needs all of it"
    gone = view.assert_deletion_frees(f"team/copy@{index}", kept=("app:single",))
    assert len(gone) == 4, "two configs and two layers; the base stays"
    skopeo.copy(f"docker://{host}/app@{single}", f"oci:{tmp_path}/single-out:x")
    assert read_contents(tmp_path / "single-out") == read_contents(tmp_path / "single")


def test_an_image_converted_to_dockers_format_shares_its_layers(
    skopeo: Skopeo, registry: UllageServer, view: View, tmp_path: Path
) -> None:
    """`--format v2s2`: another manifest, the same blobs."""
    host = registry.host
    digest = write_image(tmp_path / "in", Image(("base", "v1")))
    skopeo.copy(f"oci:{tmp_path}/in", f"docker://{host}/app:oci")
    skopeo.copy(f"oci:{tmp_path}/in", f"docker://{host}/app:docker", "--format", "v2s2")
    assert view.media_type("app:docker") == DOCKER_MANIFEST
    view.assert_disk_holds("app:oci", "app:docker")
    view.assert_deletion_frees(f"app@{digest}", kept=("app:docker",))
    skopeo.copy(f"docker://{host}/app:docker", f"oci:{tmp_path}/out:x", "--format", "oci")
    original, back = read_contents(tmp_path / "in"), read_contents(tmp_path / "out")
    layers = [layer["digest"] for layer in view.manifest("app:docker")["layers"]]
    assert [original[digest] for digest in layers] == [back[digest] for digest in layers]
    view.assert_deletion_frees(f"app@{view.digest('app:docker')}", kept=())


def test_a_refusal_by_a_rule_is_told_in_its_words(
    skopeo: Skopeo, registry: UllageServer, view: View, tmp_path: Path
) -> None:
    """docs/guides/immutable.md: a tag is written once, and the client says which rule says so."""
    host = registry.host
    for name in ("one", "two"):
        write_image(tmp_path / name, Image((name,)))
    make_immutable(registry, "app:v*")
    skopeo.copy(f"oci:{tmp_path}/one", f"docker://{host}/app:v1")
    digest = view.digest("app:v1")
    skopeo.copy(f"oci:{tmp_path}/one", f"docker://{host}/app:v1")
    no_tls = "--dest-tls-verify=false"
    refused = skopeo.attempt("copy", no_tls, f"oci:{tmp_path}/two", f"docker://{host}/app:v1")
    said = "tag 'v1' is immutable by the rule 'app:v*'"
    assert (refused.returncode, said in refused.stderr) == (1, True), refused
    refused = skopeo.attempt("delete", "--tls-verify=false", f"docker://{host}/app:v1")
    assert (refused.returncode, said in refused.stderr) == (1, True), refused
    assert view.digest("app:v1") == digest
    skopeo.copy(f"oci:{tmp_path}/two", f"docker://{host}/app:latest")

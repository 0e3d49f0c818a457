"""Surveys of OCI image layouts, made by skopeo (image-spec, "Image Layout")."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.layout import Image, write_image, write_index
from tests.support.require import require_command
from tests.support.server import run_ullage
from tests.survey.distribution import directory_bytes, file_bytes, looked


def _skopeo_copy(source: Path, target: Path, tag: str) -> None:
    """As servers keep them: a layout for each repository, a tag for each image."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [require_command("skopeo"), "--insecure-policy", "copy", "--all"]
    done = subprocess.run(
        [*command, f"oci:{source}", f"oci:{target}:{tag}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of two repositories, one inside the other: three tagged images."""
    write_image(tmp_path / "one", Image(("base", "one")))
    write_image(tmp_path / "other", Image(("base", "other")))
    write_index(tmp_path / "multi", [Image(("a",)), Image(("b",), "arm64")])
    place = tmp_path / "place"
    _skopeo_copy(tmp_path / "one", place / "app", "v1")
    _skopeo_copy(tmp_path / "other", place / "app", "v2")
    _skopeo_copy(tmp_path / "multi", place / "app" / "inner", "latest")
    return place


def _adds_up(place: Path) -> bool:
    found = looked(place)
    summed = sum(each.bytes for each in found.categories.values())
    return found.total.bytes == summed == file_bytes(place) + directory_bytes(place)


def test_layouts_below_a_folder_are_its_repositories(place: Path) -> None:
    found = looked(place)
    assert found.kind == "OCI layouts"
    assert (found.counts.repositories, found.counts.tags, found.counts.manifests) == (2, 3, 5)
    assert {each.name for each in found.repositories} == {"app", "app/inner"}
    assert found.categories["tagged"].files == 5 + 2 + 2 + 2 + 3
    assert (found.faults, found.collections) == ([], [])
    assert found.categories["other"].files == 0
    assert _adds_up(place)


def test_one_layout_is_a_repository_by_the_name_of_its_folder(place: Path) -> None:
    assert [each.name for each in looked(place / "app" / "inner").repositories] == ["inner"]


def _index(place: Path) -> Path:
    return place / "app" / "index.json"


def _untag(place: Path) -> None:
    body = json.loads(_index(place).read_text())
    del body["manifests"][0]["annotations"]
    _index(place).write_text(json.dumps(body))


def _unlist(place: Path) -> None:
    body = json.loads(_index(place).read_text())
    del body["manifests"][0]
    _index(place).write_text(json.dumps(body))


@pytest.mark.parametrize(("change", "category"), [(_untag, "untagged"), (_unlist, "unreferenced")])
def test_what_only_an_untagged_image_needs_is_told_from_what_nothing_names(
    place: Path, change: Callable[[Path], None], category: str
) -> None:
    """The layer that both images have stays tagged: manifest, configuration and one layer go."""
    change(place)
    assert looked(place).categories[category].files == 3
    assert _adds_up(place)


def test_layouts_that_share_files_by_hard_links_are_counted_once(place: Path) -> None:
    """As zot keeps a blob that several repositories have."""
    before = looked(place)
    shared = place / "copy"
    for path in sorted((place / "app").rglob("*")):
        target = shared / path.relative_to(place / "app")
        if path.is_file() and "inner" not in path.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    found = looked(place)
    assert found.counts.repositories == 3
    assert found.categories["tagged"] == before.categories["tagged"]
    sizes = {each.name: each.tagged_bytes for each in found.repositories}
    assert sizes["copy"] == sizes["app"]
    assert found.faults == []


def test_unfinished_uploads_and_what_is_missing_are_named(place: Path) -> None:
    uploads = place / "app" / ".uploads"
    uploads.mkdir()
    (uploads / "one").write_bytes(b"u" * 500)
    body = json.loads(_index(place).read_text())
    digest = body["manifests"][0]["digest"].removeprefix("sha256:")
    (place / "app" / "blobs" / "sha256" / digest).unlink()
    found = looked(place)
    assert found.categories["uploads"].bytes == 500
    assert [(each.fault, each.examples) for each in found.faults] == [
        ("tag_without_manifest", ["app:v1"])
    ]
    assert _adds_up(place)


@pytest.mark.parametrize("text", ["", "[]", '{"manifests": 5}', '{"manifests": [7]}'])
def test_a_layout_without_its_index_is_no_pile_of_unreferenced_blobs(
    place: Path, text: str
) -> None:
    _index(place).write_text(text)
    done = run_ullage("survey", place)
    assert (done.returncode, done.stdout) == (3, "")
    assert "index.json: no index of an OCI layout" in done.stderr


def test_the_table_of_layouts_has_no_collectors(place: Path) -> None:
    done = run_ullage("survey", place, "-o", "table", "--top", "5")
    assert done.returncode == 0, done.stderr
    assert "garbage-collect" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("app")

"""`ullage survey`: what it says of trees with all kinds of faults, and how it ends."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.images import MANIFEST_TYPE
from tests.support.server import run_ullage
from tests.survey.distribution import directory_bytes, file_bytes, looked
from tests.survey.trees import TreeMaker
from ullage.cli.local.survey import screen
from ullage.documents import plain
from ullage.survey.faults import Fault


@pytest.fixture
def tree(tmp_path: Path) -> TreeMaker:
    return TreeMaker(tmp_path / "registry")


@pytest.fixture
def place(tree: TreeMaker) -> Path:
    return tree.root.parents[2]


def test_a_blob_is_tagged_untagged_or_named_by_nothing(tree: TreeMaker, place: Path) -> None:
    tagged = tree.image("app", "v1")
    untagged = tree.image("app")
    tree.blob(b"orphan" * 100)
    found = looked(place)
    kept = [tree.data(tagged["digest"]), *_parts(tree, tagged["digest"])]
    gone = [tree.data(untagged["digest"]), *_parts(tree, untagged["digest"])]
    assert found.categories["tagged"].bytes == sum(path.stat().st_size for path in kept)
    assert found.categories["untagged"].bytes == sum(path.stat().st_size for path in gone)
    assert found.categories["unreferenced"].bytes == 600
    assert found.faults == []


def _parts(tree: TreeMaker, digest: object) -> list[Path]:
    body = json.loads(tree.data(digest).read_bytes())
    return [tree.data(part["digest"]) for part in (body["config"], *body["layers"])]


def test_platforms_and_referrers_of_what_is_tagged_are_tagged(tree: TreeMaker, place: Path) -> None:
    """Whether or not they have a link of their own (deletion.md section 2)."""
    platforms = [tree.image("app", salt=str(number)) for number in range(2)]
    index = tree.index("app", platforms, "multi")
    tree.image("app", salt="signature", subject=index)
    tree.revision("app", platforms[0]["digest"]).unlink()
    found = looked(place)
    assert found.categories["untagged"].files == 0
    assert found.categories["unreferenced"].files == 0
    assert found.categories["tagged"].files == 1 + 3 * 3


def test_hard_links_and_what_is_not_the_registrys_are_counted_once(
    tree: TreeMaker, place: Path
) -> None:
    tree.image("app", "v1")
    (place / "notes.txt").write_bytes(b"n" * 1000)
    os.link(place / "notes.txt", tree.root / "blobs" / "also.txt")
    (tree.root / "repositories" / "app" / "_manifests" / "link").symlink_to("/nowhere")
    (place / "lost+found" / "inner").mkdir(parents=True)
    found = looked(place)
    assert found.categories["other"].bytes == 1000 + len("/nowhere")
    assert found.total.bytes == file_bytes(place) - 1000 + directory_bytes(place)


def _platform_gone(tree: TreeMaker) -> None:
    child = tree.image("app", salt="child")
    tree.index("app", [child], "multi")
    shutil.rmtree(tree.data(child["digest"]).parent)
    shutil.rmtree(tree.revision("app", child["digest"]).parent)


def _platform_unlinked(tree: TreeMaker) -> None:
    child = tree.image("app", salt="child")
    tree.index("app", [child], "multi")
    tree.revision("app", child["digest"]).unlink()


def _layer_gone(tree: TreeMaker) -> None:
    layer = _parts(tree, tree.image("app", "v1")["digest"])[1]
    shutil.rmtree(layer.parent)


def _size_differs(tree: TreeMaker) -> None:
    _parts(tree, tree.image("app", "v1")["digest"])[1].write_bytes(b"short")


def _tag_to_nothing(tree: TreeMaker) -> None:
    tree.image("app", "v1")
    tree.tag("app", "v2", "sha256:" + "ab" * 32)


def _link_to_nothing(tree: TreeMaker) -> None:
    tree.image("app", "v1")
    tree.link(tree.manifests("app") / "revisions", "sha256:" + "ab" * 32)


def _foreign_link(tree: TreeMaker) -> None:
    tree.revision("app", tree.image("app", "v1")["digest"]).write_text("sha256:" + "ab" * 32)


def _no_manifest(tree: TreeMaker) -> None:
    tree.data(tree.image("app", "v1")["digest"]).write_bytes(b"[" * 100_000)


def _signature_left(tree: TreeMaker) -> None:
    tree.image("app", "sha256-" + "ab" * 32 + ".sig")


def _tag_without_link(tree: TreeMaker) -> None:
    """As distribution 2.1.0 left some."""
    tree.revision("app", tree.image("app", "v1")["digest"]).unlink()
    tree.image("app", "v2")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (_platform_gone, Fault.PLATFORM_MISSING),
        (_platform_unlinked, Fault.PLATFORM_UNLINKED),
        (_layer_gone, Fault.LAYER_MISSING),
        (_size_differs, Fault.OTHER_SIZE),
        (_tag_to_nothing, Fault.TAG_WITHOUT_MANIFEST),
        (_link_to_nothing, Fault.LINK_TO_NOTHING),
        (_foreign_link, Fault.BAD_LINK),
        (_no_manifest, Fault.DAMAGED_MANIFEST),
        (_signature_left, Fault.SIGNATURE_WITHOUT_IMAGE),
        (_tag_without_link, Fault.TAG_WITHOUT_LINK),
    ],
)
def test_a_fault_of_an_image_is_named(
    tree: TreeMaker, place: Path, damage: Callable[[TreeMaker], None], fault: Fault
) -> None:
    damage(tree)
    found = {each.fault: each for each in looked(place).faults}
    assert found[fault.name.lower()].count == 1
    assert found[fault.name.lower()].examples[0].startswith("app")
    assert sum(each.bytes for each in looked(place).categories.values()) == (
        file_bytes(place) + directory_bytes(place)
    )


def test_a_layer_that_lies_elsewhere_is_no_fault(tree: TreeMaker, place: Path) -> None:
    """image-spec, "Non-Distributable Layers"."""
    config = tree.blob(b"{}")
    layer = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": "sha256:" + "cd" * 32,
        "size": 5,
        "urls": ["https://example.org/layer"],
    }
    tree.manifest("app", MANIFEST_TYPE, {"config": config, "layers": [layer]}, "v1")
    assert looked(place).faults == []


def test_only_a_deep_survey_finds_other_bytes_of_the_same_length(
    tree: TreeMaker, place: Path
) -> None:
    layer = _parts(tree, tree.image("app", "v1")["digest"])[1]
    layer.write_bytes(b"x" * layer.stat().st_size)
    assert looked(place).faults == []
    [fault] = looked(place, deep=True).faults
    assert fault.fault == "wrong_bytes"


def test_random_documents_in_place_of_manifests_break_nothing(tree: TreeMaker, place: Path) -> None:
    """Whatever a manifest says, every byte is in one category."""
    chosen = random.Random(20)
    values: list[object] = [
        None,
        1,
        -1,
        2.5,
        True,
        "",
        "sha256:x",
        [],
        {},
        [[]],
        [{}],
        [None],
        {"digest": 7},
    ]
    names = ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "fsLayers"]
    for number in range(60):
        body: dict[str, object] = {
            name: chosen.choice(values) for name in names if chosen.random() < 0.7
        }
        made = tree.blob(json.dumps({**body, "n": number, "schemaVersion": 2}).encode())
        tree.manifest("app", MANIFEST_TYPE, body | {"n": number}, f"t{number}")
        tree.tag("app", f"u{number}", made["digest"])
    found = looked(place)
    assert found.total.bytes == file_bytes(place) + directory_bytes(place)
    assert found.counts.manifests == 120


# --- which places ---------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["", "docker", "docker/registry", "docker/registry/v2"])
def test_the_tree_is_found_at_and_below_the_place(tree: TreeMaker, place: Path, inner: str) -> None:
    tree.image("app", "v1")
    found = looked(place / inner)
    assert found.counts.tags == 1
    assert found.total.bytes == file_bytes(place / inner) + directory_bytes(place / inner)


def _of_gitlab(tree: TreeMaker) -> None:
    (tree.root.parent / "lockfiles").mkdir()
    (tree.root.parent / "lockfiles" / "database-in-use").touch()


def _of_harbor(tree: TreeMaker) -> None:
    shutil.rmtree(tree.manifests("app") / "tags")


def _no_registry(tree: TreeMaker) -> None:
    shutil.rmtree(tree.root)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_of_gitlab, "in a database"),
        (_of_harbor, "in a database"),
        (_no_registry, "no registry's storage"),
    ],
)
def test_a_place_whose_tags_are_elsewhere_is_refused(
    tree: TreeMaker, place: Path, change: Callable[[TreeMaker], None], said: str
) -> None:
    """All of it would look untagged."""
    tree.image("app", "v1")
    change(tree)
    done = run_ullage("survey", place)
    assert done.returncode == 3
    assert said in done.stderr
    assert done.stdout == ""


def test_the_command_says_it_in_json_and_on_one_screen(tree: TreeMaker, place: Path) -> None:
    for number in range(3):
        tree.image("app", f"v{number}")
    asked = run_ullage("survey", place, "-o", "json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout) == plain(looked(place))
    shown = run_ullage("survey", place, "-o", "table", "--top", "1")
    assert "garbage-collect -m, 2.x" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("app ")


def test_the_worst_tree_fits_on_one_screen(tree: TreeMaker, place: Path) -> None:
    for damage in (
        _platform_gone, _layer_gone, _tag_to_nothing, _no_manifest, _signature_left,
    ):  # fmt: skip
        copy = TreeMaker(place / damage.__name__)
        damage(copy)
        shutil.copytree(copy.root / "blobs", tree.root / "blobs", dirs_exist_ok=True)
        shutil.move(
            copy.root / "repositories" / "app", tree.root / "repositories" / damage.__name__[1:]
        )
    lines = screen(looked(place))
    assert len(lines) <= 23
    assert sum(line.startswith("FAULT") for line in lines) >= 4
    done = run_ullage("survey", place, "-o", "table")
    assert done.returncode == 1
    assert max(map(len, done.stdout.splitlines())) <= 79

"""What a survey predicts is what the real collectors do, to the byte."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.survey.distribution import (
    directory_bytes,
    disk_usage,
    file_bytes,
    fill,
    looked,
    registry,
    run_of,
    traces,
    v2,
)

VERSIONS = (2, 3)


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture(scope="module")
def filled(version: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "registry"
    fill(version, folder)
    return folder


def test_every_byte_is_in_one_category_and_nothing_is_changed(filled: Path) -> None:
    """Categories sum to `du -sb`."""
    before = traces(filled)
    found = looked(filled)
    assert traces(filled) == before
    assert found.total.bytes == file_bytes(filled) + directory_bytes(filled)
    assert disk_usage(filled) in (
        found.total.bytes,
        found.total.bytes - found.categories["directories"].bytes,
    )
    assert sum(each.bytes for each in found.categories.values()) == found.total.bytes
    assert found.categories["uploads"].bytes == 8000
    assert found.categories["unreferenced"].bytes == 7000
    assert found.categories["other"].files == 0
    assert found.moved == 0


@pytest.mark.parametrize("untagged", [False, True])
def test_a_collection_frees_what_was_predicted(
    filled: Path, version: int, untagged: bool, tmp_path: Path
) -> None:
    copy = tmp_path / "registry"
    shutil.copytree(filled, copy)
    run = run_of(looked(copy), version, untagged=untagged)
    before = file_bytes(copy)
    server = registry(version, copy)
    server.prepare()
    server.collect(untagged=untagged)
    assert run.stops is None
    assert before - file_bytes(copy) == run.bytes + run.link_bytes
    after = looked(copy)
    assert run.blobs == looked(filled).counts.blobs - after.counts.blobs


def test_platforms_and_referrers_that_untagging_collectors_destroy_are_counted(
    filled: Path, version: int
) -> None:
    """Of two tagged indexes: version 3 spares the platforms that have a link (peers.md B2)."""
    plain = run_of(looked(filled), version, untagged=False).destroyed
    # The platform whose link was deleted, of which every collection removes the layers.
    assert (plain.images, plain.platforms, plain.referrers) == (0, 1, 0)
    lost = run_of(looked(filled), version, untagged=True).destroyed
    assert (lost.images, lost.platforms, lost.referrers) == (0, {2: 4, 3: 1}[version], 1)
    assert lost.bytes > plain.bytes > 6000


def _damage_nothing(root: Path) -> None:
    """All is well."""


def _damage_manifest(root: Path) -> None:
    link = next((root / "repositories/app/_manifests/tags/v1/current").glob("link"))
    digest = link.read_text().removeprefix("sha256:")
    (root / "blobs/sha256" / digest[:2] / digest / "data").write_bytes(b"{")


def _remove_manifest(root: Path) -> None:
    link = next((root / "repositories/app/_manifests/tags/v1/current").glob("link"))
    digest = link.read_text().removeprefix("sha256:")
    (root / "blobs/sha256" / digest[:2] / digest / "data").unlink()


def _empty_link(root: Path) -> None:
    links = (root / "repositories/app/_manifests/revisions").glob("*/*/link")
    next(links).write_bytes(b"")


def _empty_tag(root: Path) -> None:
    (root / "repositories/app/_manifests/tags/v1/current/link").write_bytes(b"")


def _tag_without_a_link(root: Path) -> None:
    shutil.rmtree(root / "repositories/app/_manifests/tags/v1")


def _never_tagged(root: Path) -> None:
    shutil.rmtree(root / "repositories/app/_manifests/tags")


def _no_layers(root: Path) -> None:
    shutil.rmtree(root / "repositories/app/_layers")


DAMAGES = (
    _damage_nothing,
    _damage_manifest,
    _remove_manifest,
    _empty_link,
    _empty_tag,
    _tag_without_a_link,
    _never_tagged,
    _no_layers,
)


@pytest.mark.thorough
@pytest.mark.parametrize("untagged", [False, True])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_what_a_collector_stops_at_was_predicted(
    filled: Path, version: int, untagged: bool, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    """And if it does not stop, it frees what was said, to the byte."""
    copy = tmp_path / "registry"
    shutil.copytree(filled, copy)
    damage(v2(copy))
    run = run_of(looked(copy), version, untagged=untagged)
    before = file_bytes(copy)
    server = registry(version, copy)
    server.prepare()
    if run.stops is None:
        server.collect(untagged=untagged)
    else:
        with pytest.raises(RuntimeError, match="garbage-collect failed"):
            server.collect(untagged=untagged)
    assert before - file_bytes(copy) == run.bytes + run.link_bytes

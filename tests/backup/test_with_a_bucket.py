"""Backups of a registry whose blobs are in a bucket (docs/design/backup.md section 4)."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.backup.house import APP, House, house, restored, tags_in
from tests.support.buckets import CREDENTIALS, S3Server
from tests.support.registry import ALICE, settle
from ullage.backup.layout import BLOBS
from ullage.backup.put_back import RestoreWishes
from ullage.deletion.delete import delete_manifest
from ullage.oci.digest import parse_digest
from ullage.wiring.opening import CannotStart

pytestmark = [pytest.mark.client, pytest.mark.thorough]

LAYER = b"a layer that is to be deleted" * 100


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with S3Server(tmp_path / "buckets") as server:
        yield server.url(server.fresh_bucket(), "registry")


@pytest.fixture
def home(tmp_path: Path, bucket: str) -> Iterator[House]:
    with house(tmp_path / "data", tmp_path / "backups", storage=bucket) as home:
        home.push("v1", LAYER)
        home.push("v2")
        yield home


def erase(home: House, tag: str) -> None:
    """Delete an image, and its bytes with it."""
    no_grace = replace(home.registry.limits, read_grace=timedelta(0), signed_read=timedelta(0))
    registry = replace(home.registry, limits=no_grace)
    delete_manifest(registry, APP, parse_digest(tags_in(registry)[tag]), ALICE)
    settle(registry)


def test_the_database_comes_back_to_the_blobs_that_stayed_in_the_bucket(
    home: House, tmp_path: Path, bucket: str
) -> None:
    """What was erased since is missing: said first, then restored without it."""
    made = home.back_up(storage=bucket)
    assert not (home.folder / BLOBS).exists()
    assert made.backup.description.blobs == 3
    then = tags_in(home.registry)
    home.push("later")
    home.registry.db.close()
    with pytest.raises(CannotStart, match="they stayed in s3:"):
        restored(home.folder, tmp_path / "new")
    with pytest.raises(CannotStart, match="--as-copy"):
        restored(home.folder, tmp_path / "new", RestoreWishes(as_copy=True), storage=bucket)
    done = restored(home.folder, tmp_path / "new", storage=bucket)
    assert done.report is not None
    # Of what came later the bytes are there and nothing else; nobody erases them.
    assert {found["invariant"] for found in done.report["findings"]} <= {"I8"}
    with house(tmp_path / "new", tmp_path, storage=bucket) as new:
        assert tags_in(new.registry) == then


def test_what_was_erased_from_the_bucket_since_is_named(
    home: House, tmp_path: Path, bucket: str
) -> None:
    home.back_up(storage=bucket)
    erase(home, "v1")
    home.registry.db.close()
    with pytest.raises(CannotStart, match=r"1 of 3 blobs are missing in s3:.*--keep-going"):
        restored(home.folder, tmp_path / "new", storage=bucket)
    wishes = RestoreWishes(keep_going=True)
    done = restored(home.folder, tmp_path / "new", wishes, storage=bucket)
    assert [blob.size for blob in done.missing] == [len(LAYER)]
    with house(tmp_path / "new", tmp_path, storage=bucket) as new:
        # The push finds that its layer is not there, and stores it.
        new.push("v1", LAYER)


def test_copied_blobs_are_restored_into_a_folder_or_another_bucket(
    home: House, tmp_path: Path, bucket: str
) -> None:
    made = home.back_up()
    assert made.tally.copied == 3
    then = tags_in(home.registry)
    erase(home, "v1")
    for data, settings in (
        ("files", {}),
        ("other", {"storage": bucket.replace("registry", "two")}),
    ):
        done = restored(home.folder, tmp_path / data, RestoreWishes(deep=True), **settings)
        assert done.report is not None
        assert done.report["exit_code"] == 0, done.report
        with house(tmp_path / data, tmp_path, **settings) as new:
            assert tags_in(new.registry) == then
    with pytest.raises(CannotStart, match="holds blobs already"):
        restored(home.folder, tmp_path / "third", storage=bucket)

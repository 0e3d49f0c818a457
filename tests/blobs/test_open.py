from __future__ import annotations

from pathlib import Path

import pytest

from tests.blobs.contract import put
from ullage.blobs.opening import open_blob_store


@pytest.mark.parametrize("form", ["file:{}", "file://{}"])
def test_a_file_url_opens_the_directory_it_names(tmp_path: Path, form: str) -> None:
    store = open_blob_store(form.format(tmp_path / "store"))
    key = put(store)
    assert (tmp_path / "store" / "blobs" / key[:2] / key).is_file()


def test_a_file_url_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_blob_store("file:data/blobs")
    monkeypatch.chdir("/")  # what was opened stays open
    key = put(store)
    assert (tmp_path / "data" / "blobs" / "blobs" / key[:2] / key).is_file()


@pytest.mark.parametrize(
    "url", ["", "memory", "memory:x", "file", "file:", "file://host/path", "s3:bucket", "/path"]
)
def test_other_urls_are_refused_with_what_was_expected(url: str) -> None:
    with pytest.raises(
        ValueError,
        match="expected file:/path/to/store, s3://bucket/prefix, gs://bucket/prefix, az://",
    ):
        open_blob_store(url)

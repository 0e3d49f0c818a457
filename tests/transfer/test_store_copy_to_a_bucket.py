"""From files to a bucket and back, by the store's protocol only (moving.md section 1)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.buckets import CREDENTIALS, S3Server
from tests.transfer.test_store_copy import Move, files, snapshot

pytestmark = [pytest.mark.client, pytest.mark.thorough]

# More than a part of a multipart upload.
LARGE = bytes(range(256)) * (18 * 1024 * 4)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    with S3Server(tmp_path / "buckets") as server:
        yield server.url(server.fresh_bucket(), "registry")


def test_a_registry_moves_to_a_bucket_and_back(tmp_path: Path, bucket: str) -> None:
    """Killed in the middle of a multipart upload, whose parts the next run removes."""
    move = Move(tmp_path, None)
    move.server.env, files_of = dict(CREDENTIALS), f"file:{tmp_path / 'back'}"
    move.environment = CREDENTIALS
    with move.server as server:
        move.new = bucket
        crowd = move.crowd()
        crowd.push(LARGE)
        with crowd.at_work():
            move.killed("copy.after_piece@18")
            assert move.copy()[0] == 0
        crowd.delete(next(iter(crowd.tags)))
        crowd.push(LARGE[1:])
        assert server.terminate() == 0
        before = snapshot(move.data)
        code, said = move.copy("--finish")
        assert code == 0, said
        assert snapshot(move.data) == before
        arguments = server.arguments
        server.arguments = (*arguments, "--storage", bucket)
        server.start()
        crowd.assert_all_there(server.url)
        code, report = move.check("--deep", "--storage", bucket)
        assert code == 0, report
        crowd.push()
        assert server.terminate() == 0
        move.settings, move.new = ("--storage", bucket), files_of
        code, said = move.copy("--finish")
        assert code == 0, said
        server.arguments = (*arguments, "--storage", files_of)
        server.start()
        crowd.assert_all_there(server.url)
        move.settings = ()
        code, report = move.check("--deep", "--storage", files_of)
        assert code == 0, report
        assert len(files(tmp_path / "back")) == len(crowd.tags) + 1
        move.close()
        server.assert_no_500()

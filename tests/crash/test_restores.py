"""A restore that is killed right after its last batch is over: nothing is left to be listed.

`test_an_undo_that_is_killed_is_done_again` (test_failpoints.py) has the client ask once more. Here
nobody does.
"""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash import stock as contents
from tests.crash.conftest import Stock
from tests.crash.harness import CrashServer, ForkServer, Lost, User


@pytest.mark.parametrize("name_is_free", [True, False])
def test_a_restore_that_is_killed_after_its_last_batch_leaves_no_operation(
    forkserver: ForkServer, stock: Stock, tmp_path: Path, name_is_free: bool
) -> None:
    """Invariant I32: an operation keeps something, or there is none."""
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        server.armed = "restore.after_batch=kill"
        server.start()
        user.connect(server.host)
        user.keep_what_is_deleted()
        # The journal does not know of it, so everything has to be there in the end.
        path = (
            "/acr/v1/base/alone"
            if name_is_free
            else f"/v2/base/app/manifests/{contents.TWO.digest}"
        )
        user.client.expect(202, "DELETE", path)
        with suppress(Lost):
            user.restore_everything()
        server.expect_kill()
        server.start()
        user.connect(server.host)
        listed = json.loads(user.client.expect(200, "GET", "/api/v1/deleted").body)
        assert listed["operations"] == []
        user.verify()
        server.check()

"""Killed in the middle of a restore, again and again, the registry never keeps half an operation.

An operation of several repositories, some of which come back as a row and some in batches, is
restored while the server is killed at one named place after another, or at whatever it is doing.
After each start `ullage check` finds nothing (faults F1-F5; deletion.md section 7).
ULLAGE_RESTORE_KILLS sets how often.
"""

import json
import os
import threading
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import pytest

from tests.crash.harness import CrashServer, ForkServer, Lost, User, make_image, some_bytes

KILLS = int(os.environ.get("ULLAGE_RESTORE_KILLS", "") or 24)
NAMES = ("undo/a", "undo/b", "undo/c")
IMAGES = tuple(make_image(some_bytes(f"undo {n}", 2_000)) for n in range(3))
# Passes of each place: a batch for each repository, and the tags at the end. "" is none of them.
PLACES = (
    *(f"restore.after_batch=kill@{n}" for n in (1, 2, 3)),
    "",
    *(f"restore.in_transaction=kill@{n}" for n in (1, 2, 3)),
    "",
)


def _fill(user: User) -> None:
    for name in NAMES:
        for n, image in enumerate(IMAGES):
            user.push(name, image, f"v{n}")


def _delete(user: User) -> None:
    """All three in one plan, so in one operation; then two of them are pushed to again."""
    live = [name for name in NAMES if user.client.ask("HEAD", _tagged(name)).status == 200]
    body = json.dumps({"repositories": live}).encode()
    answer = user.client.expect(201, "POST", "/api/v1/plans", body, "application/json")
    plan = json.loads(answer.body)
    allow = json.dumps({"allow": [warning["rail"] for warning in plan["warnings"]]}).encode()
    path = f"/api/v1/plans/{plan['id']}/apply"
    user.client.expect(200, "POST", path, allow, "application/json")
    for name in NAMES[1:]:
        user.push(name, IMAGES[0], "again")


def _tagged(name: str) -> str:
    return f"/v2/{name}/manifests/v1"


def _restore(user: User, server: CrashServer, place: str) -> None:
    """Until the end that comes in the middle of it."""
    with suppress(Lost):
        if place:
            user.restore_everything()
        else:
            _restore_and_kill(user, server)


def _restore_and_kill(user: User, server: CrashServer) -> None:
    """Kill the server when it has the request, whatever it is doing then."""
    (first, *_) = json.loads(user.client.expect(200, "GET", "/api/v1/deleted").body)["operations"]
    path = f"/api/v1/deleted/{first['id']}/restore"
    with User(server.host) as other:

        def ask() -> None:
            with suppress(Lost):
                other.client.ask("POST", path, b"{}", "application/json")

        asking = threading.Thread(target=ask)
        asking.start()
        # An answer to another request says that this one is about to be read, or at work.
        user.client.expect(200, "GET", "/v2/")
        server.kill9()
        asking.join()


@pytest.mark.slow
def test_a_restore_that_is_killed_anywhere_leaves_nothing_half_done(
    forkserver: ForkServer, tmp_path: Path
) -> None:
    with CrashServer(forkserver, tmp_path / "data") as server:
        server.arguments = ("--read-grace", "0s")
        server.start()
        with User(server.host) as user:
            user.keep_what_is_deleted()
            _fill(user)
            for place in islice(cycle(PLACES), KILLS):
                _delete(user)
                assert server.terminate() == 0
                server.armed = place
                server.start()
                user.connect(server.host)
                _restore(user, server, place)
                if place:
                    server.expect_kill()
                server.start()
                server.check()
                user.connect(server.host)
                user.restore_everything()
                server.check()
                for name in NAMES:
                    for n, image in enumerate(IMAGES):
                        path = f"/v2/{name}/manifests/v{n}"
                        assert user.client.expect(200, "GET", path).body == image.raw
        server.assert_no_500()

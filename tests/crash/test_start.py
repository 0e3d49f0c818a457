"""A start after a crash takes no longer for all that the crash left behind (gate G18).

No walk over the store is needed: with 10,000 open sessions and 100,000 tombstones the server
answers within two seconds more than without, and the worker goes on.
"""

from pathlib import Path

import sqlalchemy as sa

from tests.crash.harness import CrashServer, ForkServer, User, wait_until
from ullage.database.schema import content, space

SESSIONS, TOMBSTONES = 10_000, 100_000
MORE_SECONDS = 2.0
# Far in the future, and long ago.
LATER, BEFORE = 2**52, 1


def test_a_start_does_not_take_longer_for_what_a_crash_left(
    forkserver: ForkServer, tmp_path: Path
) -> None:
    with CrashServer(forkserver, tmp_path / "data") as server, User("") as user:
        server.start()
        user.connect(server.host)
        user.open_session("base/app", b"kept")
        user.append(next(iter(user.journal.sessions)), b"ke")
        server.kill9()
        server.start()
        server.kill9()
        _leave_much(server.database)
        server.start()
        without, with_much = server.starts[-2:]
        assert with_much - without < MORE_SECONDS, server.starts
        wait_until(lambda: _tombstones(server.database) < TOMBSTONES, lambda: server.log)
        server.assert_no_500()


def _leave_much(database: str) -> None:
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    try:
        with engine.begin() as connection:
            repository = connection.execute(sa.select(content.repositories.c.id)).scalar_one()
            sessions = [
                {
                    "id": f"{number:032x}",
                    "repository_id": repository,
                    "subject": "",
                    "storage_key": f"{number:032x}",
                    "algorithm": "sha256",
                    "offset": 0,
                    "created_at": BEFORE,
                    "expires_at": LATER,
                }
                for number in range(SESSIONS)
            ]
            connection.execute(space.uploads.insert(), sessions)
            tombstones = [
                {"storage_key": f"f{number:031x}", "size": 0, "due_at": BEFORE}
                for number in range(TOMBSTONES)
            ]
            connection.execute(space.tombstones.insert(), tombstones)
    finally:
        engine.dispose()


def _tombstones(database: str) -> int:
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            count = sa.select(sa.func.count()).select_from(space.tombstones)
            return int(connection.execute(count).scalar_one())
    finally:
        engine.dispose()

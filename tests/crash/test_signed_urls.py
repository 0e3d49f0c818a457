"""PostgreSQL is killed and has emptied its UNLOGGED tables: no URL that was given out breaks.

deletion.md section 3.5.
"""

from datetime import timedelta

import pytest

from tests.crash.postgres import CrashingPostgres
from tests.support.clock import FakeClock
from tests.support.linking_store import LinkingStore
from tests.support.registry import ALICE, make_registry, push_blob, settle
from tests.support.soundness import assert_sound
from ullage.database.schema import space
from ullage.deletion.delete import delete_blob
from ullage.deletion.reclaim import tidy_signed_urls
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Limits, Registry
from ullage.registry.pull.read import stat_blob
from ullage.registry.pull.signed_links import signed_link

pytestmark = pytest.mark.postgresql

APP = parse_repository_name("app")
LAYERS = (b"pulled", b"pulled by nobody")
LIMITS = Limits(signed_read=timedelta(minutes=10))


def _written_down(registry: Registry) -> int:
    tables = (space.signed_reads, space.signed_memory)
    return registry.read(
        lambda tx: sum(len(list(tx.execute_directly(table.select()))) for table in tables)
    )


@pytest.mark.parametrize("noticed_first", [False, True])
def test_a_url_of_before_a_crash_of_postgresql_works_to_its_end(noticed_first: bool) -> None:
    """Whether a worker's round or the deletion comes first; then deletions are prompt again."""
    clock = FakeClock()
    store = LinkingStore(clock)
    with CrashingPostgres() as postgres, postgres.fresh_database() as database:
        registry = make_registry(database, store, clock, LIMITS)
        tidy_signed_urls(registry)
        digests = [push_blob(registry, "app", data) for data in LAYERS]
        keys = [stat_blob(registry, APP, digest).key for digest in digests]
        url = signed_link(registry, stat_blob(registry, APP, digests[0]))
        assert url is not None
        assert _written_down(registry) == 2
        registry.db.close()
        postgres.crash()
        postgres.restart()
        registry = make_registry(database, store, clock, LIMITS)
        assert _written_down(registry) == 0
        clock.advance(1)
        if noticed_first:
            tidy_signed_urls(registry)
        # By its digest: promises to pushers, forgotten as well, do not keep it.
        delete_blob(registry, APP, digests[0], ALICE)
        while clock() < store.ends_at(url):
            settle(registry)
            tidy_signed_urls(registry)
            assert store.reads(url)
            clock.advance(59)
        clock.advance(60)
        settle(registry)
        assert store.size(keys[0]) is None
        delete_blob(registry, APP, digests[1], ALICE)
        clock.advance(LIMITS.read_grace.total_seconds())
        settle(registry)
        assert store.size(keys[1]) is None
        assert_sound(registry)
        registry.db.close()

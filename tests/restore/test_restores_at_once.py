"""Two restores of one deletion at once, one step of each at a time: it is taken back once."""

import pytest

from tests.support.actors import interleave, observing
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import ALICE, push_image
from tests.support.soundness import assert_sound
from ullage.accounts.audit_log import list_audit
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest, delete_tag
from ullage.deletion.soft_delete import set_policy
from ullage.oci.errors import RegistryError
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.restore.restore import restore_operation

V1 = parse_tag("v1")


@pytest.mark.postgresql
@pytest.mark.parametrize("what", ["tag", "image"])
def test_a_deletion_is_taken_back_once(
    postgres_db: Database, emptied_postgres_url: str, clock: FakeClock, what: str
) -> None:
    """R27: the second one finds nothing left, and writes nothing down."""
    registry = registry_on(postgres_db, MemoryBlobStore(), clock)
    set_policy(registry, ALICE, enabled=True)
    with observing(emptied_postgres_url) as observer:
        for step in range(100):
            name = parse_repository_name(f"app{step}")
            # One that stays, so that the repository does.
            push_image(registry, name, "other", [b"other"])
            digest = push_image(registry, name, "v1", [b"layer %d" % step])
            if what == "tag":
                operation = delete_tag(registry, name, V1, ALICE).operation
            else:
                operation = delete_manifest(registry, name, digest, ALICE).operation
            assert operation is not None

            def restore(operation: str = operation) -> None:
                restore_operation(registry, operation, ALICE)

            failures = interleave(observer, restore, restore, at=step)
            if failures is None:
                break
            assert all(
                failure is None or isinstance(failure, RegistryError) for failure in failures
            )
            entries = list_audit(registry, action="operation.restore", repository=name)
            assert [(entry.detail or {}).get("tag_count") for entry in entries] == [1]
        else:
            pytest.fail("no end of steps")
    assert_sound(registry)

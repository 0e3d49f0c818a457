"""The database itself refuses what the deletion protocol must never do."""

import pytest
import sqlalchemy as sa

from ullage.database.schema import content, space
from ullage.database.transaction import Database, Transaction

LINKED, HELD, LOOSE = ("sha256:" + digit * 64 for digit in "abc")


def _fill(tx: Transaction) -> None:
    """One repository: an index over an image that holds a blob; another blob merely linked."""
    tx.execute_directly(content.repositories.insert().values(id=1, name="app", created_at=0))
    tx.execute_directly(content.repositories.insert().values(id=2, name="other", created_at=0))
    for digest in (LINKED, HELD, LOOSE):
        row = {"digest": digest, "size": 1, "storage_key": digest[-32:], "created_at": 0}
        tx.execute_directly(content.blobs.insert().values(row))
    for digest in (LINKED, HELD):
        row = {"repository_id": 1, "digest": digest, "linked_at": 0}
        tx.execute_directly(content.repo_blobs.insert().values(row))
    for manifest_id in (1, 2):
        tx.execute_directly(
            content.manifests.insert().values(
                id=manifest_id,
                repository_id=1,
                digest=str(manifest_id),
                media_type="application/x",
                size=1,
                pushed_at=0,
                raw=b"x",
            )
        )
    reference = {"manifest_id": 2, "digest": HELD, "repository_id": 1}
    tx.execute_directly(content.manifest_blobs.insert().values(reference))
    tx.execute_directly(content.manifest_children.insert().values(parent_id=1, child_id=2))
    tag = {"repository_id": 1, "name": "v1", "manifest_id": 1, "created_at": 0, "updated_at": 0}
    tx.execute_directly(content.tags.insert().values(tag))
    tx.execute_directly(
        space.uploads.insert().values(
            id="u",
            repository_id=2,
            subject="",
            storage_key="k",
            algorithm="sha256",
            offset=0,
            created_at=0,
            expires_at=0,
        )
    )


def _refused(tx: Transaction, statement: sa.Executable) -> bool:
    tx.execute_directly(sa.text("SAVEPOINT attempt"))
    try:
        tx.execute_directly(statement)
    except sa.exc.IntegrityError:
        return True
    else:
        return False
    finally:
        tx.execute_directly(sa.text("ROLLBACK TO SAVEPOINT attempt"))


REFUSED: dict[str, sa.Executable] = {
    "a blob that a repository links": content.blobs.delete().where(
        content.blobs.c.digest == LINKED
    ),
    "a blob that a manifest holds": content.blobs.delete().where(content.blobs.c.digest == HELD),
    "a link that a manifest needs": content.repo_blobs.delete().where(
        content.repo_blobs.c.digest == HELD
    ),
    "a repository with links and manifests": content.repositories.delete().where(
        content.repositories.c.id == 1
    ),
    "a repository with an upload session": content.repositories.delete().where(
        content.repositories.c.id == 2
    ),
    "a manifest that has a tag": content.manifests.delete().where(content.manifests.c.id == 1),
    "a manifest that an index lists": content.manifests.delete().where(content.manifests.c.id == 2),
    "a reference to a blob of another repository": content.manifest_blobs.insert().values(
        manifest_id=1, digest=LINKED, repository_id=2
    ),
    "a reference to a blob that is linked nowhere": content.manifest_blobs.insert().values(
        manifest_id=1, digest=LOOSE, repository_id=1
    ),
    "a link to a blob there is not": content.repo_blobs.insert().values(
        repository_id=1, digest="sha256:" + "d" * 64, linked_at=0
    ),
    "a tag on a manifest there is not": content.tags.insert().values(
        repository_id=1, name="v2", manifest_id=3, created_at=0, updated_at=0
    ),
    "two blobs under one storage key": content.blobs.insert().values(
        digest="sha256:" + "d" * 64, size=1, storage_key=HELD[-32:], created_at=0
    ),
}
ALLOWED: dict[str, sa.Executable] = {
    "a blob that nobody links": content.blobs.delete().where(content.blobs.c.digest == LOOSE),
    "a link that no manifest needs": content.repo_blobs.delete().where(
        content.repo_blobs.c.digest == LINKED
    ),
}


def test_foreign_keys_carry_the_deletion_protocol(db: Database) -> None:
    """deletion.md section 3: a reference points to a link, a link to a blob. None can dangle."""

    def attempt(tx: Transaction) -> tuple[set[str], set[str]]:
        _fill(tx)
        return (
            {what for what, statement in REFUSED.items() if not _refused(tx, statement)},
            {what for what, statement in ALLOWED.items() if _refused(tx, statement)},
        )

    let_through, refused = db.write(attempt)
    assert let_through == set()
    assert refused == set()


def test_readers_cannot_write(db: Database) -> None:
    if db.dialect == "postgresql":
        with pytest.raises(sa.exc.InternalError, match="read-only transaction"):
            db.snapshot(_fill)
        return
    with pytest.raises(Exception, match="readonly"):
        db.read(_fill)

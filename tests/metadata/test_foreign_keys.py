"""The database itself refuses what the deletion protocol must never do."""

import pytest
import sqlalchemy as sa

from ullage.metadata import schema
from ullage.metadata.database import Database, Transaction

LINKED, HELD, LOOSE = ("sha256:" + digit * 64 for digit in "abc")


def _fill(tx: Transaction) -> None:
    """One repository: an index over an image that holds a blob; another blob merely linked."""
    tx.execute(schema.repositories.insert().values(id=1, name="app", created_at=0))
    tx.execute(schema.repositories.insert().values(id=2, name="other", created_at=0))
    for digest in (LINKED, HELD, LOOSE):
        row = {"digest": digest, "size": 1, "storage_key": digest[-32:], "created_at": 0}
        tx.execute(schema.blobs.insert().values(row))
    for digest in (LINKED, HELD):
        row = {"repository_id": 1, "digest": digest, "linked_at": 0}
        tx.execute(schema.repo_blobs.insert().values(row))
    for manifest_id in (1, 2):
        tx.execute(
            schema.manifests.insert().values(
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
    tx.execute(schema.manifest_blobs.insert().values(reference))
    tx.execute(schema.manifest_children.insert().values(parent_id=1, child_id=2))
    tag = {"repository_id": 1, "name": "v1", "manifest_id": 1, "created_at": 0, "updated_at": 0}
    tx.execute(schema.tags.insert().values(tag))
    tx.execute(
        schema.uploads.insert().values(
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
    tx.execute(sa.text("SAVEPOINT attempt"))
    try:
        tx.execute(statement)
    except sa.exc.IntegrityError:
        return True
    else:
        return False
    finally:
        tx.execute(sa.text("ROLLBACK TO SAVEPOINT attempt"))


REFUSED: dict[str, sa.Executable] = {
    "a blob that a repository links": schema.blobs.delete().where(schema.blobs.c.digest == LINKED),
    "a blob that a manifest holds": schema.blobs.delete().where(schema.blobs.c.digest == HELD),
    "a link that a manifest needs": schema.repo_blobs.delete().where(
        schema.repo_blobs.c.digest == HELD
    ),
    "a repository with links and manifests": schema.repositories.delete().where(
        schema.repositories.c.id == 1
    ),
    "a repository with an upload session": schema.repositories.delete().where(
        schema.repositories.c.id == 2
    ),
    "a manifest that has a tag": schema.manifests.delete().where(schema.manifests.c.id == 1),
    "a manifest that an index lists": schema.manifests.delete().where(schema.manifests.c.id == 2),
    "a reference to a blob of another repository": schema.manifest_blobs.insert().values(
        manifest_id=1, digest=LINKED, repository_id=2
    ),
    "a reference to a blob that is linked nowhere": schema.manifest_blobs.insert().values(
        manifest_id=1, digest=LOOSE, repository_id=1
    ),
    "a link to a blob there is not": schema.repo_blobs.insert().values(
        repository_id=1, digest="sha256:" + "d" * 64, linked_at=0
    ),
    "a tag on a manifest there is not": schema.tags.insert().values(
        repository_id=1, name="v2", manifest_id=3, created_at=0, updated_at=0
    ),
    "two blobs under one storage key": schema.blobs.insert().values(
        digest="sha256:" + "d" * 64, size=1, storage_key=HELD[-32:], created_at=0
    ),
}
ALLOWED: dict[str, sa.Executable] = {
    "a blob that nobody links": schema.blobs.delete().where(schema.blobs.c.digest == LOOSE),
    "a link that no manifest needs": schema.repo_blobs.delete().where(
        schema.repo_blobs.c.digest == LINKED
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

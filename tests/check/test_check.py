"""`check` finds every kind of damage, calls it by its name, and mends what it may.

docs/reference/check.md lists the invariants; each kind of damage here is one row of a table.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest
import sqlalchemy as sa

from tests.support.clock import FakeClock
from tests.support.postgres import PostgresServer
from tests.support.registry import (
    ALICE,
    INDEX,
    MANIFEST,
    make_registry,
    push_blob,
    push_image,
    push_index,
    settle,
)
from ullage.blobs.memory import MemoryBlobStore
from ullage.blobs.opening import open_blob_store
from ullage.blobs.protocol import BlobStore, StoredObject
from ullage.check.check import CheckImpossible, check, run_check
from ullage.check.findings import KEPT_FINDINGS, Finding, Mode, Report, Severity, render
from ullage.check.run import Progress
from ullage.deletion.delete import delete_manifest, delete_repository
from ullage.deletion.reclaim import expire_leases, review_due
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import BlobUnknown
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Limits, Registry
from ullage.registry.identity import begin_batch, parse_label
from ullage.registry.pull.read import stat_blob
from ullage.registry.push.sessions import cancel_upload, start_upload
from ullage.registry.push.uploads import append_upload

APP = parse_repository_name("team/app")
SHARED, ONE, TWO, LOOSE = b"shared" * 100, b"one" * 100, b"two" * 100, b"loose" * 100
DAY = timedelta(days=1).total_seconds()


@dataclass(frozen=True)
class Images:
    image: Digest
    sbom: Digest
    index: Digest


def fill(registry: Registry) -> Images:
    """A bit of everything: images that share a layer, an index, a referrer, an open upload."""
    image = push_image(registry, APP, "v1", [SHARED, ONE])
    sbom = push_image(registry, APP, None, [ONE], config=b'{"sbom":1}', subject=image)
    index = push_index(registry, APP, "multi", [image])
    push_image(registry, "other", "v1", [SHARED, TWO], config=b'{"other":1}')
    push_blob(registry, APP, LOOSE)
    upload = start_upload(registry, APP, ALICE)
    session = append_upload(registry, APP, upload.id, ALICE)
    session.write(b"half of a layer")
    session.close()
    settle(registry)
    return Images(image, sbom, index)


@dataclass
class Site:
    """A registry with a bit of everything in it, and the means to ruin it."""

    registry: Registry
    database_url: str
    clock: FakeClock
    # Of the file store; None where the store is in memory.
    root: Path | None
    images: Images

    def sql(self, statement: str, **values: object) -> None:
        """Change the database behind the registry's back, where no foreign key is checked."""
        url = sa.make_url(self.database_url)
        postgresql = url.get_backend_name() == "postgresql"
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg") if postgresql else url,
            poolclass=sa.pool.NullPool,
            # A busy writer lets others in by chance only.
            connect_args={} if postgresql else {"timeout": 60},
        )
        with engine.begin() as connection:
            if postgresql:
                connection.execute(sa.text("SET session_replication_role = replica"))
            changed = connection.execute(sa.text(statement), values).rowcount
        assert changed != 0, f"changes nothing: {statement}"

    def row(self, statement: str) -> tuple[object, ...]:
        return tuple(self.registry.read(lambda tx: tx.execute_directly(sa.text(statement)).one()))

    def key(self, data: bytes) -> str:
        """The storage key of a blob."""
        return stat_blob_anywhere(self.registry, digest_of(data))

    def file(self, data: bytes) -> Path:
        """The file of a blob."""
        return self.path(self.key(data))

    def path(self, key: str) -> Path:
        assert self.root is not None
        return self.root / "blobs" / key[:2] / key

    def upload_key(self) -> str:
        return str(self.row("SELECT storage_key FROM uploads")[0])

    def upload_file(self) -> Path:
        assert self.root is not None
        return self.root / "uploads" / self.upload_key()

    def add_file(self, place: str, *, data: bytes = b"?" * 7, age_days: float = 2) -> Path:
        """Put a file into the store that was not pushed."""
        assert self.root is not None
        path = self.root / place
        for folder in reversed(path.relative_to(self.root).parents):
            (self.root / folder).mkdir(mode=0o700, exist_ok=True)
        path.touch(0o600)
        path.write_bytes(data)
        then = self.clock().timestamp() - age_days * DAY
        os.utime(path, (then, then))
        return path

    def own_place(self, folder: str) -> str:
        """Where an object would be whose key the database gave out, and which no row names."""
        key, *_ = begin_batch(self.registry, lambda tx, keys: None)
        return f"{folder}/{key[:2]}/{key}" if folder == "blobs" else f"{folder}/{key}"

    def check(self, mode: Mode = Mode.DEFAULT, *, repair: bool = False) -> Report:
        return check(self.registry, mode, repair=repair)


def stat_blob_anywhere(registry: Registry, digest: Digest) -> str:
    query = sa.text("SELECT storage_key FROM blobs WHERE digest = :digest")
    return str(
        registry.read(lambda tx: tx.execute_directly(query, {"digest": digest}).scalar_one())
    )


class Template(NamedTuple):
    """A database and a store to make copies of, for filling them takes a while."""

    database_url: str
    root: Path
    images: Images


def make_template(database_url: str, root: Path) -> Template:
    registry = make_registry(database_url, open_blob_store(f"file:{root}"), FakeClock())
    images = fill(registry)
    registry.leases.close(registry.db, registry.now())
    registry.db.close()
    return Template(database_url, root, images)


@pytest.fixture(scope="session")
def sqlite_site(tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("site")
    return make_template(f"sqlite:///{folder / 'ullage.db'}", folder / "store")


@pytest.fixture(scope="session")
def postgres_site(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Template]:
    with postgres_server.fresh_database() as url:
        yield make_template(url, tmp_path_factory.mktemp("site") / "store")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Template]:
    """A database and a store that are this test's own."""
    root = tmp_path / "store"
    if request.param == "sqlite":
        template: Template = request.getfixturevalue("sqlite_site")
        shutil.copytree(template.root, root)
        shutil.copy(sqlite_path(template.database_url), tmp_path / "ullage.db")
        yield Template(f"sqlite:///{tmp_path / 'ullage.db'}", root, template.images)
        return
    template = request.getfixturevalue("postgres_site")
    server: PostgresServer = request.getfixturevalue("postgres_server")
    shutil.copytree(template.root, root)
    with server.fresh_database(str(sa.make_url(template.database_url).database)) as url:
        yield Template(url, root, template.images)


def sqlite_path(database_url: str) -> Path:
    return Path(str(sa.make_url(database_url).database))


@pytest.fixture
def site(filled: Template, clock: FakeClock) -> Iterator[Site]:
    url, root, images = filled
    registry = make_registry(url, open_blob_store(f"file:{root}"), clock)
    site = Site(registry, url, clock, root, images)
    yield site
    site.registry.db.close()


@pytest.fixture
def memory_site(filled: Template, clock: FakeClock) -> Iterator[Site]:
    url, root, images = filled
    store = MemoryBlobStore()
    copy_store(root, store)
    registry = make_registry(url, store, clock)
    site = Site(registry, url, clock, None, images)
    yield site
    site.registry.db.close()


def copy_store(root: Path, target: BlobStore) -> None:
    source = open_blob_store(f"file:{root}")
    for found in source.list():
        with target.begin(found.key) as append:
            if found.committed:
                with source.open(found.key, found.size) as reader:
                    append.write(reader.read_at(0, reader.size))
                append.commit()
            else:
                append.write((root / "uploads" / found.key).read_bytes())
                append.sync()


# --- damage, kind by kind -------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """One way to ruin a registry, and what is to be said about it.

    `found_by` is the least thorough mode that sees it. `also` names invariants that fall with the
    first one; I29 is among them wherever a foreign key does, which only SQLite verifies afterwards.
    `mended`: one --repair, and the next check finds nothing.
    """

    name: str
    do: Callable[[Site], object]
    invariant: str
    severity: Severity
    exit_code: int
    found_by: Mode = Mode.FAST
    also: str = ""
    mended: bool = False


def corruption(
    name: str,
    do: Callable[[Site], object],
    invariant: str,
    *,
    found_by: Mode = Mode.FAST,
    also: str = "",
    severity: Severity = "corruption",
) -> Damage:
    return Damage(name, do, invariant, severity, 2, found_by, also)


def harmless(
    name: str,
    do: Callable[[Site], object],
    invariant: str,
    severity: Severity,
    *,
    found_by: Mode = Mode.FAST,
    also: str = "",
    mended: bool = True,
) -> Damage:
    return Damage(name, do, invariant, severity, 1, found_by, also, mended)


def of(data: bytes) -> str:
    return f"digest = '{digest_of(data)}'"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(first: Path, second: Path) -> None:
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def replace_by_symlink(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def tombstone(
    site: Site, key: str, *, size: int = 7, due_in: float = 60, blob: bool = True
) -> None:
    """A tombstone that is counted as every other."""
    due_at = int((site.clock().timestamp() + due_in) * 1_000_000)
    site.sql(
        "INSERT INTO tombstones (storage_key, digest, size, due_at, attempts)"
        " VALUES (:key, :digest, :size, :due_at, 0)",
        key=key,
        digest=str(digest_of(key.encode())) if blob else None,
        size=size,
        due_at=due_at,
    )
    site.sql(
        "UPDATE counters SET value = value + :size WHERE name = 'pending_bytes' AND slot ="
        " (SELECT min(slot) FROM counters WHERE name = 'pending_bytes')",
        size=size,
    )


def operation(site: Site, id_: str, *, days_ago: int = 0, tag: str | None = None) -> None:
    """Something that was deleted softly: nothing, or a tag."""
    at = int((site.clock().timestamp() - days_ago * 86400) * 1_000_000)
    site.sql(
        "INSERT INTO operations (id, kind, subject, deleted_at, counts_from)"
        " VALUES (:id, 'tag.delete', '', :at, :at)",
        id=id_,
        at=at,
    )
    if tag is not None:
        site.sql(
            "INSERT INTO deleted_tags (operation_id, repository, name, digest, created_at,"
            " updated_at) VALUES (:id, 'app', :tag, 'sha256:0', 1, 1)",
            id=id_,
            tag=tag,
        )


def keep(id_: str | None, where: str) -> Callable[[Site], None]:
    """Repositories that an operation keeps, or one that there is not."""

    def do(site: Site) -> None:
        if id_ is not None:
            operation(site, id_)
        site.sql(
            "INSERT INTO kept_repositories (repository_id, operation_id, name)"
            f" SELECT id, :id, name FROM repositories WHERE {where}",
            id=id_ or "unknown",
        )

    return do


def bury_the_wrong_size(site: Site) -> None:
    key = "ab" * 16
    with site.registry.blobs.begin(key) as append:
        append.write(b"12345")
        append.commit()
    tombstone(site, key, size=7)


def forget_the_review(site: Site) -> None:
    site.sql(f"DELETE FROM reviews WHERE {of(LOOSE)}")


def forget_the_link(site: Site) -> None:
    forget_the_review(site)
    site.sql(f"DELETE FROM repo_blobs WHERE {of(LOOSE)}")
    site.sql(
        f"UPDATE repositories SET blob_bytes = blob_bytes - {len(LOOSE)} WHERE name = :n", n=APP
    )
    site.sql(f"UPDATE blobs SET repository_count = repository_count - 1 WHERE {of(LOOSE)}")


def list_a_child_of_another_repository(site: Site) -> None:
    """The very same image, so that only its place is wrong."""
    push_image(site.registry, "other", "copy", [SHARED, ONE])
    site.sql(
        "UPDATE manifest_children SET child_id = (SELECT m.id FROM manifests m"
        " JOIN tags t ON t.manifest_id = m.id WHERE t.name = 'copy')"
    )


def set_raw(site: Site) -> None:
    (raw,) = site.row(f"SELECT raw FROM manifests WHERE digest = '{site.images.image}'")
    assert isinstance(raw, bytes)
    damaged = raw.replace(b"schemaVersion", b"schemaversion")
    site.sql("UPDATE manifests SET raw = :raw WHERE digest = :d", raw=damaged, d=site.images.image)


def use_a_blobs_key_for_an_upload(site: Site) -> None:
    site.sql("UPDATE uploads SET storage_key = :key", key=site.key(SHARED))


def sql(statement: str) -> Callable[[Site], None]:
    return lambda site: site.sql(statement)


ROWS = [
    corruption(
        "a blob's row is deleted",
        sql(f"DELETE FROM blobs WHERE {of(ONE)}"),
        "I1",
        also="I8 I11 I14 I29",
    ),
    corruption(
        "a link is deleted",
        sql(f"DELETE FROM repo_blobs WHERE {of(ONE)}"),
        "I3",
        severity="security",
        also="I9 I14 I29",
    ),
    corruption(
        "a manifest's reference names another repository",
        sql(
            "UPDATE manifest_blobs SET repository_id = (SELECT id FROM repositories WHERE"
            f" name = 'other') WHERE {of(SHARED)}"
        ),
        "I3",
        severity="security",
        also="I9",
    ),
    corruption("a manifest's bytes change", set_raw, "I4"),
    corruption(
        "a manifest's size is wrong",
        sql("UPDATE manifests SET size = size + 1 WHERE subject IS NOT NULL"),
        "I4",
        also="I14",
    ),
    corruption(
        "a manifest's media type is wrong",
        sql(f"UPDATE manifests SET media_type = '{MANIFEST}' WHERE media_type = '{INDEX}'"),
        "I4",
    ),
    corruption(
        "an artifact type is wrong", sql("UPDATE manifests SET artifact_type = 'a/b'"), "I4"
    ),
    corruption(
        "annotations are wrong", sql("""UPDATE manifests SET annotations = '{"a": "b"}'"""), "I4"
    ),
    corruption("annotations are no JSON", sql("UPDATE manifests SET annotations = '{'"), "I4"),
    corruption("a manifest's digest is none", sql("UPDATE manifests SET digest = 'x' || id"), "I4"),
    corruption(
        "a reference is deleted",
        sql(f"DELETE FROM manifest_blobs WHERE {of(TWO)}"),
        "I4",
        also="I9 I14",
    ),
    corruption(
        "a reference is made up",
        sql(
            "INSERT INTO manifest_blobs (manifest_id, digest, repository_id) SELECT id,"
            f" '{digest_of(LOOSE)}', repository_id FROM manifests WHERE media_type = '{INDEX}'"
        ),
        "I4",
        also="I14",
    ),
    corruption("a tag points nowhere", sql("UPDATE tags SET manifest_id = -1"), "I5", also="I29"),
    corruption(
        "a tag points to another repository",
        sql(
            "UPDATE tags SET manifest_id = (SELECT m.id FROM manifests m"
            " WHERE m.repository_id <> tags.repository_id ORDER BY m.id LIMIT 1)"
        ),
        "I5",
    ),
    corruption("a tag's name is none", sql("UPDATE tags SET name = '-' || name"), "I5"),
    corruption(
        "a repository's name is none", sql("UPDATE repositories SET name = 'A' || name"), "I5"
    ),
    corruption(
        "a repository has no name", sql("UPDATE repositories SET name = NULL"), "I5", also="I19"
    ),
    corruption("a child is deleted", sql("DELETE FROM manifest_children"), "I6"),
    corruption(
        "a child is recorded as absent",
        sql(
            "INSERT INTO absent_children (manifest_id, digest, size) SELECT c.parent_id, m.digest,"
            " m.size FROM manifest_children c JOIN manifests m ON m.id = c.child_id"
        ),
        "I6",
    ),
    corruption(
        "a child is recorded as absent with another size",
        sql(
            "INSERT INTO absent_children (manifest_id, digest, size) SELECT c.parent_id, m.digest,"
            " m.size + 1 FROM manifest_children c JOIN manifests m ON m.id = c.child_id"
        ),
        "I4",
    ),
    corruption(
        "a layer is recorded as absent",
        sql(
            "INSERT INTO absent_blobs (manifest_id, digest, size) SELECT r.manifest_id, b.digest,"
            " b.size FROM manifest_blobs r JOIN blobs b ON b.digest = r.digest"
        ),
        "I4",
    ),
    corruption(
        "what no manifest names is recorded as absent",
        sql(
            "INSERT INTO absent_blobs (manifest_id, digest, size)"
            f" SELECT id, '{digest_of(b'')}', 0 FROM manifests"
        ),
        "I4",
    ),
    corruption("a child is of another repository", list_a_child_of_another_repository, "I6"),
    corruption(
        "a child does not exist",
        sql("UPDATE manifest_children SET child_id = -1"),
        "I6",
        also="I29",
    ),
    corruption("a referrer is hidden", sql("UPDATE manifests SET subject = NULL"), "I7"),
    corruption(
        "a referrer is made up",
        sql(f"UPDATE manifests SET subject = '{digest_of(b'')}' WHERE subject IS NULL"),
        "I7",
    ),
    corruption(
        "an upload has a blob's key",
        use_a_blobs_key_for_an_upload,
        "I8",
    ),
    corruption(
        "a blob's bytes are to be erased",
        lambda site: tombstone(site, site.key(SHARED), size=len(SHARED)),
        "I12",
    ),
    corruption(
        "an upload's bytes are to be erased",
        lambda site: tombstone(site, site.upload_key(), blob=False),
        "I12",
    ),
    corruption(
        "a link without its blob",
        sql(f"DELETE FROM blobs WHERE {of(LOOSE)}"),
        "I11",
        also="I8 I14 I29",
    ),
    corruption(
        "a tag of no repository",
        sql("UPDATE tags SET repository_id = -1 WHERE name = 'multi'"),
        "I19",
        also="I5 I14 I29",
    ),
    corruption(
        "a link of no repository",
        sql(f"UPDATE repo_blobs SET repository_id = -1 WHERE {of(LOOSE)}"),
        "I19",
        also="I14 I29",
    ),
    corruption(
        "an upload of no repository",
        sql("UPDATE uploads SET repository_id = -1"),
        "I19",
        also="I29",
    ),
    corruption(
        "a manifest of no repository",
        sql("UPDATE manifests SET repository_id = -1"),
        "I19",
        also="I3 I5 I6 I14 I29",
    ),
    corruption(
        "a reference of no manifest",
        sql(
            "INSERT INTO manifest_blobs (manifest_id, digest, repository_id) SELECT -1, digest,"
            f" repository_id FROM repo_blobs WHERE {of(LOOSE)}"
        ),
        "I19",
        also="I14 I29",
    ),
    corruption(
        "a child of no index",
        sql("UPDATE manifest_children SET parent_id = -1"),
        "I19",
        also="I6 I29",
    ),
    corruption(
        "an item of no job",
        sql(
            "INSERT INTO job_items (job_id, position, repository_id, repository, kind, digest,"
            " manifest_id, seen_at) VALUES ('x', 1, 1, 'app', 'manifest', 'sha256:0', 1, 1)"
        ),
        "I19",
        also="I29",
    ),
    harmless(
        "a job is left alone",
        sql(
            "INSERT INTO jobs (id, kind, state, subject, address, request_id, created_at, request,"
            " findings) VALUES ('x', 'purge', 'queued', '', '', '', 1, '{}', '{}')"
        ),
        "I31",
        "leak",
        mended=False,
    ),
    corruption("a repository is live and kept", keep("x", "name IS NOT NULL"), "I32"),
    corruption(
        "a repository is kept by no operation", keep(None, "name IS NOT NULL"), "I32", also="I29"
    ),
    harmless("an operation keeps nothing", lambda site: operation(site, "x"), "I32", "hygiene"),
    harmless(
        "an operation is overdue",
        lambda site: operation(site, "x", days_ago=8, tag="v9"),
        "I33",
        "leak",
        mended=False,
    ),
    harmless("garbage is forgotten", forget_the_review, "I9", "leak"),
    harmless("a blob has no link", forget_the_link, "I9", "leak"),
    harmless(
        "a review is overdue",
        lambda site: site.clock.advance(3 * 3600),
        "I10",
        "leak",
        mended=False,
    ),
    harmless(
        "a tombstone is overdue",
        lambda site: tombstone(site, "ab" * 16, due_in=-3601),
        "I13",
        "leak",
        mended=False,
    ),
    harmless(
        "a tombstone names no key",
        lambda site: tombstone(site, "../x"),
        "I13",
        "leak",
        mended=False,
    ),
    harmless(
        "an upload has expired",
        sql("UPDATE uploads SET expires_at = 1"),
        "I18",
        "leak",
        mended=False,
    ),
    *(
        harmless(
            f"a manifest's {column} is wrong",
            sql(f"UPDATE manifests SET {column} = {value}"),
            "I4",
            "accounting",
            mended=False,
        )
        for column, value in (("image_size", "image_size + 1"), ("config_media_type", "'a/b'"))
    ),
    *(
        harmless(
            f"a repository's {counter} is wrong",
            sql(f"UPDATE repositories SET {counter} = {counter} + 1"),
            "I14",
            "accounting",
        )
        for counter in ("manifest_count", "tag_count", "manifest_bytes", "blob_bytes")
    ),
    *(
        harmless(
            f"the total {counter} is wrong",
            sql(f"UPDATE counters SET value = value + 1 WHERE name = '{counter}'"),
            "I14",
            "accounting",
        )
        for counter in (
            "blob_count",
            "blob_bytes",
            "manifest_count",
            "manifest_bytes",
            "pending_bytes",
        )
    ),
    harmless(
        "a blob's references are miscounted",
        sql("UPDATE blobs SET manifest_refs = manifest_refs + 1"),
        "I14",
        "accounting",
    ),
    harmless(
        "a blob's repositories are miscounted",
        sql("UPDATE blobs SET repository_count = repository_count + 1"),
        "I14",
        "accounting",
    ),
]

BYTES = [
    corruption(
        "a blob's bytes are missing",
        lambda site: site.registry.blobs.delete([site.key(ONE)]),
        "I2",
        found_by=Mode.DEFAULT,
    ),
    corruption(
        "a blob's key is none",
        sql(f"UPDATE blobs SET storage_key = '../x' WHERE {of(ONE)}"),
        "I2",
        found_by=Mode.DEFAULT,
        also="I8",
    ),
    corruption(
        "an upload's bytes are missing",
        lambda site: site.registry.blobs.delete([site.upload_key()]),
        "I17",
        found_by=Mode.DEFAULT,
    ),
    corruption(
        "an upload's key is none",
        sql("UPDATE uploads SET storage_key = '../x'"),
        "I17",
        found_by=Mode.DEFAULT,
        also="I8",
    ),
    harmless(
        "a tombstone's size is wrong",
        bury_the_wrong_size,
        "I15",
        "accounting",
        found_by=Mode.DEFAULT,
    ),
]

FILES = [
    corruption("a bit flips", lambda site: flip_a_byte(site.file(ONE)), "I2", found_by=Mode.DEEP),
    corruption(
        "two blobs of one size are swapped",
        lambda site: swap(site.file(ONE), site.file(TWO)),
        "I2",
        found_by=Mode.DEEP,
    ),
    corruption(
        "a file is truncated",
        lambda site: os.truncate(site.file(ONE), 100),
        "I2",
        found_by=Mode.DEFAULT,
    ),
    corruption(
        "a file is emptied",
        lambda site: os.truncate(site.file(ONE), 0),
        "I2",
        found_by=Mode.DEFAULT,
    ),
    corruption(
        "a file grows",
        lambda site: os.truncate(site.file(ONE), 1000),
        "I2",
        found_by=Mode.DEFAULT,
    ),
    corruption(
        "a file is deleted", lambda site: site.file(ONE).unlink(), "I2", found_by=Mode.DEFAULT
    ),
    corruption(
        "a file becomes a symbolic link",
        lambda site: replace_by_symlink(site.file(ONE)),
        "I2",
        found_by=Mode.DEFAULT,
        also="I30",
    ),
    corruption(
        "a file becomes a directory",
        lambda site: replace_by_directory(site.file(ONE)),
        "I2",
        found_by=Mode.DEFAULT,
        also="I30",
    ),
    corruption(
        "a file moves to another shard",
        lambda site: site.file(ONE).rename(site.file(TWO).with_name(site.key(ONE))),
        "I2",
        found_by=Mode.DEFAULT,
        also="I30",
    ),
    corruption(
        "an upload is truncated",
        lambda site: os.truncate(site.upload_file(), 3),
        "I17",
        found_by=Mode.DEFAULT,
    ),
    harmless(
        "an unknown object",
        lambda site: site.add_file(site.own_place("blobs")),
        "I8",
        "leak",
        found_by=Mode.DEFAULT,
    ),
    harmless(
        "an unknown upload",
        lambda site: site.add_file(site.own_place("uploads")),
        "I8",
        "leak",
        found_by=Mode.DEFAULT,
    ),
    harmless(
        "a young unknown object",
        lambda site: site.add_file(site.own_place("blobs"), age_days=0.9),
        "I8",
        "leak",
        found_by=Mode.DEFAULT,
        mended=False,
    ),
    harmless(
        "an operator's notes",
        lambda site: site.add_file("blobs/ab/notes.txt"),
        "I30",
        "hygiene",
        found_by=Mode.DEFAULT,
        mended=False,
    ),
    harmless(
        "a symbolic link",
        lambda site: site.path("ab" * 16).parent.parent.joinpath("link").symlink_to("/etc"),
        "I30",
        "hygiene",
        found_by=Mode.DEFAULT,
        mended=False,
    ),
    harmless(
        "a file that every user can read",
        lambda site: site.file(ONE).chmod(0o644),
        "I30",
        "hygiene",
        found_by=Mode.DEFAULT,
        mended=False,
    ),
    harmless(
        "a directory that every user can change",
        lambda site: site.file(ONE).parent.chmod(0o777),
        "I30",
        "hygiene",
        found_by=Mode.DEFAULT,
        mended=False,
    ),
]


def found(report: Report, invariant: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.invariant == invariant]


def assert_found(site: Site, damage: Damage) -> None:
    for mode in Mode:
        report = site.check(mode)
        if list(Mode).index(mode) < list(Mode).index(damage.found_by):
            assert report.findings == (), f"{mode} cannot know"
            continue
        assert damage.severity in {each.severity for each in found(report, damage.invariant)}
        others = invariants(report) - {damage.invariant}
        assert others <= set(damage.also.split()), [each.message for each in report.findings]
        assert report.exit_code == damage.exit_code


def assert_repair(site: Site, damage: Damage) -> None:
    before = invariants(site.check(Mode.DEEP))
    repaired = site.check(Mode.DEEP, repair=True)
    assert repaired.exit_code == damage.exit_code
    assert repaired.mendable == 0, "what can be mended is"
    assert invariants(repaired) <= before, "mending breaks nothing"
    after = site.check(Mode.DEEP)
    assert invariants(after) <= before
    if damage.mended:
        assert all(finding.repaired for finding in repaired.findings)
        assert after.findings == ()
        assert after.exit_code == 0
    else:
        assert found(after, damage.invariant)
        assert after.exit_code == damage.exit_code


def invariants(report: Report) -> set[str]:
    return {finding.invariant for finding in report.findings}


def names(damages: list[Damage]) -> list[object]:
    return [pytest.param(damage, id=damage.name.replace(" ", "-")) for damage in damages]


@pytest.mark.parametrize("damage", names(ROWS + BYTES))
@pytest.mark.thorough
def test_damaged_rows_are_found_and_mended_as_far_as_possible(
    memory_site: Site, damage: Damage
) -> None:
    damage.do(memory_site)
    assert_found(memory_site, damage)
    assert_repair(memory_site, damage)


@pytest.mark.parametrize("damage", names(FILES))
@pytest.mark.thorough
def test_damaged_files_are_found_and_mended_as_far_as_possible(site: Site, damage: Damage) -> None:
    damage.do(site)
    assert_found(site, damage)
    assert_repair(site, damage)


class Build(Protocol):
    def __call__(self, store: BlobStore, limits: Limits | None = None) -> Registry: ...


@pytest.fixture
def build(ready_url: str, clock: FakeClock) -> Iterator[Build]:
    """Makes a registry with nothing in it, and closes it."""
    with ExitStack() as opened:

        def build(store: BlobStore, limits: Limits | None = None) -> Registry:
            registry = make_registry(ready_url, store, clock, limits)
            opened.callback(registry.db.close)
            return registry

        yield build


# --- nothing wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", Mode)
def test_a_registry_in_use_is_clean(site: Site, mode: Mode) -> None:
    report = site.check(mode, repair=True)
    assert report.findings == ()
    assert report.exit_code == 0
    assert report.checked == {
        "repositories": 2,
        "manifests": 4,
        "tags": 3,
        "blobs": 7,
        "links": 8,
        "uploads": 1,
        "tombstones": 0,
        "objects": 0 if mode is Mode.FAST else 8,
    }


def test_an_empty_registry_is_clean(build: Build) -> None:
    assert check(build(MemoryBlobStore()), Mode.DEEP).findings == ()


def test_every_finding_of_more_than_a_page_is_counted_and_the_first_are_named(
    memory_site: Site,
) -> None:
    site = memory_site
    for start in range(0, 2500, 500):
        rows = ",".join(f"('{n:032x}', 7, 0, 0)" for n in range(start, start + 500))
        site.sql(f"INSERT INTO tombstones (storage_key, size, due_at, attempts) VALUES {rows}")
    report = site.check(Mode.FAST)
    assert report.checked["tombstones"] == 2500
    assert report.counts == {"leak": 2500, "accounting": 1}
    assert len(found(report, "I13")) == KEPT_FINDINGS
    assert report.omitted == 2500 - KEPT_FINDINGS
    assert len({finding.subject for finding in report.findings}) == KEPT_FINDINGS + 1


def test_what_a_worker_is_erasing_at_this_moment_is_not_late(memory_site: Site) -> None:
    """Right after a start that has hours to catch up with, it was called a failed attempt."""
    site = memory_site
    tombstone(site, "ab" * 16, due_in=-7200)
    claim = (
        "UPDATE tombstones SET claim = 'x', attempts = 1, claimed_until ="
        " (SELECT max(due_at) FROM tombstones) + :later"
    )
    site.sql(claim, later=7260 * 1_000_000)
    assert not found(site.check(Mode.FAST), "I13")
    # It was at work, and that was a while ago.
    site.sql(claim, later=7140 * 1_000_000)
    assert len(found(site.check(Mode.FAST), "I13")) == 1


def test_a_repository_that_is_being_erased_is_no_finding(site: Site) -> None:
    """deletion.md section 2: deleting a repository marks it; the worker takes it apart later."""
    # Nothing is promised in it that would live on, and what is unused waits for its review.
    site.clock.advance(2 * 3600)
    expire_leases(site.registry)
    delete_repository(site.registry, APP, ALICE)
    site.sql("UPDATE repositories SET tag_count = 77 WHERE deleted_at IS NOT NULL")
    for mode in Mode:
        assert site.check(mode).findings == ()
    site.clock.advance(3600)
    for mode in Mode:
        assert site.check(mode).findings == (), "nothing waits for its reviews"
    assert review_due(site.registry) == 1
    for mode in Mode:
        assert site.check(mode).findings == (), "nor misses them"
    settle(site.registry)
    assert site.check(Mode.DEEP).findings == ()


def test_bytes_that_wait_to_be_erased_are_no_finding(site: Site) -> None:
    delete_manifest(site.registry, APP, site.images.index, ALICE)
    delete_manifest(site.registry, APP, site.images.image, ALICE)
    report = site.check(Mode.DEEP)
    assert report.findings == ()
    assert report.checked["tombstones"] == 3
    assert report.bytes["pending"] == len(ONE) + len(b"{}") + len(b'{"sbom":1}')
    unaccounted = report.bytes["stored"] - report.bytes["blobs"] - report.bytes["pending"]
    assert unaccounted == report.bytes["uploads"] == len(b"half of a layer")


# --- what is damaged, and how it heals ------------------------------------------------------------


def test_looking_is_enough_to_quarantine_what_is_lost_and_changes_nothing_else(site: Site) -> None:
    """damage.md section 3: clients must not go on being told that these bytes are there."""
    site.file(ONE).unlink()
    own = site.add_file(site.own_place("blobs"))
    assert stat_blob(site.registry, APP, digest_of(ONE)).size == len(ONE)
    report = site.check()
    (lost,) = found(report, "I2")
    assert not lost.repaired
    assert "quarantined, the next push of it replaces them" in lost.message
    with pytest.raises(BlobUnknown):
        stat_blob(site.registry, APP, digest_of(ONE))
    assert report.mendable == 1
    settle(site.registry)
    assert own.exists()


def test_a_store_of_another_registry_is_not_taken_for_lost_blobs(site: Site) -> None:
    assert site.root is not None
    label = site.registry.blobs.read_label()
    assert label is not None
    site.file(ONE).unlink()
    site.registry.blobs.write_label(label.replace(parse_label(label).registry, "f" * 32))
    (lost,) = found(site.check(repair=True), "I2")
    assert "not this registry's" in lost.message
    assert stat_blob(site.registry, APP, digest_of(ONE)).size == len(ONE)


def test_a_damaged_blob_names_every_image_that_needs_it(site: Site) -> None:
    site.file(SHARED).unlink()
    (finding,) = site.check().findings
    assert finding.affected == ("other:v1", "team/app:multi", "team/app:v1")
    assert finding.affected_count == 3
    site.sql("DELETE FROM tags WHERE name = 'multi'")
    (finding,) = found(site.check(), "I2")
    assert finding.affected == ("other:v1", "team/app:v1", f"team/app@{site.images.index}")


def test_a_damaged_manifest_names_the_indexes_above_it(site: Site) -> None:
    set_raw(site)
    (finding,) = site.check().findings
    assert finding.subject == f"team/app@{site.images.image}"
    assert finding.affected == ("team/app:multi", "team/app:v1")


def test_only_the_first_images_are_named_and_all_are_counted(memory_site: Site) -> None:
    registry = memory_site.registry
    for number in range(25):
        push_image(registry, "many", f"t{number:02}", [SHARED])
    registry.blobs.delete([memory_site.key(SHARED)])
    (finding,) = memory_site.check().findings
    assert finding.affected_count == 28
    assert finding.affected == tuple(f"many:t{number:02}" for number in range(20))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip_a_byte(path),
        lambda path: os.truncate(path, 10),
        lambda path: path.unlink(),
        replace_by_symlink,
    ],
    ids=["flipped", "truncated", "deleted", "symlink"],
)
def test_a_quarantined_blob_is_not_served_and_the_next_push_heals_it(
    site: Site, damage: Callable[[Path], object]
) -> None:
    """docs/reference/check.md, "What --repair does, and does not"."""
    path, key = site.file(ONE), site.key(ONE)
    damage(path)
    repaired = site.check(Mode.DEEP, repair=True)
    (finding,) = found(repaired, "I2")
    assert "quarantined" in finding.message
    assert not finding.repaired
    assert repaired.exit_code == 2
    with pytest.raises(BlobUnknown):
        stat_blob(site.registry, APP, digest_of(ONE))
    for mode in Mode:
        (finding,) = found(site.check(mode), "I2")
        assert finding.severity == "corruption", "damage until it is pushed again"
        assert "quarantined" in finding.message
    push_image(site.registry, APP, "v1", [SHARED, ONE])
    assert stat_blob(site.registry, APP, digest_of(ONE)).key != key
    for leftover in site.registry.blobs.list():
        if leftover.problem is not None:
            assert site.root is not None
            (site.root / leftover.key).unlink(missing_ok=True)
    site.clock.advance(3)
    settle(site.registry)
    assert not os.path.lexists(path)
    assert site.check(Mode.DEEP).findings == ()


@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.DEEP])
def test_putting_a_file_back_ends_its_quarantine(site: Site, mode: Mode) -> None:
    path = site.file(ONE)
    saved = path.with_name("saved")
    shutil.copy2(path, saved)
    path.unlink()
    site.check(repair=True)
    saved.rename(path)
    (finding,) = site.check(mode).findings
    assert (finding.invariant, finding.severity) == ("I2", "warning")
    assert found(site.check(Mode.FAST), "I2")[0].severity == "corruption", "the bytes were not read"
    (finding,) = site.check(mode, repair=True).findings
    assert finding.repaired
    assert site.check(Mode.DEEP).findings == ()
    assert stat_blob(site.registry, APP, digest_of(ONE)).size == len(ONE)


def test_a_wrong_size_in_the_database_is_corrected_when_the_bytes_are_right(site: Site) -> None:
    site.sql(f"UPDATE blobs SET size = 5 WHERE {of(ONE)}")
    assert site.check().exit_code == 2
    assert all(finding.repaired for finding in found(site.check(repair=True), "I2"))
    assert site.check(Mode.DEEP).findings == ()
    assert stat_blob(site.registry, APP, digest_of(ONE)).size == len(ONE)


def test_damage_that_could_be_mended_is_over_and_the_exit_code_says_so(memory_site: Site) -> None:
    memory_site.sql(f"UPDATE blobs SET size = 5 WHERE {of(LOOSE)}")
    assert memory_site.check().exit_code == 2
    report = memory_site.check(repair=True)
    assert report.counts == {"corruption": 1}
    assert report.exit_code == 1


def test_what_cannot_be_read_now_is_not_quarantined(site: Site) -> None:
    """A permission or a mount can be mended; until then nothing says that the bytes are bad."""
    shard = site.file(ONE).parent
    shard.rename(shard.with_name("saved"))
    shard.touch()
    report = site.check(Mode.DEEP, repair=True)
    assert "cannot be read" in found(report, "I2")[0].message
    shard.unlink()
    shard.with_name("saved").rename(shard)
    assert site.check(Mode.DEEP).findings == ()


def test_an_empty_store_is_not_taken_for_lost_blobs(site: Site) -> None:
    """Most likely a disk is not mounted: quarantine would have everything pushed again."""
    assert site.root is not None
    for folder in ("blobs", "uploads"):
        (site.root / folder).rename(site.root / f"saved-{folder}")
        (site.root / folder).mkdir(mode=0o700)
    registry = replace(site.registry, blobs=open_blob_store(f"file:{site.root}"))
    report = check(registry, Mode.DEFAULT, repair=True)
    assert report.exit_code == 2
    assert len(found(report, "I2")) == 7
    assert "is it the right one?" in report.findings[0].message
    assert site.row("SELECT count(*) FROM blobs WHERE damaged_at IS NOT NULL") == (0,)


# --- nothing is given up that might be needed -----------------------------------------------------


def test_unknown_bytes_are_kept_while_references_are_damaged(site: Site) -> None:
    """A blob's row that was deleted by hand leaves the only copy of its bytes without a name."""
    path = site.file(ONE)
    os.utime(path, (0, 0))
    site.sql(f"DELETE FROM blobs WHERE {of(ONE)}")
    report = site.check(Mode.DEEP, repair=True)
    (leak,) = found(report, "I8")
    assert not leak.repaired
    assert "kept while references are damaged" in leak.message
    site.clock.advance(DAY)
    settle(site.registry)
    assert path.read_bytes() == ONE


def test_a_link_that_only_looks_unused_is_not_reviewed(memory_site: Site) -> None:
    """The manifest names the blob, although the row that says so is gone."""
    site = memory_site
    site.sql(f"DELETE FROM manifest_blobs WHERE {of(TWO)}")
    (leak,) = found(site.check(repair=True), "I9")
    assert not leak.repaired
    site.clock.advance(DAY)
    settle(site.registry)
    other = parse_repository_name("other")
    assert stat_blob(site.registry, other, digest_of(TWO)).size == len(TWO)


def test_forgotten_garbage_gives_its_bytes_back_after_a_repair(site: Site) -> None:
    path = site.file(LOOSE)
    forget_the_review(site)
    site.clock.advance(DAY)
    settle(site.registry)
    assert path.exists(), "forgotten"
    (finding,) = site.check(repair=True).findings
    assert finding.repaired
    settle(site.registry)
    site.clock.advance(3)
    settle(site.registry)
    assert not path.exists()
    assert site.check(Mode.DEEP).findings == ()


def test_unknown_bytes_go_after_a_repair_and_are_counted_once(site: Site) -> None:
    path = site.add_file(site.own_place("blobs"), data=b"x" * 1000)
    report = site.check(repair=True)
    assert report.bytes["unknown"] == 1000
    assert site.check(repair=True).findings == ()
    before = site.row("SELECT sum(value) FROM counters WHERE name = 'reclaimed_bytes'")
    settle(site.registry)
    after = site.row("SELECT sum(value) FROM counters WHERE name = 'reclaimed_bytes'")
    assert not path.exists()
    assert int(str(after[0])) - int(str(before[0] or 0)) == 1000


def test_a_symbolic_link_is_never_followed(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(ONE)
    path = site.file(ONE)
    path.unlink()
    path.symlink_to(outside)
    report = site.check(Mode.DEEP, repair=True)
    assert invariants(report) == {"I2", "I30"}
    settle(site.registry)
    assert outside.read_bytes() == ONE


# --- beside pushes and deletions ------------------------------------------------------------------


class Traffic:
    """Threads that push, delete, cancel and reclaim until told to stop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._stopping = threading.Event()
        self.rounds = 0
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(work,))
            for work in (self._push_and_delete, self._push_shared, self._reclaim)
        ]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        assert self._failures == []

    def _run(self, work: Callable[[int], None]) -> None:
        try:
            number = 0
            while not self._stopping.is_set():
                number += 1
                work(number)
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's.
            self._failures.append(error)

    def _push_and_delete(self, number: int) -> None:
        name = parse_repository_name(f"busy/{number % 3}")
        layers = [SHARED, b"%d" % number * 50]
        image = push_image(self._registry, name, "v1", layers, config=b'{"n":%d}' % number)
        index = push_index(self._registry, name, "multi", [image])
        delete_manifest(self._registry, name, index, ALICE)
        delete_manifest(self._registry, name, image, ALICE)
        self.rounds += 1

    def _push_shared(self, number: int) -> None:
        name = parse_repository_name(f"gone/{number}")
        push_image(self._registry, name, "v1", [SHARED, ONE])
        upload = start_upload(self._registry, name, ALICE)
        session = append_upload(self._registry, name, upload.id, ALICE)
        session.write(b"part")
        session.close()
        delete_repository(self._registry, name, ALICE)

    def _reclaim(self, number: int) -> None:
        settle(self._registry)


@pytest.mark.parametrize("repair", [False, True], ids=["looking", "repairing"])
@pytest.mark.thorough
def test_traffic_never_looks_like_damage(build: Build, tmp_path: Path, repair: bool) -> None:
    """docs/reference/check.md, "No false alarms"."""
    # Without a grace period bytes vanish right behind their rows: the hardest case.
    limits = replace(Limits(), read_grace=timedelta(0))
    registry = build(open_blob_store(f"file:{tmp_path / 'store'}"), limits)
    fill(registry)
    modes = [Mode.FAST, Mode.DEFAULT, Mode.DEEP] * 10
    with Traffic(registry) as traffic:
        reports = [check(registry, mode, repair=repair) for mode in modes]
    assert traffic.rounds > 0
    assert [finding for report in reports for finding in report.findings] == []
    settle(registry)
    assert check(registry, Mode.DEEP).findings == ()


@pytest.mark.thorough
def test_counters_are_mended_exactly_while_others_change_them(memory_site: Site) -> None:
    site = memory_site
    with Traffic(site.registry):
        for _ in range(5):
            site.sql("UPDATE counters SET value = value + 1000 WHERE name = 'blob_bytes'")
            site.sql("UPDATE repositories SET manifest_count = 55 WHERE name = :name", name=APP)
            wrong = "manifest_refs = manifest_refs + 3, repository_count = 9"
            site.sql(f"UPDATE blobs SET {wrong} WHERE {of(SHARED)}")
            report = site.check(Mode.FAST, repair=True)
            assert invariants(report) == {"I14"}
    settle(site.registry)
    assert site.check(Mode.DEEP).findings == ()


class InterferingStore(MemoryBlobStore):
    """Lets something happen between what a check reads in the database and what it sees here."""

    def __init__(self) -> None:
        super().__init__()
        self.before_size: Callable[[str], None] = lambda key: None
        self.after_list: Callable[[], object] = lambda: None

    def size(self, key: str, place: str | None = None) -> int | None:
        self.before_size(key)
        return super().size(key, place)

    def list(self, shard: int | None = None) -> Iterator[StoredObject]:
        found = list(super().list(shard))
        self.after_list()
        yield from found


class Interference:
    """A registry with one image, that is pushed and deleted with all its bytes on a cue."""

    def __init__(self, build: Build) -> None:
        self.store = InterferingStore()
        self.registry = build(self.store, replace(Limits(), read_grace=timedelta(0)))
        self.cues = 0
        self.push()

    def push(self) -> None:
        self.image = push_image(self.registry, APP, "v1", [ONE])

    def delete(self) -> None:
        delete_manifest(self.registry, APP, self.image, ALICE)
        settle(self.registry)
        assert list(MemoryBlobStore.list(self.store)) == []

    def on_looking_at(self, data: bytes, *steps: Callable[[], None]) -> None:
        """Do the first step when the blob's bytes are first looked at, and so on."""
        left = iter(steps)

        def cue(key: str) -> None:
            query = "SELECT digest FROM blobs WHERE storage_key = :key"
            row = self.registry.read(
                lambda tx: tx.execute_directly(sa.text(query), {"key": key}).first()
            )
            if row is not None and row[0] == digest_of(data):
                for step in islice(left, 1):
                    self.cues += 1
                    step()

        self.store.before_size = cue

    def on_listing(self, step: Callable[[], object]) -> None:
        """Do it when the store has been listed; the first listing only asks whether it is empty."""
        steps = iter([lambda: None, step])
        self.store.after_list = lambda: next(steps)()

    def assert_no_alarm(self, cues: int, mode: Mode = Mode.DEEP) -> None:
        report = check(self.registry, mode)
        self.store.before_size = lambda key: None
        assert self.cues == cues, "nothing happened in between"
        assert report.findings == ()
        assert check(self.registry, Mode.DEEP).findings == ()


def test_a_blob_deleted_behind_its_row_is_no_finding(build: Build) -> None:
    busy = Interference(build)
    busy.on_looking_at(ONE, busy.delete)
    busy.assert_no_alarm(cues=1)


def test_a_blob_deleted_while_it_is_looked_at_again_is_no_finding(build: Build) -> None:
    busy = Interference(build)

    def replace_it() -> None:
        busy.delete()
        busy.push()

    busy.on_looking_at(ONE, replace_it, busy.delete)
    busy.assert_no_alarm(cues=2)


def test_a_blob_replaced_while_it_is_looked_at_again_is_no_finding(build: Build) -> None:
    busy = Interference(build)

    def replace_it() -> None:
        busy.delete()
        busy.push()

    busy.on_looking_at(ONE, replace_it, replace_it)
    busy.assert_no_alarm(cues=2)


@pytest.mark.parametrize("repair", [False, True], ids=["looking", "repairing"])
def test_an_object_erased_behind_its_listing_is_no_finding(
    build: Build, clock: FakeClock, repair: bool
) -> None:
    busy = Interference(build)
    busy.on_listing(busy.delete)
    clock.advance(10 * 365 * DAY)  # Old enough for whatever time the machine has.
    report = check(busy.registry, Mode.DEFAULT, repair=repair)
    assert report.checked["objects"] == 2, "listed"
    assert report.findings == ()


def test_a_session_finished_between_listing_and_database_is_no_finding(build: Build) -> None:
    busy = Interference(build)
    upload = start_upload(busy.registry, APP, ALICE)
    session = append_upload(busy.registry, APP, upload.id, ALICE)
    session.write(TWO)
    busy.on_listing(lambda: session.commit(digest_of(TWO)))
    report = check(busy.registry, Mode.DEFAULT)
    assert report.checked["objects"] == 3, "listed"
    assert report.findings == ()


def test_a_session_cancelled_behind_its_row_is_no_finding(build: Build) -> None:
    busy = Interference(build)
    upload = start_upload(busy.registry, APP, ALICE)
    session = append_upload(busy.registry, APP, upload.id, ALICE)
    session.write(TWO)
    session.close()

    def cancel(key: str) -> None:
        busy.store.before_size = lambda key: None
        if key == upload.key:
            cancel_upload(busy.registry, APP, upload.id, ALICE)
            settle(busy.registry)
            busy.cues += 1
        else:
            busy.store.before_size = cancel

    busy.store.before_size = cancel
    busy.assert_no_alarm(cues=1)


# --- the engine -----------------------------------------------------------------------------------


def ruin_page(site: Site, what: str) -> None:
    """Overwrite the first page of a table or index of SQLite's, and open the registry again."""
    (page,) = site.row(f"SELECT rootpage FROM sqlite_master WHERE name = '{what}'")
    (page_size,) = site.row("PRAGMA page_size")
    site.registry.db.close()
    with sqlite_path(site.database_url).open("r+b") as file:
        file.seek((int(str(page)) - 1) * int(str(page_size)))
        file.write(b"\xff" * int(str(page_size)))
    site.registry = make_registry(site.database_url, site.registry.blobs, site.clock)


@pytest.mark.parametrize("filled", ["sqlite"], indirect=True)
def test_a_damaged_sqlite_index_is_found(memory_site: Site) -> None:
    ruin_page(memory_site, "ix_tombstones_due_at")
    report = memory_site.check(Mode.FAST, repair=True)
    assert found(report, "I29")[0].severity == "corruption"
    assert report.exit_code == 2
    assert report.checked["manifests"] == 4, "what can be read is checked all the same"


@pytest.mark.parametrize("filled", ["sqlite"], indirect=True)
def test_a_table_that_cannot_be_read_is_damage_and_no_reason_to_stop(memory_site: Site) -> None:
    ruin_page(memory_site, "tags")
    report = memory_site.check(Mode.DEEP)
    assert report.exit_code == 2
    assert found(report, "I29")
    assert report.checked["blobs"] == 7


@pytest.mark.postgresql
@pytest.mark.parametrize("filled", ["postgresql"], indirect=True)
def test_a_constraint_that_was_never_verified_is_found(memory_site: Site) -> None:
    memory_site.sql("ALTER TABLE tags DROP CONSTRAINT fk_tags_manifest_id")
    memory_site.sql(
        "ALTER TABLE tags ADD CONSTRAINT fk_tags_manifest_id"
        " FOREIGN KEY (manifest_id) REFERENCES manifests (id) NOT VALID"
    )
    (finding,) = memory_site.check(Mode.FAST).findings
    assert (finding.invariant, finding.severity) == ("I29", "corruption")


# --- asking and telling ---------------------------------------------------------------------------


class UnlistableStore(MemoryBlobStore):
    def list(self, shard: int | None = None) -> Iterator[StoredObject]:
        raise PermissionError(13, "Permission denied")


def test_a_store_that_cannot_be_listed_makes_the_check_impossible(
    build: Build,
) -> None:
    registry = build(UnlistableStore())
    assert check(registry, Mode.FAST).exit_code == 0
    with pytest.raises(CheckImpossible, match="Permission denied"):
        check(registry, Mode.DEFAULT)
    assert list(run_check(registry, {"mode": "default"}, ALICE)) == [
        {"error": "the blob store: [Errno 13] Permission denied"}
    ]


def test_progress_tells_stages_and_bytes(memory_site: Site) -> None:
    steps: list[Progress] = []
    report = check(memory_site.registry, Mode.DEEP, progress=steps.append)
    stages = list(dict.fromkeys(step.stage for step in steps))
    assert stages.index("integrity") < stages.index("manifests") < stages.index("blobs")
    blobs = [step for step in steps if step.stage == "blobs"]
    assert (blobs[-1].done, blobs[-1].total) == (7, 7)
    assert blobs[-1].hashed_bytes == report.bytes["hashed"] == report.bytes["blobs"]


def test_a_request_is_answered_with_a_report_that_json_can_carry(memory_site: Site) -> None:
    set_raw(memory_site)
    *_, answer = run_check(memory_site.registry, {"mode": "fast", "repair": False}, ALICE)
    report = json.loads(json.dumps(answer))
    assert report["exit_code"] == 2
    assert report["mode"] == "fast"
    assert report["findings"][0]["invariant"] == "I4"
    assert report["findings"][0]["affected"] == ["team/app:multi", "team/app:v1"]


@pytest.mark.parametrize("request_", [{"mode": "slow"}, {"mode": "fast", "repair": "yes"}])
def test_a_request_that_makes_no_sense_is_refused(
    memory_site: Site, request_: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"slow|repair"):
        list(run_check(memory_site.registry, request_, ALICE))


def test_a_clean_report_reads_well(site: Site) -> None:
    text = render(site.check(Mode.DEEP))
    assert (
        "Checked (deep): 2 repositories, 4 manifests, 3 tags, 7 blobs, 8 links, 1 upload," in text
    )
    assert "Everything is as it should be." in text
    assert "Next" not in text


def test_a_report_has_a_line_for_each_finding_and_says_what_to_do(site: Site) -> None:
    key = site.key(ONE)
    site.file(ONE).unlink()
    site.sql("UPDATE repositories SET tag_count = 7 WHERE name = 'other'")
    first, second, *rest = render(site.check()).splitlines()
    assert first == (
        f"corruption I2: {digest_of(ONE)}: its 300 bytes are missing; storage key {key};"
        " quarantined, the next push of it replaces them;"
        f" affects team/app:multi, team/app:v1, team/app@{site.images.sbom}"
    )
    assert second == "accounting I14: repository other: tag_count is 7, counted 1"
    assert "Found 2: 1 corruption, 1 accounting." in rest
    assert any("--repair" in line for line in rest)
    assert any("push the affected images again" in line for line in rest)
    repaired = render(site.check(repair=True))
    assert "accounting I14: repository other: repaired: tag_count is 7, counted 1" in repaired
    assert "Found 2: 1 corruption, 1 accounting; 1 of them repaired." in repaired
    again = render(site.check())
    assert "with --repair, which" not in again, "nothing is left that it could mend"


def test_a_file_name_cannot_speak_to_the_terminal(site: Site) -> None:
    site.add_file("uploads/\x1b[2Jgone\n")
    text = render(site.check())
    assert "\x1b" not in text
    assert "\\x1b[2Jgone\\n" in text

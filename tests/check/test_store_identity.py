"""A database and a store that do not belong together never come up, and nothing is erased.

damage.md section 1. Each case is the one line that an operator reads, and then `--adopt-store` with
a day of everything that the worker does.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import ALICE, push_blob, push_image, settle
from tests.support.server import run_ullage
from ullage.blobs.files.store import LABEL, FileBlobStore
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.store_identity import Places, StoreForeign, adopt_store, require_same
from ullage.config.loading import load_settings
from ullage.config.settings import Settings
from ullage.database.opening import open_database
from ullage.database.transaction import Database
from ullage.deletion.reclaim import recover
from ullage.deletion.reconcile import reconcile
from ullage.oci.digest import digest_of
from ullage.oci.errors import BlobUnknown
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.identity import advance, begin_batch, parse_label
from ullage.registry.pull.read import get_manifest, open_blob
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.uploads import append_upload
from ullage.registry.queries.identity import KeyLine
from ullage.registry.storage_keys import gave_out, make_key
from ullage.wiring.opening import CannotStart, open_registry

pytestmark = pytest.mark.thorough

APP = parse_repository_name("app")
NOWHERE = Places("db", "store")


class Folder:
    """A data folder, served by a process each time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def settings(self) -> Settings:
        return load_settings({"data": str(self.path)}, {})

    @property
    def database(self) -> Path:
        return self.path / "ullage.db"

    @contextmanager
    def served(self, *, adopt: bool = False) -> Iterator[Registry]:
        """As `ullage serve` begins, without its listener."""
        with open_registry(self.settings, adopt=adopt) as (registry, _):
            recover(registry)
            advance(registry)
            yield registry
            # Copies that were not needed are gone, so that what goes later goes wrongly.
            settle(registry)

    def refusal(self) -> str:
        with pytest.raises(CannotStart) as caught, self.served():
            pass
        (line,) = str(caught.value).splitlines()
        return line

    def files(self) -> dict[str, int]:
        blobs = (self.path / "blobs").rglob("*")
        return {path.name: path.stat().st_size for path in blobs if path.is_file()}

    @property
    def registry_id(self) -> str:
        return parse_label((self.path / LABEL).read_text()).registry

    def age(self) -> None:
        for path in (self.path / "blobs").rglob("*"):
            os.utime(path, (0, 0))

    def keep(self, name: str) -> Callable[[], None]:
        """Copy the database; what puts the copy back in its place."""
        copy = self.path.with_name(name)
        shutil.copy(self.database, copy)

        def put_back() -> None:
            self.lose_database()
            shutil.copy(copy, self.database)

        return put_back

    def lose_database(self) -> None:
        for path in self.path.glob("ullage.db*"):
            path.unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Two images that were pushed days ago."""
    folder = Folder(tmp_path / "data")
    with folder.served() as registry:
        push_image(registry, "app", "v1", [b"one" * 1000])
        push_image(registry, "app", "v2", [b"two" * 1000])
    folder.age()
    return folder


def assert_days_erase_nothing(folder: Folder) -> None:
    """Not one file fewer, whatever the worker does in the days after the database took over."""
    before = folder.files()
    with folder.served(adopt=True) as registry:
        clock = FakeClock(registry.now())
        later = replace(registry, now=clock)
        for _ in range(12):
            reconcile(later, later.blobs.list())
            settle(later)
            clock.advance(timedelta(hours=5, minutes=59).total_seconds())
            folder.age()
    assert folder.files() == before
    # And from then on it starts without being told to.
    with folder.served():
        pass


def test_a_database_and_its_store_start_again(folder: Folder) -> None:
    for _ in range(2):
        with folder.served() as registry:
            push_image(registry, "app", "v3", [b"three"])
            assert get_manifest(registry, APP, parse_tag("v1")).raw


def test_a_missing_database_beside_a_full_store(folder: Folder) -> None:
    folder.lose_database()
    line = folder.refusal()
    assert line.startswith(f"there is no database at {folder.database}, but {folder.path} holds")
    assert folder.registry_id in line
    assert "copy the right database back" in line
    assert "--adopt-store" in line
    assert not folder.database.exists(), "none was made"
    assert_days_erase_nothing(folder)


def test_an_empty_database_beside_a_full_store(folder: Folder) -> None:
    folder.lose_database()
    folder.database.touch()
    line = folder.refusal()
    assert line.startswith(f"the database {folder.database} is empty, but {folder.path} holds")
    assert_days_erase_nothing(folder)


def test_a_new_database_beside_a_full_store(folder: Folder) -> None:
    """As a start of before, or `createdb`, leaves one: with all tables and nothing in them."""
    folder.lose_database()
    open_database(f"sqlite:///{folder.database}").close()
    line = folder.refusal()
    assert line.startswith(f"the database {folder.database} is new, but {folder.path} holds")
    assert_days_erase_nothing(folder)


def test_another_database_beside_a_full_store(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    with other.served() as registry:
        push_image(registry, "other", "v1", [b"other"])
    folder.lose_database()
    shutil.copy(other.database, folder.database)
    line = folder.refusal()
    assert f"{folder.database} is registry {other.registry_id}" in line
    assert f"belong to registry {folder.registry_id}" in line
    assert_days_erase_nothing(folder)


def test_a_database_older_by_less_than_a_minute_erases_nothing_for_a_day(
    folder: Folder, tmp_path: Path
) -> None:
    """The label has not moved on since. Keys that it reserved were used since: it cannot know."""
    with folder.served() as registry:
        push_image(registry, "app", "v1", [b"before"])
        settle(registry)
        copy_while_served(folder.database, tmp_path / "copy")
        push_image(registry, "app", "later", [b"later" * 100], config=b"{ }")
        settle(registry)
    folder.lose_database()
    shutil.copy(tmp_path / "copy", folder.database)
    before = folder.files()
    with folder.served() as registry:
        clock = FakeClock(registry.now())
        for _ in range(4):
            settle(replace(registry, now=clock))
            clock.advance(timedelta(hours=5, minutes=59).total_seconds())
    assert folder.files() == before


def copy_while_served(database: Path, copy: Path) -> None:
    """SQLite's own way: the state of one moment."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def test_an_older_database_gives_up_no_upload_that_the_lost_state_completed(
    folder: Folder, tmp_path: Path
) -> None:
    """Sessions that were open when it was copied have become blobs since, and images."""
    with folder.served() as registry:
        upload = start_upload(registry, APP, ALICE)
        session = append_upload(registry, APP, upload.id, ALICE)
        session.write(b"half")
        session.close()
        # One more stays in memory: its key is only reserved.
        push_blob(registry, "app", b"first")
        copy_while_served(folder.database, tmp_path / "copy")
        session = append_upload(registry, APP, upload.id, ALICE)
        session.write(b"whole")
        session.commit(digest_of(b"halfwhole"))
        push_image(registry, "app", "later", [b"later" * 100, b"halfwhole"], config=b"{ }")
        settle(registry)
        begin_batch(registry)
    folder.lose_database()
    shutil.copy(tmp_path / "copy", folder.database)
    folder.age()
    assert "is older than the blobs" in folder.refusal()
    before = folder.files()
    with folder.served(adopt=True) as registry:
        clock = FakeClock(registry.now())
        for _ in range(8):
            later = replace(registry, now=clock)
            reconcile(later, later.blobs.list())
            settle(later)
            clock.advance(timedelta(hours=5, minutes=59).total_seconds())
    lost = before.keys() - folder.files().keys()
    # But for what it knew, and nothing in it needs: its lease ran out.
    assert {before[key] for key in lost} <= {len(b"first")}


def test_an_older_database_is_told_from_the_label(folder: Folder) -> None:
    """A start, a minute with changes, 256 uploads: each moves the label on."""
    put_back = folder.keep("older")
    with folder.served() as registry:
        push_image(registry, "app", "later", [b"later" * 100])
    put_back()
    folder.age()
    line = folder.refusal()
    assert line.startswith(f"the database {folder.database} is older than the blobs in")
    assert "copy the latest database back with its -wal file" in line
    assert_days_erase_nothing(folder)


def test_a_newer_database_beside_an_older_store(folder: Folder) -> None:
    older = (folder.path / LABEL).read_text()
    for _ in range(2):
        with folder.served() as registry:
            push_image(registry, "app", "later", [b"later" * 100])
    (folder.path / LABEL).write_text(older)
    line = folder.refusal()
    assert line.startswith(f"the database {folder.database} is newer than the blobs in")
    assert "mount or name the latest storage" in line
    assert_days_erase_nothing(folder)


def test_an_empty_store_beside_a_full_database(folder: Folder) -> None:
    """A disk that is not mounted: every blob would be called lost."""
    shutil.rmtree(folder.path / "blobs")
    line = folder.refusal()
    assert "names 3 blobs" in line
    assert f"but {folder.path} is empty - mount or name the right storage" in line
    with folder.served(adopt=True) as registry:
        with pytest.raises(BlobUnknown):
            open_layer(registry, b"one" * 1000)
        push_image(registry, "app", "v1", [b"one" * 1000])
        assert open_layer(registry, b"one" * 1000) == 3000


def unfinished_upload(registry: Registry) -> None:
    upload = start_upload(registry, APP, ALICE)
    session = append_upload(registry, APP, upload.id, ALICE)
    session.write(b"half")
    session.close()


def test_what_is_left_of_uploads_does_not_make_a_store_full(folder: Folder) -> None:
    """`blobs/` is gone and `uploads/` is not: each pull of what HEAD promises would be a 404."""
    with folder.served() as registry:
        unfinished_upload(registry)
    shutil.rmtree(folder.path / "blobs")
    for _ in range(2):
        line = folder.refusal()
        assert f"{folder.database} names 3 blobs of registry {folder.registry_id}" in line
        assert f"but {folder.path} has none of them - mount or name the right storage" in line
        assert "--adopt-store" in line
    with folder.served(adopt=True):
        pass
    # What it took over without them it goes on without; what it wrote since must not be lost.
    with folder.served() as registry:
        push_image(registry, "app", "v1", [b"one" * 1000])
    with folder.served():
        pass
    shutil.rmtree(folder.path / "blobs")
    assert "has none of them" in folder.refusal()


def test_blobs_that_are_known_to_be_lost_do_not_keep_a_registry_from_its_start(
    folder: Folder,
) -> None:
    with folder.served() as registry:
        unfinished_upload(registry)
        shutil.rmtree(folder.path / "blobs")
        for data in (b"one" * 1000, b"two" * 1000, b"{}"):
            with pytest.raises(BlobUnknown):
                open_layer(registry, data)
    with folder.served():
        pass


def test_a_full_store_takes_one_look(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []
    size = FileBlobStore.size

    def counted(store: FileBlobStore, key: str) -> int | None:
        looked_up.append(key)
        return size(store, key)

    monkeypatch.setattr(FileBlobStore, "size", counted)
    with open_registry(folder.settings):
        assert len(looked_up) == 1


def test_an_empty_store_has_to_be_taken_over_only_once(folder: Folder) -> None:
    """Also when nothing was pushed since; but what was pushed since must not be lost again."""
    shutil.rmtree(folder.path / "blobs")
    with folder.served(adopt=True):
        pass
    for _ in range(2):
        with folder.served():
            pass
    with folder.served() as registry:
        push_image(registry, "app", "v1", [b"one" * 1000])
    shutil.rmtree(folder.path / "blobs")
    assert f"but {folder.path} is empty" in folder.refusal()


def open_layer(registry: Registry, data: bytes) -> int:
    reader = open_blob(registry, APP, digest_of(data))
    reader.close()
    return reader.size


def test_what_an_older_state_goes_on_to_write_is_not_what_the_lost_state_wrote(
    folder: Folder,
) -> None:
    """Both give out the next batch, of the same secret but for a line of its own."""
    put_back = folder.keep("older")
    with folder.served() as registry:
        push_image(registry, "app", "lost", [b"lost" * 100])
    lost = folder.files()
    put_back()
    with folder.served(adopt=True) as registry:
        for _ in range(3):
            begin_batch(registry)
        later = replace(registry, limits=replace(registry.limits, max_unknown_percent=100))
        later = replace(later, now=FakeClock(registry.now() + timedelta(days=3)))
        folder.age()
        assert reconcile(later, later.blobs.list()) == 0
    assert folder.files() == lost


def test_a_store_without_a_label_gets_one_if_the_database_names_what_is_in_it(
    folder: Folder,
) -> None:
    before = folder.registry_id
    (folder.path / LABEL).unlink()
    with folder.served():
        pass
    assert folder.registry_id == before


def test_a_label_that_makes_no_sense_is_another_registrys(folder: Folder) -> None:
    (folder.path / LABEL).write_text("{}\n")
    assert "belong to registry unreadable" in folder.refusal()


def test_a_new_registry_on_an_empty_store_needs_nothing_said(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    with folder.served():
        pass
    folder.lose_database()
    with folder.served() as registry:
        push_image(registry, "app", "v1", [b"one"])
    with folder.served():
        pass


def test_the_command_says_it_in_one_line_and_ends_with_1(folder: Folder) -> None:
    folder.lose_database()
    before = folder.files()
    done = run_ullage("serve", "--data", folder.path, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("ERROR: there is no database at")
    assert folder.files() == before


def test_other_commands_do_not_make_a_database_either(folder: Folder) -> None:
    """`ullage check` on a mistyped database is about that database, and changes nothing."""
    other = f"sqlite:///{folder.path / 'typo.db'}"
    done = run_ullage("check", "--data", folder.path, "--database", other)
    assert done.returncode == 3
    assert "there is no database" in done.stderr
    assert not (folder.path / "typo.db").exists()


@pytest.mark.postgresql
def test_an_older_or_foreign_postgresql_database_is_refused_too(
    postgres_db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    registry = registry_on(postgres_db, store, clock)
    push_image(registry, "app", "v1", [b"one"])
    require_same(postgres_db, store, NOWHERE)
    label = parse_label(str(store.read_label()))
    store.write_label(str(replace(label, batch=label.batch + 1)))
    with pytest.raises(StoreForeign, match="is older than"):
        require_same(postgres_db, store, NOWHERE)
    store.write_label(str(replace(label, registry="0" * 32)))
    with pytest.raises(StoreForeign, match="is registry"):
        require_same(postgres_db, store, NOWHERE)
    adopt_store(postgres_db, store, clock(), registry.fresh_key)
    begin_batch(registry)
    require_same(postgres_db, store, NOWHERE)


def test_a_key_proves_its_line_and_its_batch() -> None:
    line = KeyLine(1, "a", "secret", 7, 0)
    key = make_key(line, "0123456789abcdef0123456789abcdef")
    assert len(key) == 32
    assert gave_out([line], key)
    assert gave_out([replace(line, last=8)], key)
    assert not gave_out([replace(line, last=6)], key)
    assert not gave_out([replace(line, secret="another")], key)
    assert gave_out([replace(line, secret="another"), line], key)
    assert not gave_out([], key)

"""A backup step by step: what is copied, trusted, refused (docs/design/backup.md section 1)."""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.backup.house import APP, House, house, restored, tags_in
from tests.support.disks import small_disk
from tests.support.registry import ALICE, push_index, settle
from tests.support.soundness import assert_sound
from ullage.accounts.audit_log import list_audit
from ullage.accounts.users import ensure_admin
from ullage.backup.layout import BLOBS, DESCRIPTION, KEYS, Backup, BackupFailed, backups_in
from ullage.backup.lease import answer
from ullage.backup.make import Tally
from ullage.backup.prune import prune
from ullage.backup.put_back import Restored, RestoreWishes
from ullage.backup.replay import read_entries
from ullage.backup.restore import choose
from ullage.config.loading import load_settings
from ullage.database.errors import DatabaseUnusable
from ullage.database.frozen import SECRETS
from ullage.database.schema import space
from ullage.deletion.delete import delete_manifest, delete_repository, delete_tag
from ullage.deletion.reclaim import reclaim_due
from ullage.documents import plain
from ullage.oci.digest import parse_digest
from ullage.oci.reference import parse_tag
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.uploads import append_upload
from ullage.registry.queries.identity import find_registry_id
from ullage.registry.queries.reclaim import backup_leases
from ullage.wiring.backups import restore_backup
from ullage.wiring.opening import CannotStart, open_registry
from ullage.wiring.serving import run_server

LAYER = b"a layer that is easy to find" * 500


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """Opening a registry sets it, for the process that serves."""
    umask = os.umask(0o077)
    yield
    os.umask(umask)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path / "data", tmp_path / "backups") as home:
        home.push("v1", LAYER)
        home.push("v2")
        yield home


def copies_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / BLOBS).glob("*/*")}


# --- what is in it --------------------------------------------------------------------------------


def test_a_restored_backup_is_the_registry_of_that_moment(home: House, tmp_path: Path) -> None:
    made = home.back_up()
    then = tags_in(home.registry)
    home.push("later")
    delete_tag(home.registry, APP, parse_tag("v1"), ALICE)
    done = restored(home.folder, tmp_path / "new")
    assert done.report is not None
    assert done.report["exit_code"] == 0
    with house(tmp_path / "new", tmp_path) as new:
        assert tags_in(new.registry) == then
        assert new.registry.read(find_registry_id) == made.backup.description.registry
        # It goes on: what is pushed and deleted is stored and erased as ever.
        new.push("after")
        delete_manifest(new.registry, APP, parse_digest(then["v2"]), ALICE)
        assert_sound(new.registry)


def test_sessions_leases_and_jobs_of_then_are_not_in_it(home: House, tmp_path: Path) -> None:
    """Not in a backup: uploads, leases, what waits to be erased, what was being deleted."""
    upload = start_upload(home.registry, APP, ALICE)
    session = append_upload(home.registry, APP, upload.id, ALICE, start=0)
    session.write(b"a part of a layer")
    session.close()
    doomed = home.push("doomed", b"to be erased" * 100)
    delete_manifest(home.registry, APP, parse_digest(doomed), ALICE)
    home.back_up()
    done = restored(home.folder, tmp_path / "new")
    assert done.report is not None
    assert done.report["exit_code"] == 0
    assert list((tmp_path / "new" / "uploads").iterdir()) == []
    with closing(sqlite3.connect(tmp_path / "new" / "ullage.db")) as db:
        for table in ("uploads", "tombstones", "backup_leases"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        (entry,) = db.execute("SELECT detail FROM audit WHERE action = 'backup.restore'")
    assert json.loads(entry[0])["audit_head"] == done.backup.description.audit_head


def test_after_a_restore_what_was_promised_is_unknown_for_one_lease(
    home: House, tmp_path: Path
) -> None:
    """deletion.md section 3.2: bytes of deletions stay for as long as a lease."""
    home.back_up()
    restored(home.folder, tmp_path / "new", RestoreWishes())
    with house(tmp_path / "new", tmp_path) as new:
        digest = tags_in(new.registry)["v1"]
        deleted = delete_manifest(new.registry, APP, parse_digest(digest), ALICE)
        assert (deleted.freed_bytes, deleted.leased_bytes > 0) == (0, True)


def test_the_keys_are_sorted_and_say_size_and_digest(home: House) -> None:
    made = home.back_up()
    lines = (made.backup.path / KEYS).read_text().splitlines()
    assert lines == sorted(lines)
    assert len(lines) == made.backup.description.blobs == 3
    for line in lines:
        key, size, digest = line.split()
        data = (home.folder / BLOBS / key[:2] / key).read_bytes()
        assert len(data) == int(size)
        assert parse_digest(digest)
    modes = {path.stat().st_mode & 0o077 for path in home.folder.rglob("*")}
    assert modes == {0}, "nobody else may read it"


def test_without_secrets_nothing_of_accounts_is_in_any_byte(home: House, tmp_path: Path) -> None:
    ensure_admin(home.registry, ALICE)
    with closing(sqlite3.connect(home.settings.data / "ullage.db")) as db:
        (secret,) = db.execute("SELECT password_hash FROM users").fetchone()
    with_secrets = home.back_up()
    assert secret.encode() in (with_secrets.backup.path / "ullage.db").read_bytes()
    without = home.back_up(secrets=False)
    assert secret.encode() not in (without.backup.path / "ullage.db").read_bytes()
    assert not without.backup.description.secrets
    restored(home.folder, tmp_path / "new")
    with closing(sqlite3.connect(tmp_path / "new" / "ullage.db")) as db:
        for table in SECRETS:
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_a_copy_is_a_registry_of_its_own(home: House, tmp_path: Path) -> None:
    home.back_up()
    done = restored(home.folder, tmp_path / "new", RestoreWishes(as_copy=True, deep=True))
    assert done.settled.registry != done.backup.description.registry
    mixed = tmp_path / "mixed"
    shutil.copytree(tmp_path / "new" / "blobs", mixed / "blobs")
    shutil.copy(tmp_path / "new" / "registry-id", mixed)
    with closing(sqlite3.connect(home.settings.data / "ullage.db")) as db:
        db.execute("VACUUM INTO ?", (str(mixed / "ullage.db"),))
    settings = load_settings({"data": str(mixed)}, {})
    with pytest.raises(CannotStart, match="belong to registry"), open_registry(settings):
        pass


# --- what is copied again -------------------------------------------------------------------------


def test_an_incremental_backup_copies_only_what_is_not_there(home: House) -> None:
    assert home.back_up().tally.copied == 3
    files = {path: path.stat().st_ino for path in home.folder.glob("blobs/*/*")}
    home.push("v3")
    made = home.back_up(incremental=True)
    assert (made.tally.copied, made.backup.description.blobs) == (1, 4)
    assert files.items() <= {p: p.stat().st_ino for p in home.folder.glob("blobs/*/*")}.items()


def test_a_copy_that_rotted_is_mended_by_a_full_backup(home: House, tmp_path: Path) -> None:
    home.back_up()
    key = home.bytes_of(LAYER).name
    copy = home.folder / BLOBS / key[:2] / key
    copy.write_bytes(LAYER[:-1] + b"!")
    assert home.back_up(incremental=True).tally.copied == 0
    with pytest.raises(CannotStart, match="its bytes are others"):
        restored(home.folder, tmp_path / "new", RestoreWishes(verify=True))
    assert home.back_up().tally.copied == 1
    assert copy.read_bytes() == LAYER


def test_a_copy_that_is_cut_short_is_copied_again(home: House) -> None:
    home.back_up()
    key = home.bytes_of(LAYER).name
    (home.folder / BLOBS / key[:2] / key).write_bytes(LAYER[:5])
    assert home.back_up(incremental=True).tally.copied == 1
    assert copies_in(home.folder)[key] == LAYER


def test_a_good_copy_is_never_replaced_by_damaged_bytes(home: House) -> None:
    """The source rots; the copy of yesterday is right, and stays."""
    home.back_up()
    source = home.bytes_of(LAYER)
    source.write_bytes(LAYER[:-1] + b"!")
    made = home.back_up()
    assert (made.tally.copied, made.tally.damaged) == (0, [])
    assert copies_in(home.folder)[source.name] == LAYER


def test_links_are_made_where_they_are_asked_for(home: House, tmp_path: Path) -> None:
    made = home.back_up(link=True)
    source = home.bytes_of(LAYER)
    copy = home.folder / BLOBS / source.name[:2] / source.name
    assert copy.samefile(source)
    # Erasing takes the registry's name away, not the backup's.
    delete_manifest(home.registry, APP, parse_digest(tags_in(home.registry)["v1"]), ALICE)
    restored(home.folder, tmp_path / "new", RestoreWishes(deep=True, link=True))
    assert (tmp_path / "new" / "blobs" / source.name[:2] / source.name).samefile(copy)
    assert made.tally.copied == 3


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["missing", "cut short", "others"])
def test_a_damaged_blob_is_quarantined_and_all_others_are_copied(
    home: House, tmp_path: Path, damage: str
) -> None:
    """damage.md section 3; the restored registry knows of it, too, and a push heals it."""
    source = home.bytes_of(LAYER)
    if damage == "missing":
        source.unlink()
    else:
        source.write_bytes(LAYER[:10] if damage == "cut short" else b"!" + LAYER[1:])
    made = home.back_up(verify=True)
    assert [blob.storage_key for blob in made.tally.damaged] == [source.name]
    assert made.backup.description.damaged == [source.name]
    done = restored(home.folder, tmp_path / "new", RestoreWishes())
    assert [blob.storage_key for blob in done.missing] == [source.name]
    with house(tmp_path / "new", tmp_path) as new:
        new.push("v1", LAYER)
        assert_sound(new.registry)


def test_a_backup_that_lacks_bytes_is_refused_or_restored_as_far_as_it_goes(
    home: House, tmp_path: Path
) -> None:
    home.back_up()
    key = home.bytes_of(LAYER).name
    (home.folder / BLOBS / key[:2] / key).unlink()
    with pytest.raises(CannotStart, match=r"1 of 3 blobs are missing .*--keep-going"):
        restored(home.folder, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == [], "what failed leaves nothing behind"
    done = restored(home.folder, tmp_path / "new", RestoreWishes(keep_going=True))
    assert [blob.storage_key for blob in done.missing] == [key]
    with house(tmp_path / "new", tmp_path) as new:
        new.push("v1", LAYER)
        assert_sound(new.registry)


@pytest.mark.parametrize("file", [KEYS, "ullage.db"])
def test_a_damaged_file_of_a_backup_is_told_by_its_digest(
    home: House, tmp_path: Path, file: str
) -> None:
    path = home.back_up().backup.path / file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(CannotStart, match=f"is damaged: {file} is another file - take another"):
        restored(home.folder, tmp_path / "new")


# --- the lease ------------------------------------------------------------------------------------


def test_the_lease_ends_with_the_backup_also_with_one_that_fails(home: House) -> None:
    home.back_up()
    (home.folder / BLOBS / "00").rename(home.folder / "away")
    (home.folder / BLOBS / "00").write_text("in the way")
    with pytest.raises(BackupFailed):
        home.back_up()
    assert (
        home.registry.read(lambda tx: tx.execute_directly(space.backup_leases.select()).all()) == []
    )
    assert len([each for each in backups_in(home.folder) if isinstance(each, Backup)]) == 1


def test_a_backup_whose_lease_has_ended_is_none(home: House) -> None:
    """Bytes that it names may be erased by then."""
    late = replace(
        home.registry, now=lambda: home.registry.now() + backup_leases.LEASE + timedelta(seconds=1)
    )

    def ask(request: dict[str, object]) -> dict[str, object]:
        return answer(late if request["ask"] == "renew" else home.registry, request)

    with pytest.raises(BackupFailed, match="gave no sign of life for ten minutes"):
        home.back_up(ask=ask)
    assert list(backups_in(home.folder)) == []


def test_deletions_in_the_middle_leave_the_backup_whole(home: House, tmp_path: Path) -> None:
    """Race R25: what the snapshot names is copied, though it was deleted since."""
    then = tags_in(home.registry)

    def delete_all() -> None:
        delete_repository(home.registry, APP, ALICE)
        settle(home.registry)
        assert reclaim_due(home.registry) == 0

    no_grace = replace(home.registry.limits, read_grace=timedelta(0), lease=timedelta(0))
    home.registry = replace(home.registry, limits=no_grace)
    made = home.back_up(after_snapshot=delete_all)
    assert made.tally.damaged == []
    assert made.tally.copied == 3
    settle(home.registry)
    assert list(home.settings.data.glob("blobs/*/*")) == [], "erasing goes on afterwards"
    restored(home.folder, tmp_path / "new")
    with house(tmp_path / "new", tmp_path) as new:
        assert tags_in(new.registry) == then


# --- pruning --------------------------------------------------------------------------------------


def test_pruning_keeps_what_the_kept_backups_need(home: House, tmp_path: Path) -> None:
    home.back_up()
    delete_manifest(home.registry, APP, parse_digest(tags_in(home.registry)["v1"]), ALICE)
    gone = home.bytes_of(LAYER).name
    home.push("v3")
    kept = home.back_up(incremental=True)
    unfinished = home.folder / "20200101T000000Z"
    unfinished.mkdir()
    done = prune(home.folder, 1)
    assert (len(done.backups), done.blobs, done.bytes) == (1, 1, len(LAYER))
    assert gone not in copies_in(home.folder)
    assert [each.path for each in backups_in(home.folder) if isinstance(each, Backup)] == [
        kept.backup.path
    ]
    assert not unfinished.exists()
    report = restored(home.folder, tmp_path / "new").report
    assert report is not None
    assert report["exit_code"] == 0


def test_pruning_removes_nothing_by_a_list_that_is_damaged(home: House) -> None:
    home.back_up()
    made = home.back_up()
    (made.backup.path / KEYS).write_text("")
    before = copies_in(home.folder)
    with pytest.raises(BackupFailed, match="nothing was removed"):
        prune(home.folder, 1)
    assert copies_in(home.folder) == before


# --- what was deleted since -----------------------------------------------------------------------


def test_deletions_that_came_after_are_carried_out_again(home: House, tmp_path: Path) -> None:
    """A secret that leaked stays gone; what was pushed again, or taken back, stays."""
    one = home.push("child")
    push_index(home.registry, "app", "index", [parse_digest(one)])
    delete_tag(home.registry, APP, parse_tag("child"), ALICE)
    for tag in ("leaked", "again", "untagged"):
        home.push(tag)
    home.back_up()
    tags = tags_in(home.registry)
    for tag in ("leaked", "again", "index"):
        delete_manifest(home.registry, APP, parse_digest(tags[tag]), ALICE)
    delete_tag(home.registry, APP, parse_tag("untagged"), ALICE)
    home.push("again")
    file = tmp_path / "audit.json"
    file.write_text(json.dumps(plain(list_audit(home.registry, top=1000))))
    wishes = RestoreWishes(deep=True, replayed=read_entries(file))
    done = restored(home.folder, tmp_path / "new", wishes)
    assert done.replayed is not None
    assert done.replayed.refused == {}
    with house(tmp_path / "new", tmp_path) as new:
        assert sorted(tags_in(new.registry)) == ["again", "v1", "v2"]
        assert tags_in(new.registry) == tags_in(home.registry)


# --- mistakes -------------------------------------------------------------------------------------


def test_a_folder_of_another_registry_or_program_is_refused(home: House, tmp_path: Path) -> None:
    home.back_up()
    with (
        house(tmp_path / "other", home.folder) as other,
        pytest.raises(BackupFailed, match=r"has backups of registry .*, this is registry"),
    ):
        other.back_up()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "letter.txt").touch()
    home.folder = theirs
    with pytest.raises(BackupFailed, match=r"holds files of another program \(letter.txt\)"):
        home.back_up()
    home.folder = theirs / "letter.txt"
    with pytest.raises(BackupFailed, match="is a file - name a folder"):
        home.back_up()
    assert [path.name for path in theirs.iterdir()] == ["letter.txt"]


def test_what_is_no_backup_is_not_restored(home: House, tmp_path: Path) -> None:
    made = home.back_up()
    path = made.backup.path
    for folder, why in (
        (tmp_path / "nothing", "there is no folder"),
        (tmp_path, "is no folder of backups: it has no ullage-backups.json"),
        (home.settings.data, "is no folder of backups"),
    ):
        with pytest.raises(BackupFailed, match=why):
            choose(folder)
    assert choose(home.folder) == choose(path)
    said = json.loads((path / DESCRIPTION).read_text())
    for changes, why in (
        ({"format": 2}, "has format 2, this is 1"),
        ({"schema": "b9999"}, "is of a newer version"),
        ({"database": "postgresql"}, "is of a postgresql database - name an empty database"),
    ):
        (path / DESCRIPTION).write_text(json.dumps(said | changes))
        with pytest.raises((BackupFailed, CannotStart), match=why):
            restored(home.folder, tmp_path / "new")
    (path / DESCRIPTION).write_text("{")
    with pytest.raises(BackupFailed, match=r"is damaged: backup.json makes no sense"):
        restored(home.folder, tmp_path / "new")
    (path / DESCRIPTION).unlink()
    with pytest.raises(BackupFailed, match=r"is not finished: it has no backup.json"):
        choose(path)


def test_only_an_empty_folder_is_restored_into(home: House, tmp_path: Path) -> None:
    home.back_up()
    with pytest.raises(CannotStart, match="is not empty"):
        restored(home.folder, home.settings.data)
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match="is a file - name a new folder"):
        restored(home.folder, tmp_path / "file")


def test_what_is_restored_stays_also_if_nobody_waits_for_the_end(
    home: House, tmp_path: Path
) -> None:
    """Ctrl-C before that empties the folder, and after that nothing does."""
    home.back_up()
    given = load_settings({"data": str(tmp_path / "new")}, {})
    cut_off = restore_backup(given, choose(home.folder), RestoreWishes())
    assert isinstance(next(cut_off), Tally)
    cut_off.close()  # type: ignore[attr-defined]
    assert list((tmp_path / "new").iterdir()) == []
    running = restore_backup(given, choose(home.folder), RestoreWishes())
    assert any(isinstance(said, Restored) for said in running)
    running.close()  # type: ignore[attr-defined]
    with house(tmp_path / "new", tmp_path) as new:
        assert tags_in(new.registry) == tags_in(home.registry)


def test_a_restore_that_was_cut_off_is_not_served(home: House, tmp_path: Path) -> None:
    (tmp_path / "new" / "restoring").mkdir(parents=True)
    (tmp_path / "new" / "blobs").mkdir()
    settings = load_settings({"data": str(tmp_path / "new"), "listen": "127.0.0.1:0"}, {})
    with pytest.raises(CannotStart, match=r"a restore into .* was cut off"):
        run_server(settings, lambda _: None)
    with pytest.raises(CannotStart, match="was cut off"), open_registry(settings):
        pass


@pytest.mark.parametrize("size", ["64k", "1m"], ids=["for the database", "for the blobs"])
def test_a_disk_without_room_leaves_what_was_copied_and_no_backup(
    home: House, tmp_path: Path, size: str
) -> None:
    for number in range(4):
        home.push(f"large{number}", os.urandom(300_000))
    with small_disk(tmp_path / "small", f"size={size}") as disk:
        home.folder = disk
        with pytest.raises(BackupFailed, match=r"no room in .*run it again with --incremental"):
            home.back_up()
        assert list(backups_in(disk)) == []
        with pytest.raises(BackupFailed, match=r"--link: .* is on another file system"):
            _with_room(disk, home).back_up(link=True)


def _with_room(disk: Path, home: House) -> House:
    subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
    return home


@pytest.mark.postgresql
def test_a_registry_on_postgresql_without_pg_dump_is_told_what_to_install(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with house(tmp_path / "data", tmp_path / "backups", database=postgres_url) as home:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(DatabaseUnusable, match=r"pg_dump is missing - install the client"):
            home.back_up()
        assert list(backups_in(home.folder)) == []


@pytest.mark.postgresql
def test_a_database_that_has_a_registry_is_not_restored_into(
    postgres_url: str, tmp_path: Path
) -> None:
    with house(tmp_path / "data", tmp_path / "backups", database=postgres_url) as home:
        home.push("v1")
        home.back_up(secrets=False)
        with pytest.raises(CannotStart, match="has tables of a registry - name an empty one"):
            restored(home.folder, tmp_path / "new", database=postgres_url)
        with pytest.raises(CannotStart, match="is of a postgresql database"):
            restored(home.folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()

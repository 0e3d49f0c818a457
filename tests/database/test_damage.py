"""A SQLite file that is torn, damaged or lacks its log is noticed before it serves.

damage.md section 4.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.server import command_environment
from ullage.database.errors import DatabaseDamaged
from ullage.database.schema import space
from ullage.database.sqlite.database import SqliteDatabase
from ullage.database.transaction import Transaction

pytestmark = pytest.mark.thorough

ROWS = 3000
# Writes so many rows, and is killed.
_DIE = """
import os, signal, sys
from pathlib import Path
from ullage.database.schema import space
from ullage.database.sqlite.database import SqliteDatabase
db = SqliteDatabase(Path(sys.argv[1]))
for start in range(0, int(sys.argv[2]), 500):
    rows = [{"name": f"{n:08}" * 20, "slot": 0, "value": n} for n in range(start, start + 500)]
    db.write(lambda tx: tx.execute_directly(space.counters.insert(), rows))
os.kill(os.getpid(), signal.SIGKILL)
"""


def crashed(path: Path, rows: int = ROWS) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", _DIE, str(path), str(rows)],
        env=command_environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    return path


@contextmanager
def opened(path: Path, **options: object) -> Iterator[SqliteDatabase]:
    db = SqliteDatabase(path, **options)  # type: ignore[arg-type]
    try:
        yield db
    finally:
        db.close()


def count(tx: Transaction) -> int:
    return int(
        tx.execute_directly(sa.select(sa.func.count()).select_from(space.counters)).scalar_one()
    )


def add_row(tx: Transaction) -> None:
    tx.execute_directly(space.counters.insert().values(name="new", slot=0, value=1))


def fold_log(path: Path) -> None:
    """What is in the log goes to the file, by a checkpoint; both stay as after a crash."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path.with_name(path.name + "-wal"), path.with_name("wal"))
    connection.close()
    shutil.copy(path.with_name("wal"), path.with_name(path.name + "-wal"))


def root_page(path: Path, name: str) -> int:
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = ?", [name]
        ).fetchone()
    return int(page)


def ruin(path: Path, page: int) -> None:
    """Overwrite a page, as a disk does that loses a sector."""
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ullage.db"


@pytest.fixture
def ruined(path: Path) -> Path:
    """A crash, and a page in the middle of the file that is not what it was."""
    crashed(path)
    page = root_page(path, "counters")
    fold_log(path)
    ruin(path, page)
    return path


def test_a_crash_alone_is_no_damage(path: Path) -> None:
    crashed(path)
    with opened(path) as db:
        assert db.read(count) == ROWS
        assert db.damage is None


def test_a_damaged_file_is_refused_in_one_line_and_left_as_it_is(ruined: Path) -> None:
    before = {each: each.read_bytes() for each in ruined.parent.glob("ullage.db*")}
    before.pop(ruined.with_name("ullage.db-shm"), None)
    for _ in range(2):
        with pytest.raises(DatabaseDamaged) as caught:
            SqliteDatabase(ruined)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"the database {ruined} is damaged (")
        assert "put a backup of the database in its place" in line
    assert {each: each.read_bytes() for each in before} == before


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_whose_schema_is_damaged_is_refused_with_what_to_do(
    path: Path, read_only: bool, clean: bool
) -> None:
    if clean:
        with opened(path):
            pass
    else:
        crashed(path, rows=0)
        fold_log(path)
    # The first page of the schema is not a leaf: it leads to the last one (SQLite file format 1.6).
    (last,) = struct.unpack(">I", path.read_bytes()[108:112])
    ruin(path, last)
    with pytest.raises(DatabaseDamaged) as caught:
        SqliteDatabase(path, read_only_on_damage=read_only)
    (line,) = str(caught.value).splitlines()
    told = "too damaged to be read (" if read_only else "damaged ("
    assert line.startswith(f"the database {path} is {told}")
    assert "put a backup of the database in its place" in line
    # What would not work is not advised.
    assert ("--read-only-on-damage" in line) is not read_only


def test_a_file_that_is_cut_short_is_damaged(path: Path) -> None:
    crashed(path)
    fold_log(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)
    with pytest.raises(DatabaseDamaged, match="is damaged"):
        SqliteDatabase(path)


def test_a_damaged_file_can_be_read_as_far_as_it_goes(ruined: Path) -> None:
    before = ruined.read_bytes()
    with opened(ruined, read_only_on_damage=True) as db:
        assert db.damage is not None
        assert (
            db.read(lambda tx: tx.execute_directly(sa.text("SELECT count(*) FROM blobs")).scalar())
            == 0
        )
        with pytest.raises(DatabaseDamaged):
            db.read(count)
        with pytest.raises(DatabaseDamaged):
            db.write(add_row)
    assert ruined.read_bytes() == before
    with pytest.raises(DatabaseDamaged):
        SqliteDatabase(ruined)


def test_a_missing_log_is_noticed_until_somebody_goes_on_without_it(path: Path) -> None:
    """It is part of the database until somebody closes that: what was committed last is in it."""
    crashed(path)
    path.with_name("ullage.db-wal").unlink()
    for _ in range(2):
        with opened(path) as db:
            assert db.log_missing
            # Nothing had been taken in, so that nothing is what is left.
            assert db.read(count) < ROWS
    with opened(path) as db:
        db.go_on()
        assert not db.log_missing
    with opened(path) as db:
        assert not db.log_missing


def test_a_closed_database_needs_neither_log_nor_look(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path):
        pass
    assert not path.with_name("ullage.db-wal").exists()
    monkeypatch.setattr("ullage.database.sqlite.database.find_problem", None)
    with opened(path):
        pass


def test_a_file_that_was_copied_here_alone_is_looked_at(ruined: Path, tmp_path: Path) -> None:
    """Nothing beside it says that it was closed."""
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(ruined, tmp_path / "elsewhere" / "ullage.db")
    with pytest.raises(DatabaseDamaged):
        SqliteDatabase(Path(copy))


def test_a_large_file_is_looked_at_beside_serving(ruined: Path) -> None:
    """Found damaged, it takes no change from then on; reads go on."""
    with opened(ruined, large_bytes=0) as db:
        assert db._checker is not None
        db._checker.join()
        assert db.damage is not None
        with pytest.raises(DatabaseDamaged):
            db.write(add_row)
        assert (
            db.read(lambda tx: tx.execute_directly(sa.text("SELECT count(*) FROM blobs")).scalar())
            == 0
        )
    # Nobody may take it for closed and sound.
    with pytest.raises(DatabaseDamaged):
        SqliteDatabase(ruined)


def test_a_look_that_a_stop_cuts_short_is_taken_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed(path)
    monkeypatch.setattr("ullage.database.sqlite.soundness.ASK_EVERY", 10)
    db = SqliteDatabase(path, large_bytes=0)
    db._closing.set()
    db.close()
    assert db._checked or b"closed" not in path.with_name("owner.lock").read_bytes()


LOOKS: dict[str, Callable[[SqliteDatabase], int]] = {
    "read": lambda db: db.read(count),
    "snapshot": lambda db: db.snapshot(count),
    "cached_read": lambda db: db.cached_read("count", count, lambda _: 0),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_damage_that_is_met_while_reading_ends_all_writing(
    path: Path, look: Callable[[SqliteDatabase], int]
) -> None:
    """SQLITE_CORRUPT at run time, in a file that looked sound at the start."""
    with opened(path) as db:
        rows = [{"name": f"{n:08}" * 20, "slot": 0, "value": n} for n in range(ROWS)]
        db.write(lambda tx: tx.execute_directly(space.counters.insert(), rows))
    page = root_page(path, "counters")
    ruin(path, page)
    with opened(path) as db:
        db.write(
            lambda tx: tx.execute_directly(space.reserved_keys.insert().values(storage_key="k"))
        )
        with pytest.raises(DatabaseDamaged):
            look(db)
        assert db.damage is not None
        with pytest.raises(DatabaseDamaged):
            db.write(
                lambda tx: tx.execute_directly(space.reserved_keys.insert().values(storage_key="l"))
            )
    with pytest.raises(DatabaseDamaged):
        SqliteDatabase(path)


def test_damage_that_is_met_while_writing_ends_all_writing(path: Path) -> None:
    with opened(path) as db:
        rows = [{"name": f"{n:08}" * 20, "slot": 0, "value": n} for n in range(ROWS)]
        db.write(lambda tx: tx.execute_directly(space.counters.insert(), rows))
    ruin(path, root_page(path, "counters"))
    with opened(path) as db:
        for _ in range(2):
            with pytest.raises(DatabaseDamaged):
                db.write(add_row)
        assert db.damage is not None

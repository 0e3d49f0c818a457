"""From a start to ready, with much left over from before: `python -m bench.starting`.

    python -m bench.starting --database postgresql://…   # an empty one; it keeps what is put there

A registry gets open upload sessions with bytes, half of them with a row of their own, and
tombstones that are due, each with its file. It is started after an orderly stop and after a kill,
in turns with an empty one. Ready is the first 200 from /readyz. Prints the seconds until then, and
the processor time that the server took for it, which is what may be compared on a busy machine.
Fails if the slowest start takes longer than 2 s (docs/benchmarks.md has figures).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import sqlalchemy as sa

from tests.support.server import UllageServer
from ullage.database.opening import open_database
from ullage.database.schema import content, space
from ullage.database.transaction import Transaction

SESSIONS, TOMBSTONES = 10_000, 100_000
ALLOWED_SECONDS = 2.0
REPOSITORY = "bench/started"
BYTES = b"x" * 100
HOUR_MICROS = 3600 * 1_000_000
PATIENCE_SECONDS = 60.0


def fill(data: Path, url: str, sessions: int, tombstones: int, kill: bool) -> None:
    """Put rows and files of sessions and deletions into a registry that does not run.

    In a process of its own, which may `kill` itself in the end and so leave the database's log.
    """
    now = time.time_ns() // 1000
    keys = [secrets.token_hex(16) for _ in range(sessions)]
    stored, reserved = keys[: sessions // 2], keys[sessions // 2 :]
    dead = [secrets.token_hex(16) for _ in range(tombstones)]
    for key in keys:
        (data / "uploads" / key).write_bytes(BYTES)
    for key in dead:
        (data / "blobs" / key[:2] / key).write_bytes(BYTES)

    def insert(tx: Transaction) -> None:
        found = tx.execute_directly(sa.select(sa.func.min(content.repositories.c.id)))
        repository_id = found.scalar_one()
        _insert(tx, space.uploads, [_session(key, repository_id, now) for key in stored])
        _insert(tx, space.reserved_keys, [{"storage_key": key} for key in reserved])
        rows = [{"storage_key": key, "size": len(BYTES), "due_at": now} for key in dead]
        _insert(tx, space.tombstones, rows)

    db = open_database(url)
    db.write(insert)
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    db.close()


def _session(key: str, repository_id: int, now: int) -> dict[str, object]:
    return {
        "id": secrets.token_hex(16),
        "repository_id": repository_id,
        "subject": "anonymous",
        "storage_key": key,
        "algorithm": "sha256",
        "offset": len(BYTES),
        "stored": len(BYTES),
        "created_at": now,
        "expires_at": now + HOUR_MICROS,
    }


def _insert(tx: Transaction, table: sa.Table, rows: Sequence[dict[str, object]]) -> None:
    if rows:
        tx.execute_directly(sa.insert(table), list(rows))


class Start(NamedTuple):
    """From the first process to a 200 from /readyz: seconds, and those of a processor."""

    seconds: float
    processor_seconds: float


def start_until_ready(server: UllageServer) -> Start:
    began = time.perf_counter()
    server.start()
    while httpx.get(f"{server.url}/readyz").status_code != 200:
        if time.perf_counter() - began > PATIENCE_SECONDS:
            raise SystemExit(f"not ready in {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.005)
    seconds = time.perf_counter() - began
    # proc(5): utime and stime, of all threads.
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return Start(seconds, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def measured(data: Path, url: str | None, sessions: int, tombstones: int, kill: bool) -> Start:
    """One registry from new: filled, ended as it is to be, and started."""
    # Some environments forbid compiled modules; an installation has them.
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(data.parent / "compiled")}
    server = UllageServer(data, *(("--database", url) if url else ()), env=compiled)
    with server:
        location = httpx.post(f"{server.url}/v2/{REPOSITORY}/blobs/uploads/").headers["location"]
        httpx.patch(f"{server.url}{location}", content=BYTES).raise_for_status()
    # Leaving it killed it; this start and stop are orderly, and keep the session as a row.
    server.start()
    server.terminate()
    filling = multiprocessing.get_context("fork").Process(
        target=fill,
        args=(data, url or f"sqlite:///{data / 'ullage.db'}", sessions, tombstones, kill),
    )
    filling.start()
    filling.join()
    took = start_until_ready(server)
    server.kill9()
    return took


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.starting", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--tombstones", type=int, default=TOMBSTONES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--database", help="an empty database of PostgreSQL, for one round")
    given = parser.parse_args(arguments)
    kinds = {
        "empty": (0, 0, False),
        "full, after a stop": (given.sessions, given.tombstones, False),
        "full, after a kill": (given.sessions, given.tombstones, True),
    }
    if given.database:
        kinds, given.rounds = {"full": (given.sessions, given.tombstones, True)}, 1
    starts: dict[str, list[Start]] = {name: [] for name in kinds}
    for _ in range(given.rounds):
        for name, kind in kinds.items():
            with tempfile.TemporaryDirectory() as folder:
                starts[name].append(measured(Path(folder) / "data", given.database, *kind))
    for name, some in starts.items():
        seconds = [each.seconds for each in some]
        processor = statistics.median(each.processor_seconds for each in some)
        print(
            f"{name}: median {statistics.median(seconds):.2f} s, slowest {max(seconds):.2f} s, "
            f"{processor:.2f} s of a processor"
        )
    slowest = max(each.seconds for some in starts.values() for each in some)
    return 0 if slowest <= ALLOWED_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())

"""The release gates: how much of what has to go well, and which tests show it.

Figures and reasons are those of the reliability plan: with no failure in N independent trials, the
failure rate is below 3/N with 95 % confidence.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """Tests that are run again and again, each time with other dice, until enough is done.

    `variable` tells them how much to do at once, `chunk` at most. What they did is the sum of the
    property `counted` that they record; without one, the tests that passed.
    """

    tests: tuple[str, ...]
    counted: str | None = None
    variable: str | None = None
    chunk: int = 0
    # Further variables.
    environment: tuple[tuple[str, str], ...] = ()
    # Of the gate's count.
    share: float = 1.0


@dataclass(frozen=True)
class Gate:
    """A figure to reach. `count` 0: once through the tests is all of it."""

    id: str
    title: str
    unit: str
    count: int
    runs: tuple[Run, ...]
    # What of the figure is not covered, and why.
    lacks: str = ""


KILLS = "tests/crash/test_random_kills.py"
BACKUPS = (
    "tests/backup/test_under_load.py"
    "::test_every_backup_under_load_is_whole_and_has_all_that_was_acknowledged"
)
GATES = (
    Gate(
        "G1",
        "killed at every mutating system call of every kind of change",
        "crash points",
        0,
        (
            Run(
                ("tests/crash/test_crash_points.py",),
                "crash points",
                environment=(("ULLAGE_CRASH_POINTS", "all"),),
            ),
        ),
    ),
    Gate(
        "G2",
        "power cut right after each kind of answer, and inside the protocol",
        "cuts",
        520,
        (Run(("tests/crash/test_power_cut.py",)),),
    ),
    Gate(
        "G3",
        "random power cuts under load",
        "cuts",
        2_000,
        (Run(("tests/crash/test_random_power_cuts.py",), "struck", "ULLAGE_CUTS", 100),),
    ),
    Gate(
        "G4",
        "random kills under load: the server; one of two, or PostgreSQL; the same on a bucket",
        "kills",
        5_000,
        (
            Run(
                (
                    f"{KILLS}::test_random_kills_under_load_lose_nothing_leak_nothing_and_undo_no_deletion",
                ),
                "struck",
                "ULLAGE_KILLS",
                100,
                share=0.6,
            ),
            Run(
                (f"{KILLS}::test_the_same_when_one_of_two_servers_is_killed_or_postgresql_itself",),
                "struck",
                "ULLAGE_KILLS",
                50,
                share=0.2,
            ),
            Run(
                (f"{KILLS}::test_the_same_behind_a_balancer_with_all_bytes_in_a_bucket",),
                "struck",
                "ULLAGE_KILLS",
                50,
                share=0.2,
            ),
        ),
    ),
    Gate(
        "G5",
        "every race, stopped at every statement of either side, on both databases",
        "tests",
        0,
        (
            Run(
                (
                    "tests/deletion/test_races.py",
                    "tests/registry/queries/test_condemn_statements.py",
                ),
                environment=(("ULLAGE_SCHEDULES", "all"),),
            ),
        ),
    ),
    Gate(
        "G6",
        "load without faults: no refusal of what was promised, no 5xx, the log, the disk and"
        " `ullage check` agree after every 1,000 operations",
        "operations",
        400_000,
        (
            Run(
                ("tests/crash/test_soak.py::test_a_soak",),
                "operations",
                "ULLAGE_OPERATIONS",
                20_000,
                share=0.5,
            ),
            Run(
                ("tests/crash/test_soak.py::test_a_soak_over_two_servers",),
                "operations",
                "ULLAGE_OPERATIONS",
                20_000,
                share=0.5,
            ),
        ),
    ),
    Gate(
        "G7",
        "random programs against a model of deleting, restoring and planning",
        "programs",
        20_000,
        (
            Run(
                (
                    "tests/deletion/test_model.py",
                    "tests/restore/test_model.py",
                    "tests/cleanup/test_plan_model.py",
                ),
                "asked",
                "ULLAGE_EXAMPLES",
                500,
            ),
        ),
    ),
    Gate(
        "G7b",
        "histories of 200 concurrent operations, linearizable for each tag and manifest",
        "histories",
        500,
        (
            Run(
                ("tests/crash/test_histories.py::test_histories_are_linearizable",),
                "histories",
                "ULLAGE_HISTORIES",
                25,
                share=0.5,
            ),
            Run(
                (
                    "tests/crash/test_histories.py::test_histories_over_two_servers_are_linearizable",
                ),
                "histories",
                "ULLAGE_HISTORIES",
                25,
                share=0.5,
            ),
        ),
    ),
    Gate(
        "G8",
        "malformed requests: no 5xx, nothing hangs, memory grows by less than 50 MiB",
        "requests",
        100_000,
        (
            Run(
                ("tests/server/test_fuzz.py",),
                "asked",
                "ULLAGE_FUZZ_REQUESTS",
                10_000,
            ),
        ),
        "no coverage-guided fuzzing of the parsers: hypothesis tries them in `make test`",
    ),
    Gate(
        "G10",
        "full disks, failing disks, busy and broken databases: an answer, and back to work",
        "tests",
        0,
        (
            Run(
                (
                    "tests/crash/test_full_disk.py",
                    "tests/registry/test_database_faults.py",
                    "tests/database/test_sqlite.py",
                    "tests/blobs/test_file.py",
                )
            ),
        ),
        "errors are injected at named calls, not at each call of each path",
    ),
    Gate(
        "G12",
        "a thousand pushers and a thousand deleters at once over fifty shared layers",
        "operations",
        100_000,
        (Run(("tests/crash/test_crowd.py",), "operations", "ULLAGE_OPERATIONS", 25_000),),
    ),
    Gate(
        "G17",
        "slow and many clients: memory and the others' waiting",
        "tests",
        0,
        (
            Run(
                ("tests/server/test_slow_clients.py", "tests/server/test_memory.py"),
                environment=(("ULLAGE_LARGE_BLOB_GIB", "10"),),
            ),
        ),
    ),
    Gate(
        "G18",
        "a start with 10,000 open sessions and 100,000 tombstones",
        "tests",
        0,
        (Run(("tests/crash/test_start.py",)),),
    ),
    Gate(
        "G19",
        "`ullage check` finds every kind of damage, also while the registry serves",
        "tests",
        0,
        (Run(("tests/check",)),),
        "each kind of damage once, not 500 at random",
    ),
    Gate(
        "G20",
        "flipped and cut files: never a short answer, found, and healed by the next push",
        "damages",
        200,
        (Run(("tests/crash/test_decay.py",), "damages", "ULLAGE_DAMAGES", 200),),
        "a flipped bit is found by `check --deep`, not by a pull",
    ),
    Gate(
        "G21",
        "backups under load, 20 on SQLite and 10 on PostgreSQL, each restored: `ullage check"
        " --deep` finds nothing, and all that was acknowledged before is there",
        "backups",
        30,
        (Run((BACKUPS,), "backups", "ULLAGE_BACKUPS", 20),),
    ),
    Gate(
        "G22",
        "clocks that are set during pushes: no promise ends early, nothing is erased early",
        "tests",
        0,
        (
            Run(
                (
                    "tests/registry/test_leases.py",
                    "tests/test_worker.py",
                    "tests/deletion/test_model.py",
                )
            ),
        ),
        "an injected clock, not the machine's",
    ),
    Gate(
        "G23",
        "the bill adds up to the disk, to the byte; also at the end of every run of G1 to G6",
        "tests",
        0,
        (Run(("tests/usage", "tests/deletion/test_delete.py")),),
    ),
    Gate(
        "G24",
        "seeded defects, each of which must turn a test red",
        "defects",
        0,
        (
            Run(
                ("tests/prove/test_seeded_defects.py",),
                "defects",
                environment=(("ULLAGE_DEFECTS", "all"),),
            ),
        ),
    ),
)

# What has no program here, and why.
ABSENT = {
    "G9": "named tests of advisories and the access matrix run in `make test` (tests/access)",
    "G11": "one race of G5 (r19) and part of the load of G4",
    "G13": "processes on a bucket are killed in G4, up to four of them; none is stopped",
    "G14": "a figure of speed: `make bench`",
    "G15": "a figure of speed: `make bench`",
    "G16": "a figure of speed: `make bench`",
}

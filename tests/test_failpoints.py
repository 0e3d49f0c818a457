"""Failpoints: nothing by default, exactly what was asked for otherwise."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ullage
from ullage import failpoints
from ullage.failpoints import NAMES, FailpointInvalid, configure, failpoint

SOURCE = Path(ullage.__file__).parent


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    configure("")
    yield
    configure("")


def run(program: str, armed: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    environment.pop(failpoints.VARIABLE, None)
    if armed is not None:
        environment[failpoints.VARIABLE] = armed
    program = f"from ullage.failpoints import failpoint\n{program}"
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_nothing_happens_at_a_failpoint_that_is_not_armed() -> None:
    configure("delete.after_row=raise:EIO")
    for name in NAMES - {"delete.after_row"}:
        failpoint(name)


@pytest.mark.parametrize("name", ["", "delete", "delete.after_rows", "Delete.after_row"])
def test_an_unknown_name_in_the_code_is_refused_even_when_nothing_is_armed(name: str) -> None:
    with pytest.raises(FailpointInvalid, match="expected one of"):
        failpoint(name)


@pytest.mark.parametrize(
    "text",
    [
        "delete.after_rows=kill",
        "delete.after_row",
        "delete.after_row=",
        "delete.after_row=explode",
        "delete.after_row=raise",
        "delete.after_row=raise:EWHAT",
        "delete.after_row=raise:5",
        "delete.after_row=sleep:-1",
        "delete.after_row=sleep:1s",
        "delete.after_row=kill@0",
        "delete.after_row=kill@",
        "delete.after_row=kill@x",
        "delete.after_row=kill mount.after_row=kill",
        "=kill",
    ],
)
def test_what_cannot_be_armed_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(FailpointInvalid, match="expected"):
        configure(f"mount.after_row=raise:EIO,{text}")
    failpoint("mount.after_row")


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EROFS", "EMFILE"])
def test_raise_raises_that_errno_on_every_pass(name: str) -> None:
    configure(f"blob.commit.after_fsync=raise:{name}")
    for _ in range(3):
        with pytest.raises(OSError, match="failpoint") as caught:
            failpoint("blob.commit.after_fsync")
        assert caught.value.errno == getattr(errno, name)


def test_a_numbered_pass_acts_once_and_only_then() -> None:
    configure("delete.after_row=raise:EIO@3, mount.after_row=raise:ENOSPC@1")
    passes = []
    for _ in range(6):
        try:
            failpoint("delete.after_row")
            passes.append(False)
        except OSError:
            passes.append(True)
    assert passes == [False, False, True, False, False, False]
    with pytest.raises(OSError, match="failpoint"):
        failpoint("mount.after_row")


def test_one_failpoint_may_do_different_things_on_different_passes() -> None:
    configure("delete.after_row=raise:EIO@1,delete.after_row=raise:ENOSPC@2")
    found = []
    for _ in range(3):
        try:
            failpoint("delete.after_row")
        except OSError as error:
            found.append(error.errno)
    assert found == [errno.EIO, errno.ENOSPC]


def test_arming_again_forgets_what_was_armed_and_counted() -> None:
    configure("delete.after_row=raise:EIO@2")
    failpoint("delete.after_row")
    configure("delete.after_row=raise:EIO@2")
    failpoint("delete.after_row")
    configure("")
    failpoint("delete.after_row")


def test_sleep_waits_so_many_milliseconds() -> None:
    configure("delete.after_row=sleep:50")
    started = time.monotonic()
    failpoint("delete.after_row")
    assert 0.05 <= time.monotonic() - started < 5


def test_without_the_variable_a_program_runs_through() -> None:
    result = run("failpoint('delete.after_row'); print('through')", armed=None)
    assert (result.returncode, result.stdout) == (0, "through\n")


def test_the_variable_is_read_at_the_first_failpoint_passed() -> None:
    program = """
print("imported")
try:
    failpoint("mount.after_row")
except OSError as error:
    print(error.errno)
"""
    assert run(program, "mount.after_row=raise:EIO").stdout == f"imported\n{errno.EIO}\n"


def test_a_misspelt_variable_is_refused_at_the_first_failpoint_passed() -> None:
    result = run("failpoint('delete.after_row')", "delete.after_rows=kill")
    assert result.returncode == 1
    assert "FailpointInvalid: failpoint 'delete.after_rows'" in result.stderr


def test_kill_ends_the_process_with_nothing_cleaned_up() -> None:
    program = """
import threading
def work():
    try:
        for number in range(5):
            print(number, flush=True)
            failpoint("delete.after_row")
    finally:
        print("cleaned up", flush=True)
worker = threading.Thread(target=work)
worker.start()
worker.join()
"""
    result = run(program, "delete.after_row=kill@3")
    assert result.returncode == -signal.SIGKILL
    assert result.stdout == "0\n1\n2\n"


def test_stop_halts_the_process_right_there_until_it_is_continued() -> None:
    """Also when the failpoint is passed in a worker thread."""
    program = """
import threading
from ullage.failpoints import failpoint
def work():
    failpoint("delete.after_row")
    print("on", flush=True)
worker = threading.Thread(target=work)
worker.start()
worker.join()
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    environment[failpoints.VARIABLE] = "delete.after_row=stop"
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        try:
            _, status = os.waitpid(child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            os.set_blocking(child.stdout.fileno(), False)
            assert child.stdout.read() is None
            os.set_blocking(child.stdout.fileno(), True)
            child.send_signal(signal.SIGCONT)
            assert child.stdout.read() == b"on\n"
        finally:
            child.kill()


def test_every_failpoint_in_the_code_is_in_the_catalogue() -> None:
    used = {
        name
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r"""failpoint\(\s*["']([^"']*)["']""", path.read_text())
        if path.name != "failpoints.py"
    }
    assert used <= NAMES

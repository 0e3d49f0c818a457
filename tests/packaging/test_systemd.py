"""The unit file: hardened, and the registry serves within it (docs/guides/running.md)."""

import os
import re
import signal
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import push_image
from tests.support.packages import ROOT
from tests.support.require import require_command
from tests.support.server import command_environment

pytestmark = [pytest.mark.client, pytest.mark.thorough]

UNIT = ROOT / "deploy" / "systemd" / "ullage.service"
TEXT = UNIT.read_text(encoding="utf-8")
# Of systemd: at most 1.2, where 10 is a service that may do everything and 2 is still "OK".
EXPOSURE = 12


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [require_command("systemd-analyze"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_it_may_do_beyond_serving_is_little() -> None:
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(UNIT))
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """But for the command, which is where the guide puts it."""
    unit = tmp_path / "ullage.service"
    unit.write_text(TEXT.replace("/opt/ullage/bin/ullage", "/bin/true"), encoding="utf-8")
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("UMask=", "Umask="), encoding="utf-8")
    assert "'Umask'" in analyze("verify", "--man=no", str(unit)).stderr


def test_it_waits_longer_than_requests_may_take_to_finish() -> None:
    settings = ConfigParser(strict=False, interpolation=None)
    settings.optionxform = str  # type: ignore[assignment,method-assign]
    settings.read_string(TEXT)
    assert float(settings["Service"]["TimeoutStopSec"]) > 30


def system_calls(group: str) -> set[str]:
    """The calls of a filter's word: a name, or all in a group such as @system-service."""
    if not group.startswith("@"):
        return {group}
    done = analyze("syscall-filter", group)
    assert done.returncode == 0, done.stderr
    names = re.findall(r"^ +(@?\w[\w-]*)$", done.stdout, re.MULTILINE)
    return set().union(*map(system_calls, names))


def allowed_calls() -> set[str]:
    """What SystemCallFilter= leaves. systemd allows @default in any case."""
    found = system_calls("@default")
    for words in re.findall(r"^SystemCallFilter=(.*)$", TEXT, re.MULTILINE):
        named = set().union(*map(system_calls, words.removeprefix("~").split()))
        found = found - named if words.startswith("~") else found | named
    return found | system_calls("@default")


def test_it_serves_where_all_other_system_calls_are_refused(tmp_path: Path) -> None:
    """Start, push, pull and stop, with EPERM for every call that the unit does not allow."""
    assert "SystemCallErrorNumber=EPERM" in TEXT
    allowed = ",".join(f"?{name}" for name in sorted(allowed_calls()))
    log = tmp_path / "log"
    output = str(tmp_path / "trace")
    trace = [require_command("strace"), "-f", "-qq", "--seccomp-bpf", "-o", output]
    serve = [sys.executable, "-m", "ullage", "serve", "--listen", "127.0.0.1:0"]
    with (
        log.open("wb") as said,
        subprocess.Popen(
            [
                *trace,
                "-e",
                f"inject=!{allowed}:error=EPERM",
                *serve,
                "--data",
                str(tmp_path / "data"),
            ],
            env=command_environment(),
            stdout=said,
            stderr=said,
            start_new_session=True,
        ) as process,
    ):
        try:
            with httpx.Client(base_url=_url(log, process), timeout=60) as client:
                digest = push_image(client, "app", "v1")
                assert client.get("/v2/app/manifests/v1").headers["Docker-Content-Digest"] == digest
                assert client.delete(f"/v2/app/manifests/{digest}").status_code == 202
            os.kill(_child(process), signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    # The filter was there: libuv asks for io_uring, which it does not have, and does without.
    assert "io_uring_setup" in (tmp_path / "trace").read_text()


def _url(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while not (found := re.search(r"serves (http://[0-9.:]+),", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found[1]


def _child(process: subprocess.Popen[bytes]) -> int:
    """The server that strace started."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])

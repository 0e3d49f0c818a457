"""The real command, started as a user would start it, in a process group of its own."""

import http.client
import os
import re
import signal
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")

SOURCE = Path(__file__).resolve().parents[2] / "src"
START_SECONDS = 30
# Running requests may take 30 s to finish after SIGTERM.
STOP_SECONDS = 45
_ADDRESS = re.compile(r"https?://(?:[0-9.]+|localhost|\[[0-9a-f:]+\]):[1-9][0-9]*")
# As a status, not as the number of bytes that follows one.
_FAILURE = re.compile(r"(?<! [1-5][0-9][0-9]) 500 |^Traceback ", re.MULTILINE)


def command_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for our command: this checkout's code, and no setting of the user's own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ULLAGE_")}
    search_path = [str(SOURCE), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, search_path))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment | dict(changes or {})


def run_ullage(
    *arguments: str | Path, env: Mapping[str, str] | None = None, timeout_seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run one `ullage` command to its end, e.g. `run_ullage("check", "--data", data)`."""
    return subprocess.run(
        [sys.executable, "-m", "ullage", *map(str, arguments)],
        env=command_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
    )


class UllageServer:
    """`ullage serve` on a free port, ready when the `with` block starts.

    `arguments` follow --listen and --data on the command line; `env` is laid over the environment;
    `address` is a loopback address or one that this machine has; `max_files` is its limit of open
    files, soft and hard.
    Restarts keep the port, for clients write it into image names.
    """

    def __init__(
        self,
        data: Path,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
        max_files: int | None = None,
    ) -> None:
        self.data = data
        self.arguments = arguments
        self.env = dict(env or {})
        self.log_path = data.with_name(f"{data.name}.log")
        self._listen = f"{address}:0"
        self._max_files = max_files
        self._url: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill9()

    # -- where it is

    @property
    def url(self) -> str:
        """Such as "http://127.0.0.1:41235"."""
        assert self._url is not None, "not started"
        return self._url

    @property
    def host(self) -> str:
        """Such as "127.0.0.1:41235": what image names start with."""
        return self.url.partition("://")[2]

    @property
    def pid(self) -> int:
        """The process that was started, also after its end; its group has the same number."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process is not None and self._process.poll() is None

    # -- starting and stopping

    def start(self) -> None:
        """Start, and return when it answers. AssertionError with the log if it does not."""
        assert not self.running, "already running"
        said_before = self.log_path.stat().st_size if self.log_path.exists() else 0
        command = [sys.executable, "-m", "ullage", "serve", "--listen", self._listen]
        command += ["--data", str(self.data), *map(str, self.arguments)]
        if self._max_files is not None:
            limited = f'ulimit -n {self._max_files} && exec "$@"'
            command = ["sh", "-c", limited, "sh", *command]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=command_environment(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(said_before)
        except BaseException:
            self.kill9()
            raise

    def kill9(self) -> None:
        """SIGKILL to the whole process group; returns when none of it is left."""
        self._signal_group(signal.SIGKILL)
        self._reap(10)

    def terminate(self, timeout_seconds: float = STOP_SECONDS) -> int:
        """SIGTERM; the exit code once it has stopped. A server that does not stop is killed."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._reap(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(
                f"still running {timeout_seconds} s after SIGTERM:\n{self.log}"
            ) from None

    def wait(self, timeout_seconds: float = START_SECONDS) -> int:
        """Wait for it to end by itself, as at a failpoint: the exit code, -9 when killed."""
        return self._reap(timeout_seconds)

    def restart(self, *, kill: bool = False) -> None:
        """Stop in good order, or by SIGKILL, unless already ended; then start on the same port."""
        if self.running:
            if kill:
                self.kill9()
            else:
                self.terminate()
        self.start()

    # -- what it left behind

    @property
    def log(self) -> str:
        """All it has said since the first start, on stdout and stderr."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def assert_no_500(self) -> None:
        """No request was answered 500, and nothing unexpected was raised."""
        assert not _FAILURE.search(self.log), self.log

    def disk_bytes(self) -> int:
        """The sizes of all regular files below the data folder's blobs and uploads, added up."""
        return sum(_regular_bytes(self.data / folder) for folder in ("blobs", "uploads"))

    # -- inside

    def _wait_until_ready(self, said_before: int) -> None:
        self._url = self._poll(lambda: self._printed_url(said_before), "printed no address")
        self._listen = self.host
        self._poll(self._answers, f"does not answer at {self._url}")

    def _poll(self, attempt: Callable[[], T | None], failure: str) -> T:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while (result := attempt()) is None:
            code = self._process.poll()
            assert code is None, f"ended with {code} while starting:\n{self.log}"
            assert time.monotonic() < deadline, f"{failure} in {START_SECONDS} s:\n{self.log}"
            time.sleep(0.02)
        return result

    def _printed_url(self, said_before: int) -> str | None:
        with self.log_path.open("rb") as log:
            log.seek(said_before)
            lines = log.read().decode(errors="replace")
        # Only whole lines: a port cut off in the middle is another port.
        found = _ADDRESS.search(lines[: lines.rfind("\n") + 1])
        return None if found is None else found.group()

    def _answers(self) -> bool | None:
        connection = self._connection()
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status < 500 or None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.url.startswith("http:"):
            return http.client.HTTPConnection(self.host, timeout=5)
        # Only to see that it answers: whether its certificate is trusted is for the tests to ask.
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(self.host, timeout=5, context=unverified)

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # All of it has ended and was waited for.
            os.killpg(self.pid, number)

    def _reap(self, timeout_seconds: float) -> int:
        """Wait for the process and for all it started: only then are locks and ports free again."""
        assert self._process is not None, "not started"
        deadline = time.monotonic() + timeout_seconds
        code = self._process.wait(timeout_seconds)
        while _group_lives(self.pid):
            if time.monotonic() > deadline:
                self._signal_group(signal.SIGKILL)
                raise AssertionError(f"ended with {code}, but left processes behind:\n{self.log}")
            time.sleep(0.01)
        return code


def _group_lives(group: int) -> bool:
    """Whether a process of the group still runs; a zombie has nothing open."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state parent group …"; the name may have spaces and parentheses.
            state, _, its_group, *_ = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # Ended meanwhile.
        if int(its_group) == group and state not in ("Z", "X"):
            return True
    return False


def _regular_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(parent, name))  # noqa: PTH118 - one join per file, thousands of files
            except FileNotFoundError:
                continue  # Reclaimed while we look.
            if stat.S_ISREG(found.st_mode):
                total += found.st_size
    return total

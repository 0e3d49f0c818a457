"""A person at a terminal of 80 x 24: what stands on it, and keys typed there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import pyte

from tests.support.server import command_environment

COLUMNS, LINES = 80, 24
# A machine with a lot to do is slow to draw.
PATIENCE_SECONDS = 30.0


class Walker:
    """`ullage …` on a pseudo terminal, until it has ended."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)
        command = [sys.executable, "-m", "ullage", *arguments]
        environment = command_environment({"TERM": "xterm", **env})
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.execve(sys.executable, command, environment)
        size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._terminal)

    @property
    def lines(self) -> list[str]:
        """What stands there, without blanks at the ends."""
        return [str(line).rstrip() for line in self._screen.display]

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def until(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """The screen once something is seen on it. AssertionError if it never is."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not seen(self.lines):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            assert self._read(), "ended:\n" + "\n".join(self.lines)
        return self.lines

    def end(self) -> tuple[int, list[str]]:
        """Its exit code, and what is left on the screen."""
        while self._read():
            pass
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status), self.lines

    def _read(self) -> bool:
        """Take in what is drawn for a moment; False when it has ended."""
        if not select.select([self._terminal], [], [], 0.2)[0]:
            return True
        try:
            piece = os.read(self._terminal, 65536)
        except OSError:  # Linux: the other end is closed.
            return False
        self._stream.feed(piece)
        return bool(piece)

"""Commands on a pty, with answers typed when a question comes."""

import os
import pty
import sys
from collections.abc import Mapping, Sequence

from tests.support.server import command_environment


def at_terminal(
    arguments: Sequence[str], answers: Sequence[str], env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run `ullage …`; its exit code and all that stood on the screen. Typed text is echoed."""
    command = [sys.executable, "-m", "ullage", *arguments]
    environment = command_environment({"COLUMNS": "200", "TERM": "xterm", **(env or {})})
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command, environment)
    left, screen, asked = list(answers), b"", 0
    while piece := _read(terminal):
        screen += piece
        # Only what was printed since the last answer is a new question.
        if left and screen.endswith(b": ") and len(screen) > asked:
            asked = len(screen) + len(left[0]) + 2
            os.write(terminal, f"{left.pop(0)}\n".encode())
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), screen.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: the other end is closed.
        return b""

"""How a command ends when it cannot do what was asked: one line, and az's exit code."""

from __future__ import annotations


class Failure(Exception):
    """A message and an exit code: 1 error, 2 usage, 3 not found."""

    def __init__(self, message: str, code: int = 1, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        # What to do about it, on a line of its own that az does not have.
        self.hint = hint


class UsageError(Failure):
    """The line cannot be read as a command."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message, 2, f"See: {command} --help")


class Cancelled(Failure):
    """The answer to a question was no."""

    def __init__(self) -> None:
        super().__init__("Operation cancelled.")


class Refused(Failure):
    """The registry answered with an error. `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Failure):
    """No answer. The text has the registry, the hint the reason."""


class Unauthenticated(Failure):
    """The registry wants credentials, and there are none or they are wrong."""

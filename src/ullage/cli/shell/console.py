"""Messages to people, all on stderr: warnings, errors, questions, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import TypeVar

from ullage.cli.shell.errors import Cancelled, Failure

T = TypeVar("T")


class Level(IntEnum):
    DEBUG = 0
    INFO = 1
    WARNING = 2
    ERROR = 3


class Console:
    """Prints messages of `level` and above."""

    def __init__(self, level: Level = Level.WARNING) -> None:
        self.level = level

    def debug(self, text: str) -> None:
        self._print(Level.DEBUG, text)

    def info(self, text: str) -> None:
        self._print(Level.INFO, text)

    def warning(self, text: str) -> None:
        self._print(Level.WARNING, text)

    def error(self, text: str) -> None:
        self._print(Level.ERROR, text)

    def note(self, text: str) -> None:
        """Information that is no warning, such as how a long work ended."""
        if self.level <= Level.WARNING:
            print(text, file=sys.stderr)

    def _print(self, level: Level, text: str) -> None:
        if level >= self.level:
            print(f"{level.name}: {text}", file=sys.stderr)


def confirm(question: str, yes: bool) -> None:
    """Go on only if the answer is y. azure.md section 3.4. Raises Cancelled, Failure."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure("Unable to prompt for confirmation as no tty available. Use --yes.")
    while True:
        answer = ask(f"{question} (y/n): ").lower()
        if answer == "y":
            return
        if answer == "n":
            raise Cancelled


def ask(question: str) -> str:
    """One line from the terminal. The end of input is no answer: raises Cancelled."""
    # Not input(): it writes the question to stdout, which is for data.
    print(question, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        print(file=sys.stderr)
        raise Cancelled
    return line.rstrip("\r\n")


def ask_password() -> str:
    """As `ask`, without showing what is typed."""
    from getpass import getpass

    try:
        return getpass("Password: ")
    except EOFError:
        raise Cancelled from None


_WIDTH = 30
_REDRAW_SECONDS = 0.1


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same items; while they come, a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield from items
        return
    drawn = 0.0
    try:
        for done, item in enumerate(items, 1):
            now = time.monotonic()
            if now - drawn >= _REDRAW_SECONDS or done == total:
                drawn = now
                filled = _WIDTH * done // total
                bar = "#" * filled + "-" * (_WIDTH - filled)
                print(f"\r{what} [{bar}] {done}/{total}", end="", file=sys.stderr, flush=True)
            yield item
    finally:
        # The bar goes when the work is done: what remains on the screen is the summary.
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class Gauge:
    """How far the registry is with a job: a bar on stderr if that is a terminal."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, what: str, done: int, total: int) -> None:
        """Draw it anew; while it is not known of how much, only how many there are."""
        if not sys.stderr.isatty():
            return
        self._shown = True
        filled = _WIDTH * min(done, total) // total if total else 0
        bar = "#" * filled + "-" * (_WIDTH - filled)
        print(f"\r{what} [{bar}] {done}/{total}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

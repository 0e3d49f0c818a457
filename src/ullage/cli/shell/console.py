"""Messages to people, all on stderr: warnings, errors, questions, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


_WIDTH = 20
_REDRAW_SECONDS = 0.1


def _bar(done: int, total: int) -> str:
    filled = _WIDTH * min(done, total) // total if total else 0
    return f"[{'#' * filled}{'-' * (_WIDTH - filled)}]"


def _draw(text: str) -> None:
    """Over the line before, cut so that it never takes a second one."""
    from shutil import get_terminal_size

    text = text[: get_terminal_size().columns - 1]
    print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


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
                _draw(f"{what} {_bar(done, total)} {done:,}/{total:,}")
            yield item
    finally:
        # The bar goes when the work is done: what remains on the screen is the summary.
        _draw("")


class Gauge:
    """How far the registry is with a job: a line on stderr if that is a terminal."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._shown = False
        self._now = now
        # Since when there is a bar, and what was done by then.
        self._began: tuple[float, int] | None = None

    def show(self, what: str, done: int, total: int, detail: str = "") -> None:
        """A bar, `detail` behind it, and how long it will take if it goes on like this."""
        if self._began is None:
            self._began = (self._now(), done)
        parts = (f"{what} {_bar(done, total)} {done:,}/{total:,}", detail, self._left(done, total))
        self.say("  ".join(filter(None, parts)))

    def say(self, text: str) -> None:
        """No bar: it is not known yet how much there is to do."""
        if sys.stderr.isatty():
            self._shown = True
            _draw(text)

    def _left(self, done: int, total: int) -> str:
        assert self._began is not None
        began, before = self._began
        seconds = self._now() - began
        if seconds < 1 or done <= before or done >= total:
            return ""
        left = round(seconds * (total - done) / (done - before))
        minutes, seconds_left = divmod(left, 60)
        return f"{minutes}m {seconds_left:02}s left" if minutes else f"{seconds_left}s left"

    def clear(self) -> None:
        if self._shown:
            _draw("")


@contextmanager
def working(what: str) -> Iterator[None]:
    """While the registry thinks before it answers, what it does and since when, on a terminal.

    The first line is there within a second, however long it takes.
    """
    if not sys.stderr.isatty():
        yield
        return
    from threading import Event, Thread

    done, began = Event(), time.monotonic()

    def tell() -> None:
        pause = FIRST_TELL_SECONDS
        while not done.wait(pause):
            pause = _TELL_SECONDS
            _draw(f"{what} … {time.monotonic() - began:.0f} s")

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        _draw("")


# What is answered at once is not announced.
FIRST_TELL_SECONDS, _TELL_SECONDS = 0.2, 1.0

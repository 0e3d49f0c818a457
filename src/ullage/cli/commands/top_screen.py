"""How `ullage top` looks and is steered on a terminal. The only module that needs urwid."""

from __future__ import annotations

from typing import Any

import urwid

from ullage.cli.commands.top_walk import Level, Row, Walk, bar
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.tables import counted, size

_PALETTE = [("focus", "standout", ""), ("marked", "bold", ""), ("frame", "standout", "")]
_KEYS = "Enter in  Left back  Space mark  p plan  q quit"
_DOWN, _UP = ("down", "j"), ("up", "k")
_IN, _OUT = ("enter", "right", "l"), ("left", "h", "backspace", "<")


class _Line(urwid.SelectableIcon):
    """A line that can be stood on. Where the terminal's own cursor is says nothing."""

    def __init__(self, text: str) -> None:
        super().__init__(text, cursor_position=len(text) + 1)
        self.set_wrap_mode("clip")


def walk(here: Walk) -> dict[str, Any] | None:
    """Let a person walk and mark; the plan that is wanted in the end, None for none."""
    screen = _Screen(here)
    try:
        screen.loop.run()
    except KeyboardInterrupt:
        return None
    return screen.request


class _Screen:
    """A header with where one is, a line for each thing, a footer with marks and keys."""

    def __init__(self, here: Walk) -> None:
        self.request: dict[str, Any] | None = None
        self._here = here
        self._header = urwid.Text("", wrap="clip")
        self._footer = urwid.Text("", wrap="clip")
        self._lines: urwid.SimpleFocusListWalker[urwid.AttrMap[_Line]]
        self._lines = urwid.SimpleFocusListWalker([])
        frame = urwid.Frame(
            urwid.ListBox(self._lines),
            urwid.AttrMap(self._header, "frame"),
            urwid.AttrMap(self._footer, "frame"),
        )
        self.loop = urwid.MainLoop(frame, _PALETTE, handle_mouse=False, unhandled_input=self._press)
        self._show()

    # -- keys

    def _press(self, key: str | tuple[str, int, int, int]) -> None:
        place = self._lines.focus or 0
        message = ""
        if key in ("q", "Q", "esc"):
            raise urwid.ExitMainLoop
        if key in _IN:
            message = self._enter(place)
        elif key in _OUT:
            self._here.leave()
        elif key == "j":
            place = min(place + 1, max(len(self._lines) - 1, 0))
            self._here.here.place = place
        elif key == "k":
            self._here.here.place = max(place - 1, 0)
        elif key == " " and self._here.here.rows:
            self._here.mark(place)
            self._here.here.place = min(place + 1, len(self._lines) - 1)
        elif key == "p":
            try:
                self.request = self._here.request()
                raise urwid.ExitMainLoop
            except Failure as failure:
                message = str(failure)
        else:
            return
        self._show(message)

    def _enter(self, place: int) -> str:
        try:
            self._here.enter(place)
        except Failure as failure:
            return str(failure)
        return ""

    # -- drawing

    def _show(self, message: str = "") -> None:
        level = self._here.here
        self._header.set_text(f"ullage top  {_title(self._here.levels)}")
        most = max((row.bytes for row in level.rows), default=0)
        self._lines[:] = [self._line(row, most) for row in level.rows]
        if level.rows:
            self._lines.set_focus(min(level.place, len(level.rows) - 1))
        self._footer.set_text(message or self._marks())

    def _line(self, row: Row, most: int) -> urwid.AttrMap[_Line]:
        marked = self._here.is_marked(row)
        text = (
            f"{'*' if marked else ' '} {size(row.bytes):>9} {size(row.frees):>9} "
            f"{bar(row.bytes, most)} {printable(row.label)}  {row.note}"
        )
        return urwid.AttrMap(_Line(text), "marked" if marked else None, "focus")

    def _marks(self) -> str:
        number = len(self._here.repositories) or len(self._here.images)
        if not number:
            return _KEYS
        thing = "repository" if self._here.repositories else "image"
        what = counted(number, thing).replace("repositorys", "repositories")
        return f"{what} marked, frees at least {size(self._here.frees)}  {_KEYS}"


def _title(levels: list[Level]) -> str:
    level = levels[-1]
    total = size(sum(row.bytes for row in level.rows))
    return f"{printable(level.title)}  {total}  (size, frees)"


def printable(text: str) -> str:
    """No text from a registry may move the cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)

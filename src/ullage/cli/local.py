"""What Typer's commands are called and take: for completion and docs/reference/cli.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def commands() -> Iterator[tuple[tuple[str, ...], str, list[tuple[str, str]]]]:
    """Each command's words, its help, and its flags with theirs."""
    yield from _below((), _root())


def entries(words: Sequence[str]) -> list[tuple[str, str]]:
    """What may follow some words: commands of a group, or a command's flags."""
    node = _root()
    for word in words:
        node = getattr(node, "commands", {}).get(word, node)
    below = getattr(node, "commands", None)
    if below:
        return [(name, _first_line(command)) for name, command in below.items()]
    return [(names.split(", ")[0].split()[0], text) for names, text in _flags(node)]


def _root() -> Any:
    from typer.main import get_command

    from ullage.cli.commands import app

    return get_command(app)


def _below(
    words: tuple[str, ...], node: Any
) -> Iterator[tuple[tuple[str, ...], str, list[tuple[str, str]]]]:
    groups = getattr(node, "commands", None)
    if groups is None:
        yield words, _plain(node.help or ""), _flags(node)
        return
    for name, command in groups.items():
        yield from _below((*words, name), command)


def _flags(node: Any) -> list[tuple[str, str]]:
    return [(_spelled(option), _plain(option.help or "")) for option in node.params]


def _spelled(option: Any) -> str:
    names = ", ".join((*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    return f"{names} {option.metavar or option.name.upper()}"


def _plain(text: str) -> str:
    # The backslashes are for Rich, which would take the brackets for its own.
    return text.replace("\\[", "[")


def _first_line(node: Any) -> str:
    return _plain(node.help or "").partition("\n")[0]

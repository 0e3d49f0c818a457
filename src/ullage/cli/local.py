"""The commands that Typer reads: what they are called and take. They work on this machine.

Typer is slow to import (docs/design/dependencies.md), so what help says of its commands stands in
`LOCAL`; tests/cli keeps it the same as what they say themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

# Commands that work on the registry whose data folder is here.
LOCAL = {
    "serve": "Run the registry.",
    "check": "Prove that what the database says and what the disk holds agree, also while it "
    "serves.",
    "user": "People and programs that log in with a password.",
    "token": "Repository-scoped tokens: limited rights, two passwords, expiry.",
    "scope-map": "Named sets of rights for users and tokens.",
    "key": "The keys that sign access tokens.",
    "audit": "Who changed what.",
    "version": "Print the version.",
}


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

"""What a shell may complete: `ullage __complete INDEX WORD…` prints it, one a line."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from contextlib import closing

from ullage.cli.client.scopes import CATALOG, scope_of
from ullage.cli.commands.completion import SCRIPTS
from ullage.cli.shell.commands import Command, Flag
from ullage.cli.shell.console import Console, Level
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation

# A longer list would keep the shell waiting.
_MOST = 200


def candidates(words: Sequence[str]) -> list[tuple[str, str]]:
    """What the last of `words` may become, with an explanation each. Never raises Failure."""
    from ullage.cli import table
    from ullage.cli.shell import groups

    *before, current = words or [""]
    for length in range(len(before), 0, -1):
        command = table.find(tuple(before[:length]))
        if command is not None:
            return _of_command(command, before[length:], current)
    entries = table.below(tuple(before))
    if not before:
        entries = {**entries, **groups.LOCAL}
    return _matching(entries.items(), current)


def _of_command(command: Command, given: Sequence[str], current: str) -> list[tuple[str, str]]:
    flags = [flag for flag in (*command.flags, *command.common) if not flag.hidden]
    by_name = {name: flag for flag in flags for name in flag.names}
    flag = by_name.get(given[-1]) if given else None
    if flag is not None and flag.value and not flag.positional:
        return _matching(_values(command, flag, given[:-1], current), current)
    if flag is None and not current.startswith("-"):
        positional = next((flag for flag in flags if flag.positional), None)
        values = _values(command, positional, given, current) if positional else []
        if values:
            return _matching(values, current)
    names = [(flag.names[0], flag.help) for flag in flags if not flag.positional]
    return _matching(names, current)


def _values(
    command: Command, flag: Flag, given: Sequence[str], current: str
) -> list[tuple[str, str]]:
    from ullage.cli.shell import groups

    if flag.three_state:
        return [("true", ""), ("false", "")]
    if flag.choices:
        return [(choice, "") for choice in flag.choices]
    if flag.names[0] == "shell":
        return [(shell, "") for shell in SCRIPTS]
    if command.words[0] in groups.LOCAL and flag.variable != "registry":
        # Their --name is no registry.
        return []
    try:
        if flag.variable == "registry" or flag.names[0] == "positional_name":
            return [(name, url) for name, url in _invocation(given).saved_registries.items()]
        artifact = flag.names[0] == "--image" or command.words[0] == "manifest"
        if flag.names[0] == "--repository" or (artifact and flag.names[0] in ("--image", "--name")):
            return _from_registry(given, current, images=artifact)
    except Failure:
        pass
    return []


def _from_registry(given: Sequence[str], current: str, *, images: bool) -> list[tuple[str, str]]:
    """Repositories; behind a repository and a colon its tags."""
    from itertools import islice

    from ullage.cli.client.registry import tags_path

    repository, colon, _ = current.partition(":")
    with closing(_invocation(given)) as invocation:
        if images and colon:
            registry = invocation.registry(scope_of(repository, "metadata_read"))
            tags = islice(registry.pages(tags_path(repository), "tags"), _MOST)
            return [(f"{repository}:{tag['name']}", "") for tag in tags]
        registry = invocation.registry(CATALOG)
        names = islice(registry.pages("/v2/_catalog", "repositories"), _MOST)
        return [(name, "") for name in names]


def _invocation(given: Sequence[str]) -> Invocation:
    """With the flags for registry and login; a line being typed may lack any."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--name", "-n", "--registry", "-r", dest="registry")
    for name in ("--suffix", "--username", "--password", "--ca-file"):
        parser.add_argument(name)
    known, _ = parser.parse_known_args(list(given))
    return Invocation(known, Console(Level.ERROR))


def _matching(entries: Iterable[tuple[str, str]], current: str) -> list[tuple[str, str]]:
    return [(word, help) for word, help in entries if word.startswith(current)]


def print_candidates(words: Sequence[str]) -> int:
    for word, help in candidates(words):
        print(f"{word}\t{help}" if help else word)
    return 0

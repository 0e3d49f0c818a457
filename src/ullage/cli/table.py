"""All commands by their words: `commands` are for users of a registry, `local` to manage one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from ullage.cli.shell.groups import GROUPS, LOCAL

if TYPE_CHECKING:
    from ullage.cli.shell.commands import Command


@cache
def remote() -> tuple[Command, ...]:
    """Those that work on a registry. The process that serves needs none of them."""
    from ullage.cli.commands import (
        az_env,
        completion,
        config,
        job,
        lock,
        login,
        manifest,
        plan,
        purge,
        repository,
        restore,
        retention,
        usage,
        why,
    )

    return (
        *repository.COMMANDS,
        *manifest.COMMANDS,
        *plan.COMMANDS,
        *usage.COMMANDS,
        *why.COMMANDS,
        *purge.COMMANDS,
        *retention.COMMANDS,
        *lock.COMMANDS,
        *job.COMMANDS,
        *restore.COMMANDS,
        *login.COMMANDS,
        *config.COMMANDS,
        *az_env.COMMANDS,
        *completion.COMMANDS,
    )


def local() -> tuple[Command, ...]:
    """Those that run and manage a registry, which are slow to import."""
    from ullage.cli.local import audit, check, migrate, scope_map, serve, token, upload, user

    return (
        *serve.COMMANDS,
        *check.COMMANDS,
        *migrate.COMMANDS,
        *user.COMMANDS,
        *token.COMMANDS,
        *scope_map.COMMANDS,
        *audit.COMMANDS,
        *upload.COMMANDS,
    )


def every() -> tuple[Command, ...]:
    """All of them."""
    return remote() + local()


def find(words: tuple[str, ...]) -> Command | None:
    """The command with exactly these words."""
    return next((command for command in _beginning(words) if command.words == words), None)


def below(words: tuple[str, ...]) -> dict[str, str]:
    """What may come next after some words, with what it is; of no words, for a registry."""
    entries: dict[str, str] = {}
    for command in _beginning(words):
        if command.hidden or command.words[: len(words)] != words:
            continue
        rest = command.words[len(words) :]
        if rest:
            # A word with more words behind it is a group.
            entries.setdefault(rest[0], GROUPS[rest[0]] if len(rest) > 1 else command.help)
    return entries


def _beginning(words: Sequence[str]) -> tuple[Command, ...]:
    """Those that can begin like this."""
    return local() if words and words[0] in LOCAL else remote()

"""All commands by their words: those in `remote`, on a registry wherever it is, and in `local`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ullage.cli.remote.grammar import Command

TITLE = "A container registry that gives space back."

# The first words of the commands in `local`, which is slow to import: it is not asked for help.
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

GROUPS = {
    **LOCAL,
    "credential": "The two passwords of a token.",
    "repository": "Repositories, their tags and manifests: list, show, lock, untag, delete.",
    "manifest": "Manifests and what refers to them: list, show, lock, delete.",
    "lock": "Keep something from being deleted, and say why; list what is kept.",
    "job": "Long work that a registry does: list, show, watch, cancel.",
    "retention": "What a registry deletes by itself: show, set, explain, test, run.",
    "pullers": "Who pulls images, told apart by user agent: show, set.",
    "deleted": "Deletions that can be taken back: list, show.",
    "config": "Defaults, names for registries, and what a registry does by itself.",
    "soft-delete": "Whether deletions can be taken back: show, update.",
}


@cache
def remote() -> tuple[Command, ...]:
    """Those that work on a registry. The process that serves needs none of them."""
    from ullage.cli import azure_env, completion
    from ullage.cli.remote import (
        configuration,
        holding,
        jobs,
        login,
        manifest,
        plans,
        policies,
        purging,
        repository,
        undo,
        usage,
        why,
    )

    return (
        *repository.COMMANDS,
        *manifest.COMMANDS,
        *plans.COMMANDS,
        *usage.COMMANDS,
        *why.COMMANDS,
        *purging.COMMANDS,
        *policies.COMMANDS,
        *holding.COMMANDS,
        *jobs.COMMANDS,
        *undo.COMMANDS,
        *login.COMMANDS,
        *configuration.COMMANDS,
        *azure_env.COMMANDS,
        *completion.COMMANDS,
    )


def local() -> tuple[Command, ...]:
    """Those that work on this machine, which are slow to import."""
    from ullage.cli.local import COMMANDS

    return COMMANDS


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

"""All commands there are: those in `remote`, and the names of those that Typer reads.

Typer is slow to import (docs/design/dependencies.md), so what help says of its commands stands
here; tests/cli keeps it the same as what they say themselves.
"""

from __future__ import annotations

from ullage.cli import azure_env, completion
from ullage.cli.remote import configuration, login, manifest, repository, space
from ullage.cli.remote.grammar import Command

TITLE = "A container registry that gives space back."

REMOTE: tuple[Command, ...] = (
    *repository.COMMANDS,
    *manifest.COMMANDS,
    *space.COMMANDS,
    *login.COMMANDS,
    *configuration.COMMANDS,
    *azure_env.COMMANDS,
    *completion.COMMANDS,
)

GROUPS = {
    "repository": "Repositories, their tags and manifests: list, show, lock, untag, delete.",
    "manifest": "Manifests and what refers to them: list, show, lock, delete.",
    "config": "Defaults, and names for registries.",
}

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


def find(words: tuple[str, ...]) -> Command | None:
    """The command with exactly these words."""
    return next((command for command in REMOTE if command.words == words), None)


def below(words: tuple[str, ...]) -> dict[str, str]:
    """What may come next after some words, with what it is."""
    entries: dict[str, str] = {}
    for command in REMOTE:
        if command.hidden or command.words[: len(words)] != words:
            continue
        rest = command.words[len(words) :]
        if rest:
            # A word with more words behind it is a group.
            entries.setdefault(rest[0], GROUPS[rest[0]] if len(rest) > 1 else command.help)
    return entries

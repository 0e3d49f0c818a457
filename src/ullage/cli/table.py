"""All commands by their words: `commands` are for users of a registry, `local` to manage one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ullage.cli.shell.groups import GROUPS, LOCAL

if TYPE_CHECKING:
    from ullage.cli.shell.commands import Command

# The first words of the commands for users, in the order of help.
_REMOTE = (
    "repository", "manifest", "plan", "suggest", "apply", "usage", "show-usage", "top", "why",
    "search", "purge", "retention", "pullers", "lock", "unlock", "immutable", "guard", "job",
    "restore", "deleted", "login", "logout", "config", "az-env", "completion",
)  # fmt: skip


def remote() -> tuple[Command, ...]:
    """Those that work on a registry. The process that serves needs none of them."""
    return _beginning(_REMOTE)


def local() -> tuple[Command, ...]:
    """Those that run and manage a registry, which are slow to import."""
    return _beginning(LOCAL)


def every() -> tuple[Command, ...]:
    """All of them."""
    return remote() + local()


def find(words: tuple[str, ...]) -> Command | None:
    """The command with exactly these words."""
    return next((command for command in _beginning(words[:1]) if command.words == words), None)


def below(words: tuple[str, ...]) -> dict[str, str]:
    """What may come next after some words, with what it is; of no words, for a registry."""
    entries: dict[str, str] = {}
    for command in _beginning(words[:1] or _REMOTE):
        if command.hidden or command.words[: len(words)] != words:
            continue
        rest = command.words[len(words) :]
        if rest:
            # A word with more words behind it is a group.
            entries.setdefault(rest[0], GROUPS[rest[0]] if len(rest) > 1 else command.help)
    return entries


def _beginning(firsts: Iterable[str]) -> tuple[Command, ...]:
    """All commands whose first word is one of these."""
    return tuple(
        command for first in firsts for command in _imported_for(first) if command.words[0] == first
    )


def _imported_for(first: str) -> tuple[Command, ...]:
    """The commands of the modules that have any with this first word, others beside them.

    No other module is imported: all of them take longer than to ask a registry for a list.
    """
    COMMANDS: tuple[Command, ...]
    match first:
        case "repository":
            from ullage.cli.commands.repository import COMMANDS
        case "manifest":
            from ullage.cli.commands.manifest import COMMANDS
        case "plan" | "suggest" | "apply":
            from ullage.cli.commands.plan import COMMANDS
        case "usage" | "show-usage":
            from ullage.cli.commands.usage import COMMANDS
        case "top":
            from ullage.cli.commands.top import COMMANDS
        case "why":
            from ullage.cli.commands.why import COMMANDS
        case "search":
            from ullage.cli.commands.search import COMMANDS
        case "purge":
            from ullage.cli.commands.purge import COMMANDS
        case "retention" | "pullers":
            from ullage.cli.commands.retention import COMMANDS
        case "lock" | "unlock":
            from ullage.cli.commands.lock import COMMANDS
        case "immutable":
            from ullage.cli.commands.immutable import COMMANDS
        case "guard":
            from ullage.cli.commands.guard import COMMANDS
        case "job":
            from ullage.cli.commands.job import COMMANDS
        case "restore" | "deleted":
            from ullage.cli.commands.restore import COMMANDS
        case "login" | "logout":
            from ullage.cli.commands.login import COMMANDS
        case "config":
            from ullage.cli.commands import config, from_distribution, restore, retention

            own = config.COMMANDS + from_distribution.COMMANDS
            return own + retention.COMMANDS + restore.COMMANDS
        case "az-env":
            from ullage.cli.commands.az_env import COMMANDS
        case "completion":
            from ullage.cli.commands.completion import COMMANDS
        case "serve" | "version":
            from ullage.cli.local.serve import COMMANDS
        case "health":
            from ullage.cli.local.health import COMMANDS
        case "status":
            from ullage.cli.local.status import COMMANDS
        case "check":
            from ullage.cli.local.check import COMMANDS
        case "migrate":
            from ullage.cli.local.migrate import COMMANDS
        case "user":
            from ullage.cli.local.user import COMMANDS
        case "token":
            from ullage.cli.local.token import COMMANDS
        case "scope-map":
            from ullage.cli.local.scope_map import COMMANDS
        case "key" | "audit":
            from ullage.cli.local.audit import COMMANDS
        case "store":
            from ullage.cli.local.store import COMMANDS
        case "backup" | "restore-backup":
            from ullage.cli.local.backup import COMMANDS
        case "survey":
            from ullage.cli.local.survey import COMMANDS
        case "upload":
            from ullage.cli.local.upload import COMMANDS
        case _:
            return ()
    return COMMANDS

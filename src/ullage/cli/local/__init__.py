"""Commands that work on this machine: on the registry whose data folder is here.

What they need is slow to import, so this package is only where one of them is asked for.
"""

from __future__ import annotations

from ullage.cli.local import auditing, checking, scope_maps, serving, tokens, users
from ullage.cli.remote.grammar import Command

COMMANDS: tuple[Command, ...] = (
    *serving.COMMANDS,
    *checking.COMMANDS,
    *users.COMMANDS,
    *tokens.COMMANDS,
    *scope_maps.COMMANDS,
    *auditing.COMMANDS,
)

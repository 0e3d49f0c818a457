"""`ullage migrate`."""

from __future__ import annotations

import logging

from ullage.cli.local.settings import setting_flags, settings_of
from ullage.cli.shell.commands import HELP, Command
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.groups import LOCAL
from ullage.cli.shell.invocation import Invocation, Result


def migrate(invocation: Invocation) -> Result:
    settings = settings_of(invocation.given)
    from ullage.wiring import opening

    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        before, after = opening.migrate(settings)
    except (opening.CannotStart, OSError) as error:
        raise Failure(str(error)) from None
    if before == after:
        return Result(text=f"The database has schema {after} already.\n")
    return Result(text=f"Migrated the database from schema {before} to {after}.\n")


COMMANDS = (
    Command(
        ("migrate",),
        LOCAL["migrate"],
        setting_flags("data", "database"),
        migrate,
        more="`ullage serve` does it when it starts, unless it is told --no-migrate. No older "
        "version can use the database afterwards: make a backup before. No server may run on it.",
        examples=("ullage migrate", "ullage migrate --data /srv/registry"),
        common=(HELP,),
    ),
)

"""`ullage check`."""

from __future__ import annotations

import json
import logging

from ullage.cli.local.places import REGISTRY, place_of
from ullage.cli.local.settings import setting_flags
from ullage.cli.shell.commands import HELP, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.groups import LOCAL
from ullage.cli.shell.invocation import Invocation, Result

COULD_NOT = 3


def check(invocation: Invocation) -> Result:
    given = invocation.given
    if given.fast and given.deep:
        raise Failure("--fast and --deep exclude each other", COULD_NOT)
    mode = "fast" if given.fast else "deep" if given.deep else "default"
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        report = place_of(invocation).check(mode, repair=given.repair)
    except Failure as failure:
        # What the line says is wrong keeps its own code.
        failure.code = COULD_NOT if failure.code == 1 else failure.code
        raise
    from ullage.check.findings import Report, render
    from ullage.documents import stored

    text = json.dumps(report, indent=2) if given.json else render(stored(report, Report))
    return Result(text=f"{text}\n", code=int(report["exit_code"]))


COMMANDS = (
    Command(
        ("check",),
        LOCAL["check"],
        (
            Flag(("--fast",), "Only look at the database."),
            Flag(("--deep",), "Also read and hash every blob."),
            Flag(("--repair",), "Mend what is safe to mend."),
            Flag(("--json",), "Print the report as JSON."),
            *setting_flags("data", "database", "storage"),
            *REGISTRY,
        ),
        check,
        examples=("ullage check", "ullage check --deep --data /srv/registry"),
        exits={
            0: "Nothing was found.",
            1: "What was found harms no image, or was mended.",
            2: "Damage. Or the command line or a setting cannot be used.",
            COULD_NOT: "It could not check.",
        },
        common=(HELP,),
    ),
)

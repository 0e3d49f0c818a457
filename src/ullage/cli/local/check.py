"""`ullage check`."""

from __future__ import annotations

import json
import logging
from typing import Any

from ullage.cli.local.settings import setting_flags, settings_of
from ullage.cli.shell.commands import HELP, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.groups import LOCAL
from ullage.cli.shell.invocation import Invocation, Result

COULD_NOT = 3


def check(invocation: Invocation) -> Result:
    given = invocation.given
    if given.fast and given.deep:
        raise Failure("--fast and --deep exclude each other", COULD_NOT)
    settings = settings_of(given)
    from ullage import wiring
    from ullage.check.findings import Report, render
    from ullage.documents import stored

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    mode = "fast" if given.fast else "deep" if given.deep else "default"
    report: dict[str, Any] = {}
    try:
        for line in wiring.check(settings, {"mode": mode, "repair": given.repair}):
            report = line
    except (wiring.CannotStart, OSError) as error:
        raise Failure(str(error), COULD_NOT) from None
    if "exit_code" not in report:
        raise Failure(str(report.get("error", "the check did not finish")), COULD_NOT)
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

"""`ullage serve` and `ullage version`."""

from __future__ import annotations

import logging
import os
import sys

from ullage import __version__
from ullage.cli.commands.distribution_variables import distribution_variables
from ullage.cli.local.banner import greeting
from ullage.cli.local.settings import setting_flags, settings_of
from ullage.cli.shell.commands import HELP, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.groups import LOCAL
from ullage.cli.shell.invocation import Invocation, Result

log = logging.getLogger(__name__)

_ALLOCATOR = "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0"


def serve(invocation: Invocation) -> Result:
    settings = settings_of(invocation.given)
    # jemalloc, which comes with granian, reads this when it is loaded: what connections leave goes
    # back to the system within seconds, also where no more of them come (listener/memory.py).
    os.environ.setdefault("_RJEM_MALLOC_CONF", _ALLOCATOR)
    from ullage.wiring.opening import CannotStart
    from ullage.wiring.serving import Started, run_server

    def announce(started: Started) -> None:
        print("\n".join(greeting(settings, started)), flush=True)

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    _warn_of_variables_of_distribution()
    try:
        given = invocation.given
        clean = run_server(
            settings, announce, adopt=given.adopt_store, migrates=not given.no_migrate
        )
    except CannotStart as error:
        raise Failure(str(error)) from None
    return Result(text="", code=0 if clean else 1)


def _warn_of_variables_of_distribution() -> None:
    """What an image of distribution was told is not silently left out."""
    found = distribution_variables(os.environ)
    if found:
        log.warning(
            "%s: of CNCF distribution, and not read here; `ullage config from-distribution --env` "
            "says what to set instead",
            ", ".join(found),
        )


def version(invocation: Invocation) -> Result:
    return Result(text=f"{__version__}\n")


COMMANDS = (
    Command(
        ("serve",),
        LOCAL["serve"],
        (
            *setting_flags(),
            Flag(
                ("--no-migrate",),
                "Do not start with a database of an older version, instead of migrating it.",
            ),
            Flag(
                ("--adopt-store",),
                "Take over a storage that another database wrote to; erases nothing in it.",
            ),
        ),
        serve,
        more="Settings come from these flags, ULLAGE_* variables or a TOML file, in that order.",
        examples=("ullage serve", "ullage serve --listen :5000 --auth --tls self-signed"),
        exits={1: "It cannot start, or requests were cut off when it stopped."},
        common=(HELP,),
    ),
    Command(("version",), LOCAL["version"], (), version, common=(HELP,)),
)

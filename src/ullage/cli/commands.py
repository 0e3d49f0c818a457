"""The commands that run in this process: serve, check, version."""

from __future__ import annotations

import inspect
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ullage import __version__
from ullage.cli import accounts
from ullage.cli.common import fail, settings_from
from ullage.cli.greeting import greeting
from ullage.config import SETTINGS, Setting

app = typer.Typer(
    name="ullage",
    help="A container registry that gives space back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _with_settings(command: Any, names: set[str] | None = None) -> Any:
    """Give a command a flag for each setting (or those in `names`), passed as one dict."""
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name != "flags"
    ]
    flags = [
        inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                bool | None if setting.switch else str | None,
                typer.Option(
                    setting.flag,
                    help=_help(setting),
                    # Not known to Typer: load_settings must see which source a value came from.
                    show_default=False,
                    metavar=None if setting.switch else setting.kind,
                ),
            ],
        )
        for setting in SETTINGS
        if names is None or setting.name in names
    ]

    def run(**values: Any) -> None:
        given = {flag.name: values.pop(flag.name) for flag in flags}
        chosen = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in given.items()
        }
        command(flags=chosen, **values)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    run.__signature__ = inspect.Signature([*parameters, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*parameters, *flags]}
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


def _help(setting: Setting) -> str:
    # The backslashes are for Rich, which would take the brackets for its own.
    default = f" \\[default: {setting.default}]" if setting.default else ""
    return f"{setting.help}{default} \\[{setting.variable}]"


Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with settings.", envvar="ULLAGE_CONFIG"),
]


def serve(flags: dict[str, str | None], config: Config = None) -> None:
    """Run the registry.

    Settings come from these flags, ULLAGE_* variables or a TOML file, in that order.
    """
    settings = settings_from(flags, config)
    from ullage.wiring import CannotStart, Started, run_server

    def announce(started: Started) -> None:
        print("\n".join(greeting(settings, started)), flush=True)

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        clean = run_server(settings, announce)
    except CannotStart as error:
        fail(str(error))
    if not clean:
        raise typer.Exit(1)


def check(
    flags: dict[str, str | None],
    fast: Annotated[bool, typer.Option("--fast", help="Only look at the database.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also read and hash every blob.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is safe to mend.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    config: Config = None,
) -> None:
    """Prove that what the database says and what the disk holds agree, also while it serves.

    Exit codes: 0 clean, 1 leak or wrong count (repairable), 2 damage, 3 could not check.
    """
    if fast and deep:
        fail("--fast and --deep exclude each other", 3)
    settings = settings_from(flags, config)
    from ullage import wiring
    from ullage.services.findings import render

    logging.basicConfig(level=logging.WARNING, format="ullage: %(message)s")
    mode = "fast" if fast else "deep" if deep else "default"
    report: dict[str, Any] = {}
    try:
        for line in wiring.check(settings, {"mode": mode, "repair": repair}):
            report = line
    except (wiring.CannotStart, OSError) as error:
        fail(str(error), 3)
    if "exit_code" not in report:
        fail(str(report.get("error", "the check did not finish")), 3)
    print(json.dumps(report, indent=2) if as_json else render(report))
    raise typer.Exit(int(report["exit_code"]))


def version() -> None:
    """Print the version."""
    print(__version__)


app.command()(_with_settings(serve))
app.command()(_with_settings(check, {"data", "database", "storage"}))
app.command()(version)
app.add_typer(accounts.user, name="user")
app.add_typer(accounts.token, name="token")
app.add_typer(accounts.scope_map, name="scope-map")
app.add_typer(accounts.key, name="key")
app.add_typer(accounts.audit, name="audit")

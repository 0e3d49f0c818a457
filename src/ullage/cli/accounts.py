"""Commands that manage accounts, keys and the audit log, with az acr's names where az has them.

They work on the registry whose data folder is here: through its server if one runs, else directly.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ullage.cli.common import fail, settings_from

user = typer.Typer(no_args_is_help=True, help="People and programs that log in with a password.")
token = typer.Typer(
    no_args_is_help=True, help="Repository-scoped tokens: limited rights, two passwords, expiry."
)
credential = typer.Typer(no_args_is_help=True, help="The two passwords of a token.")
scope_map = typer.Typer(no_args_is_help=True, help="Named sets of rights for users and tokens.")
key = typer.Typer(no_args_is_help=True, help="The keys that sign access tokens.")
audit = typer.Typer(no_args_is_help=True, help="Who changed what.")
token.add_typer(credential, name="credential")

Name = Annotated[str, typer.Option("--name", "-n", help="Its name.")]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Folder of the registry.", envvar="ULLAGE_DATA", metavar="DIR"),
]
Database = Annotated[
    str | None,
    typer.Option("--database", help="Its database, if that is PostgreSQL.", metavar="URL"),
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
Status = Annotated[str | None, typer.Option("--status", help="enabled or disabled.")]
ScopeMapName = Annotated[str | None, typer.Option("--scope-map", help="What it may do.")]
Days = Annotated[
    int | None, typer.Option("--expiration-in-days", help="Passwords end after this many days.")
]
Repository = Annotated[
    list[str],
    typer.Option(
        "--repository",
        help="Repository or prefix/* with its actions, comma separated: "
        "team/app=content/read,content/write. Repeatable.",
        metavar="REPO=ACTIONS",
    ),
]


def _run(
    command: str,
    arguments: dict[str, Any],
    data: str | None,
    database: str | None,
    config: Path | None,
) -> None:
    """Have a command carried out and print what it answers."""
    settings = settings_from({"data": data, "database": database}, config)
    from ullage import wiring

    try:
        answer = wiring.manage(settings, {"command": command, "arguments": arguments})
    except (wiring.CannotStart, OSError) as error:
        fail(str(error))
    if "error" in answer:
        fail(str(answer["error"]), 3 if answer.get("code") == "ACCOUNT_UNKNOWN" else 1)
    if answer.get("result") is not None:
        print(json.dumps(answer["result"], indent=2))


def _given(**arguments: Any) -> dict[str, Any]:
    """Only what was said."""
    return {name: value for name, value in arguments.items() if value is not None}


def _split(repositories: list[str]) -> list[list[str]]:
    """`team/app=content/read,content/write` as [repository, action …]."""
    split = []
    for text in repositories:
        repository, _, actions = text.partition("=")
        split.append([repository, *(action for action in actions.split(",") if action)])
    return split


def _password_from_stdin(wanted: bool) -> str | None:
    return sys.stdin.readline().rstrip("\r\n") if wanted else None


PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password instead of making one.")
]


@user.command("create")
def user_create(
    name: Name,
    admin: Annotated[bool, typer.Option("--admin", help="May do everything.")] = False,
    scope_map: ScopeMapName = None,
    password_stdin: PasswordStdin = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Make a user. Its password is made too, and shown only now."""
    password = _password_from_stdin(password_stdin)
    arguments = _given(name=name, admin=admin, scope_map=scope_map, password=password)
    _run("user create", arguments, data, database, config)


@user.command("list")
def user_list(data: Data = None, database: Database = None, config: Config = None) -> None:
    """List the users."""
    _run("user list", {}, data, database, config)


@user.command("show")
def user_show(
    name: Name, data: Data = None, database: Database = None, config: Config = None
) -> None:
    """Show a user."""
    _run("user show", {"name": name}, data, database, config)


@user.command("update")
def user_update(
    name: Name,
    status: Status = None,
    admin: Annotated[
        bool | None, typer.Option("--admin/--no-admin", help="May do everything, or not.")
    ] = None,
    scope_map: ScopeMapName = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Enable or disable a user, or change what it may do."""
    arguments = _given(name=name, status=status, admin=admin, scope_map=scope_map)
    _run("user update", arguments, data, database, config)


@user.command("password")
def user_password(
    name: Name,
    password_stdin: PasswordStdin = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Give a user another password, shown only now. Its tokens end."""
    password = _password_from_stdin(password_stdin)
    _run("user password", _given(name=name, password=password), data, database, config)


@user.command("delete")
def user_delete(
    name: Name, data: Data = None, database: Database = None, config: Config = None
) -> None:
    """Delete a user. The last administrator stays."""
    _run("user delete", {"name": name}, data, database, config)


@token.command("create")
def token_create(
    name: Name,
    scope_map: ScopeMapName = None,
    repository: Repository = [],  # noqa: B006 - typer copies it
    status: Annotated[str, typer.Option("--status", help="enabled or disabled.")] = "enabled",
    expiration_in_days: Days = None,
    no_passwords: Annotated[
        bool, typer.Option("--no-passwords", help="Make passwords later.")
    ] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Make a token with two passwords, shown only now."""
    arguments = _given(
        name=name,
        scope_map=scope_map,
        repositories=_split(repository),
        status=status,
        expires_in_days=expiration_in_days,
        no_passwords=no_passwords,
    )
    _run("token create", arguments, data, database, config)


@token.command("list")
def token_list(data: Data = None, database: Database = None, config: Config = None) -> None:
    """List the tokens."""
    _run("token list", {}, data, database, config)


@token.command("show")
def token_show(
    name: Name, data: Data = None, database: Database = None, config: Config = None
) -> None:
    """Show a token."""
    _run("token show", {"name": name}, data, database, config)


@token.command("update")
def token_update(
    name: Name,
    status: Status = None,
    scope_map: ScopeMapName = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Enable or disable a token, or change what it may do."""
    arguments = _given(name=name, status=status, scope_map=scope_map)
    _run("token update", arguments, data, database, config)


@token.command("delete")
def token_delete(
    name: Name, data: Data = None, database: Database = None, config: Config = None
) -> None:
    """Delete a token."""
    _run("token delete", {"name": name}, data, database, config)


def _slots(password1: bool, password2: bool) -> list[str]:
    chosen = {"password1": password1, "password2": password2}
    return [name for name, wanted in chosen.items() if wanted]


First = Annotated[bool, typer.Option("--password1", help="The first password.")]
Second = Annotated[bool, typer.Option("--password2", help="The second password.")]


@credential.command("generate")
def credential_generate(
    name: Name,
    password1: First = False,
    password2: Second = False,
    expiration_in_days: Days = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Make new passwords, one or both, shown only now. The other goes on working."""
    slots = _slots(password1, password2) or None
    arguments = _given(name=name, slots=slots, expires_in_days=expiration_in_days)
    _run("token credential generate", arguments, data, database, config)


@credential.command("delete")
def credential_delete(
    name: Name,
    password1: First = False,
    password2: Second = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Take passwords from a token, one or both."""
    arguments = {"name": name, "slots": _slots(password1, password2)}
    _run("token credential delete", arguments, data, database, config)


@scope_map.command("create")
def scope_map_create(
    name: Name,
    repository: Repository,
    description: Annotated[str, typer.Option("--description", help="What it is for.")] = "",
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Make a scope map."""
    arguments = {
        "name": name,
        "repositories": _split(repository),
        "description": description,
    }
    _run("scope-map create", arguments, data, database, config)


@scope_map.command("list")
def scope_map_list(data: Data = None, database: Database = None, config: Config = None) -> None:
    """List the scope maps."""
    _run("scope-map list", {}, data, database, config)


@scope_map.command("show")
def scope_map_show(
    name: Name, data: Data = None, database: Database = None, config: Config = None
) -> None:
    """Show a scope map."""
    _run("scope-map show", {"name": name}, data, database, config)


@scope_map.command("update")
def scope_map_update(
    name: Name,
    add_repository: Annotated[
        list[str], typer.Option("--add-repository", help="Rights to add.", metavar="REPO=ACTIONS")
    ] = [],  # noqa: B006 - typer copies it
    remove_repository: Annotated[
        list[str],
        typer.Option("--remove-repository", help="Rights to take away.", metavar="REPO=ACTIONS"),
    ] = [],  # noqa: B006 - typer copies it
    description: Annotated[str | None, typer.Option("--description")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Add rights to a scope map or take some away."""
    arguments = _given(
        name=name,
        add=_split(add_repository),
        remove=_split(remove_repository),
        description=description,
    )
    _run("scope-map update", arguments, data, database, config)


@scope_map.command("delete")
def scope_map_delete(
    name: Name, data: Data = None, database: Database = None, config: Config = None
) -> None:
    """Delete a scope map that nobody uses."""
    _run("scope-map delete", {"name": name}, data, database, config)


@key.command("rotate")
def key_rotate(
    revoke: Annotated[
        bool, typer.Option("--revoke", help="End all tokens; everybody logs in again.")
    ] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Sign with a new key from now on; tokens signed before stay valid until they expire."""
    _run("key rotate", {"revoke": revoke}, data, database, config)


@audit.command("list")
def audit_list(
    subject: Annotated[str | None, typer.Option("--subject", help="Only of this account.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="Only this action.")] = None,
    repository: Annotated[str | None, typer.Option("--repository")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Not before: 2026-11-23T10:00:00Z, or 24h.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Before.")] = None,
    top: Annotated[int, typer.Option("--top", help="At most this many, newest first.")] = 100,
    output: Annotated[str, typer.Option("--output", "-o", help="json or table.")] = "",
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Show who changed what, newest first."""
    arguments = _given(
        subject=subject, action=action, repository=repository, since=since, until=until, top=top
    )
    settings = settings_from({"data": data, "database": database}, config)
    from ullage import wiring

    try:
        answer = wiring.manage(settings, {"command": "audit list", "arguments": arguments})
    except (wiring.CannotStart, OSError) as error:
        fail(str(error))
    if "error" in answer:
        fail(str(answer["error"]))
    if (output or ("table" if sys.stdout.isatty() else "json")) == "json":
        print(json.dumps(answer["result"], indent=2))
        return
    for entry in answer["result"]:
        where = " ".join(str(entry[name]) for name in ("repository", "target") if entry[name])
        print(f"{entry['at'][:19]}  {entry['subject'] or '-':<16} {entry['action']:<20} {where}")

"""`ullage config`: defaults, and names for registries."""

from __future__ import annotations

from ullage.cli.client import saved
from ullage.cli.client.address import resolve
from ullage.cli.shell.commands import NOT_FOUND, OUTPUTS, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result

_KEYS = {
    "registry": "The registry that commands without --name mean.",
    "output": "The output format, on a terminal and elsewhere.",
    "ca_file": "PEM file with the authorities to trust.",
    "registries.NAME": "What NAME stands for: host[:port] or a URL.",
}
_MORE = "Keys: " + " ".join(f"`{key}`: {help}" for key, help in _KEYS.items())


def list_defaults(invocation: Invocation) -> Result:
    values = invocation.defaults
    return Result(values, lambda: [{"Key": key, "Value": values[key]} for key in sorted(values)])


def get_default(invocation: Invocation) -> Result:
    key = invocation.given.key
    _require_key(key)
    if key not in invocation.defaults:
        raise Failure(f"'{key}' is not set.", NOT_FOUND)
    return Result(invocation.defaults[key])


def set_defaults(invocation: Invocation) -> None:
    changes: dict[str, str | None] = {}
    for pair in invocation.given.pair:
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise Failure(f"'{pair}' - expected KEY=VALUE", 2)
        _require_key(key)
        _require_value(key, value, invocation)
        changes[key] = value
    saved.change_defaults(changes)


def unset_defaults(invocation: Invocation) -> None:
    for key in invocation.given.key:
        _require_key(key)
    saved.change_defaults(dict.fromkeys(invocation.given.key))


def _require_key(key: str) -> None:
    name = key.removeprefix(saved.REGISTRIES)
    if key not in _KEYS and (name == key or not name or "/" in name):
        raise Failure(f"'{key}' is no key. Keys: {', '.join(_KEYS)}", 2)


def _require_value(key: str, value: str, invocation: Invocation) -> None:
    if key == "output" and value not in OUTPUTS:
        raise Failure(f"output: '{value}' - expected one of {', '.join(OUTPUTS)}", 2)
    if key == "registry":
        resolve(value, invocation.saved_registries)
    if key.startswith(saved.REGISTRIES):
        resolve(value, {})


COMMANDS = (
    Command(("config", "list"), "Show all that is set.", (), list_defaults),
    Command(
        ("config", "get"),
        "Show one value.",
        (Flag(("key",), "Which.", required=True),),
        get_default,
        exits={NOT_FOUND: "It is not set."},
    ),
    Command(
        ("config", "set"),
        "Set defaults, and names for registries.",
        (Flag(("pair",), "KEY=VALUE, one or more.", required=True, repeatable=True),),
        set_defaults,
        more=_MORE,
        examples=(
            "ullage config set registries.myregistry=http://127.0.0.1:5000",
            "ullage config set registry=myregistry output=table",
        ),
    ),
    Command(
        ("config", "unset"),
        "Take values away.",
        (Flag(("key",), "Which, one or more.", required=True, repeatable=True),),
        unset_defaults,
    ),
)

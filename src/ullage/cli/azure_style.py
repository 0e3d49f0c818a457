"""Reading flags the way az does, where that differs.

`--repository team/app content/read content/write` is one flag with a list behind it. Typer's flags
have one value each, so the list is joined: `--repository team/app=content/read,content/write`.
"""

from __future__ import annotations

from collections.abc import Sequence

_LISTS = {"--repository", "--add-repository", "--remove-repository"}
_COMMANDS = {"token", "scope-map"}


def joined_rights(arguments: Sequence[str]) -> list[str]:
    """The arguments with each list of rights as one value."""
    if not arguments or arguments[0] not in _COMMANDS:
        return list(arguments)
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        joined.append(argument)
        if argument not in _LISTS:
            continue
        values = []
        while rest and not rest[0].startswith("-"):
            values.append(rest.pop(0))
        if len(values) > 1 and "=" not in values[0]:
            values = [f"{values[0]}={','.join(values[1:])}"]
        joined += values
    return joined

"""What a command line may ask a running server to do: commands by name, with their arguments.

Each is one function and one transaction, with its audit entry in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ullage.accounts.audit_log import list_audit
from ullage.accounts.scope_maps import (
    create_scope_map,
    delete_scope_map,
    list_scope_maps,
    show_scope_map,
    update_scope_map,
)
from ullage.accounts.signing_keys import list_keys, revoke_key, rotate_key
from ullage.accounts.tokens import (
    create_token,
    delete_credentials,
    delete_token,
    generate_credentials,
    list_tokens,
    show_token,
    update_token,
)
from ullage.accounts.users import (
    create_user,
    delete_user,
    list_users,
    set_password,
    show_user,
    update_user,
)
from ullage.documents import plain
from ullage.oci.errors import RegistryError
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.push.open_uploads import cancel_uploads, list_uploads

Command = Callable[..., Any]
# Each name with its function, and whether that changes something: then it takes the caller, too.
COMMANDS: dict[str, tuple[Command, bool]] = {
    "user create": (create_user, True),
    "user list": (list_users, False),
    "user show": (show_user, False),
    "user update": (update_user, True),
    "user password": (set_password, True),
    "user delete": (delete_user, True),
    "token create": (create_token, True),
    "token list": (list_tokens, False),
    "token show": (show_token, False),
    "token update": (update_token, True),
    "token delete": (delete_token, True),
    "token credential generate": (generate_credentials, True),
    "token credential delete": (delete_credentials, True),
    "scope-map create": (create_scope_map, True),
    "scope-map list": (list_scope_maps, False),
    "scope-map show": (show_scope_map, False),
    "scope-map update": (update_scope_map, True),
    "scope-map delete": (delete_scope_map, True),
    "key list": (list_keys, False),
    "key rotate": (rotate_key, True),
    "key revoke": (revoke_key, True),
    "audit list": (list_audit, False),
    "upload list": (list_uploads, False),
    "upload cancel": (cancel_uploads, True),
}


def run_command(registry: Registry, caller: Caller, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the command a request names; {"result": …} or {"error": …, "code": …}."""
    name = str(request.get("command"))
    if name not in COMMANDS:
        return _not_understood(f"there is no command {name[:100]}")
    command, changes = COMMANDS[name]
    first = (registry, caller) if changes else (registry,)
    try:
        call = inspect.signature(command).bind(*first, **dict(request.get("arguments", {})))
    except TypeError as error:
        return _not_understood(f"{name}: {error}")
    try:
        return {"result": plain(command(*call.args, **call.kwargs))}
    except RegistryError as error:
        return {"error": error.message, "code": error.code}


def _not_understood(why: str) -> dict[str, Any]:
    """The client is of another version, or is none of ours."""
    return {"error": why, "code": "COMMAND_INVALID"}

"""`/api/v1/users`, `tokens`, `scope-maps` and `keys`: the accounts, for administrators.

Each handler is a use case of `ullage.accounts`, the same that the command line asks for on the
registry's own machine. A password that is made is in the one answer that makes it, nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Concatenate, Literal, ParamSpec, TypeVar

from starlette.responses import Response

from ullage.accounts import scope_maps, signing_keys, tokens, users
from ullage.accounts.documents import KeyDocument, ScopeMapDocument, TokenDocument, UserDocument
from ullage.accounts.names import (
    ACCOUNT_NAME,
    AccountConflict,
    AccountInvalid,
    AccountUnknown,
)
from ullage.authorization import ScopeInvalid
from ullage.documents import Document, Meta, RequestBody
from ullage.oci.errors import ValueInvalid
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.server.http.context import Context, caller_of, query_of
from ullage.server.http.json_bodies import read_body
from ullage.server.http.operations import Operation, Parameter
from ullage.server.http.permissions import ACCOUNTS_WRITE, ADMINISTRATION_READ
from ullage.server.http.request import Request
from ullage.server.http.responses import empty_response, json_response
from ullage.server.http.routes import Route

P = ParamSpec("P")
T = TypeVar("T")

_KEY = re.compile(r"[0-9a-f]{16}")
Status = Literal["enabled", "disabled"]
# A repository, prefix/* or *, and actions on it such as content/read.
Rights = tuple[Annotated[tuple[str, ...], Meta(min_length=2)], ...]
Slots = tuple[Literal["password1", "password2"], ...]


class Users(Document, frozen=True):
    """The users, by name."""

    users: list[UserDocument]


class Tokens(Document, frozen=True):
    """The repository-scoped tokens, by name, without their passwords."""

    tokens: list[TokenDocument]


class ScopeMaps(Document, frozen=True, rename="camel"):
    """The scope maps, by name."""

    scope_maps: list[ScopeMapDocument]


class Keys(Document, frozen=True):
    """The keys that sign and verify access tokens, without their secrets."""

    keys: list[KeyDocument]


class NewUser(RequestBody, frozen=True, rename="camel"):
    """A user; without a password one is made, and answered once."""

    name: str = ""
    admin: bool = False
    scope_map: str | None = None
    password: str | None = None


class UserChange(RequestBody, frozen=True, rename="camel"):
    """What to change of a user; what is left out stays. An empty scope map is none."""

    status: Status | None = None
    admin: bool | None = None
    scope_map: str | None = None


class PasswordRequest(RequestBody, frozen=True):
    """The password to set; without it one is made, and answered once."""

    password: str | None = None


class NewToken(RequestBody, frozen=True, rename="camel"):
    """A token with a scope map, or with repositories and actions of its own."""

    name: str = ""
    scope_map: str | None = None
    repositories: Rights = ()
    status: Status = "enabled"
    expires_in_days: int | None = None
    no_passwords: bool = False


class TokenChange(RequestBody, frozen=True, rename="camel"):
    """What to change of a token; what is left out stays."""

    status: Status | None = None
    scope_map: str | None = None


class CredentialsRequest(RequestBody, frozen=True, rename="camel"):
    """Which passwords to make anew, both without any, and when they end."""

    slots: Slots = ()
    expires_in_days: int | None = None


class NewScopeMap(RequestBody, frozen=True):
    """A scope map: repositories, each with actions."""

    name: str = ""
    repositories: Rights = ()
    description: str = ""


class ScopeMapChange(RequestBody, frozen=True):
    """Rights to add and to take away."""

    add: Rights = ()
    remove: Rights = ()
    description: str | None = None


class RotationRequest(RequestBody, frozen=True):
    """With `revoke` every token that was signed before ends."""

    revoke: bool = False


# --- users ----------------------------------------------------------------------------------------


async def list_users(context: Context, request: Request) -> Response:
    """All users."""
    return json_response(Users(await context.threads.submit(users.list_users, context.registry)))


async def create_user(context: Context, request: Request) -> Response:
    """Make a user."""
    body = await read_body(context, request, NewUser, AccountInvalid)
    made = await _change(
        context,
        request,
        users.create_user,
        body.name,
        admin=body.admin,
        scope_map=body.scope_map,
        password=body.password,
    )
    return json_response(made, status=201, headers={"Location": f"{_USERS}/{made.name}"})


async def get_user(context: Context, request: Request, name: str) -> Response:
    """A user, without its password."""
    return json_response(
        await context.threads.submit(users.show_user, context.registry, _named(name))
    )


async def update_user(context: Context, request: Request, name: str) -> Response:
    """Enable or disable a user, or change what it may do."""
    body = await read_body(context, request, UserChange, AccountInvalid)
    changed = await _change(
        context,
        request,
        users.update_user,
        _named(name),
        status=body.status,
        admin=body.admin,
        scope_map=body.scope_map,
    )
    return json_response(changed)


async def set_user_password(context: Context, request: Request, name: str) -> Response:
    """Give a user another password; the old one, and tokens signed for it, end."""
    body = await read_body(context, request, PasswordRequest, AccountInvalid)
    return json_response(
        await _change(context, request, users.set_password, _named(name), body.password)
    )


async def delete_user(context: Context, request: Request, name: str) -> Response:
    """Delete a user; the last administrator stays."""
    await _change(context, request, users.delete_user, _named(name))
    return empty_response(204, {})


# --- tokens ---------------------------------------------------------------------------------------


async def list_tokens(context: Context, request: Request) -> Response:
    """All repository-scoped tokens."""
    return json_response(Tokens(await context.threads.submit(tokens.list_tokens, context.registry)))


async def create_token(context: Context, request: Request) -> Response:
    """Make a repository-scoped token; its passwords are answered once."""
    body = await read_body(context, request, NewToken, AccountInvalid)
    made = await _change(
        context,
        request,
        tokens.create_token,
        body.name,
        scope_map=body.scope_map,
        repositories=body.repositories,
        status=body.status,
        expires_in_days=body.expires_in_days,
        no_passwords=body.no_passwords,
    )
    return json_response(made, status=201, headers={"Location": f"{_TOKENS}/{made.name}"})


async def show_token(context: Context, request: Request, name: str) -> Response:
    """A repository-scoped token, without its passwords."""
    return json_response(
        await context.threads.submit(tokens.show_token, context.registry, _named(name))
    )


async def update_token(context: Context, request: Request, name: str) -> Response:
    """Enable or disable a token, or give it another scope map."""
    body = await read_body(context, request, TokenChange, AccountInvalid)
    changed = await _change(
        context,
        request,
        tokens.update_token,
        _named(name),
        status=body.status,
        scope_map=body.scope_map,
    )
    return json_response(changed)


async def delete_token(context: Context, request: Request, name: str) -> Response:
    """Delete a token, with the scope map that was made for it."""
    await _change(context, request, tokens.delete_token, _named(name))
    return empty_response(204, {})


async def generate_credentials(context: Context, request: Request, name: str) -> Response:
    """Make new passwords for a token, answered once; what was bought with the old ones ends."""
    body = await read_body(context, request, CredentialsRequest, AccountInvalid)
    made = await _change(
        context,
        request,
        tokens.generate_credentials,
        _named(name),
        slots=body.slots,
        expires_in_days=body.expires_in_days,
    )
    return json_response(made)


async def delete_credentials(context: Context, request: Request, name: str) -> Response:
    """Take passwords from a token: those that are named, or both."""
    slots = query_of(request).all("slot")
    if not set(slots) <= set(tokens.SLOTS):
        raise AccountInvalid(message="slot: expected password1 or password2")
    return json_response(
        await _change(context, request, tokens.delete_credentials, _named(name), slots)
    )


# --- scope maps -----------------------------------------------------------------------------------


async def list_scope_maps(context: Context, request: Request) -> Response:
    """All scope maps."""
    found = await context.threads.submit(scope_maps.list_scope_maps, context.registry)
    return json_response(ScopeMaps(found))


async def create_scope_map(context: Context, request: Request) -> Response:
    """Make a scope map."""
    body = await read_body(context, request, NewScopeMap, AccountInvalid)
    made = await _change(
        context,
        request,
        scope_maps.create_scope_map,
        body.name,
        body.repositories,
        body.description,
    )
    return json_response(made, status=201, headers={"Location": f"{_SCOPE_MAPS}/{made.name}"})


async def show_scope_map(context: Context, request: Request, name: str) -> Response:
    """A scope map with its rights."""
    return json_response(
        await context.threads.submit(scope_maps.show_scope_map, context.registry, _named(name))
    )


async def update_scope_map(context: Context, request: Request, name: str) -> Response:
    """Add rights to a scope map, or take some away."""
    body = await read_body(context, request, ScopeMapChange, AccountInvalid)
    changed = await _change(
        context,
        request,
        scope_maps.update_scope_map,
        _named(name),
        add=body.add,
        remove=body.remove,
        description=body.description,
    )
    return json_response(changed)


async def delete_scope_map(context: Context, request: Request, name: str) -> Response:
    """Delete a scope map that no account uses."""
    await _change(context, request, scope_maps.delete_scope_map, _named(name))
    return empty_response(204, {})


# --- signing keys ---------------------------------------------------------------------------------


async def list_keys(context: Context, request: Request) -> Response:
    """The keys that sign and verify access tokens."""
    return json_response(
        Keys(await context.threads.submit(signing_keys.list_keys, context.registry))
    )


async def rotate_key(context: Context, request: Request) -> Response:
    """Sign with a new key from now on."""
    body = await read_body(context, request, RotationRequest, ValueInvalid)
    made = await _change(context, request, signing_keys.rotate_key, revoke=body.revoke)
    return json_response(made, status=201)


async def revoke_key(context: Context, request: Request, kid: str) -> Response:
    """End all tokens that a key signed; if it is the one that signs, a new one does."""
    if not _KEY.fullmatch(kid):
        raise AccountUnknown(message="there is no such signing key")
    return json_response(Keys(await _change(context, request, signing_keys.revoke_key, kid)))


async def _change(
    context: Context,
    request: Request,
    work: Callable[Concatenate[Registry, Caller, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Carry out a change in a thread; logins and tokens feel it from the next request on."""
    caller = caller_of(request)

    def change() -> T:
        answer = work(context.registry, caller, *args, **kwargs)
        if context.guard.authenticator is not None:
            context.guard.authenticator.look_again()
        return answer

    return await context.threads.submit(change)


def _named(text: str) -> str:
    """A name in a path. What can be no name is none that there is."""
    if not ACCOUNT_NAME.fullmatch(text):
        raise AccountUnknown
    return text


_USERS = "/api/v1/users"
_TOKENS = "/api/v1/tokens"
_SCOPE_MAPS = "/api/v1/scope-maps"
_KEYS = "/api/v1/keys"
_USER, _TOKEN = f"{_USERS}/{{user}}", f"{_TOKENS}/{{token}}"
_SCOPE_MAP = f"{_SCOPE_MAPS}/{{scope_map}}"
_CREDENTIALS = f"{_TOKEN}/credentials"
_REFUSALS = (AccountInvalid, AccountUnknown, AccountConflict, ScopeInvalid)
_RIGHTS = [["team/*", "content/read", "metadata/read"]]


def _made(
    kind: type[Document], request: type[RequestBody], example: dict[str, object]
) -> Operation:
    return Operation(
        {201: kind}, request=(request,), errors=_REFUSALS, headers=("Location",), example=example
    )


def _changed(
    kind: type[Document], request: type[RequestBody], example: dict[str, object]
) -> Operation:
    return Operation({200: kind}, request=(request,), errors=_REFUSALS, example=example)


def _shown(kind: type[Document]) -> Operation:
    return Operation({200: kind}, errors=(AccountUnknown,))


_GONE = Operation({204: None}, errors=_REFUSALS)
_NEW_USER = _made(UserDocument, NewUser, {"name": "anna", "admin": True})
_CHANGE_USER = _changed(UserDocument, UserChange, {"status": "disabled"})
_PASSWORD = _changed(UserDocument, PasswordRequest, {})
_NEW_TOKEN = _made(TokenDocument, NewToken, {"name": "ci", "repositories": _RIGHTS})
_CHANGE_TOKEN = _changed(TokenDocument, TokenChange, {"status": "disabled"})
_GENERATE = _changed(TokenDocument, CredentialsRequest, {"slots": ["password1"]})
_SLOT = {"type": "array", "items": {"enum": list(tokens.SLOTS)}}
_TAKE = Operation(
    {200: TokenDocument},
    query=(Parameter("slot", "a password to take away; both without any", _SLOT),),
    errors=_REFUSALS,
)
_NEW_MAP = _made(ScopeMapDocument, NewScopeMap, {"name": "readers", "repositories": _RIGHTS})
_CHANGE_MAP = _changed(ScopeMapDocument, ScopeMapChange, {"add": _RIGHTS})
_ROTATE = Operation({201: KeyDocument}, request=(RotationRequest,), example={"revoke": False})
_REVOKE = Operation({200: Keys}, errors=(AccountUnknown,))
_READ, _WRITE = ADMINISTRATION_READ, ACCOUNTS_WRITE
ROUTES = (
    Route("users", "GET", _USERS, list_users, _READ, Operation({200: Users})),
    Route("users", "POST", _USERS, create_user, _WRITE, _NEW_USER),
    Route("user", "GET", _USER, get_user, _READ, _shown(UserDocument)),
    Route("user", "PATCH", _USER, update_user, _WRITE, _CHANGE_USER),
    Route("user", "DELETE", _USER, delete_user, _WRITE, _GONE),
    Route("user-password", "POST", f"{_USER}/password", set_user_password, _WRITE, _PASSWORD),
    Route("tokens", "GET", _TOKENS, list_tokens, _READ, Operation({200: Tokens})),
    Route("tokens", "POST", _TOKENS, create_token, _WRITE, _NEW_TOKEN),
    Route("scoped-token", "GET", _TOKEN, show_token, _READ, _shown(TokenDocument)),
    Route("scoped-token", "PATCH", _TOKEN, update_token, _WRITE, _CHANGE_TOKEN),
    Route("scoped-token", "DELETE", _TOKEN, delete_token, _WRITE, _GONE),
    Route("credentials", "POST", _CREDENTIALS, generate_credentials, _WRITE, _GENERATE),
    Route("credentials", "DELETE", _CREDENTIALS, delete_credentials, _WRITE, _TAKE),
    Route("scope-maps", "GET", _SCOPE_MAPS, list_scope_maps, _READ, Operation({200: ScopeMaps})),
    Route("scope-maps", "POST", _SCOPE_MAPS, create_scope_map, _WRITE, _NEW_MAP),
    Route("scope-map", "GET", _SCOPE_MAP, show_scope_map, _READ, _shown(ScopeMapDocument)),
    Route("scope-map", "PATCH", _SCOPE_MAP, update_scope_map, _WRITE, _CHANGE_MAP),
    Route("scope-map", "DELETE", _SCOPE_MAP, delete_scope_map, _WRITE, _GONE),
    Route("keys", "GET", _KEYS, list_keys, _READ, Operation({200: Keys})),
    Route("keys", "POST", _KEYS, rotate_key, _WRITE, _ROTATE),
    Route("key", "DELETE", f"{_KEYS}/{{key}}", revoke_key, _WRITE, _REVOKE),
)

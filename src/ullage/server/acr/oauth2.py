"""`/oauth2/`: where clients turn a password or a refresh token into an access token.

One endpoint, three callers: docker and friends GET with Basic, az and Azure's SDK POST a form, and
any client may ask as anonymous. azure.md sections 1.2-1.4 have what each sends.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ullage.accounts.authenticator import Authenticator, LoginFailed
from ullage.accounts.directory import Account
from ullage.authorization import parse_scopes
from ullage.oci.errors import Unauthorized, Unsupported
from ullage.server.http.authentication import basic_credentials
from ullage.server.http.context import Context, query_of
from ullage.server.http.forms import read_form
from ullage.server.http.permissions import ANYBODY
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route

MAX_FORM_BYTES = 64 * 1024
MAX_FORM_FIELDS = 200


class GrantInvalid(Unauthorized):
    message = "the credentials are wrong, or the account is disabled or expired"


async def get_token(context: Context, request: Request) -> Response:
    """docker's token call: GET with Basic, or without for anonymous."""
    authenticator = _authenticator(context)
    query = query_of(request)
    header = request.headers.get("authorization")
    account = None
    if header is not None:
        kind, _, credential = header.partition(" ")
        if kind.lower() != "basic":
            raise GrantInvalid
        try:
            name, password = basic_credentials(credential)
        except LoginFailed:
            raise GrantInvalid from None
        account = await _login(context, request, name, password)
    return await _tokens(
        context,
        authenticator,
        account,
        query.all("scope"),
        offline=query.one("offline_token") == "true",
    )


async def post_token(context: Context, request: Request) -> Response:
    """The OAuth2 form: grant_type password, refresh_token, or password without one (anonymous)."""
    authenticator = _authenticator(context)
    form = await read_form(context, request, MAX_FORM_BYTES, MAX_FORM_FIELDS)
    grant = form.one("grant_type")
    account = None
    if grant == "refresh_token":
        account = await _refreshed(context, form.one("refresh_token"))
    elif grant != "password":
        raise Unsupported(
            {"grant_type": (grant or "")[:40]}, "grant_type: expected password or refresh_token"
        )
    elif form.one("username") or form.one("password"):
        account = await _login(
            context, request, form.one("username") or "", form.one("password") or ""
        )
    offline = form.one("access_type") == "offline"
    return await _tokens(context, authenticator, account, form.all("scope"), offline=offline)


async def exchange(context: Context, request: Request) -> Response:
    """Azure's SDK and az bring a token of their own and want a refresh token.

    There is no Entra here: what is taken is a refresh token of this registry, or `name:password`.
    """
    authenticator = _authenticator(context)
    form = await read_form(context, request, MAX_FORM_BYTES, MAX_FORM_FIELDS)
    grant = form.one("grant_type")
    if grant not in ("access_token", "access_token_refresh_token", "refresh_token"):
        raise Unsupported(
            {"grant_type": (grant or "")[:40]},
            "grant_type: expected access_token, access_token_refresh_token or refresh_token",
        )
    token = form.one("access_token") or form.one("refresh_token") or ""
    name, colon, password = token.partition(":")
    if colon:
        account = await _login(context, request, name, password)
    else:
        account = await _refreshed(context, token)
    refresh = await context.threads.submit(authenticator.refresh_token, account)
    return json_response({"refresh_token": refresh}, headers=_NO_STORE)


_NO_STORE = {"Cache-Control": "no-store"}


def _authenticator(context: Context) -> Authenticator:
    if context.guard.authenticator is None:
        raise Unsupported(message="this registry asks for no credentials")
    return context.guard.authenticator


async def _login(context: Context, request: Request, name: str, password: str) -> Account:
    address = request.client.host if request.client else ""
    try:
        return await context.guard.login(name, password, address)
    except LoginFailed:
        raise GrantInvalid from None


async def _refreshed(context: Context, token: str | None) -> Account:
    try:
        return await context.threads.submit(
            _authenticator(context).account_of_refresh_token, token or ""
        )
    except LoginFailed:
        raise GrantInvalid from None


async def _tokens(
    context: Context,
    authenticator: Authenticator,
    account: Account | None,
    scopes: list[str],
    *,
    offline: bool,
) -> Response:
    issued = await context.threads.submit(authenticator.access_token, account, parse_scopes(scopes))
    document: dict[str, Any] = {
        "access_token": issued.token,
        "token": issued.token,
        "expires_in": int(issued.lifetime.total_seconds()),
        "issued_at": issued.issued_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if offline and account is not None:
        # docker keeps this instead of the password.
        document["refresh_token"] = await context.threads.submit(
            authenticator.identity_token, account
        )
    return json_response(document, headers=_NO_STORE)


ROUTES = (
    Route("token", "GET", "/oauth2/token", get_token, ANYBODY),
    Route("token", "POST", "/oauth2/token", post_token, ANYBODY),
    Route("exchange", "POST", "/oauth2/exchange", exchange, ANYBODY),
)

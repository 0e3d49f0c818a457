"""`/oauth2/`: where clients turn a password or a refresh token into an access token.

One endpoint, three callers: docker and friends GET with Basic, az and Azure's SDK POST a form, and
any client may ask as anonymous. azure.md sections 1.2-1.4 have what each sends.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import Response

from ullage.accounts.authenticator import Authenticator, LoginFailed
from ullage.accounts.directory import Account
from ullage.authorization import parse_scopes
from ullage.oci.errors import ManifestTooLarge, Unauthorized, Unsupported
from ullage.server.http.authentication import basic_credentials
from ullage.server.http.context import Context, query_of
from ullage.server.http.errors import FormTooLarge
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
    form = await _form(context, request)
    grant = _one(form, "grant_type")
    account = None
    if grant == "refresh_token":
        account = await _refreshed(context, _one(form, "refresh_token"))
    elif grant != "password":
        raise Unsupported(
            {"grant_type": (grant or "")[:40]}, "grant_type: expected password or refresh_token"
        )
    elif _one(form, "username") or _one(form, "password"):
        account = await _login(
            context, request, _one(form, "username") or "", _one(form, "password") or ""
        )
    offline = _one(form, "access_type") == "offline"
    return await _tokens(context, authenticator, account, form.get("scope", []), offline=offline)


async def exchange(context: Context, request: Request) -> Response:
    """Azure's SDK and az bring a token of their own and want a refresh token.

    There is no Entra here: what is taken is a refresh token of this registry, or `name:password`.
    """
    authenticator = _authenticator(context)
    form = await _form(context, request)
    grant = _one(form, "grant_type")
    if grant not in ("access_token", "access_token_refresh_token", "refresh_token"):
        raise Unsupported(
            {"grant_type": (grant or "")[:40]},
            "grant_type: expected access_token, access_token_refresh_token or refresh_token",
        )
    token = _one(form, "access_token") or _one(form, "refresh_token") or ""
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


async def _form(context: Context, request: Request) -> dict[str, list[str]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Unsupported(message="expected a form: application/x-www-form-urlencoded")
    try:
        async with context.bodies.whole(request, MAX_FORM_BYTES) as body:
            pairs = parse_qsl(
                body.decode("utf-8"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=MAX_FORM_FIELDS,
            )
    except ManifestTooLarge:
        raise FormTooLarge(message=f"the form is longer than {MAX_FORM_BYTES} bytes") from None
    except ValueError:
        raise Unsupported(message="the form is malformed or has too many fields") from None
    if any("\0" in text for pair in pairs for text in pair):
        # PostgreSQL has no such text, so nothing could be found with it.
        raise Unsupported(message="there is a NUL character in the form")
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form


def _one(form: dict[str, list[str]], name: str) -> str | None:
    values = form.get(name, [])
    if len(values) > 1:
        raise Unsupported({"parameter": name}, f"the parameter {name} is given twice")
    return values[0] if values else None


ROUTES = (
    Route("token", "GET", "/oauth2/token", get_token, ANYBODY),
    Route("token", "POST", "/oauth2/token", post_token, ANYBODY),
    Route("exchange", "POST", "/oauth2/exchange", exchange, ANYBODY),
)

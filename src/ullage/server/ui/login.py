"""Logging in and out: a password becomes a session, whose secret is in a cookie."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import Response

from ullage.accounts.authenticator import NULL_USER, LoginFailed
from ullage.oci.errors import RegistryError, TooManyRequests, Unsupported
from ullage.server.http.errors import status_of
from ullage.server.http.origins import is_loopback
from ullage.server.http.permissions import ANYBODY
from ullage.server.http.routes import Route
from ullage.server.ui.visit import Visit

# RFC 6265bis, section 4.1.3.2: a cookie of this prefix is from this host, over TLS, for all of it.
_OVER_TLS, _ON_LOOPBACK = "__Host-ullage", "ullage"


class LoginRefused(RegistryError):
    """Shown beside the form."""

    code = "UNAUTHORIZED"
    message = "the name or the password is wrong"


def is_encrypted(visit: Visit) -> bool:
    return visit.context.guard.base_url(visit.request).startswith("https://")


def cookie_name(visit: Visit) -> str:
    return _OVER_TLS if is_encrypted(visit) else _ON_LOOPBACK


def first_log_in(visit: Visit, path: str) -> Response:
    """To the form, and from there back to the page that was asked for."""
    query = visit.request.scope["query_string"].decode("latin-1")
    wanted = path + (f"?{query}" if query else "")
    if visit.request.method not in ("GET", "HEAD"):
        return visit.redirect("login")
    return visit.redirect(f"login?next={quote(wanted, safe='')}")


async def show_form(visit: Visit) -> Response:
    """The form; who is logged in already is sent on."""
    wanted = _local_path(visit.query.one("next"))
    if visit.sessions is None or visit.principal.subject:
        return visit.redirect("")
    return await _form(visit, wanted, None)


async def log_in(visit: Visit) -> Response:
    """Begin a session, and go to the page that was wanted."""
    if visit.sessions is None:
        return visit.redirect("")
    form = await visit.form()
    wanted = _local_path(form.one("next"))
    try:
        secret = await _secret(visit, form.one("name") or "", form.one("password") or "")
    except (LoginRefused, TooManyRequests, Unsupported) as error:
        return await _form(visit, wanted, error)
    response = visit.redirect(wanted, {"Set-Cookie": _cookie(visit, secret)})
    response.raw_headers.append((b"cache-control", b"no-store"))
    return response


async def _secret(visit: Visit, name: str, password: str) -> str:
    """Raises LoginRefused, TooManyRequests, Unsupported."""
    if not is_encrypted(visit) and not is_loopback(visit.request.headers.get("host", "")):
        raise Unsupported(
            message=visit.text(
                "This connection is not encrypted: a password is taken over HTTPS only."
            )
        )
    sessions = visit.sessions
    assert sessions is not None
    client = visit.request.client
    wrong = visit.text("The name or the password is wrong, or the account is disabled.")
    try:
        if name == NULL_USER:
            raise LoginFailed
        account = await visit.context.guard.login(name, password, client.host if client else "")
    except LoginFailed:
        raise LoginRefused(message=wrong) from None
    if account.is_token:
        raise LoginRefused(message=visit.text("Tokens are for programs: log in as a user."))
    return await visit.run(sessions.begin, account, visit.caller)


async def log_out(visit: Visit) -> Response:
    """End the session, or all of the account's."""
    form = await visit.form()
    cookies = visit.request.cookies
    secret = cookies.get(cookie_name(visit))
    if visit.sessions is not None and secret is not None:
        everywhere = form.one("everywhere") == "1"
        await visit.run(visit.sessions.end, secret, everywhere=everywhere)
    return visit.redirect("login", {"Set-Cookie": f"{_cookie(visit, '')}; Max-Age=0"})


async def _form(visit: Visit, wanted: str, error: RegistryError | None) -> Response:
    return await visit.page(
        "login.html",
        200 if error is None else status_of(error) if not _is_refused(error) else 401,
        wanted=wanted,
        problem=error,
    )


def _is_refused(error: RegistryError) -> bool:
    return isinstance(error, LoginRefused)


def _cookie(visit: Visit, secret: str) -> str:
    secure = "; Secure" if is_encrypted(visit) else ""
    return f"{cookie_name(visit)}={secret}; Path=/; HttpOnly; SameSite=Lax{secure}"


def _local_path(text: str | None) -> str:
    """Where to go after logging in, below the UI's address: nothing that leads elsewhere."""
    if not text or not text.startswith("/ui/") or "\\" in text or "//" in text:
        return ""
    return text.removeprefix("/ui/") if text.isprintable() and text.isascii() else ""


ROUTES = (
    Route("ui-login", "GET", "/ui/login", show_form, ANYBODY),
    Route("ui-login", "POST", "/ui/login", log_in, ANYBODY),
    Route("ui-logout", "POST", "/ui/logout", log_out, ANYBODY),
)

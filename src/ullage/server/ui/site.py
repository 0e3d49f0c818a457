"""The pages below `/ui/`: found, guarded and answered apart from the registry's protocols.

A cookie says who a visitor is, and it is looked at nowhere else; `Authorization` is not looked at
here. So a page of another origin, whose requests a browser sends with this cookie, can reach
nothing but these pages, and they take a change only from a page of their own.
"""

from __future__ import annotations

from dataclasses import replace
from http.cookies import CookieError, SimpleCookie

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from ullage.accounts.login_sessions import LoginSessions
from ullage.authorization import WITHOUT_ACCOUNTS, Action, Grant, Principal, merged
from ullage.oci.errors import Denied, Locked, RegistryError, Unavailable
from ullage.registry.errors import SHORT_OF_FILES, is_short_of_files
from ullage.server.http.authentication import Challenge
from ullage.server.http.context import Context, query_of
from ullage.server.http.defects import noted
from ullage.server.http.errors import NotFound, status_of
from ullage.server.http.permissions import Audience
from ullage.server.http.request import Request
from ullage.server.http.responses import FixedResponse
from ullage.server.http.routes import Route, Router
from ullage.server.ui import login
from ullage.server.ui.languages import chosen
from ullage.server.ui.rendering import SECURITY
from ullage.server.ui.routes import ROUTES, SECTIONS
from ullage.server.ui.visit import FOR_ANONYMOUS, Visit

PREFIX = "/ui/"
_READING = ("GET", "HEAD")
_LANGUAGE_COOKIE = "ullage-language"
_YEAR = 365 * 24 * 3600


class Site:
    """The UI of one registry."""

    def __init__(self, context: Context) -> None:
        self._context = context
        authenticator = context.guard.authenticator
        self._sessions = (
            LoginSessions(context.registry, authenticator) if authenticator is not None else None
        )
        # What may be pulled without an account may be looked at without one.
        self._open = (
            tuple(
                Grant(grant.pattern, frozenset({Action.PULL, Action.METADATA_READ}))
                for grant in authenticator.anonymous.grants
            )
            if authenticator is not None
            else ()
        )
        self._router = Router(ROUTES)

    def takes(self, request: Request, path: str) -> bool:
        """Whether a request is for a page: below /ui/, or for / by a browser."""
        if path == "/":
            wants_page = "text/html" in request.headers.get("accept", "")
            return wants_page and request.method in _READING
        return path.startswith(PREFIX) or path == PREFIX.rstrip("/")

    async def respond(self, request: Request, path: str) -> Response:
        """A page, or a page about what went wrong."""
        if path + "/" == PREFIX or path == "/":
            # Relative: a proxy may have put the registry elsewhere.
            return FixedResponse(303, {"Location": PREFIX.removeprefix("/"), **SECURITY})
        asked, kept = _language_asked(request), self._cookies(request).get(_LANGUAGE_COOKIE)
        visit = Visit(
            self._context,
            request,
            self._sessions,
            chosen(asked, kept, request.headers.get("accept-language", "")),
            "../" * path.removeprefix(PREFIX).count("/") or "./",
            SECTIONS,
        )
        response = await self._answer(visit, path)
        if asked == visit.language and asked != kept:
            response.raw_headers.append((b"set-cookie", self._language_cookie(visit).encode()))
        return response

    async def _answer(self, visit: Visit, path: str) -> Response:
        request = visit.request
        try:
            if request.method not in _READING:
                self._require_own_page(request)
            route, parts = self._router.find(request.method, path)
            request.scope["ullage.route"] = route
            request.scope["ullage.principal"] = await self._admit(visit, route, parts)
            return await route.handler(visit, *parts)
        except Challenge as error:
            if visit.sessions is None or request.scope.get("ullage.principal"):
                return await self._problem(visit, error, 403)
            return login.first_log_in(visit, path)
        except RegistryError as error:
            return await self._problem(visit, error, status_of(error))
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - logged, and reported to the visitor
            if isinstance(error, OSError) and is_short_of_files(error):
                short = Unavailable(message=SHORT_OF_FILES, retry_after=1)
                return await self._problem(visit, short, status_of(short))
            return await self._problem(visit, noted(request, error), 500)

    def _require_own_page(self, request: Request) -> None:
        """Raises Denied unless a browser says that a page of ours sends the form.

        Fetch Metadata where the browser has it, Origin everywhere (Fetch Standard, "Origin
        header"): one of them comes with each POST.
        """
        fields = request.headers
        told = "origin" in fields or "sec-fetch-site" in fields
        if not told or self._context.guard.origins.is_foreign(request):
            raise Denied(message="this form was sent from another site; nothing was changed")

    async def _admit(self, visit: Visit, route: Route, parts: tuple[str, ...]) -> Principal:
        """The visitor, if permitted. Raises Challenge, Denied."""
        permission, guard = route.permission, self._context.guard
        if visit.sessions is None:
            guard.origins.require(visit.request)
            if permission.takes_accounts:
                raise Denied(message="this registry asks for no accounts, so it takes none")
            return WITHOUT_ACCOUNTS
        principal = await self._visitor(visit, visit.sessions)
        if permission.audience is Audience.ANYBODY:
            return principal or visit.sessions.authenticator.anonymous
        known = principal is not None
        if self._open and route.endpoint in FOR_ANONYMOUS:
            principal = self._with_open(principal or visit.sessions.authenticator.anonymous)
        if principal is None:
            raise Challenge([], None)
        if known:
            visit.request.scope["ullage.principal"] = principal
        named = permission.audience is Audience.REPOSITORY
        name = self._context.name(parts[0]) if named else None
        missing = permission.missing(principal, name)
        if missing:
            raise Challenge(missing, None)
        return principal

    def _with_open(self, principal: Principal) -> Principal:
        """The visitor with what all may look at; on these pages there is a list of it."""
        return replace(principal, grants=merged((*principal.grants, *self._open)), listing=True)

    async def _visitor(self, visit: Visit, sessions: LoginSessions) -> Principal | None:
        secret = self._cookies(visit.request).get(login.cookie_name(visit))
        if secret is None:
            return None
        account = await visit.run(sessions.account_of, secret)
        return account.principal if account is not None else None

    async def _problem(self, visit: Visit, error: RegistryError, status: int) -> Response:
        visit.request.scope.setdefault("ullage.principal", None)
        return await visit.page(
            "problem.html",
            status,
            headers={} if error.retry_after is None else {"Retry-After": str(error.retry_after)},
            answer=status,
            code=error.code,
            # A lock's own words: its message is for clients of Azure's registry.
            message=str(error.detail) if isinstance(error, Locked) else error.message,
            missing=isinstance(error, NotFound),
            request_id=visit.request.scope["ullage.request_id"],
        )

    def _language_cookie(self, visit: Visit) -> str:
        return f"{_LANGUAGE_COOKIE}={visit.language}; Path=/; Max-Age={_YEAR}; SameSite=Lax"

    @staticmethod
    def _cookies(request: Request) -> dict[str, str]:
        """RFC 6265, section 5.4; what cannot be read is none."""
        try:
            parsed = SimpleCookie(request.headers.get("cookie", ""))
        except CookieError:
            return {}
        return {name: morsel.value for name, morsel in parsed.items()}


def _language_asked(request: Request) -> str | None:
    """What the address asks for; of one that cannot be read, nothing: its page says so."""
    try:
        return query_of(request).one("lang")
    except RegistryError:
        return None

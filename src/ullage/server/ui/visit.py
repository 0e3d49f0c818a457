"""What the handler of a page is given: the request, its visitor, and how to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from starlette.responses import Response

from ullage.accounts.login_sessions import LoginSessions
from ullage.authorization import Action, Principal
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.server.http.authentication import Challenge
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.forms import Form, read_form
from ullage.server.http.json_bodies import MAX_BODY_BYTES
from ullage.server.http.parameters import Query
from ullage.server.http.permissions import Permission
from ullage.server.http.request import Request
from ullage.server.http.responses import FixedResponse
from ullage.server.ui.languages import translate
from ullage.server.ui.rendering import SECURITY, page_response, render

P = ParamSpec("P")
T = TypeVar("T")

MAX_FIELDS = 20_000
FOR_ADMINISTRATORS = frozenset({"uploads", "accounts", "audit"})
# The pages, by their routes' endpoints, about what anonymous visitors may pull.
FOR_ANONYMOUS = frozenset({"ui-space", "ui-repositories", "ui-repository", "ui-image", "ui-search"})


@dataclass(frozen=True, slots=True)
class Visit:
    """One request for a page. `base` leads from the page's address to the UI's."""

    context: Context
    request: Request
    # None where no accounts are asked for.
    sessions: LoginSessions | None
    language: str
    base: str
    # The pages that the menu leads to.
    sections: frozenset[str]

    @property
    def registry(self) -> Registry:
        return self.context.registry

    @property
    def principal(self) -> Principal:
        return principal_of(self.request)

    @property
    def is_anonymous(self) -> bool:
        """Whether the visitor is none of the registry's accounts, though it has some."""
        return self.sessions is not None and not self.principal.subject

    @property
    def caller(self) -> Caller:
        return caller_of(self.request)

    @property
    def query(self) -> Query:
        return query_of(self.request)

    @property
    def host(self) -> str:
        """What image names begin with."""
        return self.context.guard.base_url(self.request).partition("://")[2]

    def name(self, text: str) -> RepositoryName:
        return self.context.name(text)

    def text(self, text: str) -> str:
        """A text in the visitor's language."""
        return translate(self.language, text)

    def linked(self, path: str | None) -> str | None:
        """A page's address, if there is such a page and the visitor may see it."""
        if path is None or path not in self.sections:
            return None
        return path if path not in FOR_ADMINISTRATORS or self.principal.admin else None

    def may_all(self, names: Iterable[str], *actions: Action) -> bool:
        """Whether the visitor has these rights on all of these: a button is there only then."""
        return all(self.principal.may_all(actions, name) for name in names)

    def require(self, permission: Permission) -> None:
        """Raises Challenge if the visitor lacks a right on all repositories."""
        missing = permission.missing(self.principal, None)
        if missing:
            raise Challenge(missing, None)

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """A use case, on a thread."""
        return self.context.threads.submit(work, *args, **kwargs)

    async def form(self) -> Form:
        return await read_form(self.context, self.request, MAX_BODY_BYTES, MAX_FIELDS)

    async def page(
        self,
        template: str,
        status: int = 200,
        headers: dict[str, str] | None = None,
        **values: Any,
    ) -> Response:
        """A page made of a template and its values."""
        scope = self.request.scope
        common = {
            "base": self.base,
            "visitor": scope.get("ullage.principal"),
            "accounts": self.sessions is not None,
            "sections": self.sections,
        }
        html = await self.run(render, self.language, template, {**common, **values})
        return page_response(html, status, headers or {})

    def redirect(self, to: str, headers: dict[str, str] | None = None) -> Response:
        """On to another page, by an address below the UI's (RFC 9110, section 15.4.4)."""
        return FixedResponse(303, {"Location": self.base + to, **SECURITY, **(headers or {})})

"""From a template and its values to a page. Jinja2 is loaded when the first page is viewed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ullage.server.http.responses import FixedResponse
from ullage.server.ui.assets import assets
from ullage.server.ui.formats import FILTERS
from ullage.server.ui.languages import LANGUAGES, translate, translate_count

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_HEADERS = {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", **SECURITY}


@cache
def environment(language: str) -> Environment:
    """The templates in one language. What they are not given is an error, and no empty text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    made.filters.update(FILTERS)
    made.globals.update(languages=LANGUAGES, language=language, assets=assets())
    # What the extension adds to an environment is not in its type.
    install: Any = made
    install.install_gettext_callables(
        partial(translate, language), partial(translate_count, language), newstyle=True
    )
    return made


def render(language: str, template: str, values: Mapping[str, Any]) -> str:
    return environment(language).get_template(template).render(values)


def page_response(html: str, status: int, headers: Mapping[str, str]) -> Response:
    return FixedResponse(status, {**_HEADERS, **headers}, html.encode("utf-8"))

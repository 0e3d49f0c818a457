"""Bodies of HTML forms, read strictly: UTF-8 without NUL, of a bounded length."""

from __future__ import annotations

from urllib.parse import parse_qsl

from ullage.oci.errors import ManifestTooLarge, Unsupported
from ullage.server.http.context import Context
from ullage.server.http.errors import FormTooLarge
from ullage.server.http.request import Request

_KIND = "application/x-www-form-urlencoded"


class Form:
    """The fields of a form, by name."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def one(self, name: str) -> str | None:
        """The field's value, None if it is absent. Raises Unsupported if it is given twice."""
        values = self._values.get(name, [])
        if len(values) > 1:
            raise Unsupported({"parameter": name}, f"the parameter {name} is given twice")
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Every value of a field that may be given several times."""
        return self._values.get(name, [])


async def read_form(context: Context, request: Request, max_bytes: int, max_fields: int) -> Form:
    """The form that was sent. Raises Unsupported for anything else, FormTooLarge."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _KIND:
        raise Unsupported(message=f"expected a form: {_KIND}")
    try:
        async with context.bodies.whole(request, max_bytes) as body:
            pairs = parse_qsl(
                body.decode("utf-8"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=max_fields,
            )
    except ManifestTooLarge:
        raise FormTooLarge(message=f"the form is longer than {max_bytes} bytes") from None
    except ValueError:
        raise Unsupported(message="the form is malformed or has too many fields") from None
    if any("\0" in text for pair in pairs for text in pair):
        # PostgreSQL has no such text, so nothing could be found with it.
        raise Unsupported(message="there is a NUL character in the form")
    return Form(pairs)

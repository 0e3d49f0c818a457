"""What a result looks like on stdout, in az's formats (azure.md section 3.5)."""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from shutil import get_terminal_size
from typing import Any

from ullage.cli.shell.errors import Failure, UsageError
from ullage.cli.shell.invocation import Result
from ullage.cli.shell.tables import table


def query_of(expression: str, command: str) -> Callable[[Any], Any]:
    """A JMESPath expression as a function. Raises UsageError with az's text."""
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        compiled = jmespath.compile(expression)
    except JMESPathError as error:
        raise UsageError(
            f"argument --query: invalid jmespath_type value: '{expression}': {_first_line(error)}. "
            "How an expression is written: https://jmespath.org",
            command,
        ) from None

    def search(data: Any) -> Any:
        try:
            # What `{b: …, a: …}` selects stays in that order in tables and tsv.
            return compiled.search(data, jmespath.Options(dict_cls=OrderedDict))
        except JMESPathError as error:
            raise Failure(f"--query: {_first_line(error)}") from None

    return search


def _first_line(error: Exception) -> str:
    """What is wrong with an expression, without the drawing below it."""
    return str(error).strip().partition("\n")[0].rstrip(":. ")


def show(result: Result, output: str, query: Callable[[Any], Any] | None) -> None:
    """Print a result. Nothing is printed for none, as az does."""
    if result.text is not None:
        # A manifest goes out byte for byte, whatever the terminal's encoding is.
        sys.stdout.flush()
        sys.stdout.buffer.write(result.text.encode("utf-8", "surrogateescape"))
        return
    data = query(result.data) if query else result.data
    if data is None or output == "none":
        return
    rows = result.rows if output == "table" and query is None else None
    text = table(rows(), _width()) if rows else formatted(data, output, queried=query is not None)
    sys.stdout.write(text)


def _width() -> int | None:
    """That of the terminal; what goes elsewhere has any."""
    return get_terminal_size().columns if sys.stdout.isatty() else None


def formatted(data: Any, output: str, *, queried: bool = False) -> str:
    """`data` in a format, with its last newline. Raises Failure for what no table can show."""
    match output:
        case "json":
            return _json(data)
        case "jsonc":
            return _coloured(_json(data), "json")
        case "yaml":
            return _yaml(data)
        case "yamlc":
            return _coloured(_yaml(data), "yaml")
        case "tsv":
            return _tsv(data)
        case _:
            return table(automatic_rows(data, sort=not queried), _width())


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def _yaml(data: Any) -> str:
    import yaml

    plain = json.loads(json.dumps(data))
    text: str = yaml.safe_dump(plain, default_flow_style=False, allow_unicode=True)
    return text


def _coloured(text: str, language: str) -> str:
    """As a terminal shows it; elsewhere, and where no colour is wanted (no-color.org), as it is."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    from pygments import highlight
    from pygments.formatters import TerminalFormatter
    from pygments.lexers import JsonLexer, YamlLexer

    lexer = JsonLexer() if language == "json" else YamlLexer()
    coloured: str = highlight(text, lexer, TerminalFormatter())
    return coloured


def _tsv(data: Any) -> str:
    items = data if isinstance(data, list) else [data]
    return "".join(f"{_tsv_row(item)}\n" for item in items)


def _tsv_row(item: Any) -> str:
    """az's columns: a list is shown as its length, an object as nothing; none as None."""
    if isinstance(item, OrderedDict):
        values: Sequence[Any] = list(item.values())
    elif isinstance(item, dict):
        values = [value for _, value in sorted(item.items())]
    elif isinstance(item, list):
        values = item
    else:
        return str(item).lower() if isinstance(item, bool) else str(item)
    return "\t".join(_tsv_cell(value) for value in values)


def _tsv_cell(value: Any) -> str:
    if isinstance(value, list):
        return str(len(value))
    return "" if isinstance(value, dict) else str(value)


def automatic_rows(data: Any, *, sort: bool) -> list[Mapping[str, Any]]:
    """A table of whatever comes: the plain values of each item, as az chooses its columns."""
    return [_automatic_row(item, sort) for item in (data if isinstance(data, list) else [data])]


_LEFT_OUT = ("id", "type", "etag")


def _automatic_row(item: Any, sort: bool) -> Mapping[str, Any]:
    if isinstance(item, dict):
        keys = sorted(item) if sort else list(item)
        return {
            key[:1].upper() + key[1:]: item[key]
            for key in keys
            if key not in _LEFT_OUT
            and item[key] is not None
            and not isinstance(item[key], list | dict)
        }
    if isinstance(item, list):
        return {f"Column{number}": value for number, value in enumerate(item, 1)}
    return {"Result": item}

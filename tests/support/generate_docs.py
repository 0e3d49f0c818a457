"""Pages of the reference that follow from the code: `python -m tests.support.generate_docs`."""

import json
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from tests.support import manual
from ullage.cli import table
from ullage.cli.local.places import PLACE
from ullage.cli.shell.commands import GLOBAL, Command, Flag
from ullage.cli.shell.flags import ACCESS
from ullage.cli.shell.help import described, placeholder, spelled, usage
from ullage.config.settings import SETTINGS
from ullage.oci import errors
from ullage.oci.errors import RegistryError
from ullage.server.api import routes
from ullage.server.http import errors as http_errors

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"

_SETTINGS = """\
# Settings

`ullage serve` takes each setting from the first of these that has it: the flag, the environment
variable, the file named by `--config` or `ULLAGE_CONFIG`, the default. `ullage check` takes
`--data`, `--database` and `--storage` in the same way. The file is TOML, with names as below:

    data = "/srv/ullage"
    max_uploads = 200
    upload_idle = "2h"

Sizes and durations are written as everywhere in Ullage. A size is bytes, or ends in `KiB`, `MiB`,
`GiB`, `TiB`, `PiB` (1024) or `kB`, `MB`, `GB`, `TB`, `PB` (1000), such as `1.5GiB`; the B may be
left out. A duration is whole numbers of `d`, `h`, `m`, `s` and `ms`, such as `30s` or `2d3h`. A
name or value that makes no sense is an error at the start, with exit code 2, and never ignored.

`sparse_indexes` says what manifests may name that is not in their repository: `deny`, nothing;
`platforms`, what an index lists; `allow`, config and layers of an image, too. Rules for
repositories follow with commas, as in `deny,mirror/*=platforms,app=allow`: a name, or a prefix and
`/*`, and the longest that fits holds. What is absent is 404. When it is pushed, it belongs to what
names it: it is kept for that, and goes with it. A manifest that is stored may be tagged under any
rule.
"""

_ERRORS = """\
# Errors

An error answer is JSON (distribution-spec, "Error Codes"). Programs read `code`, people `message`;
`detail` has the facts of the case, where there are any:

    {"errors": [{"code": "BLOB_UNKNOWN", "message": "the blob is not in this repository",
                 "detail": {"digest": "sha256:…"}}]}

The message may say more than in this table. An answer to HEAD has no body, as HTTP wants it. What
is no HTTP at all (a malformed or endless head, two lengths) is answered 400, 414 or 431 without a
body, and the connection is closed.
"""

_CLI = """\
# Command line

Commands that work **on a registry** speak HTTP to it, with the names, flags, messages and exit
codes of `az acr`; `--name` says which registry. Commands that **run and manage** one work on its
data folder on this machine or, but for `serve` and `migrate`, over HTTP for an administrator, and
say on stderr which it is. Data goes to stdout, everything else to stderr.

| variable | means |
| --- | --- |
| `ULLAGE_REGISTRY` | the registry that commands without `--name`, `--registry` or `--data` mean |
| `ULLAGE_CA_FILE` | PEM file with the authorities to trust, before `REQUESTS_CA_BUNDLE` |
| `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` | as everywhere; never for this machine |
| `XDG_CONFIG_HOME` | defaults and logins are in `ullage` in this folder, `~/.config` if unset |
"""

_PLACED = (
    "Those about users, tokens, scope maps, keys, uploads and the audit log also take `--output`, "
    "`--query` and the others of above. All but `version` take `--data`, `--database` and "
    "`--config`; all but that, `serve` and `migrate` also the rest of"
)


def settings_page() -> str:
    """docs/reference/settings.md."""
    rows = [
        (
            f"`{setting.name}`",
            f"`{setting.flag}` {setting.kind}".replace("|", "\\|"),
            f"`{setting.variable}`",
            f"`{setting.default}`" if setting.default else "",
            setting.help,
        )
        for setting in SETTINGS
    ]
    return _SETTINGS + _table(("name", "flag", "variable", "default", ""), rows)


def cli_page() -> str:
    """docs/reference/cli.md."""
    parts = [_CLI, "## On a registry\n", _flag_table("Every one of these takes", GLOBAL)]
    parts.append(_flag_table("Those that ask a registry also take", ACCESS))
    parts += [_command(command, ACCESS) for command in table.remote() if not command.hidden]
    parts += ["## To run and manage one\n", _flag_table(_PLACED, PLACE)]
    parts += [_command(command, PLACE) for command in table.local()]
    return "\n".join(parts)


def _command(command: Command, told: Container[Flag]) -> str:
    """A section about a command; flags that were `told` of before are left out."""
    parts = [f"### ullage {command.name}\n", f"    ullage {command.name}{usage(command)}\n"]
    parts.append(f"{command.help} {command.more}".strip() + "\n")
    shown = [flag for flag in command.flags if not flag.hidden and flag not in told]
    if command.words == ("serve",):
        # What stays the same from one start to the next has a page of its own.
        settings = {setting.flag for setting in SETTINGS} | {"--config"}
        shown = [flag for flag in shown if flag.names[0] not in settings]
        parts.append("Its flags are the [settings](settings.md), and:\n")
        parts.append(_flag_table("", shown))
    elif shown:
        parts.append(_flag_table("", shown))
    if command.examples:
        parts.append("".join(f"    {example}\n" for example in command.examples))
    codes = " ".join(f"**{code}** {text}" for code, text in command.exit_status.items())
    parts.append(f"Exit status: {codes}\n")
    return "\n".join(parts)


def _flag_table(headline: str, flags: Iterable[Flag]) -> str:
    rows = [
        (
            f"`{placeholder(flag) if flag.positional else spelled(flag)}`".replace("|", "\\|"),
            described(flag),
        )
        for flag in flags
    ]
    start = f"{headline}:\n" if headline else ""
    return start + _table(("flag", ""), rows).lstrip("\n" if not headline else "")


def errors_page() -> str:
    """docs/reference/errors.md."""
    rows = {(str(status), f"`{kind.code}`", kind.message) for kind, status in error_classes()}
    # Not an error of the protocol, so it has no class: a defect of ours.
    rows.add(("500", "`UNKNOWN`", "internal error; `detail.request_id` finds it in the log"))
    return _ERRORS + _table(("status", "code", "message"), sorted(rows))


def error_classes() -> Iterator[tuple[type[RegistryError], int]]:
    """Every class of errors that travels over HTTP, with its status."""
    for module in (errors, http_errors):
        for kind in vars(module).values():
            if (
                isinstance(kind, type)
                and issubclass(kind, RegistryError)
                and kind.code != "UNKNOWN"
            ):
                yield kind, http_errors.status_of(kind.__new__(kind))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def openapi_page() -> str:
    """docs/reference/openapi.json."""
    return json.dumps(routes.description(), indent=1, ensure_ascii=False) + "\n"


PAGES = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "cli.md": cli_page,
    "openapi.json": openapi_page,
    "ullage.1": manual.command_page,
    "ullage-serve.8": manual.serve_page,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")

"""Man pages, from the same commands and settings as the reference: man(7)'s macros."""

import re
from collections.abc import Iterable, Iterator

from ullage.cli import table
from ullage.cli.shell.commands import EXITS, GLOBAL, Command, Flag
from ullage.cli.shell.flags import ACCESS
from ullage.cli.shell.groups import TITLE
from ullage.cli.shell.help import described, placeholder, spelled, usage
from ullage.config.settings import SETTINGS

_DESCRIPTION = """\
Ullage is a container registry that gives space back: an image that is deleted is off the disk
seconds later, but for what another image needs, while pushes and pulls go on. This command runs one
(see ullage-serve(8)), works on one over HTTP, and manages one.

Commands on a registry have the names, flags, messages and exit codes of az acr. Data goes to
standard output, everything else to standard error."""
_SERVE = """\
ullage serve runs the registry until it is told to stop. Each setting is taken from the first of
these that has it: the flag, the environment variable, the TOML file named by --config or
ULLAGE_CONFIG, the default. A name or a value that makes no sense is an error, and never ignored.

Without accounts it listens on this machine only. With --auth, the first start makes the account
admin and prints its password."""
_VARIABLES = {
    "ULLAGE_REGISTRY": "The registry that commands without --name, --registry or --data mean.",
    "ULLAGE_CA_FILE": "PEM file with the authorities to trust, before REQUESTS_CA_BUNDLE.",
    "HTTPS_PROXY, HTTP_PROXY, NO_PROXY": "As everywhere; never for this machine.",
    "XDG_CONFIG_HOME": "Has the folder ullage with defaults and logins; ~/.config if unset.",
}
_SIGNALS = {
    "SIGTERM, SIGINT": "Take no more connections, finish running requests within --shutdown-grace, "
    "and end.",
    "SIGHUP": "Read the certificate and its key again, for new connections.",
}
_SERVE_FILES = {
    "./ullage-data": "The data folder: the database, the blobs, and a socket for commands on this "
    "machine.",
    "/etc/ullage/ullage.toml": "The settings that the unit file names.",
}


def command_page() -> str:
    """ullage(1)."""
    parts = [_head("ULLAGE", 1), _name("ullage", TITLE), _section("SYNOPSIS")]
    parts += [".B ullage\n.I COMMAND\n[\\fIFLAGS\\fR]\n", _section("DESCRIPTION")]
    parts += [_paragraphs(_DESCRIPTION), _section("COMMANDS ON A REGISTRY")]
    parts += [_command(each) for each in table.remote() if not each.hidden]
    parts += [_section("COMMANDS TO RUN AND MANAGE ONE")]
    parts += [_command(each) for each in table.local() if each.words != ("serve",)]
    parts += [_section("FLAGS OF EVERY COMMAND ON A REGISTRY"), _flags((*ACCESS, *GLOBAL))]
    parts += [_section("ENVIRONMENT"), _listed(_VARIABLES.items())]
    codes = ((str(code), text) for code, text in EXITS.items())
    parts += [_section("EXIT STATUS"), _listed(codes), _see_also("ullage-serve", 8)]
    return "".join(parts)


def serve_page() -> str:
    """ullage-serve(8)."""
    command = table.find(("serve",))
    assert command is not None
    settings = {setting.flag for setting in SETTINGS}
    own = [flag for flag in command.flags if flag.names[0] not in settings]
    parts = [_head("ULLAGE-SERVE", 8), _name("ullage-serve", command.help), _section("SYNOPSIS")]
    parts += [".B ullage serve\n[\\fIFLAGS\\fR]\n", _section("DESCRIPTION"), _paragraphs(_SERVE)]
    parts += [_section("SETTINGS"), _flags(f for f in command.flags if f not in own)]
    parts += [_section("FLAGS"), _flags((*own, *command.common))]
    parts += [_section("SIGNALS"), _listed(_SIGNALS.items())]
    parts += [_section("FILES"), _listed(_SERVE_FILES.items())]
    codes = ((str(code), text) for code, text in command.exit_status.items())
    parts += [_section("EXIT STATUS"), _listed(codes), _section("EXAMPLES")]
    parts += [*_examples(command), _see_also("ullage", 1)]
    return "".join(parts)


def _head(title: str, section: int) -> str:
    made = '.\\" Made from the code by tests/support/generate_docs.py.\n'
    # No hyphenation: names are copied.
    return f'{made}.TH {title} {section} "" Ullage\n.nh\n'


def _name(name: str, text: str) -> str:
    return f"{_section('NAME')}{_text(name)} \\- {_text(text)}\n"


def _section(title: str) -> str:
    return f".SH {title}\n"


def _paragraphs(text: str) -> str:
    return ".PP\n".join(f"{_text(part)}\n" for part in text.split("\n\n"))


def _command(command: Command) -> str:
    parts = [f".SS {_quoted(f'ullage {command.name}{usage(command)}')}\n"]
    parts.append(f"{_text(f'{command.help} {command.more}'.strip())}\n")
    common = {*command.common, *ACCESS}
    parts.append(_flags(f for f in command.flags if not f.hidden and f not in common))
    return "".join((*parts, *_examples(command)))


def _examples(command: Command) -> Iterator[str]:
    if command.examples:
        lines = "\n".join(_text(line) for line in command.examples)
        yield f".PP\n.nf\n.RS\n{lines}\n.RE\n.fi\n"


def _flags(flags: Iterable[Flag]) -> str:
    return _listed(
        (placeholder(flag) if flag.positional else spelled(flag), described(flag)) for flag in flags
    )


def _listed(entries: Iterable[tuple[str, str]]) -> str:
    return "".join(f".TP\n.B {_text(name)}\n{_text(text)}\n" for name, text in entries)


def _see_also(name: str, section: int) -> str:
    return f"{_section('SEE ALSO')}.BR {_text(name)} ({section})\n"


def _quoted(text: str) -> str:
    return f'"{_text(text)}"'


def _text(text: str) -> str:
    """As roff takes it: its escape, hyphens to be copied, lines that look like requests."""
    escaped = re.sub(r'[\\"-]', lambda found: _ESCAPES[found.group()], text)
    ascii_only = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in escaped)
    return re.sub(r"^([.'])", r"\\&\1", ascii_only, flags=re.MULTILINE)


_ESCAPES = {"\\": "\\e", "-": "\\-", '"': "\\(dq"}

"""`ullage az-env`: what makes Azure's own command line reach a registry on this machine.

azure.md section 1.9. Prints shell code and changes nothing itself: `eval "$(ullage az-env …)"`. The
shell does not see the exit status in there, so a failure is shell code, too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ullage.cli.client import saved
from ullage.cli.client.address import DEFAULT, Origin
from ullage.cli.shell import flags
from ullage.cli.shell.commands import Command, Flag
from ullage.cli.shell.errors import Failure, Unreachable
from ullage.cli.shell.invocation import Invocation, Result

# What az 2.91 takes for a registry's name; 2.45 takes more.
_NAME = re.compile(r"[a-zA-Z0-9]{5,50}")
_DOMAIN = "localhost"
# az takes a cloud that it does not know for the default one, so that one has to lead nowhere.
_NOWHERE = "az-env-failed.invalid"
_MAKE_FOLDER = 'mkdir -p "$AZURE_CONFIG_DIR"'
_LOGIN_ENDPOINTS = ("active_directory", "resource_manager")


def az_env(invocation: Invocation) -> Result:
    name = str(invocation.given.registry or "").lower()
    if not _NAME.fullmatch(name):
        raise Failure("--name: az wants 5 to 50 letters and digits, such as myregistry.", 2)
    origin = _login_server(invocation, name)
    authority = _authority(invocation)
    _require_reachable(invocation, origin, authority)
    if not _resolves(origin.host):
        invocation.console.note(
            f"{origin.host} is not known on this machine. Say so once, as root:\n"
            f"  echo '127.0.0.1 {origin.host}' >> /etc/hosts"
        )
    return Result(text=script(name, origin, authority, saved.folder() / "az" / name))


def script(name: str, origin: Origin, authority: Path, folder: Path) -> str:
    """Shell code for az: where the registry `name` is, and the authority to trust there."""
    import shlex

    suffix = origin.address.removeprefix(name)
    config = f"[AzureCloud]\nsuffix_acr_login_server_endpoint = {suffix}\n"
    exports = {
        # A folder of its own: nothing of a login to Azure is touched, or used.
        "AZURE_CONFIG_DIR": str(folder),
        "AZURE_CORE_COLLECT_TELEMETRY": "0",
        "AZURE_DEFAULTS_ACR": name,
        "REQUESTS_CA_BUNDLE": str(authority),
    }
    lines = [
        f"# Azure's CLI for {origin.url}. To be used so:",
        f'#   eval "$(ullage az-env --name {name})"',
        f"# {origin.host} has to lead to this machine. If it does not, add to /etc/hosts:",
        f"#   127.0.0.1 {origin.host}",
        *(f"export {variable}={shlex.quote(value)}" for variable, value in exports.items()),
        _MAKE_FOLDER,
        _writing(config),
    ]
    return "\n".join(lines) + "\n"


def _writing(config: str) -> str:
    import shlex

    return f"printf '%s' {shlex.quote(config)} > \"$AZURE_CONFIG_DIR/clouds.config\""


def failure_script() -> str:
    """Shell code for when there is no such code to give: it stops what evaluates it.

    A script or function ends with status 1. A shell with a person in front stays open; there, and
    wherever else az is started next, it finds a cloud whose registries no resolver knows (RFC 6761,
    section 6.4), so no password leaves the machine. For bash, zsh, sh and fish.
    """
    import shlex

    config = f"[AzureCloud]\nsuffix_acr_login_server_endpoint = .{_NOWHERE}\n" + "".join(
        f"endpoint_{name} = https://{_NOWHERE}\n" for name in _LOGIN_ENDPOINTS
    )
    write = _writing(config)
    folder = shlex.quote(str(saved.folder() / "az" / _NOWHERE))
    lines = [
        "# ullage az-env failed; the message is on stderr. Until it succeeds az gets no further.",
        f"export AZURE_CONFIG_DIR={folder}",
        "export AZURE_CORE_COLLECT_TELEMETRY=0",
        # Where az can have no folder of its own it does not start at all.
        f"{_MAKE_FOLDER} && {write} || export AZURE_CONFIG_DIR=/dev/null/az",
        "return 1 2>/dev/null || eval 'case $- in *i*) ;; *) false ;; esac' 2>/dev/null || exit 1",
        "false",
    ]
    return "\n".join(lines) + "\n"


def _login_server(invocation: Invocation, name: str) -> Origin:
    """`https://NAME.rest[:port]`: the name's own URL if one was saved, else NAME.localhost."""
    url = invocation.saved_registries.get(name)
    found = invocation.origin(url or invocation.given.url or _default(invocation))
    host = found.host if found.host.startswith(f"{name}.") else f"{name}.{_DOMAIN}"
    if not found.loopback and host != found.host:
        raise Failure(
            f"az only finds registries called {name}.SUFFIX, and {found.url} is not. "
            f"Give it such a name, and then: ullage config set registries.{name}=https://{name}.…"
        )
    return Origin("https", host, found.port_for(found.scheme or "https"))


def _default(invocation: Invocation) -> str:
    return os.environ.get("ULLAGE_REGISTRY") or invocation.defaults.get("registry") or DEFAULT


def _authority(invocation: Invocation) -> Path:
    """The file with the registry's authority. Raises Failure if there is none."""
    if invocation.given.ca_file:
        path = Path(invocation.given.ca_file)
    else:
        from ullage.config.loading import load_settings
        from ullage.config.values import ConfigError

        try:
            data = load_settings({"data": invocation.given.data}, _settings_environment()).data
        except ConfigError as error:
            raise Failure(str(error), 2) from error
        path = data / "tls" / "ca.pem"
        other = invocation.ca_file()
        if not invocation.given.data and not path.is_file() and other:
            path = Path(other)
    if not path.is_file():
        raise Failure(
            f"{path}: there is no such file. Azure's CLI speaks only TLS. Serve the registry with "
            "--tls self-signed, and name its data folder with --data or the file with --ca-file."
        )
    return path.absolute()


def _settings_environment() -> dict[str, str]:
    """Of the server's settings only the folder matters here."""
    data = os.environ.get("ULLAGE_DATA")
    return {} if data is None else {"ULLAGE_DATA": data}


def _require_reachable(invocation: Invocation, origin: Origin, authority: Path) -> None:
    """az itself reports no more than "could not connect". Raises Failure with the cause."""
    try:
        answer = invocation.connections(origin, str(authority)).request("GET", "/v2/")
    except Unreachable as error:
        raise _explained(error, origin, authority) from error
    if answer.status == 200:
        raise Failure(
            f"{origin.url} asks for no credentials, and Azure's CLI insists on giving some. "
            "Serve the registry with --auth."
        )


def _explained(error: Unreachable, origin: Origin, authority: Path) -> Failure:
    import ssl

    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in (62, 64):  # Another host name, another address.
            return Failure(
                f"The certificate of {origin.url} is not for {origin.host}. Serve the registry "
                f"with --tls self-signed --tls-names {origin.host}"
            )
        return Failure(
            f"The certificate of {origin.url} is not by the authority in {authority}: "
            f"{cause.verify_message}. Name the right file with --ca-file, or the registry's data "
            "folder with --data."
        )
    if isinstance(cause, ssl.SSLError):
        return Failure(
            f"The registry at {origin.address} does not speak TLS, and Azure's CLI speaks nothing "
            f"else. Serve it with --tls self-signed --tls-names {origin.host}"
        )
    return Failure(str(error), hint=error.hint)


def _resolves(host: str) -> bool:
    import socket

    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


COMMANDS = (
    Command(
        ("az-env",),
        "Print what makes Azure's CLI reach a registry on this machine.",
        (
            Flag(
                ("--name", "-n"),
                "What az is to call it: 5 to 50 letters and digits.",
                "NAME",
                required=True,
                dest="registry",
            ),
            Flag(
                ("--url",),
                "Where the registry serves, such as 127.0.0.1:5443. Default: what NAME was saved "
                "for, else the default registry.",
                "URL",
            ),
            Flag(
                ("--data",),
                "The registry's data folder, which holds its authority. Default: ULLAGE_DATA, else "
                "./ullage-data.",
                "DIR",
            ),
            next(flag for flag in flags.REGISTRY if flag.names == ("--ca-file",)),
        ),
        az_env,
        on_failure=failure_script,
        more="For a registry served with --auth --tls self-signed --tls-names NAME.localhost. "
        "The command changes nothing; the shell that evaluates what it prints gets variables for "
        "az and a configuration folder of its own. Your login to Azure is not touched, and is back "
        "in the next shell. When the command fails, what it prints ends the script that evaluates "
        "it, and az reaches nothing until it succeeds.",
        examples=(
            'eval "$(ullage az-env --name myregistry)"',
            "az acr repository list --name myregistry -u admin -p PASSWORD",
        ),
    ),
)

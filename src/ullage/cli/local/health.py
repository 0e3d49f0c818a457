"""`ullage health`: whether the server of this machine is fit for work, as an exit code."""

from __future__ import annotations

import http.client
import ssl

from ullage.cli.local.settings import setting_flags, settings_of
from ullage.cli.shell.commands import HELP, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.groups import LOCAL
from ullage.cli.shell.invocation import Invocation, Result
from ullage.config.settings import Settings
from ullage.config.values import Listen

TIMEOUT_SECONDS = 5.0
# What a server listens on that listens everywhere, seen from its own machine.
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on


def health(invocation: Invocation) -> Result:
    settings = settings_of(invocation.given, to_serve=False)
    path = "/livez" if invocation.given.live else "/readyz?verbose"
    status, text = _asked(settings, path)
    if status != 200:
        raise Failure(text or f"the server answers {status}")
    return Result(text=f"{text}\n")


def _asked(settings: Settings, path: str) -> tuple[int, str]:
    """Status and text of the answer. Raises Failure where there is none."""
    listen = settings.metrics or settings.listen
    at = Listen(_HERE.get(listen.host, listen.host), listen.port)
    connection = _connection(at, https=settings.https and settings.metrics is None)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(64 * 1024).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Failure(f"no answer from {at}: {reason}") from None
    finally:
        connection.close()


def _connection(at: Listen, *, https: bool) -> http.client.HTTPConnection:
    if not https:
        return http.client.HTTPConnection(at.host, at.port, timeout=TIMEOUT_SECONDS)
    # No secret is sent, and the certificate is for the name that clients use.
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(
        at.host, at.port, timeout=TIMEOUT_SECONDS, context=unverified
    )


COMMANDS = (
    Command(
        ("health",),
        LOCAL["health"],
        (
            Flag(("--live",), "Only ask whether it answers, not whether it can do its work."),
            *setting_flags("listen", "metrics", "tls", "tls_cert", "tls_key"),
        ),
        health,
        more="It asks the address that `ullage serve` listens on with the same flags, ULLAGE_* "
        "variables and file: that of --metrics, if there is one. "
        "For health checks of containers and for scripts.",
        examples=("ullage health", "ullage health --live --listen 127.0.0.1:5000"),
        exits={1: "It is not fit for work, or does not answer."},
        common=(HELP,),
    ),
)

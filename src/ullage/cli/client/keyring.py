"""The system's keyring, through the program that the system has for it.

`secret-tool` speaks to whatever serves the Secret Service of a Linux desktop (GNOME Keyring,
KWallet, KeePassXC), `security` to the Keychain of macOS. docs/design/dependencies.md says why this
is no library. A keyring that does not answer is no keyring.
"""

from __future__ import annotations

import os
import sys

# A locked keyring asks its owner for a password, in a window that may stay unseen.
_SECONDS = 60


def put(address: str, username: str, password: str) -> bool:
    """Keep a password. False if there is no keyring, or it refuses."""
    match _kind():
        case "secret-tool":
            label = f"--label=Ullage: {username} at {address}"
            return _run(["secret-tool", "store", label, *_key(address, username)], password) == ""
        case "security":
            # As a command on its standard input: arguments are for all to see.
            command = (
                f"add-generic-password -U -s {_quoted('ullage:' + address)} "
                f"-a {_quoted(username)} -w {_quoted(password)}\n"
            )
            return _run(["security", "-i"], command) is not None and (
                get(address, username) == password
            )
    return False


def get(address: str, username: str) -> str | None:
    """The password; None if it is not there or the keyring refuses."""
    match _kind():
        case "secret-tool":
            return _run(["secret-tool", "lookup", *_key(address, username)])
        case "security":
            service = f"ullage:{address}"
            found = _run(["security", "find-generic-password", "-s", service, "-a", username, "-w"])
            return None if found is None else found.removesuffix("\n")
    return None


def forget(address: str, username: str) -> None:
    """Take the password away, if it is there."""
    match _kind():
        case "secret-tool":
            _run(["secret-tool", "clear", *_key(address, username)])
        case "security":
            service = f"ullage:{address}"
            _run(["security", "delete-generic-password", "-s", service, "-a", username])


def _kind() -> str | None:
    from shutil import which

    if sys.platform == "darwin":
        return "security" if which("security") else None
    # Without a session bus, as on a server, secret-tool would start one that forgets everything.
    session = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    return "secret-tool" if session and which("secret-tool") else None


def _key(address: str, username: str) -> list[str]:
    return ["application", "ullage", "registry", address, "username", username]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _run(command: list[str], given: str = "") -> str | None:
    """What the program prints; None if it fails."""
    import subprocess

    try:
        done = subprocess.run(  # noqa: S603 - the program is the system's own
            command, input=given, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

"""What is remembered between commands: two JSON files in `~/.config/ullage`.

`client.json` has defaults and names of registries, `credentials.json` logins. Passwords are in the
system's keyring where there is one; else in that file, which only its owner may read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ullage.cli.client import keyring
from ullage.cli.shell.errors import Failure


class Unreadable(Failure):
    """The file is there, and this user may not read it."""


def folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where the files are; it need not exist."""
    variables = os.environ if environment is None else environment
    base = variables.get("XDG_CONFIG_HOME", "")
    # The XDG specification wants anything but an absolute path to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "ullage"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise Failure(f"{path}: is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise Failure(f"{path}: expected a JSON object")
    return found


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file in one step; at no moment can another user read it."""
    import tempfile

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes it 0600.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=2, sort_keys=True)
                file.write("\n")
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error


# --- defaults and names ---------------------------------------------------------------------------

REGISTRIES = "registries."


def client_path() -> Path:
    return folder() / "client.json"


def defaults() -> dict[str, str]:
    """Everything that was set, by its name: `registry`, `output`, `registries.NAME` …"""
    return {str(key): str(value) for key, value in _read(client_path()).items()}


def change_defaults(changes: Mapping[str, str | None]) -> None:
    """Set names to values; None takes a name away."""
    values = {**defaults(), **changes}
    _write(client_path(), {key: value for key, value in values.items() if value is not None})


def named_registries(values: Mapping[str, str]) -> dict[str, str]:
    """URLs by the names they were saved under."""
    return {
        key.removeprefix(REGISTRIES): value
        for key, value in values.items()
        if key.startswith(REGISTRIES)
    }


# --- logins ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Login:
    username: str
    password: str


def credentials_path() -> Path:
    return folder() / "credentials.json"


@dataclass(frozen=True, slots=True)
class SavedLogin:
    """`url` is the address it was saved for: what is for HTTPS is not for HTTP."""

    login: Login
    url: str
    ca_file: str | None


@dataclass(frozen=True, slots=True)
class SavedPlace:
    """Where a registry was when somebody logged in, and the authorities to trust there."""

    url: str
    ca_file: str | None


def place_of(address: str) -> SavedPlace | None:
    """What was saved with a login for a registry, for any login; the keyring is not asked."""
    entry = _read(credentials_path()).get(address)
    if not isinstance(entry, dict):
        return None
    ca_file = entry.get("ca_file")
    return SavedPlace(str(entry.get("url", "")), None if ca_file is None else str(ca_file))


def login_of(address: str) -> SavedLogin | None:
    """The login for a registry; `address` is its host[:port]."""
    entry = _read(credentials_path()).get(address)
    if not isinstance(entry, dict):
        return None
    username, password = str(entry.get("username", "")), entry.get("password")
    if password is None:
        password = keyring.get(address, username)
    if password is None:
        raise Failure(
            f"The keyring does not give the password of '{username}' at {address}.",
            hint=f"Log in again: ullage login {address} -u {username}",
        )
    place = place_of(address)
    assert place is not None
    return SavedLogin(Login(username, str(password)), place.url, place.ca_file)


def save_login(address: str, found: SavedLogin) -> str:
    """Remember a login. Where the password is now: "" for the keyring, else the file's path."""
    login = found.login
    entry = {"url": found.url, "username": login.username}
    if found.ca_file is not None:
        entry["ca_file"] = found.ca_file
    kept = keyring.put(address, login.username, login.password)
    if not kept:
        entry["password"] = login.password
    path = credentials_path()
    _write(path, {**_read(path), address: entry})
    return "" if kept else str(path)


def forget_login(address: str) -> bool:
    """Whether there was one."""
    path = credentials_path()
    entries = _read(path)
    entry = entries.pop(address, None)
    if entry is None:
        return False
    if isinstance(entry, dict) and "password" not in entry:
        keyring.forget(address, str(entry.get("username", "")))
    _write(path, entries)
    return True

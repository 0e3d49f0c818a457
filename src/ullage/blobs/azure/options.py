"""What the URL of a container says: `az://CONTAINER/PREFIX?account=NAME&option=value&…`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

_OPTIONS = ("account", "endpoint", "public", "ca")
# Azure's rules for names: of accounts, and of containers (no two hyphens in a row).
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_SECRET = re.compile(r"key|secret|token|password|credential|signature|\bsig\b", re.IGNORECASE)
_WHERE_SECRETS_ARE = "set AZURE_STORAGE_KEY, or give the machine an identity"


@dataclass(frozen=True, slots=True)
class AzureOptions:
    """Where a container is; never a secret.

    `prefix` is without slashes at its ends, empty for the whole container. `endpoint` is what the
    server talks to and `public` what clients are sent to, both as the blob endpoint of a connection
    string has them and without a slash at the end; `public` is None for the same one.
    """

    container: str
    account: str
    endpoint: str
    prefix: str = ""
    public: str | None = None
    ca: str | None = None


def parse_azure_url(url: str) -> AzureOptions:
    """Read `az://CONTAINER/PREFIX?account=NAME&option=value`.

    Raises ValueError with one line that says what to change. The line never repeats a value that
    may be a secret.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        _refuse("it is not a URL")
    if parts.scheme != "az":
        _refuse("expected az://CONTAINER/PREFIX?account=NAME")
    if "@" in parts.netloc:
        _refuse(f"it holds a user or a secret; {_WHERE_SECRETS_ARE}")
    if parts.fragment:
        _refuse("it has a part after #")
    if not _CONTAINER.fullmatch(parts.netloc):
        _refuse(f"{parts.netloc!r} is not the name of a container")
    options = _read_options(parts.query)
    account = _read_account(options)
    return AzureOptions(
        container=parts.netloc,
        account=account,
        endpoint=_read_endpoint("endpoint", options, account)
        or f"https://{account}.blob.core.windows.net",
        prefix=_read_prefix(parts.path),
        public=_read_endpoint("public", options, account),
        ca=options.get("ca"),
    )


def _refuse(why: str) -> NoReturn:
    raise ValueError(f"the Azure URL cannot be used: {why}") from None


def _read_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            if _SECRET.search(name):
                _refuse(f"it holds a secret; {_WHERE_SECRETS_ARE}")
            _refuse(f"unknown option {name!r}; expected one of {', '.join(_OPTIONS)}")
        if name in options:
            _refuse(f"{name} is given twice")
        if not value:
            _refuse(f"{name} is empty")
        options[name] = value
    return options


def _read_account(options: dict[str, str]) -> str:
    account = options.get("account")
    if account is None:
        _refuse("it names no storage account; add account=NAME")
    if not _ACCOUNT.fullmatch(account):
        _refuse(f"{account!r} is not the name of a storage account")
    return account


def _read_prefix(path: str) -> str:
    prefix = unquote(path).strip("/")
    if prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/"))):
        _refuse(f"{prefix!r} is not a prefix of blob names")
    return prefix


def _read_endpoint(name: str, options: dict[str, str], account: str) -> str | None:
    """Of services that are no part of Azure the path names the account."""
    text = options.get(name)
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    else:
        if "@" in parts.netloc or _SECRET.search(parts.query):
            _refuse(f"{name} holds a user or a secret")
        usable = usable and parts.path.strip("/") in ("", account)
        usable = usable and not (parts.query or parts.fragment)
    if not usable:
        _refuse(f"{name} is not https://HOST or http://HOST:PORT/{account}")
    return text.rstrip("/")

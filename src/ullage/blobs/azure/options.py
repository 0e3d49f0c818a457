"""What the URL of a container says: `az://CONTAINER/PREFIX?account=NAME&option=value&…`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ullage.blobs.cloud_url import CloudUrl, UrlGrammar

_GRAMMAR = UrlGrammar(
    scheme="az",
    service="Azure",
    form="az://CONTAINER/PREFIX?account=NAME",
    place="container",
    # Azure's rules: no two hyphens in a row.
    name=re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*"),
    options=("account", "endpoint", "public", "ca"),
    secrets="set AZURE_STORAGE_KEY, or give the machine an identity",
)
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")


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

    Raises ValueError with one line that says what to change.
    """
    found = _GRAMMAR.parse(url)
    account = _read_account(found)
    # Of services that are no part of Azure the path names the account.
    endpoint = found.server("endpoint", path=account)
    return AzureOptions(
        container=found.name,
        account=account,
        endpoint=endpoint or f"https://{account}.blob.core.windows.net",
        prefix=found.prefix,
        public=found.server("public", path=account),
        ca=found.options.get("ca"),
    )


def _read_account(url: CloudUrl) -> str:
    account = url.options.get("account")
    if account is None:
        url.grammar.refuse("it names no storage account; add account=NAME")
    if not _ACCOUNT.fullmatch(account):
        url.grammar.refuse(f"{account!r} is not the name of a storage account")
    return account

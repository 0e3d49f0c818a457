"""A real Azurite with empty containers, and a proxy before it that does what networks do.

Azurite is looked for in the cache folder of `.ci/run` and on the PATH.
"""

import base64
import itertools
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from tests.support.require import find_command, unavailable

START_SECONDS = 60
ACCOUNT = "books"
_numbers = itertools.count()


def require_azurite() -> str:
    """The command of Azurite; the test is skipped, or fails, where it cannot be used."""
    for package in ("azure.storage.blob", "azure.identity"):
        if not _is_installed(package):
            unavailable(f"{package} is not installed (pip install 'ullage[cloud]')")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = caches / "ullage-ci" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
    found = str(cached) if cached.exists() else find_command("azurite-blob")
    if found is None:
        unavailable("azurite-blob is not installed (npm install azurite)")
    return found


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


class Azurite:
    """An Azurite on a free port of 127.0.0.1; `arguments` are more of its own."""

    def __init__(self, folder: Path, *arguments: str, scheme: str = "http") -> None:
        self.command = require_azurite()
        self.folder = folder
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()
        self.environment = {"AZURE_STORAGE_KEY": self.key}
        self._arguments = arguments
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.endpoint = f"{scheme}://127.0.0.1:{self.port}/{ACCOUNT}"
        self.ca: str | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        log_path = self.folder.parent / f"{self.folder.name}.log"
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self.command,
                    *("--blobHost", "127.0.0.1", "--blobPort", str(self.port)),
                    *("--location", str(self.folder), "--silent", "--disableTelemetry"),
                    # The client speaks newer versions of the protocol than it knows.
                    "--skipApiVersionCheck",
                    *self._arguments,
                ],
                env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{self.key}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def fresh_container(self) -> str:
        """The name of an empty container that no other test uses."""
        name = f"books-{next(_numbers)}-{secrets.token_hex(3)}"
        self.client(name).create_container()
        return name

    def url(self, container: str, prefix: str = "", **options: str) -> str:
        """What `--storage` is given for a container of it."""
        query = urlencode({"account": ACCOUNT, "endpoint": self.endpoint, **options})
        return f"az://{container}/{prefix}?{query}"

    def client(self, container: str) -> Any:
        """A client of its own, to look behind the store's back."""
        from azure.core.credentials import AzureNamedKeyCredential
        from azure.storage.blob import ContainerClient

        verify: Mapping[str, Any] = {"connection_verify": self.ca} if self.ca else {}
        credential = AzureNamedKeyCredential(ACCOUNT, self.key)
        return ContainerClient(self.endpoint, container, credential=credential, **verify)

    def stored_bytes(self, container: str, *, beside: frozenset[str] = frozenset()) -> int:
        """All bytes in a container: blobs, and blocks that are in none, but for `beside`."""
        from azure.core.exceptions import ResourceNotFoundError

        client, total = self.client(container), 0
        for found in client.list_blobs(include=["uncommittedblobs"]):
            # What goes meanwhile has no bytes.
            with suppress(ResourceNotFoundError):
                if found.name not in beside:
                    committed, rest = client.get_blob_client(found.name).get_block_list("all")
                    blocks = sum(block.size for block in committed)
                    total += max(found.size, blocks) + sum(block.size for block in rest)
        return total

    def soft_delete(self, *, enabled: bool) -> None:
        """Whether the account keeps blobs for a day after their deletion."""
        from azure.core.credentials import AzureNamedKeyCredential
        from azure.storage.blob import BlobServiceClient, RetentionPolicy

        credential = AzureNamedKeyCredential(ACCOUNT, self.key)
        service = BlobServiceClient(self.endpoint, credential=credential)
        policy = RetentionPolicy(enabled=enabled, days=1 if enabled else None)
        service.set_service_properties(delete_retention_policy=policy)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, "Azurite ended"
                assert time.monotonic() < deadline, "Azurite does not answer"
                time.sleep(0.02)

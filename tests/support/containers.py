"""A real Azurite with empty containers.

Azurite is looked for in the cache folder of `.ci/run` and on the PATH.
"""

import base64
import secrets
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.object_servers import ObjectServer, cached
from tests.support.require import find_command, unavailable

ACCOUNT = "books"


def require_azurite() -> str:
    """The command of Azurite; the test is skipped, or fails, where it cannot be used."""
    for package in ("azure.storage.blob", "azure.identity"):
        if not _is_installed(package):
            unavailable(f"{package} is not installed (pip install 'ullage[cloud]')")
    found = cached("azurite", "node_modules", ".bin", "azurite-blob")
    found = found or find_command("azurite-blob")
    if found is None:
        unavailable("azurite-blob is not installed (npm install azurite)")
    return found


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


class Azurite(ObjectServer):
    """An Azurite; `arguments` are more of its own."""

    def __init__(self, folder: Path, *arguments: str, scheme: str = "http") -> None:
        self.command = require_azurite()
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()
        super().__init__(folder, {"AZURE_STORAGE_KEY": self.key})
        self._arguments = arguments
        self.endpoint = f"{scheme}://127.0.0.1:{self.port}/{ACCOUNT}"

    def command_line(self) -> list[str]:
        return [
            self.command,
            *("--blobHost", "127.0.0.1", "--blobPort", str(self.port)),
            *("--location", str(self.folder), "--silent", "--disableTelemetry"),
            # The client speaks newer versions of the protocol than it knows.
            "--skipApiVersionCheck",
            *self._arguments,
        ]

    def own_environment(self) -> dict[str, str]:
        return {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{self.key}"}

    def make_bucket(self, name: str) -> None:
        self.client(name).create_container()

    def url(self, bucket: str, prefix: str = "", **options: str) -> str:
        query = urlencode({"account": ACCOUNT, "endpoint": self.endpoint, **options})
        return f"az://{bucket}/{prefix}?{query}"

    def sizes(self, bucket: str) -> dict[str, int]:
        return {found.name: found.size for found in self.client(bucket).list_blobs()}

    def unfinished_bytes(self, bucket: str) -> int:
        from azure.core.exceptions import ResourceNotFoundError

        client, total = self.client(bucket), 0
        for found in client.list_blobs(include=["uncommittedblobs"]):
            # What goes meanwhile has no bytes.
            with suppress(ResourceNotFoundError):
                _, blocks = client.get_blob_client(found.name).get_block_list("uncommitted")
                total += sum(block.size for block in blocks)
        return total

    def remove(self, bucket: str, name: str) -> None:
        self.client(bucket).delete_blob(name)

    def client(self, container: str) -> Any:
        """A client of its own, to look behind the store's back."""
        from azure.core.credentials import AzureNamedKeyCredential
        from azure.storage.blob import ContainerClient

        verify: Mapping[str, Any] = {"connection_verify": self.trusted} if self.trusted else {}
        credential = AzureNamedKeyCredential(ACCOUNT, self.key)
        return ContainerClient(self.endpoint, container, credential=credential, **verify)

    def soft_delete(self, *, enabled: bool) -> None:
        """Whether the account keeps blobs for a day after their deletion."""
        from azure.core.credentials import AzureNamedKeyCredential
        from azure.storage.blob import BlobServiceClient, RetentionPolicy

        credential = AzureNamedKeyCredential(ACCOUNT, self.key)
        service = BlobServiceClient(self.endpoint, credential=credential)
        policy = RetentionPolicy(enabled=enabled, days=1 if enabled else None)
        service.set_service_properties(delete_retention_policy=policy)

"""One container, by the client of azure-storage-blob: requests, and what is wrong with them.

The client brings credentials, signatures, and retries with back-off (503, connections that break).
Its transfer managers are not used: each call here is one request.
"""

from __future__ import annotations

import base64
import binascii
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

import azure.core
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest
from azure.storage.blob import (
    BlobBlock,
    BlobServiceClient,
    ContainerClient,
    ExponentialRetry,
    generate_blob_sas,
)

from ullage.blobs.azure.options import AzureOptions
from ullage.blobs.protocol import StoreFull
from ullage.blobs.service import RequestFailed, Service

log = logging.getLogger(__name__)

T = TypeVar("T")

KEY_VARIABLE = "AZURE_STORAGE_KEY"
# Retries of one request; the waits between them are 1, 3, 5 and 9 s, give or take one.
RETRIES = 4
CONNECT_SECONDS, READ_SECONDS = 5, 60
# More at once open connections of their own, which are not kept.
_CONNECTIONS = 64
# At once in one request for deletion: the service's own limit.
DELETED_AT_ONCE = 256
# Read from a connection at once.
_PIECE = 256 * 1024
_SCOPE = "https://storage.azure.com/.default"
# Of requests that are made without the client: streams of blobs.
_VERSION = "2021-12-02"
# For a stream, from its beginning to its last byte.
_STREAM_SECONDS = 24 * 3600

NOT_FOUND = frozenset({"BlobNotFound", "404"})
THERE = frozenset(
    {"BlobAlreadyExists", "ConditionNotMet", "UnauthorizedBlobOverwrite", "409", "412"}
)
_FULL = frozenset({"InsufficientStorage", "AccountStorageLimitExceeded", "507"})
# What an answer's body breaks with while it is read.
BROKEN_BODY = (AzureError, OSError)


class CredentialUnusable(ValueError):
    """What is to be asked with cannot be used; the message tells the operator what to change."""


def find_credential(options: AzureOptions) -> Any:
    """The account's key, else the identity that the environment or the machine gives.

    Raises CredentialUnusable.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        from azure.identity import DefaultAzureCredential

        return DefaultAzureCredential(
            exclude_shared_token_cache_credential=True,
            exclude_visual_studio_code_credential=True,
            exclude_powershell_credential=True,
            exclude_developer_cli_credential=True,
        )
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error:
        raise CredentialUnusable(
            f"{KEY_VARIABLE} is no key of a storage account, which is base64 - set it to one of "
            "the account's two keys"
        ) from None
    return AzureNamedKeyCredential(options.account, key)


class Container(Service):
    """Requests about one container; any thread may make them."""

    def __init__(
        self, options: AzureOptions, *, credential: Any = None, retries: int = RETRIES
    ) -> None:
        """`credential` is what the environment says if it is None. Raises CredentialUnusable."""
        super().__init__(options.prefix)
        self.options = options
        self.retries = retries
        self._credential = find_credential(options) if credential is None else credential
        if self.account_key is None and not options.endpoint.startswith("https://"):
            raise CredentialUnusable(
                f"{options.endpoint}: an identity is used with https only - name such an endpoint, "
                f"or set {KEY_VARIABLE}"
            )
        # It tells of each request at INFO.
        logging.getLogger("azure").setLevel(logging.WARNING)
        self._transport = _open_transport(options)
        shared = {
            "credential": self._credential,
            "transport": self._transport,
            "retry_policy": ExponentialRetry(
                initial_backoff=1,
                increment_base=2,
                retry_total=retries,
                retry_connect=retries,
                retry_read=retries,
                random_jitter_range=1,
            ),
            "user_agent": "ullage",
            # One request each.
            "max_single_put_size": 256 * 2**20,
            "max_single_get_size": 256 * 2**20,
        }
        self._client = ContainerClient(options.endpoint, options.container, **shared)
        self._service = BlobServiceClient(options.endpoint, **shared)
        self._streams = azure.core.PipelineClient(
            options.endpoint,
            transport=self._transport,
            policies=[
                RetryPolicy(
                    retry_total=retries, retry_backoff_factor=0.5, retry_on_status_codes=[503]
                ),
                *self._token_policies(),
            ],
        )

    @property
    def account_key(self) -> str | None:
        """None where tokens are used."""
        credential = self._credential
        if isinstance(credential, AzureNamedKeyCredential):
            return str(credential.named_key.key)
        return None

    # --- one blob ---------------------------------------------------------------------------------

    def put(self, place: str, data: bytes, *, replace: bool = False) -> dict[str, Any]:
        """Store a blob in one request; unless `replace`, only where none is."""
        return self._ask(
            "Put Blob",
            lambda hook: self._blob(place).upload_blob(
                data,
                length=len(data),
                overwrite=replace,
                validate_content=True,
                **hook,
            ),
        )

    def properties(self, place: str) -> Any:
        """What is known of a committed blob. Raises RequestFailed."""
        return self._ask(
            "Get Blob Properties", lambda hook: self._blob(place).get_blob_properties(**hook)
        )

    def get(self, place: str, offset: int, n: int) -> bytes:
        """Some of a small blob, in one request."""
        return self._ask(
            "Get Blob",
            lambda hook: bytes(
                self._blob(place).download_blob(offset=offset, length=n, **hook).readall()
            ),
        )

    def stream(self, place: str, offset: int, n: int) -> Body:
        """The answer to a request for a range, to be read as it comes. Raises RequestFailed."""
        with _errors("Get Blob"):
            request = HttpRequest(
                "GET",
                self._stream_url(place),
                headers={"Range": f"bytes={offset}-{offset + n - 1}", "x-ms-version": _VERSION},
            )
            answer = self._streams.send_request(request, stream=True)
            self.compare_clocks(answer.headers.get("Date"))
            if answer.status_code in (200, 206):
                return Body(answer)
            code = answer.headers.get("x-ms-error-code") or str(answer.status_code)
            answer.close()
            raise RequestFailed(code, f"Get Blob: {code}", answer.status_code)

    # --- blocks -----------------------------------------------------------------------------------

    def put_block(self, place: str, id_: str, data: bytes) -> None:
        self._ask(
            "Put Block",
            lambda hook: self._blob(place).stage_block(
                id_, data, length=len(data), validate_content=True, **hook
            ),
        )

    def put_block_list(self, place: str, ids: Sequence[str]) -> str:
        """Make a blob of blocks, only where none is; its ETag."""
        answer: dict[str, Any] = self._ask(
            "Put Block List",
            lambda hook: self._blob(place).commit_block_list(
                [BlobBlock(id_) for id_ in ids],
                # The client has no other way to ask for it.
                headers={"If-None-Match": "*"},
                **hook,
            ),
        )
        return str(answer["etag"])

    def blocks(self, place: str, which: str) -> list[tuple[str, int]]:
        """(id, bytes) of each block that is `committed` or `uncommitted`. Raises RequestFailed."""
        committed, uncommitted = self._ask(
            "Get Block List", lambda hook: self._blob(place).get_block_list(which, **hook)
        )
        found = committed if which == "committed" else uncommitted
        return [(str(block.id), int(block.size)) for block in found]

    # --- many blobs -------------------------------------------------------------------------------

    def entries(self, prefix: str, *, most: int | None = None) -> Iterator[Any]:
        """Blobs and what is going to be one, page by page; `most` on a page."""
        pages = self._client.list_blobs(
            name_starts_with=self.name(prefix),
            include=["uncommittedblobs"],
            results_per_page=most,
            raw_response_hook=self._see,
        ).by_page()
        while True:
            with _errors("List Blobs"):
                page = next(pages, None)
                found = None if page is None else list(page)
            if found is None:
                return
            yield from found

    def delete(self, places: Sequence[str]) -> dict[str, RequestFailed]:
        """Delete up to DELETED_AT_ONCE blobs in one request; returns what refuses to go."""
        answers = self._ask(
            "Blob Batch",
            lambda hook: list(
                self._client.delete_blobs(
                    *(self.name(place) for place in places), raise_on_any_failure=False, **hook
                )
            ),
        )
        failures = {}
        for place, answer in zip(places, answers, strict=True):
            status = int(answer.status_code)
            code = answer.headers.get("x-ms-error-code") or str(status)
            if not 200 <= status < 300 and code not in NOT_FOUND:
                failures[place] = RequestFailed(code, f"Delete Blob: {place}: {code}", status)
        return failures

    def delete_one(self, place: str, etag: str) -> None:
        """Delete a blob if it still is the one with this ETag. Raises RequestFailed."""
        self._ask(
            "Delete Blob",
            lambda hook: self._blob(place).delete_blob(
                etag=etag, match_condition=azure.core.MatchConditions.IfNotModified, **hook
            ),
        )

    # --- the container and its account ------------------------------------------------------------

    def require(self) -> None:
        """Raises RequestFailed where there is no such container, or it may not be looked at."""
        self._ask(
            "Get Container Properties",
            lambda hook: self._client.get_container_properties(**hook),
        )

    def keeps_deleted(self) -> bool:
        """Whether the account keeps blobs after their deletion. Raises RequestFailed."""
        found: dict[str, Any] = self._ask(
            "Get Blob Service Properties",
            lambda hook: self._service.get_service_properties(**hook),
        )
        policy = found.get("delete_retention_policy")
        return bool(policy is not None and policy.enabled)

    def delegation_key(self, start: datetime, end: datetime) -> Any:
        """What signs URLs where no account key does. Raises RequestFailed."""
        return self._ask(
            "Get User Delegation Key",
            lambda hook: self._service.get_user_delegation_key(start, end, **hook),
        )

    def sign(
        self, place: str, until: datetime, *, delegation_key: Any = None, **answer: str
    ) -> str:
        """The query of a URL that anybody may GET until then; asks no service."""
        return str(
            generate_blob_sas(
                self.options.account,
                self.options.container,
                self.name(place),
                account_key=self.account_key if delegation_key is None else None,
                user_delegation_key=delegation_key,
                permission="r",
                expiry=until,
                **answer,
            )
        )

    def url(self, place: str, *, public: bool = False) -> str:
        endpoint = (self.options.public if public else None) or self.options.endpoint
        return f"{endpoint}/{self.options.container}/{quote(self.name(place))}"

    # --- inside -----------------------------------------------------------------------------------

    def _blob(self, place: str) -> Any:
        return self._client.get_blob_client(self.name(place))

    def _ask(self, operation: str, call: Callable[[dict[str, Any]], T]) -> T:
        with _errors(operation):
            return call({"raw_response_hook": self._see})

    def _token_policies(self) -> list[Any]:
        if self.account_key is not None:
            return []
        return [BearerTokenCredentialPolicy(self._credential, _SCOPE)]

    def _stream_url(self, place: str) -> str:
        if self.account_key is None:
            return self.url(place)
        until = datetime.fromtimestamp(time.time() - self.ahead + _STREAM_SECONDS, UTC)
        return f"{self.url(place)}?{self.sign(place, until)}"

    def _see(self, answer: Any) -> None:
        self.compare_clocks(answer.http_response.headers.get("Date"))


class Body:
    """Of an answer, read as it comes."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._pieces = answer.iter_raw()
        self._left = memoryview(b"")

    def read(self, n: int) -> bytes:
        """Up to `n` bytes; empty at the end. Raises one of BROKEN_BODY."""
        if not self._left:
            self._left = memoryview(next(self._pieces, b""))
        piece, self._left = self._left[:n], self._left[n:]
        return bytes(piece)

    def close(self) -> None:
        self._answer.close()

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_transport(options: AzureOptions) -> Any:
    transport = RequestsTransport(
        connection_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        connection_verify=options.ca or True,
        connection_data_block_size=_PIECE,
    )
    transport.open()
    for adapter in transport.session.adapters.values():
        adapter.init_poolmanager(connections=4, maxsize=_CONNECTIONS)
    return transport


@contextmanager
def _errors(operation: str) -> Iterator[None]:
    try:
        yield
    except HttpResponseError as error:
        raise _refused(operation, error) from error
    except AzureError as error:
        raise RequestFailed(type(error).__name__, f"{operation}: {_first_line(error)}") from error


def _refused(operation: str, error: HttpResponseError) -> OSError:
    status = int(error.status_code or 0)
    said = getattr(error, "error_code", None)
    code = str(getattr(said, "value", said) or status or type(error).__name__)
    message = f"{operation}: {code}: {_first_line(error)}"
    if code in _FULL or status == 507:
        return StoreFull(errno.ENOSPC, message)
    return RequestFailed(code, message, status)


def _first_line(error: AzureError) -> str:
    lines = str(error.message).splitlines() or [""]
    return lines[0]

"""One bucket, by the low-level client of boto3: requests, and what is wrong with them.

The client brings the chain of credentials, signatures, retries with back-off (SlowDown, 5xx,
connections that break) and errors inside an answer of 200. Its transfer managers are not used.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ResponseStreamingError
from botocore.exceptions import ReadTimeoutError as ReadTimeout

from ullage.blobs.protocol import StoreFull
from ullage.blobs.s3.options import S3Options
from ullage.blobs.service import RequestFailed, Service

log = logging.getLogger(__name__)

# First try and retries of one request, the waits between them growing up to 20 s.
ATTEMPTS = 5
CONNECT_SECONDS, READ_SECONDS = 5, 60
# More at once open connections of their own, which are not kept.
_CONNECTIONS = 64
# Of services without regions; AWS names the right one in its refusal.
_REGION = "us-east-1"

NOT_FOUND = frozenset({"NoSuchKey", "NotFound", "404"})
_FULL = frozenset(
    {
        "EntityTooLarge",
        "InsufficientStorage",
        "QuotaExceeded",
        "XAmzQuotaExceeded",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioStorageFull",
    }
)
_INSUFFICIENT_STORAGE = 507
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
# What an answer's body breaks with while it is read.
BROKEN_BODY = (ReadTimeout, ResponseStreamingError, BotoCoreError, OSError)

# Of services, as the client reads them: half a second each time.
_descriptions = botocore.loaders.create_loader()


class Bucket(Service):
    """Requests about one bucket; any thread may make them."""

    def __init__(self, options: S3Options, *, attempts: int = ATTEMPTS) -> None:
        super().__init__(options.prefix)
        self.options = options
        self._attempts = attempts
        self._lock = threading.Lock()
        self._client = self._make_client()

    def call(self, operation: str, /, **parameters: Any) -> dict[str, Any]:
        """Make one request. Raises RequestFailed, StoreFull."""
        return _once(self._call, operation, parameters)

    def put(self, place: str, data: bytes | bytearray, *, replace: bool = False) -> None:
        """Store an object in one request; unless `replace`, only where none is.

        Raises RequestFailed, with the code PreconditionFailed where one is.
        """
        condition = {} if replace else {"IfNoneMatch": "*"}
        self.call("put_object", Key=self.name(place), Body=data, **condition, **self.written_with())

    def get(self, place: str) -> bytes:
        """All of a small object. Raises RequestFailed."""
        tries = self._attempts
        while True:
            tries -= 1
            answer = self.call("get_object", Key=self.name(place))
            try:
                with answer["Body"] as body:
                    return bytes(body.read())
            except BROKEN_BODY as error:
                if not tries:
                    raise RequestFailed("BrokenBody", f"get_object: {error}") from error

    def written_with(self) -> dict[str, str]:
        """How each object is written: encrypted, and in which class."""
        options = self.options
        wanted = {
            "ServerSideEncryption": options.sse,
            "SSEKMSKeyId": options.sse_key,
            "StorageClass": options.storage_class,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def sign(self, place: str, seconds: int, **answer: str) -> str:
        """A URL that anybody may GET for so long; asks no service. Raises RequestFailed."""
        parameters = {"Bucket": self.options.bucket, "Key": self.name(place), **answer}
        try:
            return str(
                self._client.generate_presigned_url(
                    "get_object", Params=parameters, ExpiresIn=seconds
                )
            )
        except BotoCoreError as error:
            raise RequestFailed(type(error).__name__, f"signing: {error}") from error

    def _call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        client = self._client
        try:
            return self._ask(client, operation, parameters)
        except ClientError as error:
            if _code(error) not in _EXPIRED:
                raise
        # Credentials that end before they said they would: read again, and asked once more.
        log.warning("%s: the credentials have ended; they are read again", operation)
        return self._ask(self._renewed(client), operation, parameters)

    def _ask(self, client: Any, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(client, operation)(
            Bucket=self.options.bucket, **parameters
        )
        self.compare_clocks(answer["ResponseMetadata"]["HTTPHeaders"].get("date"))
        return answer

    def _renewed(self, used: Any) -> Any:
        with self._lock:
            if self._client is used:
                self._client = self._make_client()
            return self._client

    def _make_client(self) -> Any:
        options = self.options
        environment = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        session = _new_session()
        return session.client(
            "s3",
            region_name=options.region or environment or session.region_name or _REGION,
            endpoint_url=options.endpoint,
            verify=options.ca,
            config=Config(
                signature_version="s3v4",
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                max_pool_connections=_CONNECTIONS,
                tcp_keepalive=True,
                retries={"mode": "standard", "total_max_attempts": self._attempts},
                # The signature covers the SHA-256 of each body, which every service checks;
                # trailing checksums are known to few.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={
                    "addressing_style": "path" if options.path_style else "auto",
                    "payload_signing_enabled": True,
                },
                user_agent_extra="ullage",
            ),
        )


def _new_session() -> Any:
    """A session with credentials of its own. Descriptions of services are read once a process."""
    # Where it has found credentials is of no use in a server's log.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    core = botocore.session.Session()
    core.register_component("data_loader", _descriptions)
    return boto3.session.Session(botocore_session=core)


def _once(call: Any, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = call(operation, parameters)
    except ClientError as error:
        raise _refused(operation, error) from error
    except (BotoCoreError, OSError) as error:
        raise RequestFailed(type(error).__name__, f"{operation}: {error}") from error
    return answer


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _refused(operation: str, error: ClientError) -> OSError:
    code = _code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = str(error.response.get("Error", {}).get("Message", "")).splitlines() or [""]
    message = f"{operation}: {code}: {said[0]}".removesuffix(": ")
    if code in _FULL or status == _INSUFFICIENT_STORAGE:
        return StoreFull(errno.ENOSPC, message)
    return RequestFailed(code, message, status)

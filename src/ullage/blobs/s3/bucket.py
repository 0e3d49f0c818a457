"""One bucket, by the low-level client of boto3: requests, and what is wrong with them.

The client brings the chain of credentials, signatures, retries with back-off (SlowDown, 5xx,
connections that break) and errors inside an answer of 200. Its transfer managers are not used.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore.auth import AUTH_TYPE_MAPS
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ResponseStreamingError
from botocore.exceptions import ReadTimeoutError as ReadTimeout

from ullage.blobs.protocol import StoreFull
from ullage.blobs.s3.dialects import GOOGLE_SIGNATURE
from ullage.blobs.s3.google import GoogleAuth
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

# At once in one request for deletion: S3's own limit; and requests for one each at the same time.
DELETED_AT_ONCE = 1000
_DELETIONS = 8

NOT_FOUND = frozenset({"NoSuchKey", "NotFound", "404"})
# Of requests that a service has no use for.
NOT_KNOWN = frozenset({"501", "405", "NotImplemented", "MethodNotAllowed", "XNotImplemented"})
# As Google's took a request for the deletion of many objects before it had one.
_NOT_A_DELETION = frozenset({"InvalidArgument"})
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

AUTH_TYPE_MAPS[GOOGLE_SIGNATURE] = GoogleAuth

# Of services, as the client reads them: half a second each time.
_descriptions = botocore.loaders.create_loader()


class Bucket(Service):
    """Requests about one bucket; any thread may make them."""

    def __init__(self, options: S3Options, *, attempts: int = ATTEMPTS) -> None:
        super().__init__(options.prefix)
        self.options = options
        self._attempts = attempts
        self._deletes_many = True
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

    def delete(self, places: Sequence[str]) -> dict[str, RequestFailed]:
        """Remove up to DELETED_AT_ONCE objects; returns what refuses to go, by its place.

        In one request, or by as many where the service has none for that. Raises RequestFailed.
        """
        if self._deletes_many:
            try:
                return self._delete_many(places)
            except RequestFailed as error:
                if error.code not in NOT_KNOWN | _NOT_A_DELETION:
                    raise
                log.info("objects are deleted one by one: %s", error)
                self._deletes_many = False
        with ThreadPoolExecutor(_DELETIONS, "ullage-delete") as pool:
            failures = pool.map(self._delete_one, places)
            return {each: error for each, error in zip(places, failures, strict=True) if error}

    def _delete_many(self, places: Sequence[str]) -> dict[str, RequestFailed]:
        wanted = [{"Key": self.name(place)} for place in places]
        answer = self.call("delete_objects", Delete={"Objects": wanted, "Quiet": True})
        failures = {}
        for refused in answer.get("Errors", ()):
            name, code = str(refused.get("Key")), str(refused.get("Code", ""))
            if code not in NOT_FOUND:
                what = f"delete_objects: {name}: {code}: {refused.get('Message', '')}"
                failures[self.place(name)] = RequestFailed(code, what)
        return failures

    def _delete_one(self, place: str) -> RequestFailed | None:
        name = self.name(place)
        try:
            self.call("delete_object", Key=name)
        except RequestFailed as error:
            if error.code not in NOT_FOUND:
                what = f"delete_object: {name}: {error.strerror}"
                return RequestFailed(error.code, what, error.status)
        return None

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
        dialect = options.dialect
        session = _new_session()
        key, secret = dialect.find_keys() or (None, None)
        client = session.client(
            "s3",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name=options.region or dialect.region or _usual_region(session),
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
        if dialect.put_signature is not None:
            client.meta.events.register(
                "choose-signer.s3.PutObject", lambda **_: dialect.put_signature
            )
        return client


def _usual_region(session: Any) -> str:
    variables = (os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))
    return next(filter(None, variables), None) or session.region_name or _REGION


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

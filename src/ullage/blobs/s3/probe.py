"""Whether a bucket can be used, found out at a start and not at the first push."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ullage.blobs.protocol import StoreUnusable
from ullage.blobs.s3.bucket import NOT_KNOWN, Bucket
from ullage.blobs.s3.options import S3Options
from ullage.blobs.s3.places import PROBES
from ullage.blobs.service import RequestFailed

_DATA = b"0123456789"
# A start does not wait as long as a push would.
_ATTEMPTS = 2

_NO_KEYS = frozenset({"NoCredentialsError", "PartialCredentialsError"})
_WRONG_KEYS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"}
)
_AWAY = frozenset(
    {
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "HTTPClientError",
        "ProxyConnectionError",
        "ReadTimeoutError",
    }
)
_OTHER_REGION = frozenset(
    {
        "301",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
    }
)
_DENIED = frozenset({"403", "AccessDenied", "AllAccessDisabled", "Forbidden"})


def probe(options: S3Options) -> None:
    """Do in the bucket what a store does there; nothing of it is left.

    Raises StoreUnusable with one line: what is wrong, and what to change.
    """
    if options.ca is not None and not Path(options.ca).is_file():
        raise StoreUnusable(f"ca={options.ca}: there is no such file - name a PEM file with ca=")
    dialect = options.dialect
    try:
        bucket = Bucket(options, attempts=_ATTEMPTS)
    except Exception as error:
        raise StoreUnusable(
            f"the client of {dialect.service} has no use for its settings: {error} - "
            f"{dialect.check_settings}"
        ) from error
    _Probe(bucket).run()


class _Probe:
    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._where = f"bucket {bucket.options.bucket}"
        self._place = f"{PROBES}{secrets.token_hex(8)}"

    def run(self) -> None:
        self._require_unversioned()
        self._ask("list_objects_v2", "s3:ListBucket", Prefix=self._bucket.name(""), MaxKeys=1)
        try:
            self._require_conditions()
            self._require_ranges()
            self._require_multiparts()
        except BaseException:
            with suppress(OSError, StoreUnusable):
                self._delete()
            raise
        self._delete()

    def _require_unversioned(self) -> None:
        try:
            answer = self._call("get_bucket_versioning")
        except RequestFailed as error:
            # A service that has no versions need not know the question.
            if error.code in NOT_KNOWN:
                return
            self._refuse(error, "s3:GetBucketVersioning")
        if answer.get("Status") == "Enabled":
            raise StoreUnusable(
                f"{self._where} keeps old versions, so deleting gives nothing back - name a bucket "
                "without versioning"
            )

    def _require_conditions(self) -> None:
        where = {"Key": self._bucket.name(self._place), "Body": _DATA, "IfNoneMatch": "*"}
        where |= self._bucket.written_with()
        try:
            self._call("put_object", **where)
        except RequestFailed as error:
            if error.code in NOT_KNOWN:
                self._refuse_conditions(error)
            self._refuse(error, "s3:PutObject")
        try:
            self._call("put_object", **where)
        except RequestFailed as error:
            if error.code in ("PreconditionFailed", "412"):
                return
            if error.code not in NOT_KNOWN:
                self._refuse(error, "s3:PutObject")
            self._refuse_conditions(error)
        self._refuse_conditions(None)

    def _require_ranges(self) -> None:
        answer = self._ask(
            "get_object", "s3:GetObject", Key=self._bucket.name(self._place), Range="bytes=2-4"
        )
        with answer["Body"] as body:
            if body.read() != _DATA[2:5]:
                raise StoreUnusable(f"{self._where} answers no ranges - use another service")

    def _require_multiparts(self) -> None:
        where = {"Key": self._bucket.name(self._place)}
        begun = self._ask(
            "create_multipart_upload", "s3:PutObject", **where, **self._bucket.written_with()
        )
        where["UploadId"] = begun["UploadId"]
        try:
            listed = self._ask(
                "list_multipart_uploads",
                "s3:ListBucketMultipartUploads",
                Prefix=where["Key"],
            )
            self._ask("list_parts", "s3:ListMultipartUploadParts", **where)
        finally:
            self._ask("abort_multipart_upload", "s3:AbortMultipartUpload", **where)
        if where["UploadId"] not in {each["UploadId"] for each in listed.get("Uploads", ())}:
            raise StoreUnusable(
                f"{self._where} does not list multipart uploads, whose bytes could not be found "
                "again - use another service"
            )

    def _delete(self) -> None:
        try:
            refusals = list(self._bucket.delete([self._place]).values())
        except RequestFailed as error:
            refusals = [error]
        for refusal in refusals:
            self._refuse(refusal, "s3:DeleteObject")

    # --- requests ---------------------------------------------------------------------------------

    def _ask(self, operation: str, right: str, **parameters: Any) -> dict[str, Any]:
        try:
            return self._call(operation, **parameters)
        except RequestFailed as error:
            self._refuse(error, right)

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            return self._bucket.call(operation, **parameters)
        except RequestFailed:
            raise
        except OSError as error:
            raise StoreUnusable(f"{self._where} is full: {error.strerror} - make room") from error

    def _refuse(self, error: RequestFailed, right: str) -> NoReturn:
        raise StoreUnusable(_reason(error, right, self._bucket.options)) from error

    def _refuse_conditions(self, error: RequestFailed | None) -> NoReturn:
        raise StoreUnusable(
            f"{self._where} does not keep an object from being replaced (If-None-Match: *), so a "
            "late request could - use a service that does"
        ) from error


def _reason(error: RequestFailed, right: str, options: S3Options) -> str:
    """One line for an operator."""
    dialect = options.dialect
    where = f"bucket {options.bucket}"
    server = options.endpoint or "the service"
    reasons: Mapping[str, Callable[[], str]] = {
        "NoSuchBucket": lambda: f"there is no {where} - make it, or name another one",
        "RequestTimeTooSkewed": lambda: (
            f"{where}: this machine's clock and the service's differ by more than 15 minutes - set "
            "the clock"
        ),
        "SSLError": lambda: (
            f"{server}: {_said(error)} - name the authority of its certificate with ca=FILE"
        ),
    }
    if error.code in reasons:
        return reasons[error.code]()
    if error.code in _NO_KEYS:
        return f"{where}: no keys to ask with - {dialect.give_keys}"
    if error.code in _WRONG_KEYS:
        return (
            f"{where}: the service does not take these keys ({error.code}) - {dialect.check_keys}"
        )
    if error.code in _OTHER_REGION:
        return f"{where} is in another region ({_said(error)}) - name it with region="
    if error.code in _AWAY:
        return f"{server} does not answer ({error.code}) - check endpoint= and the network"
    if error.code in _DENIED:
        return f"{where}: these keys lack a right - grant {dialect.right(right)}"
    if error.status == 404:
        return f"there is no {where} - make it, or name another one"
    return f"{where} cannot be used: {_said(error)} - check the options of the URL"


def _said(error: RequestFailed) -> str:
    lines = (error.strerror or "").splitlines() or [error.code]
    return lines[0]

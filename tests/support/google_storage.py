"""Google Cloud Storage as its documentation describes it: a proxy in front of a real S3 server.

It is no Google Cloud Storage. It takes and refuses what that one does where it differs from S3, and
has everything else done by the real server, to which it signs for itself:

- headers that begin with x-amz- and with x-goog- in one request are refused (400);
- If-None-Match is ignored on whatever writes; x-goog-if-generation-match: 0 holds for a PUT, and
  has no place in a multipart upload (400);
- checksums of AWS's and chunks that are signed are refused (400);
- the deletion of many objects is refused (400) unless `deletes_many`, as it was until 2026;
- deleting what is not there is an error (404);
- an object's ETag tells nothing of the parts that it was made of.

Sources: cloud.google.com/storage/docs, "Request preconditions", "Signatures", "Complete a multipart
upload", "Delete multiple objects"; measurements of others that buckets.md section 6 names.
"""

import base64
import hashlib
import hmac
import re
import time
from calendar import timegm
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.support.buckets import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.s3_proxy import Answer, ProxiedRequest, S3Proxy

ACCESS_ID, SECRET = "GOOG1EBOOKS", "google-secret"
CREDENTIALS = {"GCS_HMAC_ACCESS_ID": ACCESS_ID, "GCS_HMAC_SECRET": SECRET}
_WRITES = frozenset({"PutObject", "UploadPart", "CreateMultipartUpload", "CompleteMultipartUpload"})
_OF_MULTIPARTS = _WRITES - {"PutObject"}


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class GoogleStorage(S3Proxy):
    def __init__(self, server: S3Server) -> None:
        super().__init__(server)
        self.environment = dict(CREDENTIALS)
        self.deletes_many = False
        self.asked: list[str] = []

    def url(self, bucket: str, prefix: str = "", **options: str) -> str:
        query = urlencode({"endpoint": self.endpoint, **options})
        return f"gs://{bucket}/{prefix}?{query}"

    def serve(self, request: ProxiedRequest) -> None:
        self.asked.append(request.operation)
        try:
            request.answer(*self._answer(request))
        except Refused as refused:
            request.refuse(refused.status, refused.code)

    def _answer(self, request: ProxiedRequest) -> Answer:
        headers = {name.lower(): value for name, value in request.headers.items()}
        _require_one_dialect(headers, request.operation)
        _require_signature(request, headers)
        condition = self._condition(request, headers)
        if request.operation == "DeleteObjects" and not self.deletes_many:
            raise Refused(400, "NotImplemented")
        if request.operation == "DeleteObject":
            self._require_object(request)
        if request.operation == "CompleteMultipartUpload":
            self._require_upload(request)
        status, answered, body = _ask(request, condition)
        if request.operation == "HeadObject":
            answered = [(name, _opaque(name, value)) for name, value in answered]
        return status, answered, body

    def _condition(self, request: ProxiedRequest, headers: Mapping[str, str]) -> dict[str, str]:
        generation = headers.get("x-goog-if-generation-match")
        if generation is None:
            return {}
        if request.operation in _OF_MULTIPARTS:
            raise Refused(400, "NotImplemented")
        assert generation == "0"
        return {"If-None-Match": "*"}

    def _require_object(self, request: ProxiedRequest) -> None:
        bucket, name = _named(request)
        if not self.client().list_objects_v2(Bucket=bucket, Prefix=name)["KeyCount"]:
            raise Refused(404, "NoSuchKey")

    def _require_upload(self, request: ProxiedRequest) -> None:
        """The real server completes one twice."""
        bucket, name = _named(request)
        found = self.client().list_multipart_uploads(Bucket=bucket, Prefix=name).get("Uploads", ())
        if request.query["uploadId"] not in [[each["UploadId"]] for each in found]:
            raise Refused(404, "NoSuchUpload")


def _named(request: ProxiedRequest) -> tuple[str, str]:
    """Bucket and object."""
    _, bucket, name = urlsplit(request.path).path.split("/", 2)
    return bucket, name


def _require_one_dialect(headers: Mapping[str, str], operation: str) -> None:
    amazon = {name for name in headers if name.startswith("x-amz-")}
    if amazon and any(name.startswith("x-goog-") for name in headers):
        raise Refused(400, "ExcessHeaderValues")
    checksums = {name for name in amazon if "checksum" in name or "trailer" in name}
    if checksums and operation != "DeleteObjects":
        raise Refused(400, "ExcessHeaderValues")
    if operation == "DeleteObjects" and not (checksums or "content-md5" in headers):
        raise Refused(400, "InvalidArgument")
    if "aws-chunked" in headers.get("content-encoding", ""):
        raise Refused(400, "InvalidArgument")


def _opaque(name: str, value: str) -> str:
    if name.lower() != "etag" or not re.fullmatch(r'"[0-9a-f]{32}-\d+"', value):
        return value
    return f'"{hashlib.sha256(value.encode()).hexdigest()[:12]}="'


def _ask(request: ProxiedRequest, condition: dict[str, str]) -> Answer:
    """Have the real server do it, in its own dialect."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    parts = urlsplit(request.path)
    query = "&".join(
        each for each in parts.query.split("&") if each and not each.startswith("X-Amz-")
    )
    path = f"{parts.path}?{query}" if query else parts.path
    kept = {
        name: value
        for name, value in request.headers.items()
        if name.lower() in ("range", "content-type", "content-length", "content-md5")
    }
    signed = AWSRequest(
        request.command,
        f"http://127.0.0.1{path}",
        headers={"Host": "127.0.0.1", **kept, **condition},
        data=request.body,
    )
    if request.operation == "DeleteObjects":
        signed.headers["Content-MD5"] = _md5(request.body)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(signed)
    return request.ask_upstream(path, list(signed.headers.items()))


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


# --- signatures, as both pages of the documentation and that of AWS have them ---------------------


class Dialect(NamedTuple):
    algorithm: str
    prefix: str
    service: str
    end: str
    headers: str


_DIALECTS = {
    "GOOG4-HMAC-SHA256": Dialect(
        "GOOG4-HMAC-SHA256", "GOOG4", "storage", "goog4_request", "x-goog-"
    ),
    "AWS4-HMAC-SHA256": Dialect("AWS4-HMAC-SHA256", "AWS4", "s3", "aws4_request", "x-amz-"),
}
_AUTHORIZATION = re.compile(
    r"(?P<algorithm>\S+) Credential=(?P<credential>\S+), SignedHeaders=(?P<names>\S+), "
    r"Signature=(?P<signature>[0-9a-f]{64})"
)


def _require_signature(request: ProxiedRequest, headers: Mapping[str, str]) -> None:
    found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if found is None:
        return _require_signed_url(request, headers)
    dialect = _DIALECTS[found["algorithm"]]
    payload = headers[f"{dialect.headers}content-sha256"]
    if payload != hashlib.sha256(request.body).hexdigest():
        raise Refused(400, "BadDigest")
    query = urlsplit(request.path).query
    expected = _signature(
        dialect,
        headers[f"{dialect.headers}date"],
        found["credential"],
        (request, query, found["names"], payload),
    )
    if found["signature"] != expected:
        raise Refused(403, "SignatureDoesNotMatch")
    return None


def _require_signed_url(request: ProxiedRequest, headers: Mapping[str, str]) -> None:
    query = urlsplit(request.path).query
    found = {name: values[0] for name, values in parse_qs(query).items()}
    if "X-Amz-Signature" not in found:
        raise Refused(403, "AccessDenied")
    unsigned = "&".join(each for each in query.split("&") if "X-Amz-Signature=" not in each)
    moment = found["X-Amz-Date"]
    ends_at = timegm(time.strptime(moment + "+0000", "%Y%m%dT%H%M%SZ%z")) + int(
        found["X-Amz-Expires"]
    )
    expected = _signature(
        _DIALECTS[found["X-Amz-Algorithm"]],
        moment,
        found["X-Amz-Credential"],
        (request, unsigned, found["X-Amz-SignedHeaders"], "UNSIGNED-PAYLOAD"),
    )
    if found["X-Amz-Signature"] != expected:
        raise Refused(403, "SignatureDoesNotMatch")
    if time.time() > ends_at:
        raise Refused(400, "ExpiredToken")


def _signature(
    dialect: Dialect,
    moment: str,
    credential: str,
    signed: tuple[ProxiedRequest, str, str, str],
) -> str:
    request, query, names, payload = signed
    access_id, _, scope = credential.partition("/")
    date, region, service, end = scope.split("/")
    if access_id != ACCESS_ID:
        raise Refused(403, "InvalidAccessKeyId")
    if (date, service, end) != (moment[:8], dialect.service, dialect.end):
        raise Refused(403, "SignatureDoesNotMatch")
    canonical = "\n".join(
        (
            request.command,
            urlsplit(request.path).path,
            "&".join(sorted(each if "=" in each else f"{each}=" for each in query.split("&")))
            if query
            else "",
            *(f"{name}:{' '.join(request.headers[name].split())}" for name in names.split(";")),
            "",
            names,
            payload,
        )
    )
    key = f"{dialect.prefix}{SECRET}".encode()
    for word in (date, region, service, end):
        key = hmac.digest(key, word.encode(), "sha256")
    text = "\n".join(
        (dialect.algorithm, moment, scope, hashlib.sha256(canonical.encode()).hexdigest())
    )
    return hmac.digest(key, text.encode(), "sha256").hex()

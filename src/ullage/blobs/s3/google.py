"""How Google Cloud Storage is asked to store an object only where none is.

It takes the signature of AWS, and then ignores `If-None-Match: *` on a PUT. Its own condition,
`x-goog-if-generation-match: 0`, it refuses beside headers that begin with `x-amz-`, which that
signature needs. So such a PUT is signed in Google's own way, which has AWS's form and other words.
Source: cloud.google.com/storage/docs, "Request preconditions" and "Signatures".
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from botocore.auth import S3SigV4Auth

_ALGORITHM = "GOOG4-HMAC-SHA256"
_SERVICE, _END = "storage", "goog4_request"
_AMAZON, _GOOGLE = "x-amz-", "x-goog-"
_PAYLOAD = f"{_GOOGLE}content-sha256"


class GoogleAuth(S3SigV4Auth):  # type: ignore[misc] # it has no types
    """Signs one request with an HMAC key; its headers and its condition get Google's names."""

    def _modify_request_before_signing(self, request: Any) -> None:
        super()._modify_request_before_signing(request)
        headers = request.headers
        for name in [name for name in headers if name.lower().startswith(_AMAZON)]:
            value = headers[name]
            del headers[name]
            headers[_GOOGLE + name.lower().removeprefix(_AMAZON)] = value
        if headers.get("If-None-Match") == "*":
            del headers["If-None-Match"]
            headers["x-goog-if-generation-match"] = "0"

    def payload(self, request: Any) -> str:
        """The hash of the body, once for each request."""
        return str(request.headers.get(_PAYLOAD) or super().payload(request))

    def credential_scope(self, request: Any) -> str:
        return "/".join((self._date(request), self._region_name, _SERVICE, _END))

    def scope(self, request: Any) -> str:
        return f"{self.credentials.access_key}/{self.credential_scope(request)}"

    def string_to_sign(self, request: Any, canonical_request: str) -> str:
        hashed = hashlib.sha256(canonical_request.encode()).hexdigest()
        moment = request.context["timestamp"]
        return "\n".join((_ALGORITHM, moment, self.credential_scope(request), hashed))

    def signature(self, string_to_sign: str, request: Any) -> str:
        key = f"GOOG4{self.credentials.secret_key}".encode()
        for word in (self._date(request), self._region_name, _SERVICE, _END):
            key = hmac.digest(key, word.encode(), "sha256")
        return hmac.digest(key, string_to_sign.encode(), "sha256").hex()

    def _inject_signature_to_request(self, request: Any, signature: str) -> Any:
        names = self.signed_headers(self.headers_to_sign(request))
        request.headers["Authorization"] = (
            f"{_ALGORITHM} Credential={self.scope(request)}, SignedHeaders={names}, "
            f"Signature={signature}"
        )
        return request

    def _date(self, request: Any) -> str:
        return str(request.context["timestamp"][:8])

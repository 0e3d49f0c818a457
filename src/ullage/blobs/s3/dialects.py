"""What services that speak the protocol of S3 do in their own ways."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

# botocore's name of the way in which google.py signs.
GOOGLE_SIGNATURE = "ullage-goog4"


@dataclass(frozen=True, slots=True)
class Dialect:
    """The ways of one service; the defaults are those of S3 itself.

    `key_variables` name the service's own variables for a key and its secret, which go before
    those of AWS. `rights` has the service's word for each of S3's.
    """

    service: str = "S3"
    region: str | None = None
    key_variables: tuple[str, str] | None = None
    give_keys: str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    check_keys: str = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    check_settings: str = "check AWS_PROFILE and ~/.aws"
    # botocore's name of what signs a PUT of an object, None for what signs all else.
    put_signature: str | None = None
    # Whether it can be asked to complete a multipart upload only where no object is.
    completes_conditionally: bool = True
    rights: Mapping[str, str] = field(default_factory=dict)

    def right(self, name: str) -> str:
        """What this service calls a right of S3."""
        return self.rights.get(name, name)

    def find_keys(self) -> tuple[str, str] | None:
        """The key and the secret of its own variables, None where they are not set.

        Raises ValueError where one of them is missing.
        """
        if self.key_variables is None:
            return None
        key, secret = (os.environ.get(name, "").strip() for name in self.key_variables)
        if bool(key) != bool(secret):
            missing = self.key_variables[0 if secret else 1]
            raise ValueError(f"{missing} is not set")
        return (key, secret) if key else None


AMAZON = Dialect()

# Its XML API, with HMAC keys. Source: docs/design/buckets.md section 6.
GOOGLE = Dialect(
    service="Google Cloud Storage",
    region="auto",
    key_variables=("GCS_HMAC_ACCESS_ID", "GCS_HMAC_SECRET"),
    give_keys="set GCS_HMAC_ACCESS_ID and GCS_HMAC_SECRET to an HMAC key",
    check_keys="check GCS_HMAC_ACCESS_ID and GCS_HMAC_SECRET",
    check_settings="check GCS_HMAC_ACCESS_ID and GCS_HMAC_SECRET",
    put_signature=GOOGLE_SIGNATURE,
    completes_conditionally=False,
    rights={
        "s3:AbortMultipartUpload": "storage.multipartUploads.abort",
        "s3:DeleteObject": "storage.objects.delete",
        "s3:GetBucketVersioning": "storage.buckets.get",
        "s3:GetObject": "storage.objects.get",
        "s3:ListBucket": "storage.objects.list",
        "s3:ListBucketMultipartUploads": "storage.multipartUploads.list",
        "s3:ListMultipartUploadParts": "storage.multipartUploads.listParts",
        "s3:PutObject": "storage.objects.create and storage.multipartUploads.create",
    },
)

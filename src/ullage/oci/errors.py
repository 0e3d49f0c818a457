"""One exception per error code of the registry's API.

The codes are those of distribution-spec, "Error Codes". Where it has none, they are CNCF
distribution's (TAG_INVALID, RANGE_INVALID, PAGINATION_NUMBER_INVALID, UNAVAILABLE), Azure Container
Registry's (TAG_UNKNOWN, REGISTRY_DISALLOWED_OPERATION), or our own (PLAN_*, VALUE_INVALID,
STORAGE_FULL).
How an error travels over HTTP is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SHOWN_CHARACTERS = 100


def shown(text: str) -> str:
    """What a client sent, quoted so that a message or a log line may repeat it: short, ASCII."""
    if len(text) > _SHOWN_CHARACTERS:
        return ascii(text[:_SHOWN_CHARACTERS]) + "..."
    return ascii(text)


class RegistryError(Exception):
    """A request that cannot be granted.

    `code` is the word a client's program looks at, `message` the sentence its user reads, `detail`
    the facts of this one case, as JSON values (az shows it if it is a text). Without a `message`
    the class's own is used. `retry_after`: after so many seconds the same request may be granted;
    None where that is no matter of time, or nobody knows when.
    """

    code: str = "UNKNOWN"
    message: str = "the request cannot be granted"
    retry_after: float | None = None

    def __init__(
        self,
        detail: Mapping[str, object] | Sequence[Mapping[str, object]] | str | None = None,
        message: str | None = None,
        *,
        retry_after: float | None = None,
    ) -> None:
        if message is not None:
            self.message = message
        if retry_after is not None:
            self.retry_after = retry_after
        self.detail = detail
        super().__init__(self.message)


class BlobUnknown(RegistryError):
    code = "BLOB_UNKNOWN"
    message = "the blob is not in this repository"


class BlobUploadInvalid(RegistryError):
    code = "BLOB_UPLOAD_INVALID"
    message = "the blob upload is invalid"


class BlobUploadUnknown(RegistryError):
    code = "BLOB_UPLOAD_UNKNOWN"
    message = "there is no such upload; it may have been finished, cancelled or given up"


class DigestInvalid(RegistryError):
    code = "DIGEST_INVALID"
    message = "the digest is malformed, or the content has another"


class ManifestBlobUnknown(RegistryError):
    code = "MANIFEST_BLOB_UNKNOWN"
    message = "the manifest refers to content that is not in this repository"


class ManifestInvalid(RegistryError):
    code = "MANIFEST_INVALID"
    message = "the manifest is invalid"


class ManifestTooLarge(ManifestInvalid):
    """A manifest of more bytes than are accepted; the same code, as the spec has no other."""

    message = "the manifest is too large"


class ManifestUnknown(RegistryError):
    code = "MANIFEST_UNKNOWN"
    message = "the manifest is not in this repository"


class NameInvalid(RegistryError):
    code = "NAME_INVALID"
    message = "the repository name is invalid"


class NameUnknown(RegistryError):
    code = "NAME_UNKNOWN"
    message = "repository name not known to registry"


class SizeInvalid(RegistryError):
    code = "SIZE_INVALID"
    message = "the content has another length than was announced"


class Unauthorized(RegistryError):
    code = "UNAUTHORIZED"
    message = "authentication is required"


class Denied(RegistryError):
    code = "DENIED"
    message = "access to this resource is denied"


class TagUnknown(RegistryError):
    code = "TAG_UNKNOWN"
    message = "the specified tag does not exist"


class Unsupported(RegistryError):
    code = "UNSUPPORTED"
    message = "the operation is not supported"


class TooManyRequests(RegistryError):
    code = "TOOMANYREQUESTS"
    message = "too many requests; try again later"


class TagInvalid(RegistryError):
    code = "TAG_INVALID"
    message = "the tag is invalid"


class RangeInvalid(RegistryError):
    """The bytes sent do not start where the upload session ends. `offset`: bytes that are in it."""

    code = "RANGE_INVALID"
    message = "the bytes do not continue the upload where it ends"

    def __init__(
        self,
        detail: Mapping[str, object] | None = None,
        message: str | None = None,
        *,
        offset: int,
    ) -> None:
        super().__init__(detail, message)
        self.offset = offset


class PaginationNumberInvalid(RegistryError):
    code = "PAGINATION_NUMBER_INVALID"
    message = "the number of results asked for is invalid"


class OperationDisallowed(RegistryError):
    """A lock, or something that still needs the object, forbids it."""

    code = "REGISTRY_DISALLOWED_OPERATION"
    message = "the operation is not allowed on this object"


class Locked(OperationDisallowed):
    """An attribute forbids it; `detail` is a text that says which one, of what.

    The message is real ACR's (azure.md section 2.1): people search the web for it.
    """

    message = (
        "The operation is disallowed on this registry, repository or image. View troubleshooting "
        "steps at https://aka.ms/acr/faq/"
        "#why-does-my-pull-or-push-request-fail-with-disallowed-operation"
    )


class PlanUnknown(RegistryError):
    code = "PLAN_UNKNOWN"
    message = "there is no such plan; plans are forgotten after an hour"


class PlanInvalid(RegistryError):
    code = "PLAN_INVALID"
    message = "the request for a plan is malformed"


class PlanChanged(RegistryError):
    """What the plan showed is not what would happen now; `detail` has the difference."""

    code = "PLAN_CHANGED"
    message = "the registry has changed since the plan was made"


class PlanRefused(RegistryError):
    """It deletes more than it should without being told so; `detail` names what would allow it."""

    code = "PLAN_REFUSED"
    message = "the plan deletes more than is allowed"


class JobUnknown(RegistryError):
    code = "JOB_UNKNOWN"
    message = "there is no such job; jobs are forgotten a week after they ended"


class OperationUnknown(RegistryError):
    code = "OPERATION_UNKNOWN"
    message = (
        "there is nothing to restore by this id; it was restored, freed, or deleted without soft "
        "delete"
    )


class RestoreConflict(RegistryError):
    """Tags that would come back are taken; `detail` names them and what they point to."""

    code = "RESTORE_CONFLICT"
    message = "a tag that would be restored points to something else by now"


class LockUnknown(RegistryError):
    code = "LOCK_UNKNOWN"
    message = "there is no such lock"


class SourceUnknown(RegistryError):
    code = "SOURCE_UNKNOWN"
    message = "no source of deployments has this name"


class SourceEmpty(RegistryError):
    """A report that names nothing: more often a query that failed than an empty cluster."""

    code = "SOURCE_EMPTY"
    message = "a complete report without any image is taken only if empty_ok says so"


class ValueInvalid(RegistryError):
    """A duration, size or number with more than one meaning, or with none."""

    code = "VALUE_INVALID"
    message = "the value is malformed"


class StorageFull(RegistryError):
    code = "STORAGE_FULL"
    message = "the registry has no space left"


class Unavailable(RegistryError):
    """Not now: busy, or damaged until it is mended."""

    code = "UNAVAILABLE"
    message = "the service is not available at the moment; try again later"

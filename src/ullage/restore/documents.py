"""Documents about deletions that can be taken back: docs/reference/api.md describes them."""

from __future__ import annotations

from ullage.deletion.soft_delete import SoftDelete
from ullage.documents import UNSET, Document, Time, UnsetType


class RepositoryPart(Document, frozen=True):
    """How much of a repository an operation took."""

    repository: str
    manifests: int
    tags: int


class UntaggedTag(Document, frozen=True):
    """A tag that was deleted while its manifest stayed."""

    repository: str
    tag: str
    digest: str


class Operation(Document, frozen=True):
    """A deletion that can be taken back."""

    id: str
    kind: str
    by: str
    target: str | None
    deleted: Time
    until: Time
    manifest_count: int
    tag_count: int
    # Of the layers that it keeps; of those, what freeing it now would give back at once.
    bytes: int
    exclusive_bytes: int
    repositories: list[RepositoryPart]
    # Of one operation only: up to a thousand.
    untagged: list[UntaggedTag] | UnsetType = UNSET


class Operations(Document, frozen=True):
    """Deletions that can be taken back, the last first."""

    operations: list[Operation]


class Freed(Document, frozen=True):
    """What was given up for good."""

    operations: list[str]
    manifest_count: int
    freed_bytes: int


class Restoration(Document, frozen=True):
    """What came back, and the tags that had to make room for it or could not come back."""

    operation: str
    repositories: list[str]
    manifest_count: int
    tag_count: int
    overwritten: list[str]
    # The operation by which these can be put back.
    overwritten_by: str | None
    missing: list[str]


class SoftDeletePolicy(Document, frozen=True, rename="camel"):
    """Whether deletions can be taken back, in the words of `az acr config soft-delete`."""

    status: str
    retention_days: int
    last_updated_time: Time | None


def policy_document(policy: SoftDelete) -> SoftDeletePolicy:
    return SoftDeletePolicy(
        "enabled" if policy.enabled else "disabled",
        policy.days,
        policy.updated_at.isoformat() if policy.updated_at else None,
    )

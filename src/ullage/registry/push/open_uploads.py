"""The upload sessions of all, for administrators: which are open, and ending those of others."""

from __future__ import annotations

from functools import partial

from ullage.database.transaction import Transaction
from ullage.documents import Document, Time
from ullage.oci.errors import BlobUploadUnknown, ValueInvalid
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.push.end_sessions import end_upload
from ullage.registry.queries import uploads
from ullage.registry.queries.uploads import ListedUpload


class UploadDocument(Document, frozen=True):
    """An open upload session; `bytes` of it are stored and count."""

    upload: str
    repository: str
    account: str
    bytes: int
    expires_at: Time


def list_uploads(
    registry: Registry, *, repository: str | None = None, account: str | None = None
) -> list[UploadDocument]:
    """Open sessions by repository and id, or those of one repository or account."""
    return [upload_document(each) for each in _find(registry, repository, account)]


def cancel_uploads(
    registry: Registry,
    caller: Caller,
    *,
    upload: str | None = None,
    repository: str | None = None,
    account: str | None = None,
) -> list[UploadDocument]:
    """End one session, or those of a repository or account, with an audit entry each.

    Their clients are told 404 and begin again. Raises ValueInvalid if nothing says which,
    BlobUploadUnknown if the one that is named is not open.
    """
    if upload is None and repository is None and account is None:
        raise ValueInvalid(message="say which: upload, repository or account")
    ended = []
    for each in _find(registry, repository, account):
        if upload in (None, each.upload.id) and _end(registry, caller, each):
            ended.append(upload_document(each))
    if upload is not None and not ended:
        raise BlobUploadUnknown({"upload": upload[:64]})
    return ended


def _end(registry: Registry, caller: Caller, found: ListedUpload) -> bool:
    def record(tx: Transaction) -> None:
        detail = {"account": found.upload.subject, "bytes": found.upload.offset}
        registry.audit(
            tx,
            caller,
            "upload.cancel",
            repository=RepositoryName(found.repository),
            target=found.upload.id,
            detail=detail,
        )

    return end_upload(registry, found.upload, record=record)


def _find(registry: Registry, repository: str | None, account: str | None) -> list[ListedUpload]:
    found = registry.read(uploads.open_uploads)
    if registry.memory_sessions is not None:
        stored = {each.upload.id for each in found}
        found += [
            ListedUpload(each.upload, each.name, each.expires_at)
            for each in registry.memory_sessions.all()
            if each.upload.id not in stored
        ]
    wanted = partial(_is_of, repository=repository, account=account)
    return sorted(filter(wanted, found), key=lambda each: (each.repository, each.upload.id))


def _is_of(found: ListedUpload, *, repository: str | None, account: str | None) -> bool:
    return repository in (None, found.repository) and account in (None, found.upload.subject)


def upload_document(found: ListedUpload) -> UploadDocument:
    upload = found.upload
    return UploadDocument(
        upload.id, found.repository, upload.subject, upload.offset, found.expires_at.isoformat()
    )

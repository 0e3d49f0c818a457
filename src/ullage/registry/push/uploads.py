"""Bytes into upload sessions, and sessions into blobs. Bytes first (deletion.md section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable

from ullage.blobs.protocol import Append, KeyUnknown
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.errors import BlobUploadUnknown, DigestInvalid, RangeInvalid, Unavailable
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import store_errors
from ullage.registry.push.adopted_upload import AdoptedUpload
from ullage.registry.push.append_session import AppendSession, hash_stored
from ullage.registry.push.end_sessions import forget_memory_session, memory_sessions_of
from ullage.registry.push.prepared import AlreadyDone, Prepared, commit
from ullage.registry.push.sessions import (
    end_unannounced,
    get_upload,
    require_own,
    start_upload,
    ticket_of,
)
from ullage.registry.push.tickets import row_id
from ullage.registry.push.upload_claim import UploadClaim
from ullage.registry.push.whole_blob import prepare_whole
from ullage.registry.queries import finished_uploads
from ullage.registry.queries.content.blobs import StoredBlob, find_blob
from ullage.registry.queries.uploads import Upload


def append_upload(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    start: int | None = None,
    *,
    last: bool = False,
) -> AppendSession:
    """Claim the session for adding bytes to its end; with `last` to turn it into a blob then.

    Raises BlobUploadUnknown; RangeInvalid with the session's offset if the client's bytes `start`
    elsewhere; Unavailable while another request is at work on it; StorageFull.
    """
    claim = _claim(registry, name, upload_id, caller)
    if claim is None:
        # Where claims are kept with the sessions, there is none on a session that is not there.
        get_upload(registry, name, upload_id, caller)
        raise Unavailable(
            {"upload": upload_id},
            "another request is working on this upload; try again",
            retry_after=1,
        )
    try:
        # Read once it is claimed: until then, another request may have moved it on.
        upload = claim.upload or get_upload(registry, name, upload_id, caller)
        require_own(upload, caller)
        if start is not None and start != upload.offset:
            raise RangeInvalid({"upload": upload_id}, offset=upload.offset)
        with store_errors():
            append = _open(registry, upload)
    except KeyUnknown as error:
        claim.release()
        raise BlobUploadUnknown({"upload": upload_id}) from error
    except BaseException:
        claim.release()
        raise
    return AppendSession(registry, name, upload, append, claim, caller, last=last)


def _claim(
    registry: Registry, name: RepositoryName, upload_id: str, caller: Caller
) -> UploadClaim | None:
    """None while another request has the session, and where there is none."""
    ticket = ticket_of(registry, name, upload_id, caller)
    claim = UploadClaim.of_new_row(registry, name, ticket, caller) if ticket is not None else None
    return claim or UploadClaim.take(registry, name, row_id(upload_id))


def _resume(registry: Registry, upload: Upload) -> Append:
    """Go on with a session that has a row, also if a crash came before its first byte."""
    blobs = registry.blobs
    try:
        return blobs.resume(upload.key, upload.offset, upload.state)
    except KeyUnknown:
        if upload.offset or upload.state or blobs.size(upload.key) is not None:
            raise
        return blobs.begin(upload.key)


def _open(registry: Registry, upload: Upload) -> Append:
    """The session's bytes, to add to. Raises KeyUnknown if it has ended, or they are committed."""
    if upload.repository_id is not None:
        return _resume(registry, upload)
    expires_at = registry.now() + registry.limits.upload_idle
    if memory_sessions_of(registry).begin(upload, expires_at):
        return registry.blobs.begin(upload.key)
    try:
        return registry.blobs.resume(upload.key, 0, upload.state)
    except KeyUnknown:
        # An earlier request may have found no room to begin with.
        return _begin_again(registry, upload.key)


def _begin_again(registry: Registry, key: str) -> Append:
    # It may be committed, which `begin` does not look for.
    if registry.blobs.size(key) is not None:
        raise KeyUnknown(key)
    return registry.blobs.begin(key)


def add_to_upload(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    start: int,
    pieces: Iterable[bytes],
) -> Upload:
    """Add bytes to the end of a session, which is at `start`; they are safe when this returns.

    Raises what `append_upload` and `AppendSession` do; the session is then as before.
    """
    session = append_upload(registry, name, upload_id, caller, start)
    for piece in pieces:
        session.write(piece)
    return session.close()


def prepare_blob(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    digest: Digest,
    last: Iterable[bytes] = (),
    start: int | None = None,
) -> Prepared[StoredBlob]:
    """As `finish_upload`, up to where the blob's bytes are safe."""
    ticket = ticket_of(registry, name, upload_id, caller) if not start else None
    if ticket is None:
        return _prepare_stored(registry, name, upload_id, caller, digest, last, start)
    pieces = [*last]

    def otherwise() -> Prepared[StoredBlob]:
        return _prepare_stored(registry, name, upload_id, caller, digest, pieces, start)

    whole = prepare_whole(
        registry, name, ticket, caller, digest, pieces, lambda: commit(registry, otherwise())
    )
    return whole or otherwise()


def _prepare_stored(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    digest: Digest,
    last: Iterable[bytes],
    start: int | None,
) -> Prepared[StoredBlob]:
    """As prepare_blob, of a session that is to be found, or gets a row now."""
    try:
        session = append_upload(registry, name, upload_id, caller, start, last=True)
    except BlobUploadUnknown:
        blob = _finished(registry, name, upload_id, caller, digest)
        return AlreadyDone(blob or _finish_committed(registry, name, upload_id, caller, digest))
    for piece in last:
        session.write(piece)
    return session.prepare(digest)


def finish_upload(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    digest: Digest,
    last: Iterable[bytes] = (),
    start: int | None = None,
) -> StoredBlob:
    """Turn a session into a blob, once `last` is added, which starts at `start` if that is given.

    A client that lost the answer and asks again is told the same once more.
    Raises BlobUploadUnknown, DigestInvalid (the session stays), RangeInvalid, Unavailable,
    StorageFull.
    """
    return commit(registry, prepare_blob(registry, name, upload_id, caller, digest, last, start))


def upload_whole(
    registry: Registry,
    name: RepositoryName,
    caller: Caller,
    digest: Digest,
    pieces: Iterable[bytes],
) -> StoredBlob:
    """Store a whole blob. Raises what `start_upload` and `finish_upload` do; nothing is left then.

    distribution-spec, "Pushing a blob monolithically", with a single POST.
    """
    upload = start_upload(registry, name, caller, digest.algorithm)
    try:
        return finish_upload(registry, name, upload.id, caller, digest, pieces)
    except BaseException:
        end_unannounced(registry, name, upload, caller)
        raise


def _finished(
    registry: Registry, name: RepositoryName, upload_id: str, caller: Caller, digest: Digest
) -> StoredBlob | None:
    def find(tx: Transaction) -> StoredBlob | None:
        if finished_uploads.find_finished(tx, name, row_id(upload_id)) != (caller.subject, digest):
            return None
        return find_blob(tx, name, digest)

    return registry.read(find)


def _finish_committed(
    registry: Registry, name: RepositoryName, upload_id: str, caller: Caller, digest: Digest
) -> StoredBlob:
    """Finish a session whose bytes are safe, but whose row an earlier attempt could not change.

    Raises BlobUploadUnknown if it is not in that state.
    """
    upload = get_upload(registry, name, upload_id, caller)
    claim = UploadClaim.take(registry, name, upload.id)
    if claim is None:
        raise Unavailable(
            {"upload": upload_id}, "another request is finishing this upload", retry_after=1
        )
    try:
        with store_errors():
            size = _commit_again(registry, upload, digest)
        adopted = AdoptedUpload(registry, name, caller, upload, claim.fence, digest, size)
        blob = adopted.write()
        forget_memory_session(registry, upload)
        return blob
    except KeyUnknown as error:
        raise BlobUploadUnknown({"upload": upload_id}) from error
    finally:
        claim.release()


def _commit_again(registry: Registry, upload: Upload, digest: Digest) -> int:
    """See that committed bytes are those of `digest` and durable; how many those are.

    Raises KeyUnknown if they are not committed, DigestInvalid.
    """
    size = registry.blobs.size(upload.key)
    if size is None:
        raise KeyUnknown(upload.key)
    with registry.blobs.open(upload.key, size) as reader:
        found = hash_stored(reader, digest.algorithm, size).digest()
    if found != digest:
        raise DigestInvalid({"expected": digest, "found": found})
    with registry.blobs.resume(upload.key, size, "") as append:
        append.commit()
    return size

"""The upload sessions of all: listed, and ended with an audit entry each, on each database."""

import pytest

from tests.support.registry import ALICE, settle
from ullage.accounts.audit_log import list_audit
from ullage.oci.errors import BlobUploadUnknown, ValueInvalid
from ullage.oci.reference import parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.push.open_uploads import cancel_uploads, list_uploads
from ullage.registry.push.sessions import get_upload, start_upload
from ullage.registry.push.uploads import append_upload

ROOT = Caller(subject="root", address="192.0.2.9", agent="test", request_id="by-root")
BOB = Caller(subject="bob", address="192.0.2.2", agent="test")
APP, WEB = parse_repository_name("team/app"), parse_repository_name("team/web")


def test_sessions_are_found_by_repository_and_account_and_ended(registry: Registry) -> None:
    empty = start_upload(registry, APP, ALICE)
    begun = start_upload(registry, WEB, ALICE)
    session = append_upload(registry, WEB, begun.id, ALICE, start=0)
    session.write(b"12345")
    session.close()
    other = start_upload(registry, WEB, BOB)

    def shown(**wanted: str) -> set[tuple[str, int]]:
        return {(each.upload, each.bytes) for each in list_uploads(registry, **wanted)}

    assert shown() == {(empty.id, 0), (begun.id, 5), (other.id, 0)}
    assert shown(repository="team/web") == {(begun.id, 5), (other.id, 0)}
    assert shown(account="alice") == {(empty.id, 0), (begun.id, 5)}
    assert shown(account="alice", repository="none") == set()
    with pytest.raises(ValueInvalid):
        cancel_uploads(registry, ROOT)
    with pytest.raises(BlobUploadUnknown):
        cancel_uploads(registry, ROOT, upload=other.id, account="alice")
    assert not list_audit(registry, action="upload.cancel")
    ended = cancel_uploads(registry, ROOT, account="alice")
    assert {each.upload for each in ended} == {empty.id, begun.id}
    assert shown() == {(other.id, 0)}
    with pytest.raises(BlobUploadUnknown):
        get_upload(registry, WEB, begun.id, ALICE)
    log = list_audit(registry, action="upload.cancel")
    assert {(each.target, each.subject, each.request_id) for each in log} == {
        (empty.id, "root", "by-root"),
        (begun.id, "root", "by-root"),
    }
    details = [each.detail for each in log if each.target == begun.id]
    assert details == [{"account": "alice", "bytes": 5}]
    assert cancel_uploads(registry, ROOT, account="alice") == []
    settle(registry)

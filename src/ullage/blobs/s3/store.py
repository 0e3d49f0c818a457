"""Objects in a bucket of S3: one for each attempt, written once and never again.

The name of an object is its storage key's; the database alone decides what it is. Nothing is copied
or renamed: an object that is small arrives in one request, a larger one as the parts of a multipart
upload, and `If-None-Match: *` keeps a late request from replacing what is there.
Source: docs/design/buckets.md.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from ullage.blobs.committed import CommittedAppend
from ullage.blobs.protocol import (
    KeyUnknown,
    Leftover,
    NotDeleted,
    StoredObject,
    noted,
    validate_key,
)
from ullage.blobs.s3.append import Filling, S3Append, abort, size_of
from ullage.blobs.s3.bucket import DELETED_AT_ONCE, NOT_FOUND, Bucket
from ullage.blobs.s3.links import Links
from ullage.blobs.s3.listing import list_bucket, size_of_parts
from ullage.blobs.s3.options import S3Options, parse_gs_url, parse_s3_url
from ullage.blobs.s3.places import LABEL, TAILS, key_of_tail, object_place
from ullage.blobs.s3.probe import probe
from ullage.blobs.s3.reader import S3Reader
from ullage.blobs.s3.state import State, parse_state
from ullage.blobs.sending import Senders
from ullage.blobs.service import RequestFailed
from ullage.failpoints import failpoint

# More than any label has.
_LABEL_BYTES = 4096


def open_s3(url: str) -> S3BlobStore:
    """Open `s3://BUCKET/PREFIX?option=value`, and find out whether it can be used.

    Raises ValueError for a URL that is wrong, StoreUnusable where the bucket is.
    """
    return _open(parse_s3_url(url))


def open_gs(url: str) -> S3BlobStore:
    """Open `gs://BUCKET/PREFIX?option=value` of Google Cloud Storage, as `open_s3` does."""
    return _open(parse_gs_url(url))


def _open(options: S3Options) -> S3BlobStore:
    probe(options)
    return S3BlobStore(Bucket(options))


class S3BlobStore:
    """A store in a bucket, or below a prefix of one. Any number of processes may share it."""

    sizes_appends = False

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._senders = Senders("ullage-s3")
        self._filling = Filling()
        self._links = Links(bucket)

    def begin(self, key: str) -> S3Append:
        return self._append(State(validate_key(key), self._bucket.options.part), 0)

    def resume(self, key: str, offset: int, state: str) -> S3Append | CommittedAppend:
        """One without a state has no byte yet, or is committed: which of them, `commit` tells.

        The bucket is looked at where the state says that a commit may have begun.
        """
        validate_key(key)
        if not state:
            if offset < 0:
                raise _no_byte(key, offset)
            return self._committed(key, offset) if offset else self.begin(key)
        found = parse_state(state)
        if found.key != key:
            raise KeyUnknown(key)
        # Bytes of a part cannot be read again, and so none of them be cut off.
        if not found.whole <= offset <= found.size:
            raise _no_byte(key, offset)
        there = self.size(key) if found.committing else None
        if there is None:
            return self._append(found, offset)
        if there != offset:
            raise KeyUnknown(key)
        return self._committed(key, offset)

    def _append(self, state: State, offset: int) -> S3Append:
        return S3Append(self._bucket, self._senders, self._filling, state, offset)

    def _committed(self, key: str, offset: int) -> CommittedAppend:
        return CommittedAppend(key, offset, lambda: self.size(key))

    def open(self, key: str, size: int) -> S3Reader:
        return S3Reader(self._bucket, key, size)

    def delete(self, keys: Iterable[str], states: Iterable[str] = ()) -> None:
        # By place, the key or state that it is deleted for.
        places = {object_place(key): key for key in keys}
        failures: dict[str, OSError] = {}
        for state in filter(None, set(states)):
            named = parse_state(state)
            if named.multipart:
                with noted(failures, [state]):
                    abort(self._bucket, named.key, named.multipart)
            if named.tail:
                places[named.tail] = state
        self._delete(places, failures)
        failpoint("blob.delete.after_unlink")
        if failures:
            raise NotDeleted(failures)

    def leftover(self, before: str, now: str | None) -> Leftover | None:
        if not before:
            return None
        had = parse_state(before)
        has = parse_state(now) if now else State(had.key, had.part)
        # A commit takes the multipart upload with it, and leaves the tail.
        multipart = had.multipart if now is not None and had.multipart != has.multipart else ""
        tail = had.tail if had.tail != has.tail else ""
        if not multipart and not tail:
            return None
        left = State(
            key=had.key,
            part=had.part,
            multipart=multipart,
            etags=had.etags if multipart else (),
            tail=tail,
            tail_size=had.tail_size if tail else 0,
        )
        return Leftover(str(left), left.size)

    def names(self, state: str) -> Collection[str]:
        found = parse_state(state) if state else State("", 0)
        return [place for place in (found.multipart, found.tail) if place]

    def list(self, shard: int | None = None) -> Iterator[StoredObject]:
        return list_bucket(self._bucket, shard)

    def drop(self, found: Iterable[StoredObject]) -> None:
        doomed = [(validate_key(each.key), each) for each in found]
        places: dict[str, str] = {}
        failures: dict[str, OSError] = {}
        for key, each in doomed:
            if each.committed:
                places[object_place(key)] = key
            elif each.place is not None and each.place.startswith(TAILS):
                places[each.place] = key
            elif each.place is not None:
                with noted(failures, [key]):
                    abort(self._bucket, key, each.place)
        self._delete(places, failures)
        if failures:
            raise NotDeleted(failures)

    def link(self, key: str, seconds: int) -> str | None:
        return self._links.link(key, seconds)

    def size(self, key: str, place: str | None = None) -> int | None:
        at = object_place(key)
        if place is None:
            return size_of(self._bucket, at)
        if place.startswith(TAILS):
            return size_of(self._bucket, place) if key_of_tail(place) == key else None
        return size_of_parts(self._bucket, self._bucket.name(at), place)

    def free_bytes(self) -> int | None:
        return None

    def capacity_bytes(self) -> int | None:
        return None

    def probe(self) -> None:
        self.read_label()

    def read_label(self) -> str | None:
        try:
            data = self._bucket.get(LABEL)
        except RequestFailed as error:
            if error.code in NOT_FOUND:
                return None
            raise
        return data[:_LABEL_BYTES].decode("utf-8", "replace").strip()

    def write_label(self, text: str) -> None:
        self._bucket.put(LABEL, f"{text}\n".encode(), replace=True)

    def _delete(self, places: Mapping[str, str], failures: dict[str, OSError]) -> None:
        """Remove objects by their places; the names of what refuses to go are noted."""
        left = iter(sorted(places))
        while some := list(islice(left, DELETED_AT_ONCE)):
            with noted(failures, map(places.__getitem__, some)):
                for place, refusal in self._bucket.delete(some).items():
                    failures[places[place]] = refusal


def _no_byte(key: str, offset: int) -> OSError:
    return OSError(errno.EINVAL, f"the object has no byte {offset}", key)

"""An upload on its way into a bucket: parts in the background, and a tail where it pauses."""

from __future__ import annotations

import errno
import hashlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ullage.blobs.protocol import Buffer, Closing, KeyUnknown
from ullage.blobs.s3.bucket import NOT_FOUND, Bucket
from ullage.blobs.s3.places import new_tail_place, object_place
from ullage.blobs.s3.reader import S3Reader
from ullage.blobs.s3.state import State
from ullage.blobs.sending import PIECES_OF_ONE, Senders
from ullage.blobs.service import RequestFailed
from ullage.failpoints import failpoint

# What all uploads of a store may hold of parts that are being filled, before those with so much of
# one store it as a tail for the time being.
MEMORY_BYTES = 64 * 1024 * 1024
SPILL_BYTES = 256 * 1024
# As most services make an object's ETag of those of its parts.
_OF_PARTS = re.compile(r"[0-9a-f]{32}-[0-9]+")
# Read back at once.
_READ = 1024 * 1024
# How long a service may take to make an object of its parts: those that copy them take minutes.
COMPLETE_SECONDS = 900
# S3's own limit.
MOST_PARTS = 10_000

# An object has been stored under the key; and the multipart upload, or a part of it, is gone.
_THERE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412"})
_GONE = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder"})


class Filling:
    """What the uploads of one store hold in memory of parts that are being filled."""

    def __init__(self) -> None:
        # One at a time: a tail is read back to be stored with what has come since.
        self.spilling = threading.Lock()
        self._lock = threading.Lock()
        self._held = 0

    @property
    def short_of_memory(self) -> bool:
        return self._held > MEMORY_BYTES

    def hold(self, more: int) -> None:
        """Count bytes of parts that are being filled."""
        with self._lock:
            self._held += more


def _send_part(bucket: Bucket, parameters: dict[str, Any]) -> tuple[str, bool]:
    """Send a part: its ETag, and if it arrived.

    Of a multipart upload that is gone it has not. Then that may have been completed by an earlier
    request, and the ETag that the part would have can tell.
    """
    failpoint("s3.part.before_request")
    try:
        etag = str(bucket.call("upload_part", **parameters)["ETag"])
    except RequestFailed as error:
        if error.code not in _GONE:
            raise
        return f'"{hashlib.md5(parameters["Body"], usedforsecurity=False).hexdigest()}"', False
    failpoint("s3.part.after_request")
    return etag, True


def _etag_of(etags: Sequence[str]) -> str | None:
    """The ETag of an object of parts, where theirs are MD5, as of most services; else None."""
    try:
        parts = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
    except ValueError:
        return None
    return f"{hashlib.md5(parts, usedforsecurity=False).hexdigest()}-{len(etags)}"


class S3Append(Closing):
    """Bytes for the end of one object. What was not synced is gone when it is closed."""

    def __init__(
        self, bucket: Bucket, senders: Senders, filling: Filling, state: State, offset: int
    ) -> None:
        """`state.etags` are parts that end at `offset` or before, less than a part before."""
        self._bucket = bucket
        self._senders = senders
        self._filling = filling
        self._key = state.key
        self._state = state
        self.offset = offset
        self._etags = list(state.etags)
        self._sent: deque[Future[tuple[str, bool]]] = deque()
        self._multipart = state.multipart
        # The part that is being filled: what its tail has, unless it was read, and what came since.
        self._unread = offset - state.whole
        self._buffer = bytearray()
        self._tail = (state.tail, state.tail_size)
        # How many bytes of this part the tail begins with, and the tail that no state names.
        self._stored = self._unread
        self._spilled = ""
        self._held = 0
        # What leads back to the bytes that were synced last.
        self._synced = replace(state, committing=False)
        # Whether the multipart upload has ended: then only a commit can make sense of that.
        self._gone = False
        # Whether a state names the multipart upload: then it is not this Append's to abort.
        self._named = bool(state.multipart)
        self._failure: KeyUnknown | OSError | None = None
        self._committed = False
        self._closed = False

    def write(self, data: Buffer) -> None:
        self._refuse_if_over()
        with memoryview(data) as view, view.cast("B") as rest:
            taken = 0
            while taken < rest.nbytes:
                room = self._state.part - self._filled
                piece = rest[taken : taken + room]
                self._buffer += piece
                taken += piece.nbytes
                self.offset += piece.nbytes
                piece.release()
                if self._filled == self._state.part:
                    self._final(self._send)
        self._count()
        # Twice as much each time, so that a part is not stored over and over.
        if self._filling.short_of_memory and len(self._buffer) >= max(SPILL_BYTES, self._unread):
            self._final(self._spill)

    def sync(self) -> str:
        self._refuse_if_over()
        if not self.offset:
            return ""
        self._settle()
        if self._gone:
            raise KeyUnknown(self._key)
        if not self._filled:
            self._tail = ("", 0)
        elif not self._stored == self._filled == self._tail[1]:
            self._store_tail()
        if self._spilled == self._tail[0]:
            self._spilled = ""
        self._drop_spilled()
        tail, self._named = self._tail, True
        self._synced = State(
            key=self._key,
            part=self._state.part,
            multipart=self._multipart,
            etags=tuple(self._etags),
            tail=tail[0],
            tail_size=tail[1],
        )
        return str(self._synced)

    def before_commit(self) -> str | None:
        self._refuse_if_over()
        self._named = True
        return str(replace(self._synced, multipart=self._multipart, committing=True))

    def commit(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on a closed append")
        if self._committed:
            return
        self._refuse_if_failed()
        if self._multipart:
            self._complete()
        else:
            with self._senders.room:
                self._put_whole()
        self._committed = True
        self._drop_spilled()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._buffer = bytearray()
        self._count()
        self._drop_spilled()
        for each in self._sent:
            # A part that arrives after the abort would stay.
            each.exception()
        self._sent.clear()
        if self._multipart and not self._named and not self._committed:
            # No row names it; what cannot be aborted now is found by a comparison.
            with suppress(OSError):
                abort(self._bucket, self._key, self._multipart)

    # --- the part that is being filled ------------------------------------------------------------

    @property
    def _filled(self) -> int:
        return self._unread + len(self._buffer)

    def _load(self) -> None:
        """Have all of the part that is being filled in memory. Raises KeyUnknown."""
        if not self._unread:
            return
        try:
            data = self._bucket.get(self._tail[0])
        except RequestFailed as error:
            if error.code in NOT_FOUND:
                raise KeyUnknown(self._key) from error
            raise
        if len(data) < self._unread:
            raise RequestFailed("ShortTail", f"{self._tail[0]}: {len(data)} bytes are too few")
        self._buffer[:0] = data[: self._unread]
        self._unread = 0

    def _store_tail(self) -> None:
        self._load()
        place = new_tail_place(self._key)
        failpoint("s3.tail.before_request")
        self._bucket.put(place, self._buffer, replace=True)
        failpoint("s3.tail.after_request")
        self._tail = (place, len(self._buffer))
        self._stored = len(self._buffer)

    def _spill(self) -> None:
        """Store what is in memory as a tail, which no state will name."""
        with self._filling.spilling:
            self._store_tail()
            self._buffer = bytearray()
            self._unread = self._stored
        self._count()
        self._drop_spilled()
        self._spilled = self._tail[0]

    def _drop_spilled(self) -> None:
        place, self._spilled = self._spilled, ""
        if place:
            # What cannot be deleted now is found by a comparison.
            with suppress(OSError):
                self._bucket.call("delete_object", Key=self._bucket.name(place))

    def _count(self) -> None:
        more = len(self._buffer) - self._held
        self._held += more
        self._filling.hold(more)

    def _final(self, work: Callable[[], None]) -> None:
        """Do what cannot be done again if it fails: the part may be anywhere then."""
        try:
            work()
        except (KeyUnknown, OSError) as error:
            self._failure = error
            raise

    # --- parts ------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Let the part that is full be sent, once there is room for it."""
        while len(self._sent) >= PIECES_OF_ONE:
            self._settle_one()
        self._sent.append(self._senders.send(self._next_part))
        self._drop_spilled()

    def _next_part(self) -> Callable[[], tuple[str, bool]]:
        """A request to send the part that is being filled; another one begins."""
        number = len(self._etags) + len(self._sent) + 1
        if number > MOST_PARTS:
            most = MOST_PARTS * self._state.part
            raise OSError(errno.EFBIG, f"an object of more than {most} bytes needs a larger part=")
        self._load()
        self._multipart = self._multipart or self._begin_multipart()
        body, self._buffer = self._buffer, bytearray()
        # The next part has none of its bytes in that tail.
        self._tail, self._stored = ("", 0), 0
        parameters = {
            "Key": self._bucket.name(object_place(self._key)),
            "UploadId": self._multipart,
            "PartNumber": number,
            "Body": body,
        }
        return lambda: _send_part(self._bucket, parameters)

    def _begin_multipart(self) -> str:
        answer = self._bucket.call(
            "create_multipart_upload",
            Key=self._bucket.name(object_place(self._key)),
            **self._bucket.written_with(),
        )
        failpoint("s3.multipart.after_request")
        return str(answer["UploadId"])

    def _settle(self) -> None:
        """Wait for what is on its way."""
        while self._sent:
            self._settle_one()

    def _settle_one(self) -> None:
        try:
            etag, arrived = self._sent.popleft().result()
        except OSError as error:
            self._failure = error
            raise
        self._etags.append(etag)
        self._gone = self._gone or not arrived

    # --- the commit -------------------------------------------------------------------------------

    def _put_whole(self) -> None:
        self._load()
        failpoint("s3.commit.before_request")
        try:
            self._bucket.put(object_place(self._key), self._buffer)
        except RequestFailed as error:
            if error.code not in _THERE or not self._is_stored():
                raise self._lost(error) from error
        failpoint("s3.commit.after_request")

    def _is_stored(self) -> bool:
        """Whether an earlier request, whose answer was lost, has stored these very bytes.

        The size would not do: after a request that failed a client may send others.
        """
        try:
            if _head(self._bucket, self._key)["ContentLength"] != self.offset:
                return False
            return self._bucket.get(object_place(self._key)) == self._buffer
        except KeyUnknown:
            return False

    def _complete(self) -> None:
        if self._filled:
            self._send()
        self._settle()
        parts = [
            {"PartNumber": number, "ETag": etag} for number, etag in enumerate(self._etags, start=1)
        ]
        failpoint("s3.commit.before_request")
        try:
            self._ask_to_complete(parts)
            self._wait_until_there()
        except RequestFailed as error:
            if error.code not in _THERE | _GONE | NOT_FOUND or not self._is_completed():
                raise self._lost(error) from error
            # It may have been another one, of which no row knows.
            with suppress(OSError):
                abort(self._bucket, self._key, self._multipart)
        failpoint("s3.commit.after_request")

    def _ask_to_complete(self, parts: Sequence[Mapping[str, Any]]) -> None:
        if self._gone:
            # Some services answer 200 once more, whatever parts are named.
            raise RequestFailed("NoSuchUpload", "the multipart upload has ended")
        condition = {}
        if self._bucket.options.dialect.completes_conditionally:
            condition = {"IfNoneMatch": "*"}
        elif _look(self._bucket, object_place(self._key)) is not None:
            raise RequestFailed("PreconditionFailed", "an object is there")
        self._bucket.call(
            "complete_multipart_upload",
            Key=self._bucket.name(object_place(self._key)),
            UploadId=self._multipart,
            MultipartUpload={"Parts": parts},
            **condition,
        )

    def _wait_until_there(self) -> None:
        """See the object before anybody is told that it is safe.

        Some services answer 200 to a repeated request while the first one is still at work.
        """
        deadline, pause = time.monotonic() + COMPLETE_SECONDS, 0.1
        while not self._is_there():
            if time.monotonic() > deadline:
                raise RequestFailed("NotThere", "it is said to be complete, and is not there yet")
            time.sleep(pause)
            pause = min(2 * pause, 5)

    def _is_there(self) -> bool:
        found = _look(self._bucket, object_place(self._key))
        return found is not None and found["ContentLength"] == self.offset

    def _is_completed(self) -> bool:
        """Whether an earlier request, whose answer was lost, has made an object of these parts.

        Its ETag tells, or its bytes where the service makes no ETag of those of the parts.
        """
        try:
            found = _head(self._bucket, self._key)
            if found["ContentLength"] != self.offset:
                return False
            etag = str(found["ETag"]).strip('"')
            if _OF_PARTS.fullmatch(etag):
                return etag == _etag_of(self._etags)
            return self._reads_back()
        except KeyUnknown:
            return False

    def _reads_back(self) -> bool:
        """Whether the object's bytes have the MD5s of the parts. Raises KeyUnknown."""
        part = self._state.part
        with S3Reader(self._bucket, self._key, self.offset) as reader:
            for number, etag in enumerate(self._etags):
                hasher = hashlib.md5(usedforsecurity=False)
                end = min((number + 1) * part, self.offset)
                for start in range(number * part, end, _READ):
                    hasher.update(reader.read_at(start, min(_READ, end - start)))
                if hasher.hexdigest() != etag.strip('"'):
                    return False
        return True

    def _lost(self, error: RequestFailed) -> Exception:
        """KeyUnknown for an error that says that there is nothing to go on with."""
        if error.code in _THERE | _GONE | NOT_FOUND:
            return KeyUnknown(self._key)
        return error

    # --- what is over -----------------------------------------------------------------------------

    def _refuse_if_over(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on a closed append")
        if self._committed:
            raise KeyUnknown(self._key)
        self._refuse_if_failed()

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            raise OSError(errno.EIO, f"an earlier part failed: {self._failure}", self._key)


def _head(bucket: Bucket, key: str) -> dict[str, Any]:
    """What is said of a committed object. Raises KeyUnknown."""
    found = _look(bucket, object_place(key))
    if found is None:
        raise KeyUnknown(key)
    return found


def size_of(bucket: Bucket, place: str) -> int | None:
    """Bytes of what is stored at a place; None if there is nothing."""
    found = _look(bucket, place)
    return None if found is None else int(found["ContentLength"])


def _look(bucket: Bucket, place: str) -> dict[str, Any] | None:
    try:
        return bucket.call("head_object", Key=bucket.name(place))
    except RequestFailed as error:
        if error.code in NOT_FOUND:
            return None
        raise


def abort(bucket: Bucket, key: str, multipart: str) -> None:
    """Give up a multipart upload and its parts; one that is gone is fine."""
    try:
        bucket.call(
            "abort_multipart_upload", Key=bucket.name(object_place(key)), UploadId=multipart
        )
    except RequestFailed as error:
        if error.code not in NOT_FOUND | {"NoSuchUpload"}:
            raise

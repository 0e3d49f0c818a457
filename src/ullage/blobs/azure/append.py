"""An upload on its way into a container: blocks in the background, a list of them at the end."""

from __future__ import annotations

import errno
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from ullage.blobs.azure.container import NOT_FOUND, THERE, Container
from ullage.blobs.azure.places import object_place
from ullage.blobs.azure.state import State, block_id
from ullage.blobs.protocol import Buffer, Closing, KeyUnknown
from ullage.blobs.sending import PIECES_OF_ONE, Senders
from ullage.blobs.service import RequestFailed
from ullage.failpoints import failpoint

# Bytes of a block; the last one of a request is smaller.
BLOCK = 8 * 2**20
# The service's own limit.
MOST_BLOCKS = 50_000

# A block that the list names is not there.
_GONE = frozenset({"InvalidBlockList"}) | NOT_FOUND


class AzureAppend(Closing):
    """Bytes for the end of one object.

    Its blocks have names of its own. What no state names goes with the commit, or with the key: so
    a request that was stalled takes nothing away from another one that has the upload by now.
    """

    def __init__(self, container: Container, senders: Senders, state: State) -> None:
        self._container = container
        self._senders = senders
        self._key = state.key
        self._place = object_place(state.key)
        self._state = replace(state, committing=False)
        # What leads back to the bytes that were synced last.
        self._synced = self._state
        self.offset = state.size
        self._name = secrets.token_hex(8)
        self._buffer = bytearray()
        self._sent: deque[Future[None]] = deque()
        self._failure: OSError | None = None
        self._committed = False
        self._closed = False

    def write(self, data: Buffer) -> None:
        self._refuse_if_over()
        with memoryview(data) as view, view.cast("B") as rest:
            taken = 0
            while taken < rest.nbytes:
                piece = rest[taken : taken + self._state.block - len(self._buffer)]
                self._buffer += piece
                taken += piece.nbytes
                self.offset += piece.nbytes
                piece.release()
                if len(self._buffer) == self._state.block:
                    self._send()

    def sync(self) -> str:
        self._refuse_if_over()
        if not self.offset:
            return ""
        self._send_all()
        self._synced = self._state
        return str(self._synced)

    def before_commit(self) -> str | None:
        self._refuse_if_over()
        return str(replace(self._synced, committing=True))

    def commit(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on a closed append")
        if self._committed:
            return
        self._refuse_if_failed()
        if self._state.runs or not self._put_whole():
            self._put_list()
        self._committed = True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._buffer = bytearray()
        for each in self._sent:
            each.exception()
        self._sent.clear()

    # --- blocks -----------------------------------------------------------------------------------

    def _send(self) -> None:
        """Let what is in memory be sent as a block, once there is room for it."""
        if self._state.count >= MOST_BLOCKS:
            raise OSError(
                errno.EFBIG, f"an object has no more than {MOST_BLOCKS} blocks", self._key
            )
        while len(self._sent) >= PIECES_OF_ONE:
            self._settle_one()
        self._sent.append(self._senders.send(self._next_block))

    def _next_block(self) -> Callable[[], None]:
        """A request to send what is in memory as a block; another one begins."""
        if self._state.runs and self._state.runs[-1].rest:
            # That run has ended: another one begins.
            self._name = secrets.token_hex(8)
        data, self._buffer = bytes(self._buffer), bytearray()
        self._state = self._state.with_block(self._name, len(data))
        id_ = block_id(self._name, self._state.runs[-1].count - 1)
        return lambda: _put_block(self._container, self._place, id_, data)

    def _send_all(self) -> None:
        """Have all bytes in blocks that have arrived."""
        if self._buffer:
            self._send()
        while self._sent:
            self._settle_one()

    def _settle_one(self) -> None:
        try:
            self._sent.popleft().result()
        except OSError as error:
            self._failure = error
            raise

    # --- the commit -------------------------------------------------------------------------------

    def _put_whole(self) -> bool:
        """Store all in one request; False where blocks of another request are in the way."""
        failpoint("azure.commit.before_request")
        try:
            self._container.put(self._place, bytes(self._buffer))
        except RequestFailed as error:
            if error.code not in THERE:
                raise
            size = committed_size(self._container, self._place)
            if size is None:
                return False
            if not self._is_stored(size):
                raise KeyUnknown(self._key) from error
        failpoint("azure.commit.after_request")
        return True

    def _is_stored(self, size: int) -> bool:
        """Whether an earlier request, whose answer was lost, has stored these very bytes.

        The size would not do: after a request that failed a client may send others.
        """
        if size != self.offset:
            return False
        return not size or self._container.get(self._place, 0, size) == self._buffer

    def _put_list(self) -> None:
        self._send_all()
        ids = self._state.ids
        failpoint("azure.commit.before_request")
        try:
            self._container.put_block_list(self._place, ids)
        except RequestFailed as error:
            if error.code in _GONE or (error.code in THERE and not self._is_made_of(ids)):
                raise KeyUnknown(self._key) from error
            if error.code not in THERE:
                raise
        failpoint("azure.commit.after_request")

    def _is_made_of(self, ids: list[str]) -> bool:
        """Whether the object is made of these blocks: an earlier request's answer was lost."""
        try:
            return [id_ for id_, _ in self._container.blocks(self._place, "committed")] == ids
        except RequestFailed as error:
            if error.code in NOT_FOUND:
                return False
            raise

    # --- what is over -----------------------------------------------------------------------------

    def _refuse_if_over(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on a closed append")
        if self._committed:
            raise KeyUnknown(self._key)
        self._refuse_if_failed()

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            raise OSError(errno.EIO, f"an earlier block failed: {self._failure}", self._key)


def _put_block(container: Container, place: str, id_: str, data: bytes) -> None:
    failpoint("azure.block.before_request")
    container.put_block(place, id_, data)
    failpoint("azure.block.after_request")


def committed_size(container: Container, place: str) -> int | None:
    """Bytes of a committed blob; None if there is none."""
    try:
        return int(container.properties(place).size)
    except RequestFailed as error:
        if error.code in NOT_FOUND:
            return None
        raise


def uncommitted_size(container: Container, place: str) -> int | None:
    """Bytes of blocks that are going to be a blob; None if there are none."""
    try:
        found = container.blocks(place, "uncommitted")
    except RequestFailed as error:
        if error.code in NOT_FOUND:
            return None
        raise
    return sum(size for _, size in found) if found else None


def discard(container: Container, place: str) -> None:
    """Remove blocks that no blob was made of; a blob that was made of them meanwhile stays.

    Deleting by name would take that one along. An empty blob takes the blocks away, only where none
    is, and it goes only if nobody has touched it.
    """
    if uncommitted_size(container, place) is None:
        return
    try:
        etag = container.put_block_list(place, ())
        container.delete_one(place, etag)
    except RequestFailed as error:
        if error.code not in THERE | NOT_FOUND:
            raise

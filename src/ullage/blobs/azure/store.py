"""Objects in a container of Azure Blob Storage: one for each attempt, written once and never again.

The name of a blob is its storage key's; the database alone decides what it is. Nothing is copied or
renamed: a small object arrives in one request, a larger one as blocks, and `If-None-Match: *` keeps
a late request from replacing what is there.
Source: docs/design/azure-storage.md.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from ullage.blobs.azure.append import (
    BLOCK,
    AzureAppend,
    committed_size,
    discard,
    uncommitted_size,
)
from ullage.blobs.azure.container import DELETED_AT_ONCE, NOT_FOUND, Container
from ullage.blobs.azure.links import Links
from ullage.blobs.azure.listing import list_container
from ullage.blobs.azure.options import parse_azure_url
from ullage.blobs.azure.places import LABEL, object_place
from ullage.blobs.azure.probe import open_container
from ullage.blobs.azure.reader import AzureReader
from ullage.blobs.azure.state import State, parse_state
from ullage.blobs.committed import CommittedAppend
from ullage.blobs.protocol import (
    KeyUnknown,
    Leftover,
    NotDeleted,
    StoredObject,
    noted,
    validate_key,
)
from ullage.blobs.sending import Senders
from ullage.blobs.service import RequestFailed
from ullage.failpoints import failpoint

# More than any label has.
_LABEL_BYTES = 4096


def open_azure(url: str) -> AzureBlobStore:
    """Open `az://CONTAINER/PREFIX?account=NAME&option=value`, and find out whether it can be used.

    Raises ValueError for a URL that is wrong, StoreUnusable where the container is.
    """
    return AzureBlobStore(open_container(parse_azure_url(url)))


class AzureBlobStore:
    """A store in a container, or below a prefix of one. Any number of processes may share it."""

    sizes_appends = False

    def __init__(self, container: Container) -> None:
        self._container = container
        self._senders = Senders("ullage-azure")
        self._links = Links(container)

    def begin(self, key: str) -> AzureAppend:
        return self._append(State(validate_key(key), BLOCK))

    def resume(self, key: str, offset: int, state: str) -> AzureAppend | CommittedAppend:
        """One without a state has no byte yet, or is committed: which of them, `commit` tells.

        The container is looked at where the state says that a commit may have begun. Bytes of a
        block cannot be read before that, and so none of them be cut off.
        """
        validate_key(key)
        if not state:
            if offset < 0:
                raise _no_byte(key, offset)
            return self._committed(key, offset) if offset else self.begin(key)
        known = parse_state(state)
        if known.key != key:
            raise KeyUnknown(key)
        kept = known.cut(offset)
        if kept is None:
            raise _no_byte(key, offset)
        there = committed_size(self._container, object_place(key)) if known.committing else None
        if there is None:
            return self._append(kept)
        if there != offset:
            raise KeyUnknown(key)
        return self._committed(key, offset)

    def _append(self, state: State) -> AzureAppend:
        return AzureAppend(self._container, self._senders, state)

    def _committed(self, key: str, offset: int) -> CommittedAppend:
        return CommittedAppend(
            key, offset, lambda: committed_size(self._container, object_place(key))
        )

    def open(self, key: str, size: int) -> AzureReader:
        return AzureReader(self._container, key, size)

    def delete(self, keys: Iterable[str], states: Iterable[str] = ()) -> None:
        """A state names blocks: they go first, for a late commit must not find them."""
        # By place, the key that it is deleted for.
        places = {object_place(key): key for key in keys}
        failures: dict[str, OSError] = {}
        for state in filter(None, set(states)):
            with noted(failures, [state]):
                known = parse_state(state)
                if known.runs:
                    discard(self._container, object_place(known.key))
        self._delete(places, failures)
        failpoint("blob.delete.after_unlink")
        if failures:
            raise NotDeleted(failures)

    def leftover(self, before: str, now: str | None) -> Leftover | None:
        return None

    def names(self, state: str) -> Collection[str]:
        return ()

    def list(self, shard: int | None = None) -> Iterator[StoredObject]:
        return list_container(self._container, shard)

    def drop(self, found: Iterable[StoredObject]) -> None:
        doomed = {object_place(each.key): each for each in found}
        failures: dict[str, OSError] = {}
        for place, each in doomed.items():
            if not each.committed:
                with noted(failures, [each.key]):
                    discard(self._container, place)
        self._delete({at: each.key for at, each in doomed.items() if each.committed}, failures)
        if failures:
            raise NotDeleted(failures)

    def link(self, key: str, seconds: int) -> str | None:
        return self._links.link(key, seconds)

    def size(self, key: str, place: str | None = None) -> int | None:
        where = object_place(key)
        if place is not None:
            return None
        size = committed_size(self._container, where)
        return uncommitted_size(self._container, where) if size is None else size

    def free_bytes(self) -> int | None:
        return None

    def capacity_bytes(self) -> int | None:
        return None

    def probe(self) -> None:
        self.read_label()

    def read_label(self) -> str | None:
        try:
            data = self._container.get(LABEL, 0, _LABEL_BYTES)
        except RequestFailed as error:
            if error.code in NOT_FOUND:
                return None
            raise
        return data.decode("utf-8", "replace").strip()

    def write_label(self, text: str) -> None:
        self._container.put(LABEL, f"{text}\n".encode(), replace=True)

    def _delete(self, places: Mapping[str, str], failures: dict[str, OSError]) -> None:
        """Remove objects by their places; the keys of what refuses to go are noted."""
        left = iter(sorted(places))
        while some := list(islice(left, DELETED_AT_ONCE)):
            with noted(failures, map(places.__getitem__, some)):
                for place, refusal in self._container.delete(some).items():
                    failures[places[place]] = refusal


def _no_byte(key: str, offset: int) -> OSError:
    return OSError(errno.EINVAL, f"the object has no byte {offset}, or no block ends there", key)

"""A database's and a blob store's failures, translated into errors of the protocol."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from ullage.blobs.protocol import StoreFull
from ullage.database.errors import (
    DatabaseBroken,
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFull,
    DatabaseUnreachable,
)
from ullage.oci.errors import StorageFull, Unavailable

log = logging.getLogger(__name__)


SHORT_OF_FILES = "too many files are open; try again"


def is_short_of_files(error: OSError) -> bool:
    """Whether no file could be opened just now: that passes, and nothing is broken."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


class Damaged(Unavailable):
    """The database found its own data malformed."""


class ErrorTranslation:
    """A context that raises what `translate` makes of an error, or the error where that is None."""

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[BaseException], Exception | None]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        translation = None if error is None else self._translate(error)
        if translation is not None:
            raise translation from error


def _of_the_database(error: BaseException) -> Exception | None:
    """The error of the protocol for a failure of the database."""
    if isinstance(error, DatabaseFull):
        return StorageFull(message="no space left for the registry's database")
    if isinstance(error, DatabaseUnreachable):
        return Unavailable(
            message="the registry's database cannot be reached; try again", retry_after=1
        )
    if isinstance(error, DatabaseBusy):
        return Unavailable(message="the registry's database is busy; try again", retry_after=1)
    if isinstance(error, DatabaseDamaged):
        return Damaged(message="the registry's database is damaged; ask its operator")
    if isinstance(error, DatabaseBroken):
        return Unavailable(
            message="the registry's database failed and takes no changes until it is restarted"
        )
    return None


def translated(outcome: Any) -> Any:
    """The outcome; a failure of the database as the error of the protocol."""
    translation = _of_the_database(outcome) if isinstance(outcome, BaseException) else None
    if translation is None:
        return outcome
    translation.__cause__ = outcome
    return translation


def _of_the_store(error: BaseException) -> Exception | None:
    """The error of the protocol for a failure of the blob store."""
    if isinstance(error, StoreFull):
        return StorageFull(message="no space left for blobs")
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EBUSY:
        # The request that claimed it before has not ended yet.
        return Unavailable(
            message="another request is writing this upload; try again", retry_after=1
        )
    if is_short_of_files(error):
        return Unavailable(message=SHORT_OF_FILES, retry_after=1)
    log.error("the blob store failed: %s", error)
    return Unavailable(message="the registry's storage failed; try again", retry_after=1)


_DATABASE, _STORE = ErrorTranslation(_of_the_database), ErrorTranslation(_of_the_store)


def database_errors() -> AbstractContextManager[None]:
    """Raise a database's failures as StorageFull and Unavailable."""
    return _DATABASE


def store_errors() -> AbstractContextManager[None]:
    """Raise a blob store's failures as StorageFull and Unavailable."""
    return _STORE

"""`ullage store copy`, beside the server that owns the data or without one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ullage.blobs.opening import is_made, lasting, lies_within, open_blob_store
from ullage.blobs.protocol import BlobStore, StoreUnusable
from ullage.clock import system_time
from ullage.config.settings import Settings
from ullage.control import ask_control
from ullage.database.migrations.upgrade import Tables
from ullage.oci.errors import RegistryError

if TYPE_CHECKING:
    from ullage.transfer.copy import Tally
    from ullage.transfer.facts import Ask
    from ullage.transfer.switch import Moved

from ullage.wiring.commands import answer_copy, ask_server
from ullage.wiring.opening import (
    OPERATOR,
    CannotStart,
    control_path,
    fresh_key,
    open_registry,
    open_store,
    require_registry,
)


def copy_store(
    settings: Settings, to: str, *, finish: bool = False, looking: bool = False
) -> Iterator[Tally | Moved]:
    """Run `ullage store copy`: says how far it is. Raises CannotStart."""
    from ullage.transfer.copy import CopyFailed

    require_registry(settings)
    try:
        with _only_copy(settings), closing(_copy_store(settings, to, finish, looking)) as running:
            yield from running
    except (CopyFailed, OSError) as error:
        raise CannotStart(f"store copy: {error}") from error
    except RegistryError as error:
        raise CannotStart(f"store copy: {error.message}") from error


def _copy_store(
    settings: Settings, to: str, finish: bool, looking: bool
) -> Generator[Tally | Moved]:
    answered = ask_control(control_path(settings), _WHOSE)
    if answered is not None:
        # Also told so by a server of an older version, which has no answer. Raises ControlError.
        list(answered)
        if finish:
            raise CannotStart(
                "store copy: a server runs on this registry: stop it, and run this again"
            )
        source = open_store(settings)
        ask = partial(ask_server, settings, "store")
        yield from _copy(ask, source, settings, to, looking)
        return
    with open_registry(settings, tables_may=Tables.LEAVE) as (opened, _):
        if finish:
            from ullage.transfer.switch import finish as finish_copy

            target = _open_target(settings, to)
            yield from finish_copy(opened, target, lasting(to), OPERATOR)
            return
        yield from _copy(
            lambda request: next(answer_copy(opened, request)), opened.blobs, settings, to, looking
        )


_WHOSE = {"do": "store", "ask": "whose"}


def _copy(
    ask: Ask, source: BlobStore, settings: Settings, to: str, looking: bool
) -> Iterator[Tally]:
    from ullage.transfer.copy import Copying, prepare_target, require_target
    from ullage.transfer.facts import Facts

    facts = Facts(ask)
    whose = facts.whose()
    if looking and not is_made(to):
        # What is not there is empty, and looking makes nothing.
        target = open_blob_store("memory:")
    else:
        target = _open_target(settings, to)
    if looking:
        require_target(whose, source, target)
    else:
        written = system_time().isoformat(timespec="seconds")
        prepare_target(whose, source, target, fresh_key, written)
    copying = Copying(facts, source, target, looking=looking)
    yield copying.tally
    yield from copying.passes()
    yield copying.tally


def _open_target(settings: Settings, to: str) -> BlobStore:
    """Where the bytes are to go. Raises CannotStart."""
    if to == "memory:":
        raise CannotStart("to: memory: is gone with the command; name a place that stays")
    for inside in ("blobs", "uploads"):
        if lies_within(to, f"{settings.storage_url}/{inside}"):
            raise CannotStart(f"to: {to} is inside the storage of now; name a place beside it")
    try:
        return open_blob_store(to)
    except (StoreUnusable, ValueError) as error:
        raise CannotStart(f"to: {error}") from error


@contextmanager
def _only_copy(settings: Settings) -> Iterator[None]:
    """Let no other copy of this registry run meanwhile. Raises CannotStart."""
    if not settings.data.is_dir():
        # A registry on PostgreSQL, with nothing on this machine.
        yield
        return
    folder = os.open(settings.data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CannotStart("store copy: another one runs on this registry") from None
    finally:
        os.close(folder)

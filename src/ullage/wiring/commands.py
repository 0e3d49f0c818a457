"""Commands on this machine, by the server that owns the data if one runs, else by this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ullage.config.settings import Settings
from ullage.control import ask_control
from ullage.database.migrations.upgrade import Tables
from ullage.database.notifications import WORK, notify
from ullage.oci.errors import RegistryError
from ullage.registry.context import Registry

if TYPE_CHECKING:
    pass

from ullage.wiring.opening import (
    OPERATOR,
    CannotStart,
    control_path,
    open_registry,
    require_registry,
)

log = logging.getLogger(__name__)


@contextmanager
def without_worker(registry: Registry) -> Iterator[Registry]:
    """The registry for a command: what it leaves to be done, the servers are told at its end."""
    woken = threading.Event()
    yield replace(registry, wake=woken.set)
    if not woken.is_set():
        return
    try:
        registry.write(lambda tx: notify(tx, WORK), freeing=True)
    except RegistryError as error:
        log.warning("the servers do what is left in a while: %s", error)


def status_here(registry: Registry) -> dict[str, Any]:
    # Imported where it is asked for.
    from ullage.cleanup.status import status_of
    from ullage.documents import plain

    found: dict[str, Any] = plain(status_of(registry))
    return found


def status(settings: Settings) -> dict[str, Any]:
    """One look at a registry: by the server that owns the data if one runs, else here."""
    answers = ask_control(control_path(settings), {"do": "status"})
    if answers is not None:
        for answer in answers:
            return answer
        raise CannotStart("the server gave no answer")
    require_registry(settings)
    with (
        open_registry(settings, looking=True, tables_may=Tables.LEAVE) as (opened, _),
        without_worker(opened) as registry,
    ):
        return status_here(registry)


def manage(settings: Settings, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run an account command: by the server that owns the data if one runs, else here."""
    answers = ask_control(control_path(settings), {"do": "manage", **request})
    if answers is not None:
        for answer in answers:
            return answer
        raise CannotStart("the server gave no answer")
    require_registry(settings)
    with (
        open_registry(settings, tables_may=Tables.LEAVE) as (opened, _),
        without_worker(opened) as registry,
    ):
        return manage_here(registry, request)


def check(settings: Settings, request: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Run `ullage check`: by the server that owns the data if one runs, else here."""
    answers = ask_control(control_path(settings), {"do": "check", **request})
    if answers is not None:
        yield from answers
        return
    require_registry(settings)
    with (
        open_registry(settings, looking=True, tables_may=Tables.LEAVE) as (opened, _),
        without_worker(opened) as registry,
    ):
        yield from check_here(registry, dict(request))


def ask_server(settings: Settings, what: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the server that owns the data answers to a question about what is to be copied."""
    answers = ask_control(control_path(settings), {"do": what, **request})
    if answers is None:
        raise CannotStart("the server has stopped meanwhile: run this again")
    found, *_ = answers
    return found


# What these import is a megabyte that a server does not need before it is asked.


def manage_here(registry: Registry, request: Mapping[str, Any]) -> dict[str, Any]:
    from ullage.accounts.commands import run_command

    return run_command(registry, OPERATOR, request)


def check_here(registry: Registry, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from ullage.check.check import run_check

    return run_check(registry, request, OPERATOR)


def answer_backup(registry: Registry, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from ullage.backup.lease import answer

    yield answer(registry, request)


def answer_copy(registry: Registry, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from ullage.transfer.facts import answer

    yield answer(registry, request)

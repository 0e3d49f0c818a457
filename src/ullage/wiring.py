"""Settings into a running registry: the one place that sees every room."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ullage.blobs import StoreUnusable, open_blob_store
from ullage.clock import SteadyClock, system_time
from ullage.config import ConfigError, Settings
from ullage.control import ask_control, serve_control
from ullage.metadata.claims import open_claims
from ullage.metadata.database import Database, database_time, open_database
from ullage.metadata.errors import DatabaseUnusable
from ullage.metadata.leases import open_leases
from ullage.server.app import create_app
from ullage.server.listener import AddressUnusable, listen_on, serve
from ullage.services import Limits, Registry
from ullage.services.check import run_check
from ullage.services.reclaim import recover
from ullage.worker import Worker

log = logging.getLogger(__name__)


class CannotStart(Exception):
    """Why the registry cannot start, in one line, and what to change."""


def limits_of(settings: Settings) -> Limits:
    return Limits(
        max_manifest_bytes=settings.max_manifest,
        max_manifest_descriptors=settings.max_descriptors,
        max_page_size=settings.max_page,
        max_name_length=settings.max_name,
        max_uploads=settings.max_uploads,
        min_free_bytes=settings.min_free,
        upload_idle=settings.upload_idle,
        lease=settings.lease,
        read_grace=settings.read_grace,
    )


@contextmanager
def open_registry(settings: Settings) -> Iterator[tuple[Registry, Worker]]:
    """A registry with its worker, not started. Raises CannotStart."""
    os.umask(0o077)
    try:
        db = open_database(settings.database_url, ballast_bytes=settings.ballast)
    except DatabaseUnusable as error:
        raise CannotStart(str(error)) from error
    try:
        registry, worker = _assemble(settings, db)
        try:
            yield registry, worker
        finally:
            # An orderly end, also of a start that failed: no promise is forgotten.
            registry.leases.close(db, registry.now())
    finally:
        db.close()


def _assemble(settings: Settings, db: Database) -> tuple[Registry, Worker]:
    # Several processes agree about time by asking the one database they share.
    clock = SteadyClock(system_time if db.dialect == "sqlite" else lambda: database_time(db))
    try:
        blobs = open_blob_store(settings.storage_url)
    except (StoreUnusable, ValueError) as error:
        raise CannotStart(f"storage: {error}") from error
    worker: Worker
    registry = Registry(
        db=db,
        blobs=blobs,
        leases=open_leases(db, settings.lease, clock()),
        claims=open_claims(db),
        now=clock,
        fresh_key=lambda: secrets.token_hex(16),
        limits=limits_of(settings),
        wake=lambda: worker.wake(),
    )
    worker = Worker(registry, clock)
    return registry, worker


def run_server(settings: Settings, announce: Callable[[str], None]) -> bool:
    """Serve until told to stop. `announce` gets the URL once the registry answers.

    False if requests had to be cut off. Raises CannotStart.
    """
    host = settings.listen.host
    try:
        port = listen_on(host, settings.listen.port)
    except AddressUnusable as error:
        raise CannotStart(str(error)) from error
    with open_registry(settings) as (registry, worker):
        ended = recover(registry)
        if ended:
            log.warning("ended %d uploads that a crash had cut off", ended)
        app = create_app(
            registry,
            threads=settings.threads,
            body_idle_seconds=settings.body_timeout.total_seconds(),
        )
        try:
            control = serve_control(
                control_path(settings), {"check": lambda request: run_check(registry, request)}
            )
        except OSError as error:
            raise CannotStart(f"data: {error}") from error
        worker.start()
        try:
            return serve(
                app,
                host,
                port,
                header_seconds=settings.header_timeout.total_seconds(),
                grace_seconds=settings.shutdown_grace.total_seconds(),
                ready=lambda: announce(f"http://{_host_in_url(host)}:{port}"),
            )
        finally:
            control.close()
            worker.stop()


def check(settings: Settings, request: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Run `ullage check`: by the server that owns the data if one runs, else here."""
    answers = ask_control(control_path(settings), {"do": "check", **request})
    if answers is not None:
        yield from answers
        return
    if not settings.database and not Path(settings.data).exists():
        raise CannotStart(f"there is no registry in {settings.data}; name its folder with --data")
    with open_registry(settings) as (registry, _):
        yield from run_check(registry, dict(request))


def control_path(settings: Settings) -> Path:
    return settings.data / "control.sock"


def _host_in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


__all__ = ["CannotStart", "ConfigError", "check", "open_registry", "run_server"]

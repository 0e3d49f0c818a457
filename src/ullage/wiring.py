"""Settings into a running registry: the one place that sees every room."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ullage import __version__
from ullage.accounts.authenticator import Authenticator
from ullage.accounts.directory import Accounts, StoredAccounts
from ullage.accounts.htpasswd import HtpasswdAccounts, HtpasswdInvalid
from ullage.accounts.users import ensure_admin
from ullage.authorization import ScopeInvalid, parse_pattern
from ullage.blobs.opening import blob_files, is_made, lasting, lies_within, open_blob_store
from ullage.blobs.protocol import BlobStore, StoreUnusable
from ullage.check.store_identity import (
    Places,
    StoreForeign,
    adopt_store,
    require_no_loss,
    require_same,
)
from ullage.cleanup.job.claims import release_jobs
from ullage.clock import SteadyClock, system_time
from ullage.config.settings import Settings
from ullage.control import Handler, ask_control, serve_control
from ullage.database.errors import (
    DatabaseBroken,
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFull,
    DatabaseUnusable,
)
from ullage.database.migrations.upgrade import Tables
from ullage.database.notifications import ACCOUNTS, WORK, Notifications, notify
from ullage.database.opening import migrate as migrate_database
from ullage.database.opening import name_for_people, open_database, sqlite_file
from ullage.database.transaction import Database, database_time
from ullage.deletion.reclaim import recover
from ullage.heartbeat import Heartbeat
from ullage.oci.errors import RegistryError, StorageFull, Unavailable
from ullage.registry.clients import Caller
from ullage.registry.context import Limits, Registry
from ullage.registry.identity import advance, complete_without_blob
from ullage.registry.leases.opening import open_leases
from ullage.registry.push.left_sessions import keep_memory_sessions
from ullage.registry.push.sessions_in_memory import MemorySessions, open_memory_sessions
from ullage.registry.push.tickets import open_tickets
from ullage.registry.queries.identity import own_store
from ullage.registry.queries.upload_claims import open_claims
from ullage.server.app import App, create_app
from ullage.server.http.access_log import RequestLog
from ullage.server.http.redirects import Redirects
from ullage.server.http.send_file import SendFile
from ullage.server.listener.certificate import Tls, TlsUnusable, require_usable
from ullage.server.listener.descriptors import budget, raised_limit
from ullage.server.listener.granian import AddressUnusable, Listener, listen_on, serve
from ullage.server.monitoring.apart import Apart
from ullage.server.monitoring.health import Health
from ullage.tls import Certificates, name_in, self_signed
from ullage.worker import Worker

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ullage.backup.layout import Backup
    from ullage.backup.make import Made, Wishes
    from ullage.backup.make import Tally as BackupTally
    from ullage.backup.put_back import Restored, RestoreWishes
    from ullage.transfer.copy import Tally
    from ullage.transfer.facts import Ask
    from ullage.transfer.switch import Moved

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
        max_account_uploads=settings.max_account_uploads,
        max_repository_uploads=settings.max_repository_uploads,
        min_free_bytes=settings.min_free,
        upload_idle=settings.upload_idle,
        empty_upload_idle=min(settings.upload_idle, Limits.empty_upload_idle),
        lease=settings.lease,
        read_grace=settings.read_grace,
        signed_read=settings.signed_read,
        protect_referrers=settings.protect_referrers,
        sparse_indexes=settings.sparse_indexes,
        max_unknown_percent=settings.unknown_share,
    )


@contextmanager
def open_registry(
    settings: Settings,
    *,
    adopt: bool = False,
    looking: bool = False,
    tables_may: Tables = Tables.UPDATE,
) -> Iterator[tuple[Registry, Worker]]:
    """A registry with its worker, not started. Raises CannotStart.

    `adopt`: the database may take over a store that another one, or another state of it, wrote to.
    `looking`: a damaged database is read as far as it goes.
    """
    os.umask(0o077)
    if tables_may is Tables.LEAVE:
        _require_there(settings)
    else:
        _require_own_folder(settings)
    with _as_cannot_start(settings):
        blobs = _open_store(settings)
        if not adopt:
            _require_database(settings, blobs)
        db = open_database(
            settings.database_url,
            ballast_bytes=settings.ballast,
            read_only_on_damage=settings.read_only_on_damage or looking,
            tables_may=tables_may,
        )
    try:
        with _as_cannot_start(settings):
            registry, worker = _assemble(settings, db, blobs, adopt=adopt)
        try:
            yield registry, worker
        finally:
            _keep_promises(registry)
    finally:
        db.close()


@contextmanager
def _as_cannot_start(settings: Settings) -> Iterator[None]:
    """What goes wrong while a registry starts, in one line. Raises CannotStart."""
    place = name_for_people(settings.database_url)
    try:
        yield
    except (DatabaseUnusable, StoreForeign) as error:
        raise CannotStart(str(error)) from error
    except (DatabaseFull, StorageFull) as error:
        raise CannotStart(
            f"the disk with {place} is full, and the room set aside for that is used up - free a "
            "few MiB on it and start again; then delete images to get more"
        ) from error
    except (DatabaseBusy, DatabaseBroken) as error:
        raise CannotStart(f"the database {place} cannot be used: {error}") from error
    except Unavailable as error:
        why = error.__cause__ or error.message
        raise CannotStart(f"the database {place} cannot be used: {why}") from error


_OTHER_FOLDER = "name another folder with --data, or mend its permissions"
# What a registry has in its data folder: one of these, and it is one of ours.
_OUR_FILES = frozenset(
    {"ullage.db", "blobs", "uploads", "registry-id", "owner.lock", "ballast", "control.sock", "tls"}
)
# What operators put beside it: settings, certificates, accounts; and a disk's own.
_BESIDE = re.compile(r"\..*|lost\+found|.*\.(?:toml|pem|crt|key)|.*htpasswd.*|ballast.*")


# In the data folder while it is made of a backup.
RESTORING = "restoring"


def _require_there(settings: Settings) -> None:
    """A command that only looks makes no folder."""
    if not settings.storage and not settings.data.is_dir():
        raise CannotStart(f"there is no registry in {settings.data}; name its folder with --data")


def _require_own_folder(settings: Settings) -> None:
    """Before anything is made: the data folder is ours, or free, and can be written."""
    data = settings.data
    try:
        names = {path.name for path in data.iterdir()} if data.exists() else set()
    except NotADirectoryError as error:
        raise CannotStart(f"data: {data} is a file - name a folder with --data") from error
    except OSError as error:
        raise CannotStart(f"data: {data}: {error.strerror} - {_OTHER_FOLDER}") from error
    there = next(path for path in (data, *data.parents) if path.exists())
    if not there.is_dir():
        raise CannotStart(f"data: {there} is a file - name a folder with --data")
    if not os.access(there, os.W_OK | os.X_OK):
        raise CannotStart(f"data: {there} cannot be written - {_OTHER_FOLDER}")
    if RESTORING in names:
        raise CannotStart(
            f"data: a restore into {data} was cut off - empty that folder, and run `ullage "
            "restore-backup` again"
        )
    others = sorted(name for name in names if not _BESIDE.fullmatch(name))
    if others and not names & _OUR_FILES:
        raise CannotStart(
            f"data: {data} holds files of another program ({', '.join(others[:3])}) - name a new "
            "or an empty folder with --data"
        )


def _open_store(settings: Settings) -> BlobStore:
    try:
        return open_blob_store(settings.storage_url)
    except (StoreUnusable, ValueError) as error:
        if settings.storage:
            hint = "" if " - " in str(error) else " - name another place with --storage"
            raise CannotStart(f"storage: {error}{hint}") from error
        raise CannotStart(f"data: {error} - {_OTHER_FOLDER}") from error


def _keep_promises(registry: Registry) -> None:
    """An orderly end, also of a start that failed: no session and no promise is forgotten."""
    if registry.unready is not None:
        return
    try:
        keep_memory_sessions(registry)
        registry.leases.close(registry.db, registry.now())
    except (DatabaseFull, DatabaseBusy, DatabaseBroken, DatabaseUnusable, RegistryError) as error:
        # As after a crash: what was promised stays for an hour.
        log.warning("promises to pushers could not be saved: %s", error)


def _places(settings: Settings) -> Places:
    storage = settings.storage or str(settings.data)
    return Places(name_for_people(settings.database_url), storage)


def _require_database(settings: Settings, blobs: BlobStore) -> None:
    """Make no new database for a store that is full: the right one may only be somewhere else."""
    file = sqlite_file(settings.database_url)
    if file is not None and not (file.exists() and file.stat().st_size):
        require_no_loss(blobs, _places(settings), missing=not file.exists())


def _assemble(
    settings: Settings, db: Database, blobs: BlobStore, *, adopt: bool
) -> tuple[Registry, Worker]:
    # Several processes agree about time by asking the one database they share.
    clock = SteadyClock(system_time if db.dialect == "sqlite" else lambda: database_time(db))
    try:
        require_same(db, blobs, _places(settings))
        taking_over = adopt and db.log_missing
    except StoreForeign:
        if not adopt:
            raise
        taking_over = True
    except DatabaseDamaged as error:
        # It is only read, so nothing can be erased.
        log.error("whose storage it is cannot be told: %s", error)
        taking_over = False
    if taking_over:
        adopt_store(db, blobs, clock(), _fresh_key)
    if db.log_missing and db.damage is None:
        _do_without_log(settings, db, blobs)
    process = secrets.token_hex(8) if db.dialect == "postgresql" else None
    worker: Worker
    registry = Registry(
        db=db,
        blobs=blobs,
        leases=open_leases(db, settings.lease, clock()),
        claims=open_claims(db, process),
        memory_sessions=open_memory_sessions(db) or MemorySessions(),
        tickets=open_tickets(db, _fresh_key()),
        now=clock,
        fresh_key=_fresh_key,
        limits=limits_of(settings),
        wake=lambda: worker.wake(),
        process=process,
    )
    registry.store_mark.store = _own_store(db)
    worker = Worker(registry, clock, scrub_period=settings.scrub)
    return registry, worker


def _own_store(db: Database) -> str:
    try:
        return db.read(own_store).name
    except DatabaseDamaged:
        # It is only read, so no label is written.
        return ""


def _do_without_log(settings: Settings, db: Database, blobs: BlobStore) -> None:
    """Go on although the database was not closed and has no log. Raises CannotStart if it is lost.

    Whatever opens a SQLite file takes its log in. But uploads that have all their bytes and no blob
    say that what was committed last is not in the file. Nothing is written before that is known.
    """
    place = name_for_people(settings.database_url)
    uploads = complete_without_blob(db, blobs)
    if uploads:
        raise CannotStart(
            f"the database {place} was not closed, its log {Path(place).name}-wal is missing, and "
            f"{uploads} uploads that were complete are not in it: what was pushed last is lost "
            "with the log - put that file back, or a backup of the database in its place, or "
            "start once with --adopt-store, which goes on without it and erases nothing"
        )
    log.warning("%s was not closed and has no log: the last changes may be missing", place)
    db.go_on()


def _fresh_key() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Started:
    """What an operator who starts a registry wants to know."""

    url: str
    # Of the account that was just made; shown this once.
    admin_password: str | None
    # An account that may log in, if accounts are asked for.
    account: str | None
    # What clients have to trust, if the certificate is self-signed.
    authority: Path | None
    # This registry's name in a certificate of the operator's own.
    certified: str | None
    # Where the figures are without credentials, if anywhere.
    metrics: str | None = None


def _recover(registry: Registry) -> int:
    """What a start has to do after a crash; how many uploads it ended."""
    if registry.db.dialect == "sqlite":
        # The process that worked on jobs is gone; no job has to wait until its claim ends.
        release_jobs(registry)
    ended = recover(registry)
    advance(registry)
    return ended


def _make_ready(settings: Settings, registry: Registry) -> str | None:
    """What a start writes; the password of the first account, if it made up one."""
    if registry.unready is not None:
        log.critical("%s: pulls are served as far as it goes, nothing is changed", registry.unready)
        return None
    ended = _recover(registry)
    if ended:
        log.warning("ended %d uploads that a crash had cut off", ended)
    if not settings.auth:
        return None
    file = settings.admin_password_file
    if file is None:
        return ensure_admin(registry, OPERATOR)
    try:
        ensure_admin(registry, OPERATOR, lambda: _password_in(file))
    except RegistryError as error:
        raise CannotStart(f"admin_password_file: {error.message}") from error
    return None


def _password_in(file: Path) -> str:
    """The password in a file, whose last line may end. Raises CannotStart."""
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise CannotStart(f"admin_password_file: {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CannotStart(f"admin_password_file: {file}: {error}") from error


def run_server(
    settings: Settings,
    announce: Callable[[Started], None],
    *,
    adopt: bool = False,
    migrates: bool = True,
) -> bool:
    """Serve until told to stop. `announce` is called once the registry answers.

    False if requests had to be cut off. An older database is refused unless it `migrates` it.
    Raises CannotStart.
    """
    host = settings.listen.host
    tables_may = Tables.UPDATE if migrates else Tables.MAKE
    _require_own_folder(settings)
    tls, authority = _tls(settings)
    if tls is None:
        warn_of_plain_passwords(settings)
    try:
        listening = listen_on(host, settings.listen.port)
    except AddressUnusable as error:
        raise CannotStart(str(error)) from error
    port = listening.getsockname()[1]
    watched = _listening_for_metrics(settings)
    room = budget(raised_limit(), settings.threads)
    with (
        closing(listening),
        closing(watched) if watched else nullcontext(),
        open_registry(settings, adopt=adopt, tables_may=tables_may) as (registry, worker),
        Heartbeat(registry),
    ):
        with _as_cannot_start(settings):
            password = _make_ready(settings, registry)
            authenticator = _authenticator(settings, registry)
        look_again = authenticator.look_again if authenticator else _do_nothing
        notifications = Notifications(
            settings.database_url, {ACCOUNTS: look_again, WORK: worker.wake}
        )
        registry = _waking_others(registry, notifications)
        request_log, health = RequestLog(), Health.of(registry)
        scheme = "https" if tls else "http"
        app = create_app(
            registry,
            authenticator=authenticator,
            external_url=settings.external_url,
            listen_host=host,
            hosts=settings.hosts,
            trusted_proxies=settings.trusted_proxies,
            scheme=scheme,
            threads=room.threads,
            body_idle_seconds=settings.body_timeout.total_seconds(),
            request_log=request_log,
            send_file=_send_file(settings),
            redirects=_redirects(settings),
            ui=settings.ui,
            health=health,
            metrics_repositories=settings.metrics_repositories,
        )
        listener = Listener(
            listening,
            header_seconds=settings.header_timeout.total_seconds(),
            keep_alive_seconds=settings.keep_alive.total_seconds(),
            grace_seconds=settings.shutdown_grace.total_seconds(),
            connections=max(room.connections - (METRICS_CONNECTIONS if watched else 0), 1),
            tls=tls,
        )
        started = Started(
            url=f"{scheme}://{_host_in_url(host)}:{port}",
            admin_password=password,
            account=authenticator.unrestricted_account() if authenticator else None,
            authority=authority,
            certified=name_in(tls.certificate) if tls and not authority else None,
            metrics=_metrics_url(watched),
        )
        try:
            control = serve_control(control_path(settings), _handlers(registry, authenticator))
        except OSError as error:
            raise CannotStart(f"data: {error}") from error
        if registry.unready is None:
            worker.start()
        try:
            with notifications:
                apart = _apart(app, health, watched)
                return serve(app, listener, lambda: announce(started), health.stop, apart)
        except TlsUnusable as error:
            raise CannotStart(str(error)) from error
        finally:
            request_log.flush()
            control.close()
            worker.stop()


# Those that watch are few, and may not be kept out by those that are watched.
METRICS_CONNECTIONS = 16


def _listening_for_metrics(settings: Settings) -> socket.socket | None:
    """The socket of the listener apart, if there is to be one. Raises CannotStart."""
    if settings.metrics is None:
        return None
    try:
        return listen_on(settings.metrics.host, settings.metrics.port, "--metrics")
    except AddressUnusable as error:
        raise CannotStart(str(error)) from error


def _metrics_url(watched: socket.socket | None) -> str | None:
    if watched is None:
        return None
    host, port = watched.getsockname()[:2]
    return f"http://{_host_in_url(host)}:{port}/metrics"


def _apart(
    app: App, health: Health, watched: socket.socket | None
) -> tuple[ASGIApp, Listener] | None:
    """What is served for those that watch, and where."""
    if watched is None:
        return None
    listener = Listener(
        watched, header_seconds=10.0, grace_seconds=1.0, connections=METRICS_CONNECTIONS
    )
    return Apart(health, app.sources), listener


def _do_nothing() -> None:
    """Where there are no accounts, none is remembered."""


def _waking_others(registry: Registry, notifications: Notifications) -> Registry:
    """The registry as requests see it: what they leave to be done, any process's worker may do."""
    wake = registry.wake

    def wake_all() -> None:
        wake()
        notifications.tell(WORK)

    return replace(registry, wake=wake_all)


@contextmanager
def _without_worker(registry: Registry) -> Iterator[Registry]:
    """The registry for a command: what it leaves to be done, the servers are told at its end."""
    woken = threading.Event()
    yield replace(registry, wake=woken.set)
    if not woken.is_set():
        return
    try:
        registry.write(lambda tx: notify(tx, WORK), freeing=True)
    except RegistryError as error:
        log.warning("the servers do what is left in a while: %s", error)


# The person at this machine: the user that may use the data folder.
OPERATOR = Caller(subject="operator", address="local", agent="ullage")


def warn_of_plain_passwords(settings: Settings) -> None:
    """Say so once where accounts of other machines log in without TLS, as far as can be seen."""
    if settings.listen.loopback or not (settings.auth or settings.htpasswd):
        return
    if not (settings.trusted_proxies or settings.external_url.startswith("https:")):
        log.warning(
            "listen: %s without TLS: passwords are readable on the way, unless a proxy in front "
            "speaks TLS. Add --tls, or --tls-cert and --tls-key, or behind a proxy "
            "--trusted-proxies ADDRESS or --external-url https://...",
            settings.listen,
        )


def _redirects(settings: Settings) -> Redirects | None:
    """Which pulls are sent to the store; warns where clients would take their credentials there."""
    if not settings.redirects:
        return None
    store, own = settings.store_host, urlsplit(settings.external_url).hostname
    if own and (store == own or store.endswith(f".{own}")):
        log.warning(
            "storage: clients are sent to %s, which is the registry's own host or below it: many "
            "(docker, containerd) then send the registry's credentials along, and S3 refuses the "
            "request. Give `public` another name, or start with --redirect never",
            store,
        )
    return Redirects(settings.redirect_over, settings.proxy_agents)


def _tls(settings: Settings) -> tuple[Tls | None, Path | None]:
    """What to serve HTTPS with, and what clients have to trust for it. Raises CannotStart."""
    authority = None
    if settings.tls:
        try:
            # Other users may pass through to what they are to trust, and see nothing else. What the
            # umask takes away is given back; a folder that was there is its owner's to open.
            if not settings.data.exists():
                settings.data.mkdir(parents=True)
                settings.data.chmod(0o711)
        except OSError as error:
            where = f"data: {settings.data}: {error.strerror}"
            raise CannotStart(f"{where} - {_OTHER_FOLDER}") from error

        def renew() -> Certificates:
            return self_signed(settings.data / "tls", settings.tls_names, system_time())

        try:
            made = renew()
        except OSError as error:
            raise CannotStart(f"tls: {error}") from error
        tls, authority = Tls(made.certificate, made.key, renew), made.authority
    elif settings.tls_cert is not None and settings.tls_key is not None:
        tls = Tls(settings.tls_cert, settings.tls_key)
    else:
        return None, None
    try:
        # Before anything is made: the password of a first start would be lost.
        require_usable(tls)
    except TlsUnusable as error:
        raise CannotStart(str(error)) from error
    return tls, authority


def _authenticator(settings: Settings, registry: Registry) -> Authenticator | None:
    """What checks the accounts of callers; None where there are no accounts."""
    found_in: Accounts
    if settings.auth:
        found_in = StoredAccounts(registry)
    elif settings.htpasswd is not None:
        try:
            found_in = HtpasswdAccounts(settings.htpasswd)
        except (HtpasswdInvalid, OSError, UnicodeDecodeError) as error:
            raise CannotStart(f"htpasswd: {error}") from error
    else:
        return None
    try:
        patterns = [parse_pattern(pattern) for pattern in settings.anonymous_pull]
    except ScopeInvalid as error:
        raise CannotStart(f"anonymous_pull: {error.message}") from error
    return Authenticator(registry, found_in, anonymous_pull=patterns)


def _send_file(settings: Settings) -> SendFile | None:
    if not settings.send_file:
        return None
    from ullage.blobs.files.paths import blob_path

    return SendFile(settings.send_file, blob_path)


def _handlers(registry: Registry, authenticator: Authenticator | None) -> dict[str, Handler]:
    """What a running server does for commands on the same machine."""

    def manage(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        answer = _manage(registry, request)
        if authenticator is not None:
            authenticator.look_again()
        yield answer

    return {
        "check": lambda request: _check(registry, request),
        "manage": manage,
        "backup": lambda request: _answer_backup(registry, request),
        "store": lambda request: _answer_copy(registry, request),
        "status": lambda request: iter([_status(registry)]),
    }


def _status(registry: Registry) -> dict[str, Any]:
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
        _without_worker(opened) as registry,
    ):
        return _status(registry)


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
        _without_worker(opened) as registry,
    ):
        return _manage(registry, request)


def check(settings: Settings, request: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Run `ullage check`: by the server that owns the data if one runs, else here."""
    answers = ask_control(control_path(settings), {"do": "check", **request})
    if answers is not None:
        yield from answers
        return
    require_registry(settings)
    with (
        open_registry(settings, looking=True, tables_may=Tables.LEAVE) as (opened, _),
        _without_worker(opened) as registry,
    ):
        yield from _check(registry, dict(request))


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
        source = _open_store(settings)
        ask = partial(_asked, settings, "store")
        yield from _copy(ask, source, settings, to, looking)
        return
    with open_registry(settings, tables_may=Tables.LEAVE) as (opened, _):
        if finish:
            from ullage.transfer.switch import finish as finish_copy

            target = _open_target(settings, to)
            yield from finish_copy(opened, target, lasting(to), OPERATOR)
            return
        yield from _copy(
            lambda request: next(_answer_copy(opened, request)), opened.blobs, settings, to, looking
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
        prepare_target(whose, source, target, _fresh_key, written)
    copying = Copying(facts, source, target, looking=looking)
    yield copying.tally
    yield from copying.passes()
    yield copying.tally


def _asked(settings: Settings, what: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the server that owns the data answers to a question about what is to be copied."""
    answers = ask_control(control_path(settings), {"do": what, **request})
    if answers is None:
        raise CannotStart("the server has stopped meanwhile: run this again")
    found, *_ = answers
    return found


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


def back_up(
    settings: Settings, folder: Path, wishes: Wishes, *, with_blobs: bool = False
) -> Iterator[BackupTally | Made]:
    """Run `ullage backup`: says how far it is, then Made. Raises CannotStart.

    `with_blobs`: those of an object store are copied, too.
    """
    from ullage.backup.layout import BackupFailed
    from ullage.transfer.copy import CopyFailed

    require_registry(settings)
    _require_outside(settings, folder)
    files = blob_files(settings.storage_url)
    if wishes.link and files is None:
        raise CannotStart("backup: --link: the registry's blobs are in no folder of this machine")
    if files is None and not with_blobs:
        wishes = replace(wishes, storage=settings.storage_url)
    os.umask(0o077)
    try:
        with closing(_back_up(settings, folder, wishes)) as running:
            yield from running
    except (BackupFailed, CopyFailed, DatabaseUnusable, OSError) as error:
        raise CannotStart(f"backup: {error}") from error
    except RegistryError as error:
        raise CannotStart(f"backup: {error.message}") from error


def _require_outside(settings: Settings, folder: Path) -> None:
    for inside in (f"file:{settings.data}", settings.storage_url):
        if lies_within(f"file:{folder}", inside):
            raise CannotStart(
                f"backup: {folder} is inside the registry's own folder - name one on another disk"
            )


def _back_up(settings: Settings, folder: Path, wishes: Wishes) -> Generator[BackupTally | Made]:
    from ullage.backup.lease import answer
    from ullage.backup.make import Source, back_up
    from ullage.database.frozen import freeze

    def made(ask: Ask, store: BlobStore) -> Iterator[BackupTally | Made]:
        source = Source(store, blob_files(settings.storage_url))
        frozen = partial(freeze, settings.database_url)
        yield from back_up(folder, ask, frozen, source, wishes, system_time(), __version__)

    # Where one process owns the database, it is asked for what it alone may write.
    if sqlite_file(settings.database_url) is not None:
        answers = ask_control(control_path(settings), {"do": "backup", "ask": "whose"})
        if answers is not None:
            # Also told so by a server of an older version, which has no answer.
            list(answers)
            yield from made(partial(_asked, settings, "backup"), _open_store(settings))
            return
    with (
        open_registry(settings, tables_may=Tables.LEAVE) as (opened, _),
        _without_worker(opened) as registry,
    ):
        yield from made(partial(answer, registry), opened.blobs)


def restore_backup(
    settings: Settings, backup: Backup, wishes: RestoreWishes
) -> Iterator[BackupTally | Restored]:
    """Run `ullage restore-backup`: says how far it is, then Restored. Raises CannotStart."""
    from ullage.backup.layout import BackupFailed
    from ullage.backup.put_back import put_back

    os.umask(0o077)
    place = settings.data / RESTORING
    in_files = sqlite_file(settings.database_url) is not None
    database = f"sqlite:///{place / 'ullage.db'}" if in_files else settings.database_url

    @contextmanager
    def opened() -> Iterator[Registry]:
        restored = replace(settings, database=database, ballast=0)
        with (
            open_registry(restored, tables_may=Tables.LEAVE) as (registry, _),
            _without_worker(registry) as quiet,
        ):
            yield quiet

    try:
        yield from put_back(
            backup,
            wishes,
            Places(database, settings.storage_url),
            place,
            opened,
            OPERATOR,
            system_time(),
            _fresh_key,
        )
    except (BackupFailed, StoreUnusable, DatabaseUnusable, OSError) as error:
        raise CannotStart(f"restore-backup: {error}") from error
    except (DatabaseFull, DatabaseBusy, DatabaseBroken) as error:
        raise CannotStart(f"restore-backup: the database cannot be written: {error}") from error
    except RegistryError as error:
        raise CannotStart(f"restore-backup: {error.message}") from error


# What these import is a megabyte that a server does not need before it is asked.


def _manage(registry: Registry, request: Mapping[str, Any]) -> dict[str, Any]:
    from ullage.accounts.commands import run_command

    return run_command(registry, OPERATOR, request)


def _check(registry: Registry, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from ullage.check.check import run_check

    return run_check(registry, request, OPERATOR)


def _answer_backup(registry: Registry, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from ullage.backup.lease import answer

    yield answer(registry, request)


def _answer_copy(registry: Registry, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from ullage.transfer.facts import answer

    yield answer(registry, request)


def migrate(settings: Settings) -> tuple[str, str]:
    """Bring the database up to date: the schema that it had, and the one it has."""
    require_registry(settings)
    os.umask(0o077)
    with _as_cannot_start(settings):
        return migrate_database(settings.database_url)


def require_registry(settings: Settings) -> None:
    """Raise CannotStart where no registry was ever made."""
    if not settings.has_registry:
        raise CannotStart(
            settings.unreadable
            or f"there is no registry in {settings.data}; name its folder with --data"
        )


def control_path(settings: Settings) -> Path:
    return settings.data / "control.sock"


def _host_in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host

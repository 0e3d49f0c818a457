"""A registry that serves until it is told to stop."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ullage.accounts.authenticator import Authenticator
from ullage.accounts.directory import Accounts, StoredAccounts
from ullage.accounts.htpasswd import HtpasswdAccounts, HtpasswdInvalid
from ullage.accounts.users import ensure_admin
from ullage.authorization import ScopeInvalid, parse_pattern
from ullage.cleanup.job.claims import release_jobs
from ullage.clock import system_time
from ullage.config.settings import Settings
from ullage.control import Handler, serve_control
from ullage.database.migrations.upgrade import Tables
from ullage.database.notifications import ACCOUNTS, WORK, Notifications
from ullage.deletion.reclaim import recover
from ullage.heartbeat import Heartbeat
from ullage.oci.errors import RegistryError
from ullage.registry.context import Registry
from ullage.registry.identity import advance
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

if TYPE_CHECKING:
    from starlette.types import ASGIApp


from ullage.wiring.commands import (
    answer_backup,
    answer_copy,
    check_here,
    manage_here,
    status_here,
)
from ullage.wiring.opening import (
    OPERATOR,
    OTHER_FOLDER,
    CannotStart,
    as_cannot_start,
    control_path,
    open_registry,
    require_own_folder,
)

log = logging.getLogger(__name__)


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
    require_own_folder(settings)
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
        with as_cannot_start(settings):
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

        def ready() -> None:
            # Not before: it may have much to erase, and a start would wait for it.
            if registry.unready is None:
                worker.start()
            # What is loaded by now stays: no collection of garbage has to look at it again, which
            # would hold up all requests for a twentieth of a second.
            gc.freeze()
            announce(started)

        try:
            with notifications:
                apart = _apart(app, health, watched)
                return serve(app, listener, ready, health.stop, apart)
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
            raise CannotStart(f"{where} - {OTHER_FOLDER}") from error

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
        answer = manage_here(registry, request)
        if authenticator is not None:
            authenticator.look_again()
        yield answer

    return {
        "check": lambda request: check_here(registry, request),
        "manage": manage,
        "backup": lambda request: answer_backup(registry, request),
        "store": lambda request: answer_copy(registry, request),
        "status": lambda request: iter([status_here(registry)]),
    }


def _host_in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host

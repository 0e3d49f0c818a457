"""Settings that make no sense together."""

from __future__ import annotations

from datetime import timedelta

from ullage.config.settings import Settings, without_urls
from ullage.config.values import ConfigError, wrong


def require_sense(settings: Settings) -> None:
    if not settings.listen.loopback and not (settings.auth or settings.htpasswd):
        raise ConfigError(
            f"listen: '{settings.listen}' - without accounts every client of that address can "
            "push and delete. Add --auth (accounts kept by the registry), or --htpasswd FILE "
            "(accounts from a file), or listen on 127.0.0.1"
        )
    if settings.auth and settings.htpasswd:
        raise ConfigError("auth, htpasswd: accounts come from one place; give one of the two")
    if settings.admin_password_file and not settings.auth:
        raise ConfigError("admin_password_file: there is an account admin only with --auth")
    if settings.anonymous_pull and not (settings.auth or settings.htpasswd):
        raise ConfigError(
            "anonymous_pull: has no effect without --auth or --htpasswd, as all may do everything"
        )
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError(
            "tls_cert, tls_key: a certificate needs its key and a key its certificate"
        )
    if settings.tls and settings.tls_cert:
        raise ConfigError("tls, tls_cert: either a certificate of your own or a self-signed one")
    if settings.metrics == settings.listen and settings.listen.port:
        raise ConfigError(
            f"metrics: '{settings.metrics}' - the registry listens there; name another port, or "
            "leave it out: /metrics is there, too, for those who may read all repositories"
        )
    _require_send_file(settings)
    if settings.redirect == "always" and without_urls(settings.storage_url):
        raise ConfigError(
            "redirect: 'always' - only a bucket has URLs for clients, and there is none; name one "
            "with --storage s3://BUCKET, gs://BUCKET or az://CONTAINER, or leave it out"
        )
    counts = (
        *("max_manifest", "max_page", "max_name", "max_descriptors", "threads"),
        *("max_uploads", "max_account_uploads", "max_repository_uploads"),
    )
    for name in counts:
        if getattr(settings, name) < 1:
            raise wrong(name, getattr(settings, name), "at least 1")
    for name in ("upload_idle", "lease", "header_timeout", "keep_alive", "body_timeout"):
        if not getattr(settings, name):
            raise wrong(name, "0s", "more than no time at all")


# From the answer that names a file to the moment when nginx has opened it.
_LEAST_GRACE = timedelta(seconds=1)


def _require_send_file(settings: Settings) -> None:
    if not settings.send_file:
        return
    if not settings.trusted_proxies:
        raise ConfigError(
            "send_file: others than nginx would get no bytes; name it with --trusted-proxies"
        )
    if not settings.storage_url.startswith("file:"):
        raise ConfigError(
            f"send_file, storage: nginx sends files, and {settings.storage} has none; leave out one"
        )
    if settings.read_grace < _LEAST_GRACE:
        raise ConfigError(
            "send_file, read_grace: nginx opens a file after it was told to, so its bytes have to "
            "stay for at least 1s after a deletion"
        )

"""The list of settings: the command line and docs/reference/settings.md come from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ullage.config.values import (
    Listen,
    parse_duration,
    parse_list,
    parse_listen,
    parse_number,
    parse_optional_listen,
    parse_optional_path,
    parse_path,
    parse_protect,
    parse_proxies,
    parse_redirect,
    parse_scrub,
    parse_send_file,
    parse_signed_url,
    parse_size,
    parse_sparse,
    parse_switch,
    parse_text,
    parse_tls,
    parse_url,
)
from ullage.oci.sparse import SparseRules

_KINDS: dict[Callable[[str, str], Any], str] = {
    parse_listen: "ADDRESS:PORT",
    parse_optional_listen: "ADDRESS:PORT",
    parse_path: "FOLDER",
    parse_text: "URL",
    parse_size: "SIZE",
    parse_duration: "DURATION",
    parse_scrub: "DURATION|off",
    parse_number: "NUMBER",
    parse_switch: "true|false",
    parse_list: "NAMES",
    parse_proxies: "NETWORKS",
    parse_send_file: "nginx:LOCATION",
    parse_optional_path: "FILE",
    parse_redirect: "auto|never|always",
    parse_signed_url: "DURATION",
    parse_tls: "self-signed",
    parse_protect: "az|all|none",
    parse_sparse: "deny|platforms|allow",
    parse_url: "URL",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `default` is spelled as a user would."""

    name: str
    default: str
    parse: Callable[[str, str], Any]
    help: str

    @property
    def kind(self) -> str:
        """What its value is, in a word."""
        return _KINDS[self.parse]

    @property
    def switch(self) -> bool:
        """A flag without a value."""
        return self.parse is parse_switch

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "ULLAGE_" + self.name.upper()


SETTINGS = (
    Setting("listen", "127.0.0.1:5000", parse_listen, "Address and port to serve on."),
    Setting("data", "./ullage-data", parse_path, "Folder for the database and the blobs."),
    Setting(
        "database",
        "",
        parse_text,
        "sqlite:///path or postgresql://user@host/name; a SQLite file in the data folder if empty.",
    ),
    Setting(
        "storage",
        "",
        parse_text,
        "Where blobs are kept: file:/path, s3://bucket/prefix, gs://bucket/prefix, "
        "az://container/prefix, or memory: for a trial; the data folder if empty.",
    ),
    Setting("auth", "false", parse_switch, "Ask for accounts; the first start makes `admin`."),
    Setting(
        "admin_password_file",
        "",
        parse_optional_path,
        "Has the password that the first start gives to `admin`, which is not printed then.",
    ),
    Setting("htpasswd", "", parse_optional_path, "Take accounts from this file (htpasswd -B)."),
    Setting(
        "anonymous_pull",
        "",
        parse_list,
        "Repositories to pull without login: names, prefixes such as public/*, or *; with commas.",
    ),
    Setting("tls_cert", "", parse_optional_path, "PEM file with the certificate; serves HTTPS."),
    Setting("tls_key", "", parse_optional_path, "PEM file with the certificate's key."),
    Setting("tls", "", parse_tls, "self-signed: make an authority and a certificate for here."),
    Setting("tls_names", "", parse_list, "More names for the self-signed certificate."),
    Setting("external_url", "", parse_url, "Where clients reach this registry, if by a proxy."),
    Setting(
        "hosts",
        "",
        parse_list,
        "Names that a registry without accounts answers to beside its own; with commas.",
    ),
    Setting(
        "trusted_proxies",
        "",
        parse_proxies,
        "Addresses and networks of proxies that may say which client they ask for; with commas.",
    ),
    Setting(
        "send_file",
        "",
        parse_send_file,
        "nginx:/ullage-files/: nginx in front sends large blobs itself, from its location of that.",
    ),
    Setting(
        "redirect",
        "auto",
        parse_redirect,
        "Send pulls of large blobs to the bucket; auto: of a public cloud, or with `public`.",
    ),
    Setting("redirect_over", "1MiB", parse_size, "Smaller blobs are served by the registry."),
    Setting("signed_url", "5m", parse_signed_url, "A pull has this long to start at the bucket."),
    Setting(
        "proxy_agents",
        "Python-urllib,renovate",
        parse_list,
        "Clients that are never sent to the bucket, by what is in their User-Agent; with commas.",
    ),
    Setting("ui", "true", parse_switch, "Serve the web UI, at /ui/."),
    Setting("max_manifest", "4MiB", parse_size, "Largest manifest that is taken."),
    Setting("max_page", "1000", parse_number, "Most items in one page of a listing."),
    Setting("max_name", "255", parse_number, "Longest repository name, in characters."),
    Setting("max_uploads", "5000", parse_number, "Most upload sessions open at once."),
    Setting("max_account_uploads", "200", parse_number, "Of these, most of one account."),
    Setting("max_repository_uploads", "100", parse_number, "Of these, most in one repository."),
    Setting("max_descriptors", "16384", parse_number, "Most layers or children of one manifest."),
    Setting("upload_idle", "24h", parse_duration, "An idle upload ends after this."),
    Setting("lease", "1h", parse_duration, "How long a blob is kept for the push that needs it."),
    Setting("read_grace", "2s", parse_duration, "From a deletion to the erasing of its bytes."),
    Setting(
        "protect_referrers",
        "az",
        parse_protect,
        "Whose deletions of a living image's signatures, by digest, are refused: az, all or none.",
    ),
    Setting(
        "sparse_indexes",
        "deny",
        parse_sparse,
        "Which parts of a manifest may be absent: deny, platforms, allow; NAME=… for a repository.",
    ),
    Setting("min_free", "8MiB", parse_size, "Uploads are refused when the disk has less room."),
    Setting("unknown_share", "1", parse_number, "Percent of the store a comparison may erase."),
    Setting("scrub", "30d", parse_scrub, "How often each blob is read and hashed, or off."),
    Setting(
        "read_only_on_damage",
        "false",
        parse_switch,
        "Serve pulls from a damaged database instead of refusing to start.",
    ),
    Setting("ballast", "4MiB", parse_size, "Room set aside so that a full disk can still delete."),
    Setting("header_timeout", "10s", parse_duration, "A request's headers must come within this."),
    Setting("keep_alive", "75s", parse_duration, "How long a connection waits for a request."),
    Setting("body_timeout", "60s", parse_duration, "Longest silence inside a request's body."),
    Setting("shutdown_grace", "30s", parse_duration, "Running requests may finish within this."),
    Setting(
        "metrics",
        "",
        parse_optional_listen,
        "Serve /metrics, /livez and /readyz here, too, and without credentials.",
    ),
    Setting(
        "metrics_repositories",
        "0",
        parse_number,
        "So many of the largest repositories have figures of their own.",
    ),
    Setting("threads", "32", parse_number, "Threads for database and disk work."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    listen: Listen
    data: Path
    database: str
    storage: str
    auth: bool
    admin_password_file: Path | None
    htpasswd: Path | None
    anonymous_pull: tuple[str, ...]
    tls_cert: Path | None
    tls_key: Path | None
    tls: str
    tls_names: tuple[str, ...]
    external_url: str
    hosts: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    send_file: str
    redirect: str
    redirect_over: int
    signed_url: timedelta
    proxy_agents: tuple[str, ...]
    ui: bool
    max_manifest: int
    max_page: int
    max_name: int
    max_uploads: int
    max_account_uploads: int
    max_repository_uploads: int
    max_descriptors: int
    upload_idle: timedelta
    lease: timedelta
    read_grace: timedelta
    protect_referrers: str
    sparse_indexes: SparseRules
    min_free: int
    unknown_share: int
    scrub: timedelta | None
    read_only_on_damage: bool
    ballast: int
    header_timeout: timedelta
    keep_alive: timedelta
    body_timeout: timedelta
    shutdown_grace: timedelta
    metrics: Listen | None
    metrics_repositories: int
    threads: int

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data / 'ullage.db'}"

    @property
    def has_registry(self) -> bool:
        """Whether one was made there, or a server runs there; unknown where a database is named."""
        # Not Path.exists: what may not be looked at is not there, either.
        there = (os.path.exists(self.data / name) for name in ("ullage.db", "control.sock"))  # noqa: PTH110
        return bool(self.database) or any(there)

    @property
    def unreadable(self) -> str:
        """Why the data folder cannot be looked into, in one line; "" if it can, or is not there."""
        try:
            (self.data / "ullage.db").stat()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            return f"cannot read {self.data}: {error.strerror}"
        return ""

    @property
    def https(self) -> bool:
        return bool(self.tls or self.tls_cert)

    @property
    def storage_url(self) -> str:
        return self.storage or f"file:{self.data}"

    @property
    def signed_read(self) -> timedelta:
        """How long a signed URL works at most; zero where the store has none.

        Also where no pull is redirected: URLs of before may not have ended.
        """
        return timedelta(0) if without_urls(self.storage_url) else 2 * self.signed_url

    @property
    def redirects(self) -> bool:
        """Whether pulls are sent to the store: `auto` only if clients are known to reach it."""
        if self.redirect == "never" or without_urls(self.storage_url):
            return False
        options = _options_in(self.storage_url)
        return self.redirect == "always" or "public" in options or "endpoint" not in options

    @property
    def store_host(self) -> str:
        """The name that clients are sent to, "" for the public cloud's own."""
        options = _options_in(self.storage_url)
        return urlsplit(options.get("public") or options.get("endpoint", "")).hostname or ""


def without_urls(storage_url: str) -> bool:
    return storage_url.startswith(("file:", "memory:"))


def _options_in(storage_url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(storage_url).query))

"""Settings: from flags, `ULLAGE_*` variables or a TOML file, in that order.

`SETTINGS` is the one list of them; the command line and docs/reference/settings.md come from it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ullage import quantities
from ullage.oci.errors import ValueInvalid
from ullage.oci.sparse import SparseRules, parse_sparse_rules

# Sizes of which no store is, as a limit that is none.
_LARGEST = 2**90
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?")
_NUMBER = re.compile(r"[0-9]{1,12}")
# nginx refuses what could lead out of a location.
_SEND_FILE = re.compile(r"nginx:((?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+/)")
_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.%]+)\]|([^:\s]*)):([0-9]{1,5})")


class ConfigError(Exception):
    """A setting cannot be used. The text names it, its value and what was expected."""


def _wrong(name: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"{name}: {value!r} - expected {expected}")


def parse_size(name: str, text: str) -> int:
    """`512KiB`, `1.5GiB`, `1GB` or plain bytes, as bytes."""
    try:
        return quantities.parse_size(text, _LARGEST)
    except ValueInvalid:
        raise _wrong(name, text, "a size such as 4MiB, 10GB or 65536") from None


def parse_duration(name: str, text: str) -> timedelta:
    """`500ms`, `30s`, `1h30m`, `24h` or `7d`; up to 100 years, so that nothing wraps round."""
    try:
        return quantities.parse_duration(text)
    except ValueInvalid:
        raise _wrong(name, text, "a duration such as 500ms, 30s, 15m, 24h or 7d") from None


def parse_scrub(name: str, text: str) -> timedelta | None:
    """A duration of at least a minute, or `off`."""
    if text == "off":
        return None
    period = parse_duration(name, text)
    if period < timedelta(minutes=1):
        raise _wrong(name, text, "off, or a duration of at least 1m, such as 30d")
    return period


def parse_number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise _wrong(name, text, "a whole number")
    return int(text)


def parse_switch(name: str, text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise _wrong(name, text, "true or false")
    return text == "true"


def parse_list(name: str, text: str) -> tuple[str, ...]:
    """Comma separated words."""
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)


def parse_proxies(name: str, text: str) -> tuple[str, ...]:
    """Comma separated addresses and networks, and `unix:` for peers at a Unix socket."""
    try:
        return tuple(
            word if word == "unix:" else str(ipaddress.ip_network(word))
            for word in parse_list(name, text)
        )
    except ValueError as error:
        expected = f"addresses and networks such as 127.0.0.1,10.0.0.0/8 ({error})"
        raise _wrong(name, text, expected) from None


def parse_send_file(name: str, text: str) -> str:
    """`nginx:/ullage-files/`: the location of nginx's below which the store's folder is."""
    match = _SEND_FILE.fullmatch(text)
    if text and match is None:
        raise _wrong(name, text, "nginx: and a location, such as nginx:/ullage-files/")
    return match[1] if match else ""


def parse_redirect(name: str, text: str) -> str:
    if text not in ("auto", "never", "always"):
        raise _wrong(name, text, "auto, never or always")
    return text


def parse_signed_url(name: str, text: str) -> timedelta:
    """A duration of 1s to 1h: bytes of deletions may have to wait for twice as long."""
    lasts = parse_duration(name, text)
    if not timedelta(seconds=1) <= lasts <= timedelta(hours=1):
        raise _wrong(name, text, "a duration of 1s to 1h, such as 5m")
    return lasts


def parse_optional_path(name: str, text: str) -> Path | None:
    return parse_path(name, text) if text else None


def parse_tls(name: str, text: str) -> str:
    if text not in ("", "self-signed"):
        raise _wrong(name, text, "self-signed")
    return text


def parse_protect(name: str, text: str) -> str:
    if text not in ("az", "all", "none"):
        raise _wrong(name, text, "az, all or none")
    return text


def parse_sparse(name: str, text: str) -> SparseRules:
    try:
        return parse_sparse_rules(text)
    except ValueInvalid:
        expected = "deny, platforms or allow, or with rules as in deny,mirror/*=platforms,app=allow"
        raise _wrong(name, text, expected) from None


def parse_url(name: str, text: str) -> str:
    """`https://registry.example.com`: where clients reach the registry, without a path."""
    if text and not _URL.fullmatch(text):
        raise _wrong(name, text, "a URL without a path, such as https://registry.example.com")
    return text


def parse_text(name: str, text: str) -> str:
    return text


def parse_path(name: str, text: str) -> Path:
    wrong = _wrong(name, text, "a folder, such as ./ullage-data")
    if not text or "\0" in text:
        raise wrong
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # ~name, and there is no such user
        raise wrong from None


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen. Port 0 takes any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_listen(name: str, text: str) -> Listen:
    """`127.0.0.1:5000`, `[::1]:5000`, `:5000` (every address)."""
    match = _LISTEN.fullmatch(text)
    if not match or int(match[3]) > 65535:
        raise _wrong(name, text, "address:port, such as 127.0.0.1:5000 or [::1]:5000")
    host = match[1] or match[2] or "0.0.0.0"  # noqa: S104 - asked for
    return Listen("127.0.0.1" if host == "localhost" else host, int(match[3]))


def parse_optional_listen(name: str, text: str) -> Listen | None:
    return parse_listen(name, text) if text else None


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
        return timedelta(0) if _without_urls(self.storage_url) else 2 * self.signed_url

    @property
    def redirects(self) -> bool:
        """Whether pulls are sent to the store: `auto` only if clients are known to reach it."""
        if self.redirect == "never" or _without_urls(self.storage_url):
            return False
        options = _options_in(self.storage_url)
        return self.redirect == "always" or "public" in options or "endpoint" not in options

    @property
    def store_host(self) -> str:
        """The name that clients are sent to, "" for the public cloud's own."""
        options = _options_in(self.storage_url)
        return urlsplit(options.get("public") or options.get("endpoint", "")).hostname or ""


def _without_urls(storage_url: str) -> bool:
    return storage_url.startswith(("file:", "memory:"))


def _options_in(storage_url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(storage_url).query))


def load_settings(
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    config: Path | None = None,
    *,
    to_serve: bool = True,
) -> Settings:
    """Every setting from the first source that has it. Raises ConfigError.

    `to_serve`: also where together they make no sense.
    """
    chosen = config or (
        Path(environment["ULLAGE_CONFIG"]) if "ULLAGE_CONFIG" in environment else None
    )
    file = _read_file(chosen) if chosen else {}
    _refuse_unknown(environment, file, chosen)
    values = {}
    for setting in SETTINGS:
        flag = flags.get(setting.name)
        if flag is not None:
            values[setting.name] = setting.parse(setting.flag, flag)
        elif setting.variable in environment:
            values[setting.name] = setting.parse(setting.variable, environment[setting.variable])
        elif setting.name in file:
            name = f"{setting.name} in {chosen}"
            values[setting.name] = setting.parse(name, _as_text(name, file[setting.name]))
        else:
            values[setting.name] = setting.parse(setting.name, setting.default)
    settings = Settings(**values)
    if to_serve:
        _require_sense(settings)
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"configuration file {path}: {error.strerror} - name another one with --config"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration file {path}: {error}") from error


# Variables that are no settings: where the file is, and what commands that talk to a server use.
_OTHER_VARIABLES = {
    "ULLAGE_CA_FILE",
    "ULLAGE_CONFIG",
    "ULLAGE_FAILPOINTS",
    "ULLAGE_REGISTRY",
    "ULLAGE_REQUIRE_CLIENTS",
}


def _refuse_unknown(
    environment: Mapping[str, str], file: Mapping[str, Any], path: Path | None
) -> None:
    """A misspelt setting must not be taken for the default."""
    names = {setting.name for setting in SETTINGS}
    for name in file:
        if name not in names:
            raise ConfigError(f"{name} in {path}: no such setting; {_meant(name, names)}")
    known = {setting.variable for setting in SETTINGS} | _OTHER_VARIABLES
    for name in environment:
        if name.startswith("ULLAGE_") and name not in known:
            raise ConfigError(f"{name}: no such setting; {_meant(name, known)}")


def _meant(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else "see docs/reference/settings.md"


def _as_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return ",".join(value)
    if isinstance(value, int):
        return str(value)
    raise _wrong(name, value, "a string or a whole number")


def _require_sense(settings: Settings) -> None:
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
    if settings.redirect == "always" and _without_urls(settings.storage_url):
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
            raise _wrong(name, getattr(settings, name), "at least 1")
    for name in ("upload_idle", "lease", "header_timeout", "keep_alive", "body_timeout"):
        if not getattr(settings, name):
            raise _wrong(name, "0s", "more than no time at all")


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

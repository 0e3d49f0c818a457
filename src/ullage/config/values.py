"""The values of settings as they are written. Each parser raises ConfigError."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

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


def wrong(name: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"{name}: {value!r} - expected {expected}")


def parse_size(name: str, text: str) -> int:
    """`512KiB`, `1.5GiB`, `1GB` or plain bytes, as bytes."""
    try:
        return quantities.parse_size(text, _LARGEST)
    except ValueInvalid:
        raise wrong(name, text, "a size such as 4MiB, 10GB or 65536") from None


def parse_duration(name: str, text: str) -> timedelta:
    """`500ms`, `30s`, `1h30m`, `24h` or `7d`; up to 100 years, so that nothing wraps round."""
    try:
        return quantities.parse_duration(text)
    except ValueInvalid:
        raise wrong(name, text, "a duration such as 500ms, 30s, 15m, 24h or 7d") from None


def parse_scrub(name: str, text: str) -> timedelta | None:
    """A duration of at least a minute, or `off`."""
    if text == "off":
        return None
    period = parse_duration(name, text)
    if period < timedelta(minutes=1):
        raise wrong(name, text, "off, or a duration of at least 1m, such as 30d")
    return period


def parse_number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise wrong(name, text, "a whole number")
    return int(text)


def parse_switch(name: str, text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise wrong(name, text, "true or false")
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
        raise wrong(name, text, expected) from None


def parse_send_file(name: str, text: str) -> str:
    """`nginx:/ullage-files/`: the location of nginx's below which the store's folder is."""
    match = _SEND_FILE.fullmatch(text)
    if text and match is None:
        raise wrong(name, text, "nginx: and a location, such as nginx:/ullage-files/")
    return match[1] if match else ""


def parse_redirect(name: str, text: str) -> str:
    if text not in ("auto", "never", "always"):
        raise wrong(name, text, "auto, never or always")
    return text


def parse_signed_url(name: str, text: str) -> timedelta:
    """A duration of 1s to 1h: bytes of deletions may have to wait for twice as long."""
    lasts = parse_duration(name, text)
    if not timedelta(seconds=1) <= lasts <= timedelta(hours=1):
        raise wrong(name, text, "a duration of 1s to 1h, such as 5m")
    return lasts


def parse_optional_path(name: str, text: str) -> Path | None:
    return parse_path(name, text) if text else None


def parse_tls(name: str, text: str) -> str:
    if text not in ("", "self-signed"):
        raise wrong(name, text, "self-signed")
    return text


def parse_protect(name: str, text: str) -> str:
    if text not in ("az", "all", "none"):
        raise wrong(name, text, "az, all or none")
    return text


def parse_sparse(name: str, text: str) -> SparseRules:
    try:
        return parse_sparse_rules(text)
    except ValueInvalid:
        expected = "deny, platforms or allow, or with rules as in deny,mirror/*=platforms,app=allow"
        raise wrong(name, text, expected) from None


def parse_url(name: str, text: str) -> str:
    """`https://registry.example.com`: where clients reach the registry, without a path."""
    if text and not _URL.fullmatch(text):
        raise wrong(name, text, "a URL without a path, such as https://registry.example.com")
    return text


def parse_text(name: str, text: str) -> str:
    return text


def parse_path(name: str, text: str) -> Path:
    refused = wrong(name, text, "a folder, such as ./ullage-data")
    if not text or "\0" in text:
        raise refused
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # ~name, and there is no such user
        raise refused from None


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
        raise wrong(name, text, "address:port, such as 127.0.0.1:5000 or [::1]:5000")
    host = match[1] or match[2] or "0.0.0.0"  # noqa: S104 - asked for
    return Listen("127.0.0.1" if host == "localhost" else host, int(match[3]))


def parse_optional_listen(name: str, text: str) -> Listen | None:
    return parse_listen(name, text) if text else None

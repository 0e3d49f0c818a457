"""What the URL of a bucket says: `s3://BUCKET/PREFIX?option=value&…`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

MIB = 2**20
# S3's limits of one part; the last part of an upload may be smaller.
PART_MIN, PART_MAX = 5 * MIB, 5 * 1024 * MIB
PART_DEFAULT = 16 * MIB

_OPTIONS = ("endpoint", "public", "region", "path_style", "part", "ca", "sse", "class")
# Bucket naming rules of S3: 3 to 63 of these, a letter or digit at both ends.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_CLASS = re.compile(r"[A-Z][A-Z_]*")
_PART = re.compile(r"([1-9][0-9]{0,5})MiB")
_SECRET = re.compile(r"key|secret|token|password|credential|signature", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a bucket is and how objects are written to it; never a secret.

    `prefix` is without slashes at its ends, empty for the whole bucket. `endpoint` is what the
    server talks to and `public` what clients are sent to, None for the provider's own. `part` is
    in bytes. `sse` is the header's algorithm and `sse_key` the key's name with a key service.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    public: str | None = None
    region: str | None = None
    path_style: bool = False
    part: int = PART_DEFAULT
    ca: str | None = None
    sse: str | None = None
    sse_key: str | None = None
    storage_class: str | None = None


def parse_s3_url(url: str) -> S3Options:
    """Read `s3://BUCKET/PREFIX?option=value`.

    Path style is the default where there is an `endpoint`. Raises ValueError with one line that
    says what to change. The line never repeats a value that may be a secret.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        _refuse("it is not a URL")
    if parts.scheme != "s3":
        _refuse("expected s3://BUCKET/PREFIX")
    if "@" in parts.netloc:
        _refuse("it holds a user or a secret; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if parts.fragment:
        _refuse("it has a part after #")
    if not _BUCKET.fullmatch(parts.netloc):
        _refuse(f"{parts.netloc!r} is not the name of a bucket")
    options = _read_options(parts.query)
    sse, sse_key = _read_sse(options.get("sse"))
    endpoint = _read_server("endpoint", options)
    return S3Options(
        bucket=parts.netloc,
        prefix=_read_prefix(parts.path),
        endpoint=endpoint,
        public=_read_server("public", options),
        region=_read_word("region", _REGION, options),
        path_style=_read_flag("path_style", options, default=endpoint is not None),
        part=_read_part(options.get("part")),
        ca=options.get("ca"),
        sse=sse,
        sse_key=sse_key,
        storage_class=_read_word("class", _CLASS, options),
    )


def _refuse(why: str) -> NoReturn:
    raise ValueError(f"the S3 URL cannot be used: {why}") from None


def _read_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            if _SECRET.search(name):
                _refuse("it holds a secret; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
            _refuse(f"unknown option {name!r}; expected one of {', '.join(_OPTIONS)}")
        if name in options:
            _refuse(f"{name} is given twice")
        if not value:
            _refuse(f"{name} is empty")
        options[name] = value
    return options


def _read_prefix(path: str) -> str:
    prefix = unquote(path).strip("/")
    if prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/"))):
        _refuse(f"{prefix!r} is not a prefix of object names")
    return prefix


def _read_server(name: str, options: dict[str, str]) -> str | None:
    text = options.get(name)
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    else:
        if "@" in parts.netloc:
            _refuse(f"{name} holds a user or a secret")
        usable = usable and parts.path in ("", "/") and not (parts.query or parts.fragment)
    if not usable:
        _refuse(f"{name} is not http://HOST:PORT or https://HOST:PORT")
    return text.rstrip("/")


def _read_word(name: str, form: re.Pattern[str], options: dict[str, str]) -> str | None:
    text = options.get(name)
    if text is not None and not form.fullmatch(text):
        _refuse(f"{text!r} is not a {name}")
    return text


def _read_flag(name: str, options: dict[str, str], *, default: bool) -> bool:
    text = options.get(name)
    if text not in (None, "true", "false"):
        _refuse(f"{name} is true or false, not {text!r}")
    return default if text is None else text == "true"


def _read_part(text: str | None) -> int:
    if text is None:
        return PART_DEFAULT
    found = _PART.fullmatch(text)
    size = int(found[1]) * MIB if found else 0
    if not PART_MIN <= size <= PART_MAX:
        _refuse(f"part is 5MiB to 5120MiB, as in part=16MiB, not {text!r}")
    return size


def _read_sse(text: str | None) -> tuple[str | None, str | None]:
    if text in (None, "AES256", "aws:kms"):
        return text, None
    if text.startswith("aws:kms:") and text != "aws:kms:":
        return "aws:kms", text.removeprefix("aws:kms:")
    _refuse(f"sse is AES256, aws:kms or aws:kms:KEY, not {text!r}")

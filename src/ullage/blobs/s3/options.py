"""What the URL of a bucket says: `s3://BUCKET/PREFIX?option=value&…`, or `gs://…` of Google's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ullage.blobs.cloud_url import CloudUrl, UrlGrammar
from ullage.blobs.s3.dialects import AMAZON, GOOGLE, Dialect

MIB = 2**20
# S3's limits of one part; the last part of an upload may be smaller.
PART_MIN, PART_MAX = 5 * MIB, 5 * 1024 * MIB
PART_DEFAULT = 16 * MIB

_GRAMMAR = UrlGrammar(
    scheme="s3",
    service="S3",
    form="s3://BUCKET/PREFIX",
    place="bucket",
    # Naming rules of S3: 3 to 63 of these, a letter or digit at both ends.
    name=re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
    options=("endpoint", "public", "region", "path_style", "part", "ca", "sse", "class"),
    secrets="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
)
_GOOGLE_GRAMMAR = UrlGrammar(
    scheme="gs",
    service="Google Cloud Storage",
    form="gs://BUCKET/PREFIX",
    place="bucket",
    # Google's rules: longer than of S3 only with dots, and with underscores.
    name=re.compile(r"(?=.{3,63}\Z|.*\.)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"),
    options=("endpoint", "public", "part", "ca"),
    secrets=GOOGLE.give_keys,
)
_GOOGLE_ENDPOINT = "https://storage.googleapis.com"
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_CLASS = re.compile(r"[A-Z][A-Z_]*")
_PART = re.compile(r"([1-9][0-9]{0,5})MiB")


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a bucket is and how objects are written to it; never a secret.

    `prefix` is without slashes at its ends, empty for the whole bucket. `endpoint` is what the
    server talks to and `public` what clients are sent to, None for the provider's own. `part` is
    in bytes. `sse` is the header's algorithm and `sse_key` the key's name with a key service.
    """

    bucket: str
    dialect: Dialect = AMAZON
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
    says what to change.
    """
    found = _GRAMMAR.parse(url)
    sse, sse_key = _read_sse(found)
    endpoint = found.server("endpoint")
    return S3Options(
        bucket=found.name,
        prefix=found.prefix,
        endpoint=endpoint,
        public=found.server("public"),
        region=found.word("region", _REGION),
        path_style=found.flag("path_style", default=endpoint is not None),
        part=_read_part(found),
        ca=found.options.get("ca"),
        sse=sse,
        sse_key=sse_key,
        storage_class=found.word("class", _CLASS),
    )


def parse_gs_url(url: str) -> S3Options:
    """Read `gs://BUCKET/PREFIX?option=value`.

    Raises ValueError with one line that says what to change.
    """
    found = _GOOGLE_GRAMMAR.parse(url)
    return S3Options(
        bucket=found.name,
        dialect=GOOGLE,
        prefix=found.prefix,
        endpoint=found.server("endpoint") or _GOOGLE_ENDPOINT,
        public=found.server("public"),
        path_style=True,
        part=_read_part(found),
        ca=found.options.get("ca"),
    )


def _read_part(url: CloudUrl) -> int:
    text = url.options.get("part")
    if text is None:
        return PART_DEFAULT
    found = _PART.fullmatch(text)
    size = int(found[1]) * MIB if found else 0
    if not PART_MIN <= size <= PART_MAX:
        url.grammar.refuse(f"part is 5MiB to 5120MiB, as in part=16MiB, not {text!r}")
    return size


def _read_sse(url: CloudUrl) -> tuple[str | None, str | None]:
    text = url.options.get("sse")
    if text in (None, "AES256", "aws:kms"):
        return text, None
    if text.startswith("aws:kms:") and text != "aws:kms:":
        return "aws:kms", text.removeprefix("aws:kms:")
    url.grammar.refuse(f"sse is AES256, aws:kms or aws:kms:KEY, not {text!r}")

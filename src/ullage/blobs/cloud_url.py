"""The one grammar of URLs of buckets and containers: `SCHEME://NAME/PREFIX?option=value&…`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_SECRET = re.compile(r"key|secret|token|password|credential|signature|\bsig\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UrlGrammar:
    """What a service's URLs look like.

    `form` is shown where a URL is of another one. `place` is the service's word for what `name` is
    the name of. `secrets` says where credentials belong, since a URL is logged.
    """

    scheme: str
    service: str
    form: str
    place: str
    name: re.Pattern[str]
    options: tuple[str, ...]
    secrets: str

    def parse(self, url: str) -> CloudUrl:
        """Read a URL.

        Raises ValueError with one line that says what to change. The line never repeats a value
        that may be a secret.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            self.refuse("it is not a URL")
        if parts.scheme != self.scheme:
            self.refuse(f"expected {self.form}")
        if "@" in parts.netloc:
            self.refuse(f"it holds a user or a secret; {self.secrets}")
        if parts.fragment:
            self.refuse("it has a part after #")
        if not self.name.fullmatch(parts.netloc):
            self.refuse(f"{parts.netloc!r} is not the name of a {self.place}")
        return CloudUrl(
            self, parts.netloc, self._read_prefix(parts.path), self._read_options(parts.query)
        )

    def refuse(self, why: str) -> NoReturn:
        """Raise the ValueError of a URL that cannot be used."""
        raise ValueError(f"the {self.service} URL cannot be used: {why}") from None

    def _read_prefix(self, path: str) -> str:
        prefix = unquote(path).strip("/")
        if prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/"))):
            self.refuse(f"{prefix!r} is not a prefix of names in a {self.place}")
        return prefix

    def _read_options(self, query: str) -> dict[str, str]:
        options: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in self.options:
                if _SECRET.search(name):
                    self.refuse(f"it holds a secret; {self.secrets}")
                self.refuse(f"unknown option {name!r}; expected one of {', '.join(self.options)}")
            if name in options:
                self.refuse(f"{name} is given twice")
            if not value:
                self.refuse(f"{name} is empty")
            options[name] = value
        return options


@dataclass(frozen=True, slots=True)
class CloudUrl:
    """A URL that was read. `prefix` is without slashes at its ends, empty for everything.

    Its methods read one option each, and raise ValueError as `UrlGrammar.parse` does.
    """

    grammar: UrlGrammar
    name: str
    prefix: str
    options: Mapping[str, str]

    def server(self, option: str, *, path: str = "") -> str | None:
        """An http or https address, without a slash at its end; it may have this one path."""
        text = self.options.get(option)
        if text is None:
            return None
        try:
            parts = urlsplit(text)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        else:
            if "@" in parts.netloc or _SECRET.search(parts.query):
                self.grammar.refuse(f"{option} holds a user or a secret")
            usable = usable and _has_path(parts, path)
        if not usable:
            where = f"/{path}" if path else ""
            self.grammar.refuse(f"{option} is not https://HOST or http://HOST:PORT{where}")
        return text.rstrip("/")

    def word(self, option: str, form: re.Pattern[str]) -> str | None:
        """A value of a given form."""
        text = self.options.get(option)
        if text is not None and not form.fullmatch(text):
            self.grammar.refuse(f"{text!r} is not a {option}")
        return text

    def flag(self, option: str, *, default: bool) -> bool:
        """true or false."""
        text = self.options.get(option)
        if text not in (None, "true", "false"):
            self.grammar.refuse(f"{option} is true or false, not {text!r}")
        return default if text is None else text == "true"


def _has_path(parts: SplitResult, path: str) -> bool:
    return parts.path.strip("/") in ("", path) and not (parts.query or parts.fragment)

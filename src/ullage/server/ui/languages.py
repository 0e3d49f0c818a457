"""The languages of the UI: which one a visitor gets, and the texts of each.

Texts are kept as gettext keeps them, in `locale/NAME.po`, which translators have tools for. They
are read as they are when the first page in a language is viewed, so that nothing is compiled.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "locale"
# The tag that a page says of itself, and the name of its language in that language.
LANGUAGES = {"en": "English", "zh-CN": "中文"}
DEFAULT = "en"


class Message(NamedTuple):
    """An entry of a catalogue: the English text, its plural if it has one, and the translation."""

    text: str
    plural: str
    translation: str
    fuzzy: bool


def chosen(asked: str | None, kept: str | None, accepted: str) -> str:
    """The language of a page: what the address asks for, the cookie keeps, or the browser wants."""
    for text in (asked, kept):
        if text in LANGUAGES:
            return text
    return next(_understood(accepted), DEFAULT)


def _understood(accepted: str) -> Iterator[str]:
    """RFC 9110, section 12.5.4: our languages among those wanted, the most wanted first."""
    wanted = []
    for place, part in enumerate(accepted.split(",")[:20]):
        tag, _, quality = part.strip().partition(";q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            weight = 0.0
        if weight > 0:
            wanted.append((-weight, place, tag.partition("-")[0].lower()))
    for _, _, primary in sorted(wanted):
        for language in LANGUAGES:
            if language.partition("-")[0] == primary:
                yield language


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Translations by English text; of English itself, none."""
    if language == DEFAULT:
        return {}
    path = FOLDER / f"{language}.po"
    read = messages(path.read_text("utf-8"))
    return {message.text: message.translation for message in read if not message.fuzzy}


def messages(source: str) -> Iterator[Message]:
    """The entries of a .po file, without its header."""
    for block in source.split("\n\n"):
        parts: dict[str, str] = {}
        keyword = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            word, _, rest = line.partition(" ")
            if word.startswith("msg"):
                keyword, line = word, rest
                parts[keyword] = ""
            parts[keyword] = parts.get(keyword, "") + str(ast.literal_eval(line))
        if parts.get("msgid"):
            translation = parts.get("msgstr", parts.get("msgstr[0]", ""))
            fuzzy = "#, fuzzy" in block
            yield Message(parts["msgid"], parts.get("msgid_plural", ""), translation, fuzzy)


def translate(language: str, text: str) -> str:
    """A text in a language; in English where there is no translation."""
    return catalogue(language).get(text, text)


def translate_count(language: str, one: str, many: str, number: int) -> str:
    """A text about so many things. Chinese has one form for all numbers."""
    found = catalogue(language).get(one)
    if found is not None:
        return found
    return one if number == 1 else many

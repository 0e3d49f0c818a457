"""English and Chinese: every text has its translation, and a visitor gets the language wanted."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ui.visitors import Visitor, text_of
from ullage.server.ui import languages, rendering
from ullage.server.ui.languages import LANGUAGES, chosen, messages

_PLACES = re.compile(r"%\(\w+\)s|\{\w+\}|<[^>]+>")


def texts() -> Iterator[str]:
    """Every text of the templates, and of the handlers (`visit.text`)."""
    # What the extension adds is not in its type.
    environment: Any = rendering.environment("en")
    for path in rendering.FOLDER.glob("*.html"):
        for _, _, found in environment.extract_translations(path.read_text("utf-8")):
            yield str(found[0] if isinstance(found, tuple) else found)
    for path in rendering.FOLDER.parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                first = node.args[0] if node.args else None
                if node.func.attr == "text" and isinstance(first, ast.Constant):
                    yield str(first.value)


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_every_text_is_translated_and_nothing_else(language: str) -> None:
    path = languages.FOLDER / f"{language}.po"
    known = {each.text: each for each in messages(path.read_text("utf-8"))}
    assert known.keys() == set(texts())
    assert [each.text for each in known.values() if each.fuzzy or not each.translation] == []
    for each in known.values():
        wanted = set(_PLACES.findall(each.text))
        assert set(_PLACES.findall(each.translation)) == wanted, each.text


@pytest.mark.parametrize(
    ("asked", "kept", "accepted", "language"),
    [
        (None, None, "", "en"),
        (None, None, "zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        (None, None, "fr, zh-TW;q=0.5, en;q=0.4", "zh-CN"),
        (None, None, "zh;q=0, en", "en"),
        (None, None, "en;q=x, *", "en"),
        (None, "zh-CN", "en", "zh-CN"),
        ("en", "zh-CN", "zh", "en"),
        ("xx", None, "zh", "zh-CN"),
    ],
)
def test_a_visitor_gets_the_language_that_is_wanted_most(
    asked: str | None, kept: str | None, accepted: str, language: str
) -> None:
    assert chosen(asked, kept, accepted) == language


def test_a_choice_is_kept(visitor: Visitor) -> None:
    page = visitor.get("/ui/jobs?lang=zh-CN")
    assert '<html lang="zh-CN">' in page.text
    assert "作业" in text_of(page)
    assert "存储库" in visitor.get("/ui/").text
    assert '<html lang="en">' in visitor.get("/ui/?lang=en").text
    assert "Set-Cookie" not in visitor.get("/ui/").headers

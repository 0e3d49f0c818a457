"""Finding repositories, tags and manifests by a part of what names them (ui.md section 6, G6)."""

import pytest

from tests.support.registry import push_image
from ullage.authorization import WITHOUT_ACCOUNTS, Action, Grant, Principal
from ullage.registry.context import Registry
from ullage.usage import search as room
from ullage.usage.search import search

READER = Principal("reader", (Grant("team/*", frozenset({Action.METADATA_READ})),))


def stock(registry: Registry) -> str:
    digest = ""
    for name in ("team/web", "team/api", "web"):
        for tag in ("v1", "v10", "web-1"):
            digest = push_image(registry, name, tag, [b"layer", name.encode(), tag.encode()])
    return digest


def found(
    registry: Registry, text: str, who: Principal = WITHOUT_ACCOUNTS, n: int = 50
) -> list[str]:
    """All of it, page by page."""
    keys: list[str] = []
    last = None
    while True:
        page = search(registry, text, who, n, last)
        assert len(page.hits) <= n
        keys += [hit.key for hit in page.hits]
        if page.next is None:
            return keys
        last = page.next


@pytest.mark.parametrize("n", [1, 2, 50])
def test_a_text_finds_names_then_tags_then_manifests(
    registry: Registry, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "READ_TOGETHER", 2)
    digest = stock(registry)
    assert found(registry, "web", n=n) == [
        *("team/web", "web"),
        *("team/api:web-1", "team/web:web-1", "web:web-1"),
    ]
    assert found(registry, "web:v1", n=n) == [
        *("team/web:v1", "team/web:v10", "web:v1", "web:v10"),
    ]
    assert found(registry, digest[:14], n=n) == [f"web@{digest}"]
    assert found(registry, digest[7:14], n=n) == [f"web@{digest}"]
    assert found(registry, "%", n=n) == found(registry, "_eb", n=n) == []
    assert found(registry, "", n=n) == []


def test_only_what_the_caller_may_read_about_is_found(registry: Registry) -> None:
    digest = stock(registry)
    assert found(registry, "web", READER, n=1) == [
        *("team/web", "team/api:web-1", "team/web:web-1"),
    ]
    assert found(registry, digest[7:20], READER) == []

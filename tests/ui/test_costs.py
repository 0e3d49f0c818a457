"""What a page asks of the database: no more because there is more in it (ui.md section 6)."""

from collections.abc import Callable

import pytest

from tests.support.registry import push_image, push_index
from tests.support.statements import listened
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import pull_history
from ullage.server.ui.bill import bill_of, repository_line
from ullage.usage import overview, usage
from ullage.usage.overview import take_overview
from ullage.usage.ranking import Sorting
from ullage.usage.shown_images import image_parts, newest_images, ranked_images
from ullage.usage.usage import by_image

APP = parse_repository_name("app")
PAGES: dict[str, Callable[[Registry], object]] = {
    "space": lambda registry: bill_of(registry, WITHOUT_ACCOUNTS),
    "pulls": lambda registry: pull_history(registry, APP, 60, 50),
    "repository": lambda registry: repository_line(registry, APP),
    "newest images": lambda registry: newest_images(registry, APP, 50, None),
    "ranked images": lambda registry: ranked_images(registry, APP, Sorting.SIZE, 50, None),
    "image": lambda registry: image_parts(registry, APP, parse_tag("v0")),
}


def fill(registry: Registry, start: int, stop: int) -> None:
    """Images with a signature each, and an index over every second one."""
    for number in range(start, stop):
        layers = [b"base", b"%d" % number]
        digest = push_image(registry, "app", f"v{number}", layers)
        push_image(registry, "app", None, [b"signature %d" % number], subject=digest)
        if number % 2:
            push_index(registry, "app", f"multi-{number}", [digest])
        push_image(registry, f"other-{number}", "v1", layers)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_asks_as_much_of_a_large_registry(
    registry: Registry, page: Callable[[Registry], object]
) -> None:
    fill(registry, 0, 4)
    with listened(registry.db) as few:
        page(registry)
    asked = len(few)
    fill(registry, 4, 24)
    with listened(registry.db) as many:
        page(registry)
    assert len(many) == asked
    assert asked < 40


def test_a_large_registry_is_shown_as_it_was_taken_last(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ui.md section 6: without counting it again; and the same, to the byte."""
    fill(registry, 0, 8)
    push_image(registry, "app", None, [b"orphan"])
    counted = bill_of(registry, WITHOUT_ACCOUNTS)
    take_overview(registry)
    monkeypatch.setattr(overview, "SMALL", 0)
    monkeypatch.setattr(usage, "read_parts", lambda tx: pytest.fail("counted"))
    kept = bill_of(registry, WITHOUT_ACCOUNTS)
    assert (kept.lines, kept.totals) == (counted.lines, counted.totals)
    assert any(line.untagged_bytes for line in kept.lines)


def test_a_page_says_of_each_image_what_the_whole_bill_says(registry: Registry) -> None:
    """The images on it, read by themselves, are those of images.py, to the byte."""
    fill(registry, 0, 8)
    whole = {entry.digest: entry for entry in by_image(registry, APP, tags=False)}
    shown = newest_images(registry, APP, 50, None)
    assert {image.details.digest for image in shown.images} == whole.keys()
    for image in shown.images:
        there, here = whole[image.details.digest], image.line
        assert (here.bytes, here.exclusive_bytes) == (there.bytes, there.exclusive_bytes)
        assert here.manifest_count == there.manifest_count

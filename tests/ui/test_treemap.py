"""The map of the disk: areas as the sizes are, nothing outside, nothing over another."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from ullage.server.ui.treemap import Box, squarify

WHOLE = Box(10, 20, 1160, 460)
SIZES = st.lists(st.integers(0, 10**13), max_size=40).map(lambda sizes: sorted(sizes)[::-1])


@given(SIZES)
def test_areas_are_to_each_other_as_the_sizes_are(sizes: list[int]) -> None:
    boxes = squarify(sizes, WHOLE)
    assert len(boxes) == len(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        wanted = size / sum(sizes) * WHOLE.w * WHOLE.h if sum(sizes) else 0
        assert abs(box.w * box.h - wanted) < 0.01


@given(SIZES)
def test_boxes_stay_inside_and_apart(sizes: list[int]) -> None:
    boxes = [box for box in squarify(sizes, WHOLE) if box.w > 0.01 and box.h > 0.01]
    for box in boxes:
        assert WHOLE.x - 0.01 <= box.x <= box.x + box.w <= WHOLE.x + WHOLE.w + 0.01
        assert WHOLE.y - 0.01 <= box.y <= box.y + box.h <= WHOLE.y + WHOLE.h + 0.01
    for one, other in combinations(boxes, 2):
        apart_x = min(one.x + one.w, other.x + other.w) - max(one.x, other.x)
        apart_y = min(one.y + one.h, other.y + other.h) - max(one.y, other.y)
        assert apart_x < 0.01 or apart_y < 0.01


def test_equal_sizes_are_nearly_square() -> None:
    for box in squarify([1.0] * 12, Box(0, 0, 400, 300)):
        assert 0.5 <= box.w / box.h <= 2


def test_nothing_fits_into_nothing() -> None:
    assert squarify([3, 1], Box(0, 0, 0, 10)) == [Box(0, 0, 0, 0)] * 2
    assert squarify([], WHOLE) == []

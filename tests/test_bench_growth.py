"""What the benchmarks stand on: the client over TLS, registries of a size, figures and pictures."""

import json
from pathlib import Path

import pytest

from bench.connection import Connection
from bench.curves import Curve, Figure, Growth, picture, table
from bench.growth import PROBES, SMALLEST, TAGS, filled, subject_of
from bench.images import make_image, push_image
from bench.measure import Result, Row
from tests.support.require import require_command
from tests.support.server import UllageServer

pytestmark = pytest.mark.thorough


@pytest.fixture
def growth() -> Growth:
    figures = (Figure(200, 0.5, 1.25, 3.0), Figure(200, 1.0, 250.0, 300.0))
    return Growth((1_000, 100_000), (Curve("push", "push of an image", figures),))


@pytest.mark.parametrize(("unit", "ratio"), [("requests/s", 2.0), ("s", 0.5)])
def test_a_ratio_compares_the_figures_of_one_round(unit: str, ratio: float) -> None:
    """A machine that is slow for a round is slow for both; their medians may be of two rounds."""
    row = Row("row", "title", unit)
    result = Result(row, "peer", ullage=[200.0, 20.0, 30.0], peer=[100.0, 10.0, 25.0])
    assert result.ratio == ratio


def test_the_client_speaks_tls(tmp_path: Path) -> None:
    image = make_image(1, 2000)
    with UllageServer(tmp_path / "data", "--tls", "self-signed") as server:
        assert server.url.startswith("https://")
        with Connection(server.url) as connection:
            push_image(connection, "app", image, "v1")
            answer = connection.expect(200, "GET", "/v2/app/manifests/v1")
        assert answer.body == image.manifest


def test_a_registry_of_a_size_has_exactly_that_many_manifests(tmp_path: Path) -> None:
    """And everything that is measured can be asked of it."""
    data = filled(tmp_path, SMALLEST)
    with UllageServer(data) as server, Connection(server.url) as connection:
        bill = json.loads(connection.expect(200, "GET", "/api/v1/usage").body)
        assert bill["registry"]["manifest_count"] == SMALLEST
        (tags,) = (entry for entry in bill["entries"] if entry["name"] == TAGS)
        assert tags["tag_count"] == SMALLEST // 10
        subject = subject_of(server.url, SMALLEST, 2)
        for probe in PROBES:
            probe.ready(connection, subject)()
        server.assert_no_500()


def test_one_that_was_made_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "growth-5").mkdir()
    assert filled(tmp_path, 5) == tmp_path / "growth-5"
    assert list((tmp_path / "growth-5").iterdir()) == []


def test_the_table_shows_each_size_and_how_medians_grow(growth: Growth) -> None:
    assert table(growth).splitlines() == [
        "| p50 / p99, ms | 1,000 | 100,000 | 100,000 / 1,000 |",
        "| --- | --- | --- | --- |",
        "| push of an image | 0.5 / 1.25 | 1 / 250 | 2.00x |",
    ]


def test_what_was_written_down_can_be_drawn_again(growth: Growth) -> None:
    require_command("gnuplot")
    again = Growth.of_document(json.loads(json.dumps(growth.document())))
    assert again == growth
    assert picture(again)[:8] == b"\x89PNG\r\n\x1a\n"

"""azure.md section 3.5: what results look like, byte for byte as az prints them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ullage.cli.shell.errors import Failure, UsageError
from ullage.cli.shell.output import formatted, query_of
from ullage.cli.shell.tables import age, ago, locks, short_digests, size, table


@pytest.mark.parametrize(
    ("output", "data", "expected"),
    [
        ("json", [], "[]\n"),
        ("json", {"b": 1, "a": [None]}, '{\n  "a": [\n    null\n  ],\n  "b": 1\n}\n'),
        ("json", "é", '"é"\n'),
        ("json", "text", '"text"\n'),
        ("jsonc", ["x"], '[\n  "x"\n]\n'),
        ("yaml", {"b": 1, "a": [None, True]}, "a:\n- null\n- true\nb: 1\n"),
        ("yamlc", ["x"], "- x\n"),
        ("tsv", ["one", "two"], "one\ntwo\n"),
        ("tsv", [], ""),
        ("tsv", "one", "one\n"),
        ("tsv", True, "true\n"),
        ("tsv", [True, None, 3], "true\nNone\n3\n"),
        ("tsv", {"b": "2", "a": "1"}, "1\t2\n"),
        ("tsv", [{"a": None, "b": True, "c": [1, 2], "d": {"x": 1}}], "None\tTrue\t2\t\n"),
        ("tsv", [["a", None, [1]]], "a\tNone\t1\n"),
        ("table", ["one", "two"], "Result\n------\none\ntwo\n"),
        ("table", [{"b": 1, "aN": "x", "id": 7, "t": ["t"], "n": None}], "AN  B\n--  -\nx   1\n"),
        ("table", [], ""),
    ],
)  # fmt: skip
def test_each_format_is_as_azs(output: str, data: Any, expected: str) -> None:
    assert formatted(data, output) == expected


def test_a_query_is_jmespath_and_keeps_the_order_it_states() -> None:
    data = [{"tags": None, "digest": "d1"}, {"tags": ["v1"], "digest": "d2"}]
    assert query_of("[?tags==null].digest", "x")(data) == ["d1"]
    chosen = query_of("[].{z: digest, a: tags[0]}", "x")(data)
    assert formatted(chosen, "tsv", queried=True) == "d1\tNone\nd2\tv1\n"
    assert formatted(chosen, "table", queried=True) == "Z   A\n--  --\nd1\nd2  v1\n"


def test_a_wrong_query_is_wrong_usage_with_azs_text() -> None:
    with pytest.raises(UsageError) as caught:
        query_of("[?", "ullage x")
    # az's words, and then what is wrong.
    assert str(caught.value) == (
        "argument --query: invalid jmespath_type value: '[?': Invalid jmespath expression: "
        "Incomplete expression. How an expression is written: https://jmespath.org"
    )
    assert caught.value.code == 2
    with pytest.raises(Failure, match="--query: "):
        query_of("length(@)", "x")(3)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"),
        (99 * 1024, "99.0 KiB"), (512 * 1024, "512 KiB"), (1023 * 1024, "1.0 MiB"),
        (2**30, "1.0 GiB"), (5 * 2**50, "5.0 PiB"), (5000 * 2**50, "5000 PiB"),
    ],
)  # fmt: skip
def test_a_size_has_three_figures(count: int, expected: str) -> None:
    assert size(count) == expected


NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (timedelta(), "now"), (timedelta(seconds=59), "59s"), (timedelta(minutes=59), "59m"),
        (timedelta(hours=23), "23h"), (timedelta(days=3, hours=5), "3d"),
        (timedelta(days=800), "2y"), (timedelta(seconds=-5), "now"),
    ],
)  # fmt: skip
def test_an_age_has_one_unit(since: timedelta, expected: str) -> None:
    assert age((NOW - since).strftime("%Y-%m-%dT%H:%M:%S.0000000Z"), NOW) == expected


def test_an_age_in_a_sentence_is_not_now_ago() -> None:
    assert ago(NOW.isoformat(), NOW) == "just now"
    assert ago((NOW - timedelta(hours=2)).isoformat(), NOW) == "2h ago"


@pytest.mark.parametrize("text", ["yesterday", None, ""])
def test_what_is_no_time_stays_as_it_is(text: str | None) -> None:
    assert age(text, NOW) == (text or "")


def test_short_digests_still_tell_manifests_apart() -> None:
    same = "sha256:" + "a" * 20
    digests = [same + "b" * 44, same + "c" * 44, "sha256:" + "d" * 64, "sha512:" + "e" * 128]
    short = short_digests(digests)
    assert short[digests[0]] == same + "b"
    assert len(set(short.values())) == 4
    assert short_digests(digests[2:])[digests[2]] == "sha256:" + "d" * 12


def test_locks_are_named() -> None:
    item = {"changeableAttributes": {"deleteEnabled": False, "writeEnabled": False}}
    assert locks(item) == "delete,write"
    assert locks({}) == ""


def test_a_table_lines_up_and_shows_no_control_characters() -> None:
    rows = [{"Name": "a\x1b[31m", "Size": size(2048)}, {"Name": "bb", "Size": size(3)}]
    assert table(rows) == ("Name       Size\n------  -------\na?[31m  2.0 KiB\nbb          3 B\n")

"""RFC 8259, and what Python's parser takes beyond it (docs/design/reliability.md section 5)."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ullage.oci.strict_json import JSONInvalid, loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('a"\\[{é\n')), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
@pytest.mark.thorough
def test_ordinary_json_is_read_as_the_standard_library_reads_it(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert loads(raw) == value


@given(
    st.binary()
    | st.text(st.sampled_from('[]{}",:\\u0dD8fe-+.1 \n\x00é\ud800tn')).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
)
def test_no_bytes_raise_anything_but_json_invalid(raw: bytes) -> None:
    try:
        value = loads(raw)
    except JSONInvalid:
        return
    assert value == json.loads(raw)
    # Every string can be stored, by any database: no NUL, and UTF-8 can express it.
    text = json.dumps(value, ensure_ascii=False).replace("\\\\", "")
    assert "\\u0000" not in text
    assert text.encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b" ", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b"{} {}", "not JSON: Extra data"),
        (b"{}x", "not JSON: Extra data"),
        (b"[01]", "not JSON"),
        (b"[+1]", "not JSON"),
        (b"[1_000]", "not JSON"),
        (b'["a\nb"]', "not JSON"),
        (b'["a\x00b"]', "not JSON"),
        (b'["\\x41"]', "not JSON"),
        (b'["\\u 123"]', "not JSON"),
        (b"[\xc2\xa0]", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "byte 0 is not UTF-8"),
        ("{}".encode("utf-16-le"), "not JSON"),
        ("{}".encode("utf-32-be"), "not JSON"),
        (b'["\xff"]', "byte 2 is not UTF-8"),
        (b'["\xed\xa0\x80"]', "byte 2 is not UTF-8"),
        (b'["\xc0\xaf"]', "byte 2 is not UTF-8"),
        (b'{"a":1,"a":2}', "'a' is twice"),
        (b'{"a":1,"\\u0061":2}', "'a' is twice"),
        (b'[{"b":{"a":1,"a":1}}]', "'a' is twice"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e400]", "beyond the range"),
        (b"[-1e400]", "beyond the range"),
        (b"[1" + b"0" * 19 + b"]", "more than 19 digits"),
        (b"[-1" + b"0" * 19 + b"]", "more than 19 digits"),
        (b"[" + b"1" * 5000 + b"]", "more than 19 digits"),
        (b"[0." + b"1" * 5000 + b"]", "more than 64 characters"),
        (b'["\\ud800"]', "surrogate"),
        (b'["\\uDFFF"]', "surrogate"),
        (b'["\\udc00\\ud800"]', "surrogate"),
        (b'{"\\ud800":1}', "surrogate"),
        (b'{"a":[{"b":"\\u0000"}]}', "NUL"),
        (b'{"a\\u0000":1}', "NUL"),
        (b'["\\\\\\u0000"]', "NUL"),
    ],
)
def test_what_others_may_read_differently_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(JSONInvalid, match=reason):
        loads(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b" \r\n\t{} ", {}),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9999999999999999999", -(10**19 - 1)),
        (b"-0", 0),
        (b"1.5e3", 1500.0),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\\\u0000"', "\\u0000"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'{"a":{"a":1},"b":{"a":1}}', {"a": {"a": 1}, "b": {"a": 1}}),
    ],
)
def test_what_all_readers_read_alike_is_read(raw: bytes, value: object) -> None:
    assert loads(raw) == value


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_deep_nesting_is_refused_before_the_parser_recurses(opening: bytes) -> None:
    with pytest.raises(JSONInvalid, match="at most 32 levels"):
        loads(opening * 100_000)


def test_depth_is_counted_exactly() -> None:
    assert loads(b"[" * 32 + b"]" * 32)
    with pytest.raises(JSONInvalid, match="at most 32 levels"):
        loads(b"[" * 33 + b"]" * 33)
    assert loads(b"[[]]", max_depth=2) == [[]]
    with pytest.raises(JSONInvalid, match="at most 1 levels"):
        loads(b"[[]]", max_depth=1)


@pytest.mark.parametrize("text", ["[" * 100, '"' + "[" * 100, '\\"' + "{" * 100, '\\\\"['])
def test_brackets_in_strings_are_not_nesting(text: str) -> None:
    filling: list[object] = [{} for _ in range(50)]
    assert loads(json.dumps([text, *filling]).encode()) == [text, *filling]


def test_brackets_between_strings_are_nesting() -> None:
    """An escaped quote, or an escaped backslash before a quote, must not hide what follows it."""
    for text in (b'"\\""', b'"\\\\"', b'"\\\\\\""', b'"]"', b'""'):
        with pytest.raises(JSONInvalid, match="at most 32 levels"):
            loads((b"[" + text + b",") * 40 + b"1" + b"]" * 40)


def test_many_containers_side_by_side_are_not_deep() -> None:
    raw = b"[" + b"[],{}," * 1000 + b"1]"
    assert loads(raw) == json.loads(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'["' + b'\\"' * 500_000,
        b'["' + b"\\\\" * 500_000,
        b'"' * 1_000_000,
        b"[" + b'"[",' * 250_000,
        b"[" * 1_000_000,
        b"[0." + b"1" * 1_000_000 + b"]",
        b"[1e" + b"9" * 1_000_000 + b"]",
        b"[" + b"1" * 1_000_000 + b"]",
        b" " * 1_000_000,
    ],
)
def test_a_megabyte_of_anything_is_read_in_one_pass(raw: bytes) -> None:
    """Quadratic work on any of these would take minutes."""
    started = time.perf_counter()
    with pytest.raises(JSONInvalid):
        loads(raw)
    assert time.perf_counter() - started < 5

"""What reads the parts of a request, given anything at all: a value, or the refusal it names."""

import re
import string
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ullage.oci.errors import PaginationNumberInvalid, SizeInvalid, Unsupported
from ullage.oci.reference import parse_repository_name
from ullage.server.distribution.routes import ROUTES
from ullage.server.http.errors import (
    ContentRangeMalformed,
    MethodNotAllowed,
    NotFound,
    RangeNotSatisfiable,
    UriTooLong,
)
from ullage.server.http.parameters import (
    Query,
    byte_range,
    content_range,
    decoded_path,
    next_link,
    page_size,
    received_range,
)
from ullage.server.http.routes import Route, Router

pytestmark = pytest.mark.thorough

SIZES = st.integers(0, 2**63 - 1)
# Text that looks like a header about ranges, or not at all.
RANGES = st.one_of(
    st.text(),
    st.text(alphabet="bytes=0123456789-/* ,\u0661", max_size=70),
    st.builds("{}{}-{}".format, st.sampled_from(["bytes=", "bytes ", ""]), SIZES, SIZES),
)


# --- Range ----------------------------------------------------------------------------------------


@given(RANGES, SIZES)
@example("bytes=-", 5)
@example("bytes=-0", 5)
@example("bytes=0-0", 0)
@example("bytes=" + "9" * 60, 5)
def test_a_range_is_a_part_of_the_blob_or_nothing(header: str, size: int) -> None:
    try:
        span = byte_range(header, size)
    except RangeNotSatisfiable:
        return
    assert span is None or 0 <= span[0] < span[1] <= size


@given(st.data(), st.integers(1, 2**63 - 1))
def test_all_three_forms_of_a_range_mean_what_http_says(data: st.DataObject, size: int) -> None:
    """RFC 9110, section 14.1.2."""
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, 10**19 - 1))
    stop = min(last + 1, size)
    assert byte_range(f"bytes={first}-{last}", size) == (first, stop)
    assert byte_range(f"bytes={first}-", size) == (first, size)
    suffix = data.draw(st.integers(1, 10**19 - 1))
    assert byte_range(f"bytes=-{suffix}", size) == (max(0, size - suffix), size)
    beyond = data.draw(st.integers(size, 10**19 - 1))
    for none in (f"bytes={beyond}-", f"bytes={beyond}-{beyond}", "bytes=-0"):
        with pytest.raises(RangeNotSatisfiable):
            byte_range(none, size)


# --- Content-Range --------------------------------------------------------------------------------


@given(st.one_of(st.none(), RANGES), st.one_of(st.none(), SIZES))
def test_a_content_range_is_a_span_or_refused(header: str | None, length: int | None) -> None:
    try:
        span = content_range(header, length)
    except (ContentRangeMalformed, SizeInvalid):
        return
    if header is None:
        assert span is None
    else:
        assert span is not None
        assert 0 <= span[0] < span[1]
        assert length in (None, span[1] - span[0])


@given(SIZES, st.integers(1, 2**62), st.sampled_from(["{}-{}", "bytes {}-{}/*", "{}-{}/99"]))
def test_a_content_range_has_a_length(first: int, length: int, form: str) -> None:
    header = form.format(first, first + length - 1)
    assert content_range(header, length) == content_range(header, None) == (first, first + length)
    with pytest.raises(SizeInvalid):
        content_range(header, length + 1)
    if length > 1:
        with pytest.raises(ContentRangeMalformed):
            content_range(form.format(first + length - 1, first), length)


@given(SIZES)
def test_what_a_session_holds_is_inclusive(offset: int) -> None:
    """distribution-spec, "Pushing a blob in chunks": 0-0 also for a session that holds nothing."""
    assert received_range(offset) == f"0-{offset - 1 if offset else 0}"


# --- query strings --------------------------------------------------------------------------------

# Characters that a query string may hold: all but NUL and halves of surrogate pairs.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.binary(max_size=9000), st.text())
def test_a_query_string_is_read_or_refused(raw: bytes, name: str) -> None:
    try:
        query = Query(raw)
    except UriTooLong:
        assert len(raw) > 8192
        return
    except Unsupported:
        return
    values = query.all(name)
    assert all("\0" not in value for value in values)
    if len(values) > 1:
        with pytest.raises(Unsupported):
            query.one(name)
    else:
        assert query.one(name) == (values[0] if values else None)


@given(st.dictionaries(TEXT, TEXT, max_size=8))
def test_a_query_string_means_what_was_written(parameters: dict[str, str]) -> None:
    raw = "&".join(f"{quote(name, safe='')}={quote(value)}" for name, value in parameters.items())
    assume(len(raw) <= 8192)
    query = Query(raw.encode("ascii"))
    for name, value in parameters.items():
        assert query.one(name) == value
        assert query.all(name) == [value]


@given(st.text(), st.integers(1, 10**6))
def test_a_page_size_is_at_most_the_largest(text: str, largest: int) -> None:
    try:
        query = Query(b"n=" + quote(text, errors="surrogatepass").encode("ascii"))
        size = page_size(query, largest)
    except (PaginationNumberInvalid, Unsupported):
        return
    assert re.fullmatch("[0-9]{1,19}", text)
    assert size == min(int(text), largest)


@given(TEXT, st.integers(0, 10**6))
def test_a_link_leads_where_it_says(last: str, n: int) -> None:
    """RFC 8288: whatever `last` is, it comes back as it was, and never ends the link early."""
    header = next_link("/v2/app/tags/list", n=n, last=last, left_out=None)["Link"]
    target = re.fullmatch(r'<([!-~]+)>; rel="next"', header)
    assert target is not None
    url = urlsplit(target[1])
    assert url.path == "/v2/app/tags/list"
    values = parse_qs(url.query, keep_blank_values=True, strict_parsing=True)
    assert values == {"n": [str(n)], "last": [last]}


# --- paths ----------------------------------------------------------------------------------------

ROUTER = Router(ROUTES)
PATHS = st.one_of(
    st.text(),
    st.lists(
        st.one_of(
            st.sampled_from(
                ["v2", "blobs", "uploads", "manifests", "tags", "list", "referrers", "_catalog"]
            ),
            st.text(string.printable, max_size=5),
        )
    ).map(lambda parts: "/" + "/".join(parts)),
)
METHODS = st.one_of(st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"]), st.text())


@given(METHODS, PATHS)
def test_every_path_has_a_route_or_none(method: str, path: str) -> None:
    try:
        route, parts = ROUTER.find(method, path)
    except (NotFound, MethodNotAllowed):
        return
    assert len(parts) == route.path.count("{")
    assert method in (route.method, "HEAD")


WORDS = st.one_of(
    st.sampled_from(["v2", "blobs", "uploads", "manifests", "tags", "list", "referrers", "a"]),
    st.text("abc019", min_size=1, max_size=5),
)
NAMES = st.lists(WORDS, min_size=1, max_size=6).map("/".join)
REFERENCES = st.one_of(WORDS, st.text(string.hexdigits, min_size=1).map("sha256:".__add__))


@given(st.sampled_from(ROUTES), NAMES, REFERENCES, st.sampled_from(["%{:02x}", "%{:02X}"]))
def test_a_path_is_read_as_it_was_written(
    route: Route, name: str, reference: str, encoding: str
) -> None:
    """S24, S28: with any name, also one made of endpoints' words, and with all of it encoded."""
    assert parse_repository_name(name) == name
    values = {"digest": "sha256:00", "reference": reference, "session": "0" * 32}
    path = re.sub(r"\{(?!name)(\w+)\}", lambda match: values[match[1]], route.path)
    last = [values[part] for part in re.findall(r"\{(?!name)(\w+)\}", route.path)]
    expected = [name, *last] if "{name}" in route.path else []
    encoded = "".join(encoding.format(ord(character)) for character in name)
    for written in (name, encoded):
        found = ROUTER.find(route.method, path.replace("{name}", written))
        assert found == (route, tuple(expected))


@given(st.text())
def test_decoding_never_fails(text: str) -> None:
    decoded = decoded_path(text)
    assert decoded == text or "%" in text


@given(TEXT)
def test_decoding_undoes_encoding_once(text: str) -> None:
    once = quote(text, safe="")
    assert decoded_path(once) == text
    assert decoded_path(quote(once, safe="")) == once


@given(st.binary())
def test_what_is_not_utf_8_becomes_no_name(raw: bytes) -> None:
    """Over-long forms and halves of surrogates among it: no grammar has U+FFFD in it."""
    decoded = decoded_path("".join(f"%{byte:02x}" for byte in raw))
    try:
        assert decoded == raw.decode("utf-8")
    except UnicodeDecodeError:
        assert "\ufffd" in decoded

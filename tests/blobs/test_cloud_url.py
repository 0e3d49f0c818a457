"""The grammar that the URLs of all services have in common (ullage.blobs.cloud_url)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from ullage.blobs.azure.options import AzureOptions, parse_azure_url
from ullage.blobs.s3.options import S3Options, parse_gs_url, parse_s3_url


class Dialect(NamedTuple):
    """A service's URLs: how they begin, what they must have, and what reads them."""

    scheme: str
    needed: str
    place: str
    parse: Callable[[str], S3Options | AzureOptions]

    def url(self, rest: str) -> str:
        """`rest` follows the scheme; options are added to those that have to be there."""
        place, mark, after = rest.partition("#")
        name, _, options = place.partition("?")
        query = "&".join(filter(None, (self.needed, options)))
        return f"{self.scheme}:{name}{'?' if query else ''}{query}{mark}{after}"


DIALECTS = {
    "s3": Dialect("s3", "", "bucket", parse_s3_url),
    "gs": Dialect("gs", "", "bucket", parse_gs_url),
    "az": Dialect("az", "account=books", "container", parse_azure_url),
}


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


def refusal(dialect: Dialect, url: str) -> str:
    with pytest.raises(ValueError, match="URL cannot be used: ") as refused:
        dialect.parse(url)
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("//[x", "not a URL"),
        ("blobs", "not the name of a "),
        ("//Blobs", "not the name of a "),
        ("//ab", "not the name of a "),
        ("//-blobs", "not the name of a "),
        ("//blobs/../x", "not a prefix of names in a "),
        ("//blobs/a//b", "not a prefix of names in a "),
        ("//blobs#x", "after #"),
        ("//blobs?colour=red", "unknown option 'colour'; expected one of "),
        ("//blobs?ca=/a&ca=/b", "ca is given twice"),
        ("//blobs?ca=", "ca is empty"),
        ("//blobs?endpoint=127.0.0.1:9000", "endpoint is not http"),
        ("//blobs?endpoint=http://h:x", "endpoint is not http"),
        ("//blobs?public=https://h/other", "public is not http"),
        ("//blobs?public=https://h?x", "public is not http"),
    ],
)
def test_a_wrong_url_is_refused_in_one_line(dialect: Dialect, rest: str, why: str) -> None:
    line = refusal(dialect, dialect.url(rest))
    assert why in line
    if why.endswith(" a "):
        assert f"{why}{dialect.place}" in line


def test_a_url_of_another_service_is_refused_with_the_form_of_this_one(dialect: Dialect) -> None:
    assert f"expected {dialect.scheme}://" in refusal(dialect, "file:/x")


def test_an_address_has_no_slash_at_its_end(dialect: Dialect) -> None:
    found = dialect.parse(dialect.url("//blobs/a/?endpoint=https://[::1]:9000/&public=http://h/"))
    assert (found.prefix, found.endpoint, found.public) == ("a", "https://[::1]:9000", "http://h")


@pytest.mark.parametrize(
    "rest",
    [
        "//AKIA:hunter2@blobs",
        "//blobs?secret_access_key=hunter2",
        "//blobs?account_key=hunter2",
        "//blobs?X-Amz-Security-Token=hunter2",
        "//blobs?sig=hunter2",
        "//blobs?endpoint=https://u:hunter2@h",
        "//blobs?endpoint=https%3A%2F%2Fh%3Fsig%3Dhunter2",
    ],
)
def test_a_secret_in_the_url_is_refused_and_not_repeated(dialect: Dialect, rest: str) -> None:
    """buckets.md section 1: the URL is logged at start."""
    line = refusal(dialect, dialect.url(rest))
    assert "a secret" in line
    assert "hunter2" not in line

from __future__ import annotations

import pytest

from ullage.blobs.s3.dialects import GOOGLE
from ullage.blobs.s3.options import MIB, S3Options, parse_gs_url, parse_s3_url


def test_every_option_of_a_bucket_is_read() -> None:
    """buckets.md section 1."""
    url = (
        "s3://blobs-1/team/a?endpoint=http://127.0.0.1:25002/&public=https://s3.example.org"
        "&region=eu-west-1&path_style=false&part=64MiB&ca=/etc/ca.pem"
        "&sse=aws:kms:arn:aws:kms:eu:1:key/2&class=STANDARD_IA"
    )
    assert parse_s3_url(url) == S3Options(
        bucket="blobs-1",
        prefix="team/a",
        endpoint="http://127.0.0.1:25002",
        public="https://s3.example.org",
        region="eu-west-1",
        path_style=False,
        part=64 * MIB,
        ca="/etc/ca.pem",
        sse="aws:kms",
        sse_key="arn:aws:kms:eu:1:key/2",
        storage_class="STANDARD_IA",
    )


def test_path_style_is_the_default_of_an_endpoint_alone() -> None:
    assert not parse_s3_url("s3://blobs/").path_style
    assert parse_s3_url("s3://blobs?endpoint=https://[::1]:9000").path_style


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://blobs?region=EU", "not a region"),
        ("s3://blobs?class=cold", "not a class"),
        ("s3://blobs?path_style=yes", "true or false"),
        ("s3://blobs?part=4MiB", "5MiB to 5120MiB"),
        ("s3://blobs?part=5121MiB", "5MiB to 5120MiB"),
        ("s3://blobs?part=16", "5MiB to 5120MiB"),
        ("s3://blobs?sse=aws:kms:", "sse is AES256"),
    ],
)
def test_a_wrong_url_is_refused_in_one_line(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_s3_url(url)
    assert "\n" not in str(refused.value)


def test_every_option_of_a_bucket_of_google_is_read() -> None:
    """buckets.md section 6."""
    url = (
        "gs://blobs_1.example.org/team?endpoint=http://127.0.0.1:25002"
        "&public=https://blobs.example.org&part=64MiB&ca=/etc/ca.pem"
    )
    assert parse_gs_url(url) == S3Options(
        bucket="blobs_1.example.org",
        dialect=GOOGLE,
        prefix="team",
        endpoint="http://127.0.0.1:25002",
        public="https://blobs.example.org",
        path_style=True,
        part=64 * MIB,
        ca="/etc/ca.pem",
    )


def test_google_itself_is_the_endpoint_where_none_is_named() -> None:
    assert parse_gs_url("gs://blobs").endpoint == "https://storage.googleapis.com"


@pytest.mark.parametrize("option", ["region=eu", "sse=AES256", "class=NEARLINE", "path_style=true"])
def test_options_that_only_s3_has_are_unknown_to_google(option: str) -> None:
    with pytest.raises(ValueError, match="unknown option"):
        parse_gs_url(f"gs://blobs?{option}")


def test_a_long_name_of_a_bucket_of_google_has_dots() -> None:
    assert parse_gs_url(f"gs://{'a' * 60}.{'b' * 60}").bucket
    with pytest.raises(ValueError, match="not the name of a bucket"):
        parse_gs_url(f"gs://{'a' * 64}")

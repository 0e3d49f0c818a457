from __future__ import annotations

import pytest

from ullage.blobs.s3.options import MIB, S3Options, parse_s3_url


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

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
        ("file:/x", "expected s3://BUCKET/PREFIX"),
        ("s3://[x", "not a URL"),
        ("s3:blobs", "not the name of a bucket"),
        ("s3://Blobs", "not the name of a bucket"),
        ("s3://blobs/../x", "not a prefix"),
        ("s3://blobs/a//b", "not a prefix"),
        ("s3://blobs#x", "after #"),
        ("s3://blobs?colour=red", "unknown option 'colour'; expected one of endpoint"),
        ("s3://blobs?part=8MiB&part=9MiB", "part is given twice"),
        ("s3://blobs?region=", "region is empty"),
        ("s3://blobs?region=EU", "not a region"),
        ("s3://blobs?class=cold", "not a class"),
        ("s3://blobs?path_style=yes", "true or false"),
        ("s3://blobs?part=4MiB", "5MiB to 5120MiB"),
        ("s3://blobs?part=5121MiB", "5MiB to 5120MiB"),
        ("s3://blobs?part=16", "5MiB to 5120MiB"),
        ("s3://blobs?sse=aws:kms:", "sse is AES256"),
        ("s3://blobs?endpoint=127.0.0.1:9000", "endpoint is not http"),
        ("s3://blobs?endpoint=http://h:x", "endpoint is not http"),
        ("s3://blobs?public=https://h/path", "public is not http"),
    ],
)
def test_a_wrong_url_is_refused_in_one_line(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_s3_url(url)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@blobs",
        "s3://blobs?secret_access_key=hunter2",
        "s3://blobs?X-Amz-Security-Token=hunter2",
        "s3://blobs?endpoint=https://u:hunter2@h",
    ],
)
def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    """buckets.md section 1: the URL is logged at start."""
    with pytest.raises(ValueError, match="a secret") as refused:
        parse_s3_url(url)
    assert "hunter2" not in str(refused.value)

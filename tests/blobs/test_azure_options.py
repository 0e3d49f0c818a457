from __future__ import annotations

import pytest

from ullage.blobs.azure.options import AzureOptions, parse_azure_url


def test_every_option_of_a_container_is_read() -> None:
    """azure-storage.md section 1."""
    url = (
        "az://blobs-1/team/a?account=devstoreaccount1"
        "&endpoint=http://127.0.0.1:10000/devstoreaccount1/"
        "&public=https://cdn.example.org&ca=/etc/ca.pem"
    )
    assert parse_azure_url(url) == AzureOptions(
        container="blobs-1",
        account="devstoreaccount1",
        endpoint="http://127.0.0.1:10000/devstoreaccount1",
        prefix="team/a",
        public="https://cdn.example.org",
        ca="/etc/ca.pem",
    )


def test_the_public_cloud_is_the_endpoint_where_none_is_named() -> None:
    options = parse_azure_url("az://blobs?account=books")
    assert options.endpoint == "https://books.blob.core.windows.net"
    assert (options.prefix, options.public, options.ca) == ("", None, None)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:/x", "expected az://CONTAINER/PREFIX"),
        ("az://[x", "not a URL"),
        ("az:blobs", "not the name of a container"),
        ("az://Blobs?account=books", "not the name of a container"),
        ("az://a--b?account=books", "not the name of a container"),
        ("az://ab?account=books", "not the name of a container"),
        ("az://blobs", "names no storage account"),
        ("az://blobs?account=Books", "not the name of a storage account"),
        ("az://blobs/../x?account=books", "not a prefix"),
        ("az://blobs/a//b?account=books", "not a prefix"),
        ("az://blobs?account=books#x", "after #"),
        ("az://blobs?account=books&colour=red", "unknown option 'colour'; expected one of account"),
        ("az://blobs?account=books&account=books", "account is given twice"),
        ("az://blobs?account=books&ca=", "ca is empty"),
        ("az://blobs?account=books&endpoint=127.0.0.1:9000", "endpoint is not http"),
        ("az://blobs?account=books&endpoint=http://h:x", "endpoint is not http"),
        ("az://blobs?account=books&public=https://h/other", "public is not http"),
        ("az://blobs?account=books&public=https://h?x", "public is not http"),
    ],
)
def test_a_wrong_url_is_refused_in_one_line(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_azure_url(url)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "az://books:hunter2@blobs?account=books",
        "az://blobs?account=books&account_key=hunter2",
        "az://blobs?account=books&sig=hunter2",
        "az://blobs?account=books&endpoint=https://u:hunter2@h",
        "az://blobs?account=books&endpoint=https%3A%2F%2Fh%3Fsig%3Dhunter2",
    ],
)
def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    """azure-storage.md section 1: the URL is logged at start."""
    with pytest.raises(ValueError, match="a secret") as refused:
        parse_azure_url(url)
    assert "hunter2" not in str(refused.value)

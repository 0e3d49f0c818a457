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
        ("az://a--b?account=books", "not the name of a container"),
        ("az://blobs", "names no storage account"),
        ("az://blobs?account=Books", "not the name of a storage account"),
        ("az://blobs?account=books&account=books", "account is given twice"),
        ("az://blobs?account=books&public=https://h/other", "public is not http"),
    ],
)
def test_a_wrong_url_is_refused_in_one_line(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        parse_azure_url(url)
    assert "\n" not in str(refused.value)

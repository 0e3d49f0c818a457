"""Which registry a name means."""

import pytest

from ullage.cli.client.address import resolve, split_specifier
from ullage.cli.shell.errors import Failure

SAVED = {"myregistry": "https://registry.example.com", "work-eu": "10.0.0.1:5000"}


@pytest.mark.parametrize(
    ("name", "suffix", "expected"),
    [
        ("http://127.0.0.1:5000", None, ("http", "127.0.0.1", 5000)),
        ("http://127.0.0.1:5000/", None, ("http", "127.0.0.1", 5000)),
        ("https://Registry.Example.com", None, ("https", "registry.example.com", None)),
        ("https://registry.example.com:443", None, ("https", "registry.example.com", None)),
        ("http://registry.example.com:80", None, ("http", "registry.example.com", None)),
        ("127.0.0.1:5000", None, ("", "127.0.0.1", 5000)),
        ("localhost", None, ("", "localhost", None)),
        ("registry", None, ("", "registry", None)),
        ("[::1]:5000", None, ("", "[::1]", 5000)),
        ("myregistry.azurecr.io", None, ("", "myregistry.azurecr.io", None)),
        ("myregistry", None, ("https", "registry.example.com", None)),
        ("work", "eu", ("", "10.0.0.1", 5000)),
    ],
)
def test_a_name_is_a_url_a_host_or_what_was_saved(
    name: str, suffix: str | None, expected: tuple[str, str, int | None]
) -> None:
    origin = resolve(name, SAVED, suffix)
    assert (origin.scheme, origin.host, origin.port) == expected


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "a b", "ftp://x", "http://", "https://user:password@host", "http://host/path",
        "host:0", "host:65536", "host:port", "host/repo", "-host", "host-", "[::1", "host:5000:1",
        "http://host?x", "host\n", "\x1b[31m",
    ],
)  # fmt: skip
def test_what_is_no_registry_is_refused(name: str) -> None:
    with pytest.raises(Failure, match="is no registry"):
        resolve(name, SAVED)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:5000/team/app:v1", ("127.0.0.1:5000", "team/app:v1")),
        ("https://r.example.com/app@sha256:1", ("https://r.example.com", "app@sha256:1")),
        ("http://127.0.0.1:5000/app", ("http://127.0.0.1:5000", "app")),
        ("myregistry/app", ("myregistry", "app")),
        ("localhost/app", ("localhost", "app")),
        ("team/app", None),
        ("app:v1", None),
        ("r.example.com", None),
        ("r.example.com/", None),
        ("https://r.example.com", None),
    ],
)
def test_a_specifier_starts_with_its_registry(text: str, expected: tuple[str, str] | None) -> None:
    """azure.md section 1.9: the positional form of `manifest` commands."""
    assert split_specifier(text, SAVED) == expected

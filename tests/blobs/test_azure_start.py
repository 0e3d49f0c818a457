"""What a start finds out about a container (docs/design/azure-storage.md section 2)."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.blobs.contract import content, fresh_key, listed, put, upload
from tests.support.containers import ACCOUNT, Azurite
from tests.support.proxies import Fault, FaultyProxy
from ullage.blobs.protocol import BlobStore, StoreUnusable
from ullage.tls import self_signed

pytestmark = pytest.mark.client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with Azurite(tmp_path_factory.mktemp("azure") / "containers") as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(server: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def proxy(server: Azurite) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.port) as proxy:
        yield proxy


def behind(server: Azurite, proxy: FaultyProxy) -> str:
    """The URL of a fresh container, by way of a proxy."""
    endpoint = f"http://127.0.0.1:{proxy.port}/{ACCOUNT}"
    return server.url(server.fresh_bucket(), endpoint=endpoint)


def opened(url: str) -> BlobStore:
    from ullage.blobs.azure.store import open_azure

    return open_azure(url)


def refusal(url: str) -> str:
    with pytest.raises(StoreUnusable) as refused:
        opened(url)
    message = str(refused.value)
    assert "\n" not in message
    assert " - " in message, "what to do is missing"
    return message


def test_a_start_leaves_nothing_in_the_container(server: Azurite) -> None:
    container = server.fresh_bucket()
    store = opened(server.url(container, "below"))
    assert server.stored_bytes(container) == 0
    assert list(server.client(container).list_blobs(include=["uncommittedblobs"])) == []
    assert content(store, put(store)) == b"bytes"


def test_no_container_is_said(server: Azurite) -> None:
    assert "there is no container missing in account books" in refusal(server.url("missing"))


def test_a_wrong_key_is_said(server: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    other = base64.b64encode(b"another key").decode()
    monkeypatch.setenv("AZURE_STORAGE_KEY", other)
    message = refusal(server.url(server.fresh_bucket()))
    assert "does not take these credentials" in message
    assert other not in message


def test_what_is_no_key_is_said_and_not_repeated(
    server: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "hunter2!")
    message = refusal(server.url("books"))
    assert "no key of a storage account" in message
    assert "hunter2" not in message


def test_an_endpoint_that_is_away_is_said(server: Azurite) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        message = refusal(server.url("books", endpoint=endpoint))
    assert f"{endpoint} does not answer" in message
    assert "check endpoint=" in message


def test_an_identity_without_https_is_said(
    server: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    assert "an identity is used with https only" in refusal(server.url("books"))


def test_no_identity_is_said(server: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    # The machine is not asked, nor anything else.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    message = refusal("az://books?account=books&endpoint=https://127.0.0.1:1")
    assert "no key and no identity" in message


def test_a_missing_file_of_an_authority_is_said(server: Azurite, tmp_path: Path) -> None:
    assert "there is no such file" in refusal(server.url("books", ca=str(tmp_path / "ca.pem")))


def test_versions_are_refused(server: Azurite, proxy: FaultyProxy) -> None:
    """deletion.md section 1: what is deleted gives its bytes back. Azurite itself has none."""
    proxy.fault = lambda method, path: Fault(headers={"x-ms-version-id": "2026-01-01T00:00:00Z"})
    assert "keeps old versions" in refusal(behind(server, proxy))


def test_soft_delete_is_refused(server: Azurite) -> None:
    """deletion.md section 1: what is deleted gives its bytes back."""
    server.soft_delete(enabled=True)
    try:
        assert "soft delete" in refusal(server.url(server.fresh_bucket()))
    finally:
        server.soft_delete(enabled=False)


def test_an_account_that_may_not_be_looked_at_is_used_all_the_same(
    server: Azurite, proxy: FaultyProxy
) -> None:
    proxy.fault = lambda method, path: denied() if "restype=service" in path else None
    store = opened(behind(server, proxy))
    assert content(store, put(store)) == b"bytes"


def denied() -> Fault:
    """As the service refuses what a role does not have."""
    code = "AuthorizationPermissionMismatch"
    error = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return Fault(
        status=403,
        headers={"x-ms-error-code": code, "Content-Type": "application/xml"},
        body=error.encode(),
    )


@pytest.mark.parametrize(
    ("method", "part", "right"),
    [
        ("GET", "restype=container", "read the container"),
        ("PUT", "/probe/", "write blobs"),
        ("GET", "/probe/", "read blobs"),
        ("PUT", "comp=block", "write and list blocks"),
        ("GET", "comp=list", "write and list blocks"),
        ("POST", "comp=batch", "delete blobs"),
    ],
)
def test_a_right_that_is_missing_is_named(
    server: Azurite, proxy: FaultyProxy, method: str, part: str, right: str
) -> None:
    proxy.fault = lambda asked, path: denied() if asked == method and part in path else None
    message = refusal(behind(server, proxy))
    assert f"may not {right} - grant the role Storage Blob Data Contributor" in message


def test_a_service_that_lets_blobs_be_replaced_is_refused(
    server: Azurite, proxy: FaultyProxy
) -> None:
    """azure-storage.md section 1: no name is ever written twice."""
    written: list[str] = []

    def fault(method: str, path: str) -> Fault | None:
        if method == "PUT" and "/probe/" in path and "comp=" not in path:
            written.append(path)
            return Fault(status=201) if len(written) == 2 else None
        return None

    proxy.fault = fault
    assert "does not keep a blob from being replaced" in refusal(behind(server, proxy))


# --- TLS, and identities instead of a key ---------------------------------------------------------


class Token(NamedTuple):
    token: str
    expires_on: int


class Identity:
    """Gives tokens that Azurite takes: it looks at what they say, and at no signature."""

    def __init__(self, lifetime: timedelta = timedelta(hours=1)) -> None:
        self.asked = 0
        self._lifetime = lifetime

    def get_token(self, *scopes: str, **_: Any) -> Token:
        self.asked += 1
        now = int(datetime.now(UTC).timestamp())
        ends = now + int(self._lifetime.total_seconds())
        claims = {
            "aud": "https://storage.azure.com",
            "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
            "iat": now,
            "nbf": now,
            "exp": ends,
            "tid": "ab1f708d-50f6-404c-a006-d71b2ac7a606",
            "oid": "23657296-5cd5-45b0-a809-d972a7f4dfe1",
        }
        parts = [_encoded({"alg": "HS256", "typ": "JWT"}), _encoded(claims), "c2lnbmVk"]
        return Token(".".join(parts), ends)


def _encoded(document: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    folder = tmp_path_factory.mktemp("azure-tls")
    files = self_signed(folder, [], datetime.now(UTC))
    arguments = ("--cert", str(files.certificate), "--key", str(files.key), "--oauth", "basic")
    with Azurite(folder / "containers", *arguments, scheme="https") as server:
        server.trusted = str(files.authority)
        yield server


def test_a_certificate_that_is_not_trusted_is_said(
    tls_server: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", tls_server.key)
    message = refusal(tls_server.url(tls_server.fresh_bucket()))
    assert "name the authority of its certificate with ca=FILE" in message


def test_a_certificate_of_a_named_authority_is_trusted(
    tls_server: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", tls_server.key)
    assert tls_server.trusted is not None
    store = opened(tls_server.url(tls_server.fresh_bucket(), ca=tls_server.trusted))
    assert content(store, put(store)) == b"bytes"


def test_an_identity_pushes_pulls_and_deletes(
    tls_server: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """azure-storage.md section 2."""
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    store, _ = with_identity(tls_server)
    key = put(store)
    assert content(store, key) == b"bytes"
    store.delete([key])
    upload(store)
    store.drop([*store.list()])
    assert listed(store) == {}


def test_an_identity_signs_links_with_a_key_that_it_is_given(tls_server: Azurite) -> None:
    """azure-storage.md section 2. Azurite gives the key, and does not know the signature."""
    store, _ = with_identity(tls_server)
    link = store.link(fresh_key(), 60)
    assert link is not None
    query = parse_qs(urlsplit(link).query)
    assert {name: query[name] for name in ("sp", "sr", "skoid", "sktid", "rsct", "rscc")} == {
        "sp": ["r"],
        "sr": ["b"],
        "skoid": ["23657296-5cd5-45b0-a809-d972a7f4dfe1"],
        "sktid": ["ab1f708d-50f6-404c-a006-d71b2ac7a606"],
        "rsct": ["application/octet-stream"],
        "rscc": ["private, max-age=60"],
    }
    (ends, key_ends) = (query[name][0] for name in ("se", "ske"))
    assert ends < key_ends


def with_identity(server: Azurite, **lifetime: timedelta) -> tuple[BlobStore, Identity]:
    from ullage.blobs.azure.options import parse_azure_url
    from ullage.blobs.azure.probe import open_container
    from ullage.blobs.azure.store import AzureBlobStore

    assert server.trusted is not None
    options = parse_azure_url(server.url(server.fresh_bucket(), ca=server.trusted))
    identity = Identity(**lifetime)
    return AzureBlobStore(open_container(options, credential=identity)), identity


def test_a_token_that_ends_during_an_upload_is_renewed(tls_server: Azurite) -> None:
    """azure-storage.md section 4, O11."""
    store, identity = with_identity(tls_server, lifetime=timedelta(minutes=4))
    before = identity.asked
    with store.begin(key := fresh_key()) as append:
        append.write(b"one")
        append.sync()
        append.write(b"two")
        append.commit()
    assert identity.asked > before
    assert content(store, key) == b"onetwo"


def test_the_key_that_signs_links_is_asked_for_anew_before_it_ends(
    tls_server: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """azure-storage.md section 4, O11: a signed URL ends with the key that signed it."""
    from ullage.blobs.azure.container import Container

    asked: list[float] = []
    delegation_key = Container.delegation_key

    def counting(self: Container, start: Any, end: Any) -> Any:
        asked.append(end.timestamp())
        return delegation_key(self, start, end)

    monkeypatch.setattr(Container, "delegation_key", counting)
    store, _ = with_identity(tls_server)
    now = time.time()
    for later in (0, 3600, 24 * 3600 - 700, 24 * 3600 - 200):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert store.link(fresh_key(), 300)
    assert len(asked) == 2
    assert asked[1] - asked[0] > 20 * 3600

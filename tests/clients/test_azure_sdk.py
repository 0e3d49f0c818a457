"""Azure's Python SDK, `azure-containerregistry`, against a real server with TLS and accounts."""

import gc
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.clients.secured import Secured
from tests.support.registry import CONFIG, LAYER, MANIFEST, descriptor
from ullage.oci.digest import digest_of

azure = pytest.importorskip("azure.containerregistry")
core = pytest.importorskip("azure.core.exceptions")
credentials = pytest.importorskip("azure.core.credentials")

pytestmark = [
    pytest.mark.client,
    # The SDK does not close the connections it asks for tokens on (its exchange client's).
    pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

AUDIENCE = "https://containerregistry.azure.net"


class Credential:
    """What takes the place of an Entra token: `name:password` (azure.md section 1.4)."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def get_token(self, *_: str, **__: object) -> Any:
        return credentials.AccessToken(self._secret, int(time.time()) + 3600)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    flags = ("--anonymous-pull", "public/*", "--read-grace", "0s")
    with Secured(tmp_path_factory.mktemp("azure"), *flags) as secured:
        yield secured
        secured.server.assert_no_500()


@pytest.fixture(scope="module")
def sdk(registry: Secured) -> Iterator[Any]:
    """The administrator's client."""
    with client_of(registry, Credential(str(registry.admin))) as client:
        yield client


@contextmanager
def client_of(registry: Secured, credential: Credential | None) -> Iterator[Any]:
    with azure.ContainerRegistryClient(
        f"https://{registry.host}",
        credential,
        audience=AUDIENCE,
        connection_verify=str(registry.authority),
        retry_total=0,
    ) as client:
        yield client
    del client
    # What it left open is to be found here, and not during somebody else's test.
    gc.collect()


def push(sdk: Any, name: str, tag: str | None, layer: bytes) -> str:
    """An image of one layer; its digest."""
    config = b'{"architecture":"amd64","os":"linux"}'
    for data in (config, layer):
        assert sdk.upload_blob(name, io.BytesIO(data)) == (digest_of(data), len(data))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer)],
    }
    return str(sdk.set_manifest(name, manifest, tag=tag))


def test_repositories(sdk: Any) -> None:
    """list_repository_names, get, update and delete of a repository's properties."""
    for n in range(5):
        push(sdk, f"repositories/app{n}", "v1", b"layer")
    names = [f"repositories/app{n}" for n in range(5)]
    pages = sdk.list_repository_names(results_per_page=2).by_page()
    assert [name for page in pages for name in page if name.startswith("repositories/")] == names
    properties = sdk.get_repository_properties(names[0])
    assert (properties.name, properties.manifest_count, properties.tag_count) == (names[0], 1, 1)
    updated = sdk.update_repository_properties(names[0], can_delete=False)
    assert (updated.can_delete, updated.can_write, updated.can_read) == (False, True, True)
    with pytest.raises(core.HttpResponseError) as refused:
        sdk.delete_repository(names[0])
    assert refused.value.status_code == 405
    sdk.update_repository_properties(names[0], can_delete=True)
    sdk.delete_repository(names[0])
    # Deleting once more is no error.
    sdk.delete_repository(names[0])
    with pytest.raises(core.ResourceNotFoundError):
        sdk.get_repository_properties(names[0])


def test_tags(sdk: Any) -> None:
    """list_tag_properties in each order and page size; get, update and delete of a tag."""
    name = "tags/app"
    digest = ""
    for tag in ("b", "a", "c"):
        digest = push(sdk, name, tag, b"layer")
    order = azure.ArtifactTagOrder
    for order_by, expected in (
        (None, ["a", "b", "c"]),
        (order.LAST_UPDATED_ON_ASCENDING, ["b", "a", "c"]),
        (order.LAST_UPDATED_ON_DESCENDING, ["c", "a", "b"]),
    ):
        for n in (1, 2, 100):
            asked = {"order_by": order_by} if order_by else {}
            listed = sdk.list_tag_properties(name, results_per_page=n, **asked)
            assert [tag.name for tag in listed] == expected
    properties = sdk.get_tag_properties(name, "a")
    assert (properties.name, properties.digest) == ("a", digest)
    assert sdk.update_tag_properties(name, "a", can_write=False).can_write is False
    with pytest.raises(core.HttpResponseError):
        push(sdk, name, "a", b"another")
    sdk.update_tag_properties(name, "a", can_write=True)
    sdk.delete_tag(name, "a")
    with pytest.raises(core.ResourceNotFoundError):
        sdk.get_tag_properties(name, "a")
    assert sdk.get_manifest_properties(name, digest).digest == digest


def test_manifests(sdk: Any) -> None:
    """list_manifest_properties in each order and page size; get, update and delete."""
    name = "manifests/app"
    digests = [push(sdk, name, f"v{n}", b"layer %d" % n) for n in range(3)]
    order = azure.ArtifactManifestOrder
    for order_by, expected in (
        (None, sorted(digests)),
        (order.LAST_UPDATED_ON_ASCENDING, digests),
        (order.LAST_UPDATED_ON_DESCENDING, digests[::-1]),
    ):
        for n in (1, 2, 100):
            asked = {"order_by": order_by} if order_by else {}
            listed = sdk.list_manifest_properties(name, results_per_page=n, **asked)
            assert [manifest.digest for manifest in listed] == expected
    properties = sdk.get_manifest_properties(name, "v1")
    assert properties.digest == digests[1]
    assert properties.tags == ["v1"]
    assert (properties.architecture, properties.operating_system) == ("amd64", "linux")
    assert properties.size_in_bytes == len(b"layer 1") + 37
    assert sdk.update_manifest_properties(name, digests[1], can_delete=False).can_delete is False
    with pytest.raises(core.HttpResponseError) as refused:
        sdk.delete_manifest(name, digests[1])
    assert refused.value.status_code == 405
    sdk.update_manifest_properties(name, digests[1], can_delete=True)
    sdk.delete_manifest(name, digests[1])
    with pytest.raises(core.ResourceNotFoundError):
        sdk.get_tag_properties(name, "v1")


def test_content_goes_up_and_comes_down(sdk: Any) -> None:
    """A blob of several chunks of 4 MiB, a manifest by tag and by digest, byte for byte."""
    name = "content/app"
    data = bytes(range(256)) * 4 * 1024 * 9
    digest = push(sdk, name, "v1", data)
    assert b"".join(sdk.download_blob(name, digest_of(data))) == data
    for reference in ("v1", digest):
        result = sdk.get_manifest(name, reference)
        assert result.digest == digest
        assert result.media_type == MANIFEST
        assert digest_of(json.dumps(result.manifest).encode()) == digest
    sdk.delete_manifest(name, digest)
    # The blob went with the only image that held it.
    with pytest.raises(core.ResourceNotFoundError):
        b"".join(sdk.download_blob(name, digest_of(data)))
    sdk.delete_blob(name, digest_of(data))


def test_anybody_may_pull_what_is_public(registry: Secured, sdk: Any) -> None:
    """azure.md section 1.7: a client without a credential reads, and may change nothing."""
    digest = push(sdk, "public/app", "v1", b"layer")
    push(sdk, "private/app", "v1", b"layer")
    with client_of(registry, None) as anybody:
        assert anybody.get_manifest("public/app", "v1").digest == digest
        assert b"".join(anybody.download_blob("public/app", digest_of(b"layer"))) == b"layer"
        with pytest.raises(core.ClientAuthenticationError):
            anybody.delete_manifest("public/app", digest)
        with pytest.raises(core.ClientAuthenticationError):
            anybody.get_manifest("private/app", "v1")

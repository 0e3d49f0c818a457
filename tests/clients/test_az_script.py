"""The article's script where more than plain images live: what is tagged stays, whole.

docs/design/deletion.md section 2: "tags" is null for orphans alone, so the script finds no other.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.azure import Azure, Ours, Registry, Shell
from tests.clients.programs import payload
from tests.server.pushing import encoded, image, index_of, push_image, put_manifest
from tests.support.article import script
from tests.support.registry import descriptor
from ullage.oci.digest import Digest, digest_of

pytestmark = pytest.mark.client

NAME = "team/everything"
SIGNATURE = "application/vnd.example.signature"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path) as registry:
        yield registry


@pytest.mark.slow
@pytest.mark.parametrize("tool", [Azure, Ours], ids=["az", "ullage"])
def test_the_script_deletes_orphans_and_nothing_that_anything_needs(
    registry: Registry, tool: Callable[[Registry], Shell]
) -> None:
    """A multi-platform image, a nested index, signatures, a locked image: each with its orphan."""
    az, view, http = tool(registry), registry.view, registry.http

    # What somebody still uses.
    platforms = [untagged(registry, name) for name in ("amd64", "arm64")]
    multi = tagged(registry, "multi", index_of(http, NAME, platforms))
    inner = tagged(registry, None, index_of(http, NAME, [untagged(registry, "inner")]))
    nested = tagged(registry, "nested", index_of(http, NAME, [inner, untagged(registry, "outer")]))
    signed = push_image(http, NAME, "signed", (payload("signed"),))
    signature = sign(registry, signed, "of signed")
    attestation = sign(registry, signature, "of the signature")
    platform_signature = sign(registry, platforms[1], "of arm64")
    locked = push_image(http, NAME, "locked", (payload("locked"),))
    lock = f"az acr repository update -n myregistry --image {NAME}@{locked} --write-enabled false"
    assert az(lock).code == 0
    kept = (multi, inner, nested, signed, signature, attestation, platform_signature, locked)
    kept_images = [f"{NAME}@{digest}" for digest in kept]

    # What nobody does: an image, a whole multi-platform one that shares a platform, a signed one.
    orphan = untagged(registry, "orphan")
    old = index_of(http, NAME, [platforms[0], untagged(registry, "only the old one has it")])
    old_index = tagged(registry, "old", old)
    put_manifest(http, NAME, "old", index_of(http, NAME, platforms) | {"annotations": {"v": "2"}})
    old_signed = untagged(registry, "old signed")
    old_signature = sign(registry, old_signed, "of old signed")
    gone = (orphan, old_index, old_signed, old_signature, *digests_of(old)[1:])

    said = az(script(NAME, enabled=True))
    assert (said.code, said.out) == (0, ""), said.err
    asked = {line.split("'")[1] for line in said.err.splitlines() if "will delete" in line}
    assert asked == {orphan, old_index, old_signed}, "each once, and no other"

    view.assert_pullable(*kept_images, f"{NAME}:old")
    assert sorted(view.tags(NAME)) == ["locked", "multi", "nested", "old", "signed"]
    assert [digest for digest in gone if view.has_manifest(f"{NAME}@{digest}")] == []
    for subject, signer in ((signed, signature), (platforms[1], platform_signature)):
        listed = http.get(f"/v2/{NAME}/referrers/{subject}").json()["manifests"]
        assert [one["digest"] for one in listed] == [signer]
    view.assert_disk_holds(*kept_images, f"{NAME}:old")


def test_the_present_query_deletes_orphans_and_no_signature_of_a_living_image(
    registry: Registry,
) -> None:
    """Promise 6: `[?tags[0]==null]` selects `[]`, too; what it must not delete is refused."""
    az, view, http = Azure(registry), registry.view, registry.http
    platforms = [untagged(registry, name) for name in ("amd64", "arm64")]
    multi = tagged(registry, "multi", index_of(http, NAME, platforms))
    signed = push_image(http, NAME, "signed", (payload("signed"),))
    signature, sbom = sign(registry, signed, "signature"), sign(registry, multi, "SBOM")
    by_tag = push_image(http, NAME, signed.replace(":", "-") + ".sig", (payload("by tag"),))
    orphan = untagged(registry, "orphan")

    said = az(script(NAME, enabled=True).replace("tags==null", "tags[0]==null"))
    # xargs's code for one that failed of many. az says what the registry said, once each.
    assert (said.code, said.out) == (123, ""), said.err
    assert "Traceback" not in said.err
    assert said.err.count("is part of the index") == len(platforms)
    for subject in (signed, multi):
        assert said.err.count(f"an SBOM or the like of {subject}, which is there") == 1
    assert not view.has_manifest(f"{NAME}@{orphan}")
    kept = (*platforms, multi, signed, signature, sbom, by_tag)
    view.assert_pullable(*(f"{NAME}@{digest}" for digest in kept))


def test_a_locked_orphan_is_refused_and_the_others_go(registry: Registry) -> None:
    """azure.md sections 3.2 and 5.4: az says so once, and does not try again for a minute."""
    az, view = Azure(registry), registry.view
    locked, other = untagged(registry, "locked"), untagged(registry, "other")
    az(f"az acr repository update -n myregistry --image {NAME}@{locked} --delete-enabled false")
    said = az(script(NAME, enabled=True))
    assert said.err.count("The operation is disallowed on this registry") == 1
    assert view.has_manifest(f"{NAME}@{locked}")
    assert not view.has_manifest(f"{NAME}@{other}")


# --- inside ---------------------------------------------------------------------------------------


def untagged(registry: Registry, layer: str) -> Digest:
    """An image of one layer of its own, without a tag."""
    return tagged(registry, None, image(registry.http, NAME, (payload(layer),)))


def sign(registry: Registry, subject: Digest, layer: str) -> Digest:
    """An untagged artifact that refers to another one, as signatures do."""
    found = registry.http.get(f"/v2/{NAME}/manifests/{subject}")
    return tagged(
        registry,
        None,
        image(registry.http, NAME, (payload(layer),))
        | {
            "artifactType": SIGNATURE,
            "subject": descriptor(found.headers["Content-Type"], found.content),
        },
    )


def tagged(registry: Registry, tag: str | None, manifest: dict[str, object]) -> Digest:
    """Push a manifest under a tag, or under its digest only."""
    digest = digest_of(encoded(manifest))
    answer = put_manifest(registry.http, NAME, tag or digest, manifest)
    assert answer.status_code == 201, answer.text
    return digest


def digests_of(index: dict[str, object]) -> list[str]:
    listed = index["manifests"]
    assert isinstance(listed, list)
    return [one["digest"] for one in listed]

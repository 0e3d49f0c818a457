"""Azure's own command line with what was deleted softly (azure.md sections 2.9 and 3).

`az acr manifest list-deleted` and `list-deleted-tags` ask the registry, and then Azure for the
days: without Azure they end there. `config soft-delete` asks Azure only. `ullage` has all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.clients.azure import Azure, Ours, Registry
from tests.server.pushing import push_image

pytestmark = pytest.mark.client

MULTIPLE = "Multiple deleted manifests found for tag: v1. Restoring most recently deleted"


class Bin(NamedTuple):
    """A registry with soft delete on, and the two command lines."""

    registry: Registry
    az: Azure
    ours: Ours

    def digest(self, image: str) -> str | None:
        """What a tag points to."""
        repository, _, tag = image.partition(":")
        answer = self.registry.http.get(f"/v2/{repository}/manifests/{tag}")
        digest: str | None = answer.headers.get("Docker-Content-Digest")
        return digest


@pytest.fixture(scope="module")
def bin_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bin]:
    with Registry(tmp_path_factory.mktemp("bin")) as registry:
        found = Bin(registry, Azure(registry), Ours(registry))
        done = found.ours("az acr config soft-delete update -r myregistry --status enabled")
        assert done.code == 0, done.err
        yield found


def test_az_lists_deleted_repositories_and_restores_a_tag(bin_: Bin) -> None:
    digest = push_image(bin_.registry.http, "team/gone", "v1", (b"gone",))
    done = bin_.az("az acr repository delete -n myregistry --repository team/gone --yes")
    assert done.code == 0, done.err
    az, ours = (
        shell("az acr repository list-deleted -n myregistry") for shell in (bin_.az, bin_.ours)
    )
    (listed,) = json.loads(az.out)
    assert listed["repository"] == "team/gone"
    assert json.loads(ours.out) == [listed]
    done = bin_.az("az acr manifest restore -r myregistry -n team/gone:v1")
    assert done.code == 0, done.err
    assert json.loads(done.out)["digest"] == digest
    assert bin_.digest("team/gone:v1") == digest


def test_az_restores_by_digest_and_asks_about_several(bin_: Bin) -> None:
    """azure.md section 3.4: of several it takes the last in the list, the last deleted."""
    digests = []
    for content in (b"old", b"new"):
        digests.append(push_image(bin_.registry.http, "team/many", "v1", (content,)))
        bin_.ours("az acr repository delete -n myregistry --image team/many:v1 --yes")
    said = bin_.az.typed("az acr manifest restore -r myregistry -n team/many:v1", "y")
    assert said.code == 0, said
    assert MULTIPLE in said.out
    assert bin_.digest("team/many:v1") == digests[1]
    refused = bin_.az(f"az acr manifest restore -r myregistry -n team/many:v1 -d {digests[0]}")
    assert refused.code == 1
    assert "team/many:v1 points to something else by now" in refused.err
    forced = bin_.az(
        f"az acr manifest restore -r myregistry -n team/many:v1 -d {digests[0]} --force --yes"
    )
    assert forced.code == 0, forced.err
    assert bin_.digest("team/many:v1") == digests[0]


def test_az_says_when_there_is_nothing_to_restore(bin_: Bin) -> None:
    push_image(bin_.registry.http, "team/live", "v1", (b"live",))
    said = bin_.az("az acr manifest restore -r myregistry -n team/live:v1")
    assert (said.code, "No deleted manifests found for tag: v1" in said.err) == (1, True)
    ours = bin_.ours("az acr manifest restore -r myregistry -n team/live:v1")
    assert (ours.code, "No deleted manifests found for tag: v1" in ours.err) == (1, True)


def test_what_az_asks_azure_for_ullage_answers(bin_: Bin) -> None:
    """azure.md section 1.9: these get their list, and then need the days from Azure."""
    digest = push_image(bin_.registry.http, "team/lists", "v1", (b"lists",))
    bin_.ours("az acr repository delete -n myregistry --image team/lists:v1 --yes")
    for command in ("list-deleted", "list-deleted-tags"):
        line = f"az acr manifest {command} -r myregistry -n team/lists"
        assert "Please run 'az login' to setup account" in bin_.az(line).err
        (listed,) = json.loads(bin_.ours(line).out)
        assert listed["digest"] == digest
        assert listed["deletedAt"] < listed["expiresAfter"]
    shown = bin_.ours("az acr config soft-delete show -r myregistry")
    assert json.loads(shown.out)["retentionDays"] == 7

"""Signatures, attestations and SBOMs in tags named after their image (deletion.md section 2)."""

from __future__ import annotations

import pytest

from tests.support.cleaning import manifests, purge, retag, tags
from tests.support.planting import plant_image
from tests.support.registry import ALICE, push_image, push_index
from tests.support.soundness import assert_sound
from tests.support.statements import listened
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.cleanup.plan.suggest import suggest
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest
from ullage.oci.attached import attached_tags, attached_to, image_named_in
from ullage.oci.digest import Digest
from ullage.oci.errors import Locked
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.attributes import update_tag
from ullage.registry.context import Registry
from ullage.registry.locks.image_locks import place_lock
from ullage.registry.queries.attributes import AttributeChanges
from ullage.usage.usage import by_image

APP = parse_repository_name("app")
SUFFIXES = ["", ".sig", ".att", ".sbom"]


def attach(registry: Registry, image: str, suffix: str = ".sig") -> Digest:
    """What cosign pushes: an image manifest under a tag that is named after its image."""
    tag = image.replace(":", "-") + suffix
    return plant_image(registry, "app", tag, [f"{suffix or 'list'} of {image}".encode()])


def image(registry: Registry, tag: str | None, content: str = "") -> Digest:
    return plant_image(registry, "app", tag, [(content or str(tag)).encode()])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_tag_attaches_goes_with_its_image(registry: Registry, suffix: str) -> None:
    """And so does the repository, which it kept alive."""
    app = image(registry, "v1")
    attached = attach(registry, app, suffix)
    of_the_signature = attach(registry, attached)
    deleted = delete_manifest(registry, APP, app, ALICE)
    assert set(deleted.manifests) == {app, attached, of_the_signature}
    assert manifests(registry) == set()
    assert_sound(registry)


@pytest.mark.parametrize("suffix", [".vuln", ".sig2", ".SIG", ".sig.sig", "-sig"])
def test_no_other_suffix_attaches_anything(registry: Registry, suffix: str) -> None:
    app = image(registry, "v1")
    other = attach(registry, app, suffix)
    delete_manifest(registry, APP, app, ALICE)
    purge(registry, untagged_only=True, ago=None)
    assert manifests(registry) == {other}


def test_another_tag_keeps_what_is_attached(registry: Registry) -> None:
    app = image(registry, "v1")
    attached = attach(registry, app)
    retag(registry, "keep", attached)
    delete_manifest(registry, APP, app, ALICE)
    purge(registry, untagged_only=True, ago=None)
    assert manifests(registry) == {attached}


def test_what_is_attached_to_two_images_goes_with_the_last(registry: Registry) -> None:
    first, second = image(registry, "v1"), image(registry, "v2")
    attached = attach(registry, first)
    retag(registry, f"{second.replace(':', '-')}.sig", attached)
    delete_manifest(registry, APP, first, ALICE)
    purge(registry, untagged_only=True, ago=None)
    assert manifests(registry) == {second, attached}
    delete_manifest(registry, APP, second, ALICE)
    assert manifests(registry) == set()


def test_a_lock_on_what_is_attached_refuses_the_deletion(registry: Registry) -> None:
    """As a lock on any other part of an image does."""
    app = image(registry, "v1")
    attached = attach(registry, app)
    tag = parse_tag(attached_tags(app)[1])
    update_tag(registry, APP, tag, AttributeChanges(delete_enabled=False), ALICE)
    with pytest.raises(Locked):
        delete_manifest(registry, APP, app, ALICE)
    assert manifests(registry) == {app, attached}


def test_a_lock_with_a_reason_covers_what_is_attached(registry: Registry) -> None:
    app = image(registry, "v1")
    attached = attach(registry, app)
    place_lock(registry, APP, app, ALICE, reason="audit", owner=None, until=None)
    with pytest.raises(Locked):
        delete_manifest(registry, APP, attached, ALICE)


def test_untagged_cleanups_take_what_is_attached_to_nothing(registry: Registry) -> None:
    """Those of living images are never candidates."""
    app = image(registry, "v1")
    signature = attach(registry, app)
    stray = attach(registry, "sha256:" + "0" * 64)
    job = purge(registry, untagged_only=True, ago=None)
    assert job.manifests_deleted == 1
    assert manifests(registry) == {app, signature}
    assert stray not in manifests(registry)
    assert_sound(registry)


def test_a_purge_takes_signatures_along(registry: Registry) -> None:
    old, new = image(registry, "old"), image(registry, "new")
    attach(registry, old)
    kept = attach(registry, new)
    job = purge(registry, "app:^old$", untagged=True)
    assert (job.tags_deleted, job.manifests_deleted) == (1, 2)
    assert manifests(registry) == {new, kept}


def test_a_stray_signature_whose_tag_matches_is_counted_once(registry: Registry) -> None:
    image(registry, "v1")
    attach(registry, "sha256:" + "0" * 64)
    job = purge(registry, "app:sig$", untagged=True)
    assert (job.tags_deleted, job.manifests_deleted) == (1, 1)
    assert tags(registry) == ["v1"]


def test_a_fallback_list_of_referrers_goes_with_its_image_and_all_it_lists(
    registry: Registry,
) -> None:
    """distribution-spec, "Referrers Tag Schema": what clients push to older registries."""
    app = push_image(registry, "app", "v1", [b"v1"])
    sbom = push_image(registry, "app", None, [b"sbom"], subject=app)
    fallback = push_index(registry, "app", attached_tags(app)[0], [sbom])
    deleted = delete_manifest(registry, APP, app, ALICE)
    assert set(deleted.manifests) == {app, sbom, fallback}


def test_suggest_finds_stray_signatures_and_spares_others(registry: Registry) -> None:
    app = image(registry, "v1")
    attach(registry, app)
    stray = attach(registry, "sha256:" + "0" * 64)
    plan = suggest(registry, 10**9, (), WITHOUT_ACCOUNTS, ALICE)
    assert {item.digest for item in plan.items} == {stray}
    assert not any(warning.refuses for warning in plan.warnings)


def test_a_plan_shows_what_is_attached_and_frees_what_it_says(registry: Registry) -> None:
    """Promise 3: predicted = freed."""
    app = image(registry, "v1", "x" * 1000)
    attached = attach(registry, app)
    image(registry, "v2")
    wanted = PlanRequest(repository=APP, digests=(app,))
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    assert {item.digest: item.why for item in plan.items} == {
        app: "asked",
        attached: "referrer",
    }
    receipt = apply_plan(registry, plan.id, ALICE, allow=("most-of-repository",))
    assert receipt.freed_bytes == plan.freed_bytes > 1000
    assert_sound(registry)


def test_the_bill_counts_what_is_attached_as_part_of_its_image(registry: Registry) -> None:
    app = image(registry, "v1")
    attach(registry, app)
    [line] = by_image(registry, APP, tags=False)
    assert (line.digest, line.manifest_count) == (app, 2)
    assert line.exclusive_bytes == line.bytes


def test_the_cost_of_a_deletion_does_not_grow_with_the_tags_around(
    registry: Registry, db: Database
) -> None:
    """Promise 5: attached tags are looked up by name, never by listing."""
    first, second = image(registry, "v1"), image(registry, "v2")
    attach(registry, first)
    attach(registry, second)
    with listened(db) as few:
        delete_manifest(registry, APP, first, ALICE)
    for n in range(20):
        attach(registry, image(registry, f"more-{n}"))
    with listened(db) as many:
        delete_manifest(registry, APP, second, ALICE)
    assert len(many) == len(few)


@pytest.mark.parametrize(
    ("tag", "digest", "named"),
    [
        (f"sha256-{'a' * 64}", f"sha256:{'a' * 64}", True),
        (f"sha256-{'a' * 64}.sig", f"sha256:{'a' * 64}", True),
        (f"sha512-{'0' * 128}", f"sha512:{'0' * 128}", True),
        (f"sha256-{'a' * 64}.vuln", None, True),
        (f"sha256-{'A' * 64}.sig", None, False),
        (f"sha256-{'a' * 63}.sig", None, False),
        (f"sha256-{'a' * 65}", None, False),
        (f"sha512-{'a' * 64}.sig", None, False),
        ("v1.sig", None, False),
    ],
)
def test_which_tags_attach(tag: str, digest: str | None, named: bool) -> None:
    """deletion.md section 2. A cleanup by age spares other suffixes, too, with their image."""
    assert attached_to(tag) == digest
    assert (image_named_in(tag) is not None) is named

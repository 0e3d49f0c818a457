"""The races of deletion.md section 6, as two actors that meet at every step of each other.

On PostgreSQL one actor is stopped before each of its statements in turn while the other acts as far
as it can; then they change places. On SQLite, where there is one writer, they act one after the
other, in both orders. Whatever the schedule: no client is told more than what is then true, and
none meets an error that has no name.

Races that need no second actor are tested where they belong: deletion.md section 6 says where.
ULLAGE_SCHEDULES=all tries every step. The rule is every eighth one, and all of a short race.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.support.actors import Actor, Observer, interleave, observing
from tests.support.cleaning import begin, finish
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.linking_store import LinkingStore
from tests.support.planting import image_manifest, plant_blobs, plant_image
from tests.support.registry import (
    ALICE,
    INDEX,
    MANIFEST,
    descriptor,
    push_blob,
    push_index,
    push_manifest,
    put_manifest,
    settle,
)
from tests.support.soundness import assert_sound
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.cleanup.guardrails import GUARDRAILS
from ullage.cleanup.job.execution import work
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_blob, delete_manifest, delete_repository, delete_tag
from ullage.deletion.reclaim import (
    erase_deleted,
    expire_uploads,
    reclaim_due,
    review_due,
    tidy_signed_urls,
)
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    Locked,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    OperationDisallowed,
    RegistryError,
    TagUnknown,
    Unavailable,
)
from ullage.oci.manifest.parsing import parse_manifest
from ullage.oci.reference import RepositoryName, parse_repository_name, parse_tag
from ullage.oci.sparse import Sparse, SparseRules
from ullage.registry.attributes import (
    AttributeChanges,
    update_manifest,
    update_repository,
    update_tag,
)
from ullage.registry.clients import Caller
from ullage.registry.context import Limits, Registry
from ullage.registry.locks import deployments
from ullage.registry.locks.deployments import DeploymentReport, ReportedImage
from ullage.registry.pull.read import (
    get_manifest,
    list_referrers,
    open_blob,
    stat_blob,
    stat_blob_for_push,
)
from ullage.registry.pull.signed_links import signed_link
from ullage.registry.push.append_session import AppendSession
from ullage.registry.push.links import mount_blob
from ullage.registry.push.sessions import cancel_upload, get_upload, start_upload
from ullage.registry.push.uploads import append_upload, finish_upload
from ullage.registry.queries.reclaim.backup_leases import begin_backup, end_backup
from ullage.transfer.queries.copies import sound_blobs
from ullage.worker import CHOOSERS

BOB = Caller(subject="bob", address="192.0.2.2", agent="test")
STRIDE = 1 if os.environ.get("ULLAGE_SCHEDULES") == "all" else 8
SPARSE = SparseRules(Sparse.ALLOW)
Failure = BaseException | None


class Meeting(NamedTuple):
    """What two actors want to do, and what must be true when both have ended.

    `check` gets what each of them raised, or None.
    """

    one: Callable[[], object]
    other: Callable[[], object]
    check: Callable[[Failure, Failure], None]


@dataclass
class Arena:
    """Where they meet. Each meeting has a number, for names and bytes that no other one uses."""

    registry: Registry
    clock: FakeClock
    observer: Observer | None

    def meet(self, prepare: Callable[[int], Meeting], stride: int = STRIDE) -> None:
        """Have them meet on every schedule there is; at every `stride`th step, that is."""
        if self.observer is None:
            self._one_after_the_other(prepare)
        else:
            self._step_by_step(self.observer, prepare, stride)
        settle(self.registry)
        assert_sound(self.registry)

    def _one_after_the_other(self, prepare: Callable[[int], Meeting]) -> None:
        for number, one_first in enumerate((True, False)):
            meeting = prepare(number)
            if one_first:
                failures = _attempt(meeting.one), _attempt(meeting.other)
            else:
                failures = (_attempt(meeting.other), _attempt(meeting.one))[::-1]
            self._check(meeting, *failures)

    def _step_by_step(
        self, observer: Observer, prepare: Callable[[int], Meeting], stride: int
    ) -> None:
        number = 0
        for one_first in (True, False):
            for step in range(0, 200, stride):
                number += 1
                meeting = prepare(number)
                acts = (meeting.one, meeting.other)
                failures = interleave(observer, *(acts if one_first else acts[::-1]), at=step)
                if failures is None:
                    break
                self._check(meeting, *(failures if one_first else failures[::-1]))
            else:
                pytest.fail("no end of steps")

    def _check(self, meeting: Meeting, one: Failure, other: Failure) -> None:
        for failure in (one, other):
            if failure is not None and not isinstance(failure, RegistryError):
                raise failure
        settle(self.registry)
        meeting.check(one, other)


def _attempt(act: Callable[[], object]) -> Failure:
    try:
        act()
    except RegistryError as error:
        return error
    return None


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def arena(request: pytest.FixtureRequest, clock: FakeClock) -> Iterator[Arena]:
    # Bytes are erased as soon as they may be: a promise that is not kept is found out.
    limits = Limits(read_grace=Limits().read_grace * 0)
    if request.param == "sqlite":
        db: Database = request.getfixturevalue("sqlite_db")
        yield Arena(registry_on(db, MemoryBlobStore(), clock, limits), clock, None)
        return
    db = request.getfixturevalue("postgres_db")
    with observing(request.getfixturevalue("shared_postgres_url")) as observer:
        yield Arena(registry_on(db, MemoryBlobStore(), clock, limits), clock, observer)


# --- helpers --------------------------------------------------------------------------------------


def name_of(number: int, what: str = "app") -> RepositoryName:
    return parse_repository_name(f"{what}{number}")


def layer_of(number: int) -> bytes:
    return b"layer %d" % number


def readable(registry: Registry, name: RepositoryName, reference: Any) -> bool:
    """Whether a manifest is there; with it, all its blobs must be, to the last byte."""
    try:
        stored = get_manifest(registry, name, reference)
    except (ManifestUnknown, NameUnknown):
        return False
    manifest = parse_manifest(stored.raw, stored.media_type)
    for blob in manifest.required_blobs:
        reader = open_blob(registry, name, blob.digest)
        assert digest_of(reader.read_at(0, reader.size)) == blob.digest
        reader.close()
    for child in manifest.required_children:
        assert readable(registry, name, child.digest)
    return True


def session_with(registry: Registry, name: RepositoryName, data: bytes) -> AppendSession:
    """An upload to which only its end is missing."""
    session = append_upload(registry, name, start_upload(registry, name, BOB).id, BOB, start=0)
    session.write(data)
    return session


def put(registry: Registry, name: str, number: int, **more: Any) -> Digest:
    """Put a manifest over the layer of this meeting."""
    manifest = image_manifest([layer_of(number)], annotations={"by": "bob"}, **more)
    return push_manifest(registry, name, "bob", manifest, BOB)


# --- the races ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["same", "other"])
def test_r01_r09_upload_against_the_deletion_of_the_last_manifest(arena: Arena, where: str) -> None:
    """An upload never finds "it is there already" and then nothing; also R8, R19's loser."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        target = name if where == "same" else name_of(number, "other")
        data = layer_of(number)
        old = plant_image(registry, name, "v1", [data])
        session = session_with(registry, target, data)

        def check(upload: Failure, deletion: Failure) -> None:
            assert (upload, deletion) == (None, None)
            plant_blobs(registry, target, [b"{}"])
            put(registry, target, number)
            assert readable(registry, target, parse_tag("bob"))

        return Meeting(
            lambda: session.commit(digest_of(data)),
            lambda: delete_manifest(registry, name, old, ALICE),
            check,
        )

    arena.meet(prepare)


def test_r03_head_against_deletion(arena: Arena) -> None:
    """A client that is told 200 need not upload: the manifest that follows is accepted."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        digest = digest_of(layer_of(number))
        old = plant_image(registry, name, "v1", [layer_of(number)])
        plant_image(registry, name, "config", [b"kept"])

        def check(head: Failure, deletion: Failure) -> None:
            assert deletion is None
            if head is not None:
                assert isinstance(head, BlobUnknown)
                return
            put(registry, name, number)
            assert readable(registry, name, parse_tag("bob"))

        return Meeting(
            lambda: stat_blob_for_push(registry, name, digest, BOB),
            lambda: delete_manifest(registry, name, old, ALICE),
            check,
        )

    arena.meet(prepare)


def test_r03_head_against_the_review_that_drops_the_link(arena: Arena) -> None:
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        plant_image(registry, name, "config", [b"kept"])
        [digest] = plant_blobs(registry, name, [layer_of(number)])

        def check(head: Failure, review: Failure) -> None:
            assert review is None
            if head is not None:
                assert isinstance(head, BlobUnknown)
                return
            put(registry, name, number)
            assert readable(registry, name, parse_tag("bob"))

        return Meeting(
            lambda: stat_blob_for_push(registry, name, digest, BOB),
            lambda: review_due(registry),
            check,
        )

    arena.meet(prepare)


def test_r04_manifest_against_the_deletion_of_its_blob(arena: Arena) -> None:
    """One of them is refused: the manifest for its missing blob, or the deletion of it."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        plant_image(registry, name, "config", [b"kept"])
        [digest] = plant_blobs(registry, name, [layer_of(number)])

        def check(manifest: Failure, deletion: Failure) -> None:
            if manifest is None:
                assert isinstance(deletion, OperationDisallowed)
            else:
                assert isinstance(manifest, ManifestBlobUnknown)
                assert deletion is None
            assert readable(registry, name, parse_tag("bob")) == (manifest is None)

        return Meeting(
            lambda: put(registry, name, number),
            lambda: delete_blob(registry, name, digest, ALICE),
            check,
        )

    arena.meet(prepare)


@pytest.mark.parametrize("of", ["manifest", "repository"])
def test_r10_mount_against_the_deletion_of_the_source(arena: Arena, of: str) -> None:
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name, source = name_of(number), name_of(number, "source")
        old = plant_image(registry, source, "v1", [layer_of(number)])
        mounted: list[bool] = []

        def delete() -> None:
            if of == "manifest":
                delete_manifest(registry, source, old, ALICE)
            else:
                delete_repository(registry, source, ALICE)

        def check(mount: Failure, deletion: Failure) -> None:
            assert (mount, deletion) == (None, None)
            plant_blobs(registry, name, [b"{}"])
            if mounted == [True]:
                put(registry, name, number)
                assert readable(registry, name, parse_tag("bob"))
            else:
                with pytest.raises(ManifestBlobUnknown):
                    put(registry, name, number)

        digest = digest_of(layer_of(number))
        return Meeting(
            lambda: mounted.append(mount_blob(registry, name, source, digest, BOB)), delete, check
        )

    arena.meet(prepare)


def test_r11_r12_tagging_against_deletion(arena: Arena) -> None:
    """A tag never points to nothing, and a deletion never takes what was tagged after it."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        plant_image(registry, name, "config", [b"kept"])
        layers = [layer_of(number)]
        old = plant_image(registry, name, "v1", layers)

        def check(tagging: Failure, deletion: Failure) -> None:
            assert deletion is None
            if tagging is not None:
                assert isinstance(tagging, ManifestBlobUnknown)
            assert readable(registry, name, parse_tag("v2")) == readable(registry, name, old)

        return Meeting(
            lambda: push_manifest(registry, name, "v2", image_manifest(layers), BOB),
            lambda: delete_manifest(registry, name, old, ALICE),
            check,
        )

    arena.meet(prepare)


def test_r13_two_pushes_of_one_tag(arena: Arena) -> None:
    """The tag is one of the two, and both manifests are there."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        plant_blobs(registry, name, [b"{}", b"one", b"other"])
        pushed: list[Digest] = []

        def push(layer: bytes) -> None:
            pushed.append(push_manifest(registry, name, "v1", image_manifest([layer]), BOB))

        def check(one: Failure, other: Failure) -> None:
            assert (one, other) == (None, None)
            assert get_manifest(registry, name, parse_tag("v1")).digest in pushed
            assert all(readable(registry, name, digest) for digest in pushed)

        return Meeting(lambda: push(b"one"), lambda: push(b"other"), check)

    arena.meet(prepare)


def test_r13_tag_deletion_against_moving_the_tag(arena: Arena) -> None:
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        old = plant_image(registry, name, "bob", [b"old"])
        plant_blobs(registry, name, [layer_of(number)])

        def check(push: Failure, untag: Failure) -> None:
            assert (push, untag) == (None, None)
            assert readable(registry, name, old)

        return Meeting(
            lambda: put(registry, name, number),
            lambda: delete_tag(registry, name, parse_tag("bob"), ALICE),
            check,
        )

    arena.meet(prepare)


def test_r14_index_against_the_deletion_of_its_child(arena: Arena) -> None:
    """One of them is refused: no index without its child, no child deleted from under an index."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        child = plant_image(registry, name, None, [layer_of(number)])
        plant_image(registry, name, "kept", [b"kept"])

        def check(index: Failure, deletion: Failure) -> None:
            if index is None:
                assert isinstance(deletion, OperationDisallowed)
            else:
                assert isinstance(index, ManifestBlobUnknown | ManifestUnknown)
                assert deletion is None
            assert readable(registry, name, parse_tag("index")) == (index is None)

        return Meeting(
            lambda: push_index(registry, name, "index", [child], BOB),
            lambda: delete_manifest(registry, name, child, ALICE),
            check,
        )

    arena.meet(prepare)


def test_r14_sparse_index_against_the_push_of_what_it_misses(arena: Arena) -> None:
    """Whichever comes first: the platform is a child of the index then."""
    registry = replace(arena.registry, limits=Limits(sparse_indexes=SPARSE))

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        plant_image(registry, name, "kept", [layer_of(number)])
        child = json.dumps(image_manifest([layer_of(number)], annotations={"bob": "1"})).encode()
        listed = [descriptor(MANIFEST, child)]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}

        def check(index: Failure, platform: Failure) -> None:
            assert (index, platform) == (None, None)
            with pytest.raises(OperationDisallowed):
                delete_manifest(registry, name, digest_of(child), ALICE)

        return Meeting(
            lambda: push_manifest(registry, name, "index", index, BOB),
            lambda: put_manifest(registry, name, digest_of(child), child, MANIFEST, ALICE),
            check,
        )

    arena.meet(prepare)


def test_r14_sparse_image_against_the_upload_of_what_it_misses(arena: Arena) -> None:
    """Whichever comes first: the layer is the image's then, and goes with it."""
    registry = replace(arena.registry, limits=Limits(sparse_indexes=SPARSE))

    def prepare(number: int) -> Meeting:
        name, layer = name_of(number), layer_of(number)
        plant_image(registry, name, "kept", [b"kept"])
        session = session_with(registry, name, layer)
        image = image_manifest([layer])

        def check(push: Failure, upload: Failure) -> None:
            assert (push, upload) == (None, None)
            with pytest.raises(OperationDisallowed):
                delete_blob(registry, name, digest_of(layer), ALICE)

        return Meeting(
            lambda: push_manifest(registry, name, "image", image, BOB),
            lambda: session.commit(digest_of(layer)),
            check,
        )

    arena.meet(prepare)


def test_r14_child_shared_by_two_indexes_that_are_deleted_at_once(arena: Arena) -> None:
    """The second takes the child along; neither leaves it behind."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        child = plant_image(registry, name, None, [layer_of(number)])
        other = plant_image(registry, name, None, [b"kept"])
        one_index = push_index(registry, name, None, [child])
        other_index = push_index(registry, name, None, [child, other])

        def check(one: Failure, another: Failure) -> None:
            assert (one, another) == (None, None)
            assert not any(readable(registry, name, each) for each in (child, other))

        return Meeting(
            lambda: delete_manifest(registry, name, one_index, ALICE),
            lambda: delete_manifest(registry, name, other_index, ALICE),
            check,
        )

    arena.meet(prepare)


def test_r15_referrer_against_the_deletion_of_its_subject(arena: Arena) -> None:
    """Pushed before, it goes along; pushed after, it waits for a subject, and is listed."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        subject = plant_image(registry, name, "v1", [b"subject"])
        plant_image(registry, name, "config", [b"kept"])
        plant_blobs(registry, name, [layer_of(number)])

        def check(referrer: Failure, deletion: Failure) -> None:
            assert (referrer, deletion) == (None, None)
            listed = list_referrers(registry, name, subject, None, 10, None).descriptors
            assert bool(listed) == readable(registry, name, parse_tag("bob"))
            assert not readable(registry, name, subject)

        return Meeting(
            lambda: put(registry, name, number, subject=subject),
            lambda: delete_manifest(registry, name, subject, ALICE),
            check,
        )

    arena.meet(prepare)


@pytest.mark.parametrize("step", ["upload", "manifest", "head", "mount"])
def test_r16_push_against_the_deletion_of_its_repository(arena: Arena, step: str) -> None:
    """What comes before goes along, but for what was promised, which the next incarnation keeps.

    No step of a push is refused, except that a HEAD may be answered 404.
    """
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name, source = name_of(number), name_of(number, "source")
        layer = layer_of(number)
        old = [b"old", layer] if step == "head" else [b"old"]
        plant_image(registry, name, "v1", old, config=b"of the old one")
        if step == "mount":
            plant_image(registry, source, "v1", [layer])
        if step == "manifest":
            push_blob(registry, name, layer, BOB)
        push_blob(registry, name, b"{}", BOB)
        session = session_with(registry, name, layer) if step == "upload" else None

        def push() -> None:
            if session is not None:
                session.commit(digest_of(layer))
            elif step == "head":
                stat_blob_for_push(registry, name, digest_of(layer), BOB)
            elif step == "mount":
                assert mount_blob(registry, name, source, digest_of(layer), BOB)
            else:
                put(registry, name, number)

        def check(pushing: Failure, deletion: Failure) -> None:
            assert deletion is None
            assert not readable(registry, name, parse_tag("v1"))
            if step == "head":
                assert isinstance(pushing, BlobUnknown | None)
            else:
                assert pushing is None
            if step != "manifest" and pushing is None:
                put(registry, name, number)
                assert readable(registry, name, parse_tag("bob"))

        return Meeting(push, lambda: delete_repository(registry, name, ALICE), check)

    arena.meet(prepare)


def test_r16_push_into_a_new_repository_while_the_old_one_is_erased(arena: Arena) -> None:
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        plant_image(registry, name, "v1", [layer_of(number)])
        delete_repository(registry, name, ALICE)
        plant_blobs(registry, name, [b"{}"])
        session = session_with(registry, name, layer_of(number))

        def push() -> None:
            session.commit(digest_of(layer_of(number)))
            put(registry, name, number)

        def check(pushing: Failure, erasing: Failure) -> None:
            assert (pushing, erasing) == (None, None)
            assert readable(registry, name, parse_tag("bob"))

        return Meeting(push, lambda: erase_deleted(registry), check)

    arena.meet(prepare)


def test_r16_first_push_against_the_last_deletion(arena: Arena) -> None:
    """The repository's row goes with its last manifest, unless a session needs it."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        old = plant_image(registry, name, "v1", [b"old"])
        opened: list[str] = []

        def check(start: Failure, deletion: Failure) -> None:
            assert (start, deletion) == (None, None)
            assert get_upload(registry, name, opened[0], BOB).offset == 0
            cancel_upload(registry, name, opened[0], BOB)

        return Meeting(
            lambda: opened.append(start_upload(registry, name, BOB).id),
            lambda: delete_manifest(registry, name, old, ALICE),
            check,
        )

    arena.meet(prepare)


def test_r17_the_last_put_against_the_cancellation(arena: Arena) -> None:
    """One of them has the session; the other one hears that there is none."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        data = layer_of(number)
        upload = start_upload(registry, name, BOB)
        session = append_upload(registry, name, upload.id, BOB)
        session.write(data)
        session.close()

        def check(finish: Failure, cancellation: Failure) -> None:
            assert isinstance(finish, BlobUploadUnknown | Unavailable | None)
            assert isinstance(cancellation, BlobUploadUnknown | None)
            assert (finish is None) != (cancellation is None)

        return Meeting(
            lambda: finish_upload(registry, name, upload.id, BOB, digest_of(data)),
            lambda: cancel_upload(registry, name, upload.id, BOB),
            check,
        )

    arena.meet(prepare)


def test_r17_a_late_chunk_against_the_expiry_of_its_session(arena: Arena) -> None:
    """A chunk that was acknowledged is not thrown away because the session looked idle."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        upload = start_upload(registry, name, BOB)
        arena.clock.advance(registry.limits.upload_idle.total_seconds())

        def append() -> None:
            session = append_upload(registry, name, upload.id, BOB, start=0)
            session.write(b"late")
            session.close()

        def check(chunk: Failure, expiry: Failure) -> None:
            assert expiry is None
            if chunk is None:
                assert get_upload(registry, name, upload.id, BOB).offset == 4
            else:
                assert isinstance(chunk, BlobUploadUnknown | Unavailable)

        return Meeting(append, lambda: expire_uploads(registry), check)

    arena.meet(prepare, stride=1)


def test_r18_two_last_puts_of_one_session(arena: Arena) -> None:
    """A retry that overtakes the first: one of them at least is told 201, none is told a lie."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        data = layer_of(number)
        upload = start_upload(registry, name, BOB)
        session = append_upload(registry, name, upload.id, BOB)
        session.write(data)
        session.close()

        def finish() -> None:
            finish_upload(registry, name, upload.id, BOB, digest_of(data))

        def check(one: Failure, other: Failure) -> None:
            assert None in (one, other)
            assert isinstance(one, BlobUploadUnknown | Unavailable | None)
            assert isinstance(other, BlobUploadUnknown | Unavailable | None)
            plant_blobs(registry, name, [b"{}"])
            put(registry, name, number)
            assert readable(registry, name, parse_tag("bob"))

        return Meeting(finish, finish, check)

    arena.meet(prepare)


@pytest.mark.parametrize("where", ["same", "other"])
def test_r19_two_uploads_of_one_blob(arena: Arena, where: str) -> None:
    """Each under its own key; one is kept, both are told 201."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        data = layer_of(number)
        names = name_of(number), name_of(number, "app" if where == "same" else "other")
        one, other = (session_with(registry, name, data) for name in names)

        def check(*failures: Failure) -> None:
            assert failures == (None, None)
            for name in dict.fromkeys(names):
                plant_blobs(registry, name, [b"{}"])
                put(registry, name, number)
                assert readable(registry, name, parse_tag("bob"))
            [size] = [
                found.size for found in registry.blobs.list() if _holds(registry, found, data)
            ]
            assert size == len(data)

        return Meeting(
            lambda: one.commit(digest_of(data)), lambda: other.commit(digest_of(data)), check
        )

    arena.meet(prepare)


def _holds(registry: Registry, found: Any, data: bytes) -> bool:
    if not found.committed:
        # Of a session that this schedule left open; what is a blob is committed.
        return False
    with registry.blobs.open(found.key, found.size) as reader:
        return reader.read_at(0, reader.size) == data


# --- three at once --------------------------------------------------------------------------------


@pytest.mark.postgresql
def test_a_repository_that_comes_and_goes_while_it_is_looked_for_is_made_again(
    postgres_db: Database, emptied_postgres_url: str, clock: FakeClock
) -> None:
    """Missing at the first look, there when it is to be made, gone at the second look."""
    registry = registry_on(postgres_db, MemoryBlobStore(), clock)
    name = parse_repository_name("app")

    def ensure() -> str:
        return start_upload(registry, name, BOB).id

    with (
        observing(emptied_postgres_url) as observer,
        psycopg.connect(emptied_postgres_url) as third,
    ):
        # The count of sessions, the first look; then the repository would be made.
        actor = Actor(ensure, stop_at=2)
        assert actor.wait_until_stopped()
        third.execute("INSERT INTO repositories (name, created_at) VALUES ('app', 0)")
        third.commit()
        third.execute("SELECT FROM repositories WHERE name = 'app' FOR UPDATE")
        actor.go_on()
        assert actor.wait_until_blocked(observer)
        third.execute("DELETE FROM repositories WHERE name = 'app'")
        third.commit()
        upload_id = actor.result()
    assert get_upload(registry, name, upload_id, BOB).offset == 0
    assert_sound(registry)


@pytest.mark.parametrize("deleted_as", ["image", "repository", "blob"])
def test_o7_a_signed_url_against_the_deletion(arena: Arena, deleted_as: str) -> None:
    """A pull is told 404, or its URL reads the blob until it ends: whoever comes first."""
    store = LinkingStore(arena.clock)
    limits = replace(arena.registry.limits, signed_read=timedelta(minutes=10))
    registry = replace(arena.registry, blobs=store, limits=limits)
    tidy_signed_urls(registry)
    outcomes = set()

    def prepare(number: int) -> Meeting:
        name, digest = name_of(number), digest_of(layer_of(number))
        image = None
        if deleted_as == "blob":
            plant_blobs(registry, name, [layer_of(number)])
        else:
            image = plant_image(registry, name, "v1", [layer_of(number)])
        urls: list[str | None] = []

        def pull() -> None:
            urls.append(signed_link(registry, stat_blob(registry, name, digest)))

        def delete() -> None:
            if image is None:
                delete_blob(registry, name, digest, BOB)
            elif deleted_as == "image":
                delete_manifest(registry, name, image, BOB)
            else:
                delete_repository(registry, name, BOB)

        def check(pulled: Failure, deletion: Failure) -> None:
            assert deletion is None
            settle(registry)
            outcomes.add(pulled is None)
            if pulled is not None:
                assert isinstance(pulled, BlobUnknown)
                return
            (url,) = urls
            assert url is not None
            assert store.reads(url)
            ends_at = store.ends_at(url)
            arena.clock.advance((ends_at - arena.clock()).total_seconds() - 1)
            settle(registry)
            assert store.reads(url)

        return Meeting(pull, delete, check)

    replace(arena, registry=registry).meet(prepare, stride=1)
    assert outcomes == {True, False}


def test_r25_a_snapshot_for_a_backup_against_a_deletion_and_its_erasing(arena: Arena) -> None:
    """What the snapshot names keeps its bytes until the backup has them, whatever is deleted."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name, lease = name_of(number), f"backup {number}"
        digest = plant_image(registry, name, "v1", [layer_of(number)])
        named: list[str] = []

        def back_up() -> None:
            registry.write(lambda tx: begin_backup(tx, lease, registry.now()))
            named.extend(
                blob.storage_key
                for blob in registry.snapshot(lambda tx: sound_blobs(tx, "", "g", 500))
            )

        def erase() -> None:
            delete_manifest(registry, name, digest, ALICE)
            while reclaim_due(registry):
                pass

        def check(backup: Failure, deletion: Failure) -> None:
            assert (backup, deletion) == (None, None)
            assert [key for key in named if registry.blobs.size(key) is None] == []
            registry.write(lambda tx: end_backup(tx, lease))

        return Meeting(back_up, erase, check)

    arena.meet(prepare)


@pytest.mark.parametrize(
    "deleted",
    [
        "repository",
        "manifest",
        "plan",
        pytest.param("large plan", marks=pytest.mark.thorough),
        "purge",
    ],
)
def test_r35_a_report_of_what_is_deployed_against_a_deletion(arena: Arena, deleted: str) -> None:
    """When a report has been taken, what it names and is still there stays."""
    registry = arena.registry

    def prepare(number: int) -> Meeting:
        name = name_of(number)
        digest = plant_image(
            registry, name, None if deleted == "purge" else "v1", [layer_of(number)]
        )
        # Without it, the repository would go together with the image.
        plant_image(registry, name, "kept", [b"kept"])
        arena.clock.advance(1)
        there: list[bool] = []

        def report() -> None:
            said = DeploymentReport(images=(ReportedImage(image_id=digest),))
            deployments.report(registry, f"prod-{number}", said, ALICE)
            there.append(readable(registry, name, digest))

        def planned() -> Callable[[], object]:
            wanted = PlanRequest(repository=name, digests=(digest,))
            plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, BOB)
            return lambda: apply_plan(registry, plan.id, BOB, allow=GUARDRAILS)

        def planned_large() -> Callable[[], object]:
            # Looked at outside the transaction that deletes, and asked for again in it.
            large = replace(registry, limits=replace(registry.limits, max_plan_at_once=1))
            wanted = PlanRequest(repositories=(name,))
            plan = make_plan(large, wanted, WITHOUT_ACCOUNTS, BOB)
            return lambda: apply_plan(large, plan.id, BOB, allow=GUARDRAILS)

        def purging() -> Callable[[], object]:
            # The one before may have been left alone.
            while work(registry, CHOOSERS, "worker", 100) is not None:
                pass
            job = begin(registry, f"{name}:^$", untagged=True, allow=GUARDRAILS)
            return lambda: finish(registry, job)

        delete: Callable[[], object] = {
            "repository": lambda: lambda: delete_repository(registry, name, BOB),
            "manifest": lambda: lambda: delete_manifest(registry, name, digest, BOB),
            "plan": planned,
            "large plan": planned_large,
            "purge": purging,
        }[deleted]()

        def check(reporting: Failure, deletion: Failure) -> None:
            assert reporting is None
            assert there == [readable(registry, name, digest)]
            if deleted != "purge":
                assert there == [deletion is not None]
            deployments.forget_source(registry, f"prod-{number}", ALICE)

        return Meeting(report, delete, check)

    arena.meet(prepare, stride=2 if deleted == "large plan" else 4)


@pytest.mark.parametrize("locked", ["repository", "manifest", "tag"])
@pytest.mark.parametrize("deleted", ["repository", "manifest", "tag"])
def test_r28_a_lock_against_a_deletion(arena: Arena, locked: str, deleted: str) -> None:
    """Either the deletion comes first, or it is refused; what is locked is never gone."""
    registry = arena.registry
    off = AttributeChanges(write_enabled=False)

    def prepare(number: int) -> Meeting:
        name, tag = name_of(number), parse_tag("v1")
        digest = plant_image(registry, name, "v1", [layer_of(number)])
        # Without it, the repository would go together with the image.
        plant_image(registry, name, "kept", [b"kept"])
        lock: dict[str, Callable[[], object]] = {
            "repository": lambda: update_repository(registry, name, off, ALICE),
            "manifest": lambda: update_manifest(registry, name, digest, off, ALICE),
            "tag": lambda: update_tag(registry, name, tag, off, ALICE),
        }
        delete: dict[str, Callable[[], object]] = {
            "repository": lambda: delete_repository(registry, name, BOB),
            "manifest": lambda: delete_manifest(registry, name, digest, BOB),
            "tag": lambda: delete_tag(registry, name, tag, BOB),
        }

        def check(locking: Failure, deletion: Failure) -> None:
            target: Any = tag if deleted == "tag" else digest
            assert readable(registry, name, target) == (deletion is not None)
            if deletion is not None:
                assert isinstance(deletion, Locked)
                assert locking is None
            elif locking is not None:
                assert isinstance(locking, (NameUnknown, ManifestUnknown, TagUnknown))
            if locked == deleted:
                # One of the two came too late, and was told so.
                assert (locking is None) != (deletion is None)

        return Meeting(lock[locked], delete[deleted], check)

    arena.meet(prepare)

"""The whole of pushing, deleting and reclaiming against a model made of plain sets.

The model knows what must be readable at any time, what was promised to which client, what a
deletion takes along, and, once every promise has ended and everything due is done, exactly which
bytes the store must have: those that a manifest needs, and not one more.

ULLAGE_EXAMPLES=2000 tries so many histories, other ones each time. The rule is a few, the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.histories import run_histories
from tests.support.registry import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    descriptor,
    push_blob,
    put_manifest,
    settle,
)
from tests.support.soundness import assert_sound
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.schema import base, content, space
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_blob, delete_manifest, delete_repository, delete_tag
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import BlobUnknown, ManifestUnknown, NameUnknown, OperationDisallowed
from ullage.oci.reference import RepositoryName, parse_repository_name, parse_tag
from ullage.registry.clients import Caller
from ullage.registry.pull.read import (
    get_manifest,
    list_repositories,
    list_tags,
    stat_blob,
    stat_blob_for_push,
)
from ullage.registry.push.links import mount_blob
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.uploads import append_upload
from ullage.registry.queries.counters import totals

ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
# Each of another size, so that a sum of bytes says which blobs they are.
BLOBS = [b"x" * 2**power for power in range(7)]
SIZES = {digest_of(data): len(data) for data in BLOBS}
DATA = {digest_of(data): data for data in BLOBS}

names = st.sampled_from([parse_repository_name(name) for name in ("a", "b", "b/c")])
tags = st.sampled_from([parse_tag(tag) for tag in ("v1", "v2", "latest")])
digests = st.sampled_from(sorted(DATA))
some_digests = st.sets(digests, min_size=1, max_size=3).map(sorted)
callers = st.sampled_from(
    [
        Caller("alice", "192.0.2.1", "test"),
        Caller("bob", "192.0.2.2", "docker/27.1"),
        Caller("carol", "192.0.2.3", "skopeo/1.9"),
    ]
)


@dataclass(frozen=True)
class Manifest:
    """What a manifest needs."""

    raw: bytes
    media_type: str
    blobs: frozenset[Digest] = frozenset()
    children: frozenset[Digest] = frozenset()
    subject: Digest | None = None


@dataclass
class Repository:
    """What is in a repository."""

    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)

    def blobs(self) -> set[Digest]:
        return {blob for manifest in self.manifests.values() for blob in manifest.blobs}

    def parents(self, digest: Digest) -> set[Digest]:
        return {each for each, manifest in self.manifests.items() if digest in manifest.children}

    def going_with(self, root: Digest) -> set[Digest]:
        """deletion.md section 2: the manifest, its referrers, and children nothing else keeps."""
        going: set[Digest] = set()
        growing = {root}
        while growing:
            going |= growing
            growing = {each for each in self.manifests.keys() - going if self.goes(each, going)}
        return going

    def goes(self, digest: Digest, going: set[Digest]) -> bool:
        if self.parents(digest) - going:
            return False
        subject = self.manifests[digest].subject
        if subject in going:
            return True
        kept = digest in self.tags.values() or subject in self.manifests
        return bool(self.parents(digest)) and not kept

    def remove(self, going: set[Digest]) -> None:
        for digest in going:
            del self.manifests[digest]
        self.tags = {tag: digest for tag, digest in self.tags.items() if digest not in going}


class RegistryMachine(RuleBasedStateMachine):
    """A registry and its model, through one history."""

    def __init__(self, db: Database) -> None:
        super().__init__()
        for table in reversed(base.metadata.sorted_tables):
            db.write(lambda tx, table=table: tx.execute_directly(table.delete()))  # type: ignore[misc]
        self.clock = FakeClock()
        self.store = MemoryBlobStore()
        self.registry = registry_on(db, self.store, self.clock)
        self.repositories: dict[RepositoryName, Repository] = {}
        # What was promised to which client, and until when at least.
        self.promises: dict[tuple[RepositoryName, str], dict[Digest, datetime]] = {}
        # Nothing is promised, and nothing waits to be erased: what a deletion frees is exact.
        self.quiet = True

    # -- pushing

    @rule(
        name=names,
        tag=st.none() | tags,
        blobs=some_digests,
        note=st.integers(0, 1),
        kind=st.sampled_from(["image", "image", "artifact"]),
        caller=callers,
        data=st.data(),
    )
    def push(
        self,
        name: RepositoryName,
        tag: str | None,
        blobs: list[Digest],
        note: int,
        kind: str,
        caller: Caller,
        data: st.DataObject,
    ) -> None:
        """As clients do: ask for each blob, upload those that are missing, put the manifest."""
        subject = data.draw(st.none() | st.sampled_from(self._subjects(name)))
        for digest in blobs:
            self._ensure_blob(name, digest, caller)
        body = self._image(blobs, note) if kind == "image" else self._artifact(blobs, note)
        if subject is not None:
            body["subject"] = {"mediaType": MANIFEST, "digest": subject, "size": 1}
        self._put(name, tag, body, frozenset(blobs), frozenset(), subject, caller)

    def _subjects(self, name: RepositoryName) -> list[Digest]:
        known = sorted(self.repositories.get(name, Repository()).manifests)
        return [*known, digest_of(b"a subject that is never pushed")]

    @rule(name=names, tag=st.none() | tags, note=st.integers(0, 1), caller=callers, data=st.data())
    def push_index(
        self, name: RepositoryName, tag: str | None, note: int, caller: Caller, data: st.DataObject
    ) -> None:
        """Over images, indexes and artifacts alike; of none, if there are none."""
        known = self.repositories.get(name, Repository()).manifests
        children: Sequence[Digest] = ()
        if known:
            children = data.draw(st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True))
        listed = [descriptor(known[each].media_type, known[each].raw) for each in children]
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
        body["annotations"] = {"note": str(note)}
        self._put(name, tag, body, frozenset(), frozenset(children), None, caller)

    @rule(name=names, blobs=some_digests, caller=callers, upload=st.booleans())
    def begin_a_push(
        self, name: RepositoryName, blobs: list[Digest], caller: Caller, upload: bool
    ) -> None:
        """It may be finished later, or never."""
        for digest in blobs:
            if upload:
                push_blob(self.registry, name, DATA[digest], caller)
            elif not self._asked(name, digest, caller):
                continue
            self._promise(name, digest, caller)

    @rule(source=names, name=names, digest=digests, caller=callers, asks_source=st.booleans())
    def mount(
        self,
        source: RepositoryName,
        name: RepositoryName,
        digest: Digest,
        caller: Caller,
        asks_source: bool,
    ) -> None:
        if asks_source:
            self._asked(source, digest, caller)
            self.quiet = False
        if mount_blob(self.registry, name, source, digest, caller):
            self._promise(name, digest, caller)
        else:
            assert digest not in self._held(source)

    @precondition(lambda self: self.promises)
    @rule(data=st.data(), tag=st.none() | tags, note=st.integers(0, 1))
    def finish_a_push(self, data: st.DataObject, tag: str | None, note: int) -> None:
        """Whatever was promised and has not ended must do for a manifest."""
        name, subject = data.draw(st.sampled_from(sorted(self.promises)))
        promised = self.promises.pop((name, subject))
        blobs = sorted(digest for digest, until in promised.items() if self.clock() < until)
        if not blobs:
            return
        caller = data.draw(callers.filter(lambda caller: caller.subject == subject))
        body = self._image(blobs, note)
        self._put(name, tag, body, frozenset(blobs), frozenset(), None, caller)

    @rule(name=names, tag=tags, caller=callers, data=st.data())
    def tag(self, name: RepositoryName, tag: str, caller: Caller, data: st.DataObject) -> None:
        known = self.repositories.get(name, Repository()).manifests
        if known:
            digest = data.draw(st.sampled_from(sorted(known)))
            manifest = known[digest]
            put_manifest(
                self.registry, name, parse_tag(tag), manifest.raw, manifest.media_type, caller
            )
            self.repositories[name].tags[tag] = digest
            # Where its config was promised it is a push once more, and redeems one promise each.
            for blob in manifest.blobs:
                self.promises.get((name, caller.subject), {}).pop(blob, None)

    @rule(name=names, digest=digests, caller=callers)
    def abandon_an_upload(self, name: RepositoryName, digest: Digest, caller: Caller) -> None:
        upload = start_upload(self.registry, name, caller)
        session = append_upload(self.registry, name, upload.id, caller)
        session.write(DATA[digest])
        session.close()

    # -- deleting

    @rule(name=names, tag=tags)
    def untag(self, name: RepositoryName, tag: str) -> None:
        repository = self.repositories.get(name)
        if repository is None or tag not in repository.tags:
            with pytest.raises((NameUnknown, ManifestUnknown)):
                delete_tag(self.registry, name, parse_tag(tag), ALICE)
            return
        delete_tag(self.registry, name, parse_tag(tag), ALICE)
        del repository.tags[tag]

    @precondition(lambda self: self.repositories)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.repositories)))
        repository = self.repositories[name]
        root = data.draw(st.sampled_from(sorted(repository.manifests)))
        if repository.parents(root):
            with pytest.raises(OperationDisallowed):
                delete_manifest(self.registry, name, root, ALICE)
            return
        going = repository.going_with(root)
        tags_going = sorted(tag for tag, digest in repository.tags.items() if digest in going)
        before = self._needed()
        deleted = delete_manifest(self.registry, name, root, ALICE)
        repository.remove(going)
        self._forget_if_empty(name)
        assert set(deleted.manifests) == going
        assert list(deleted.tags) == tags_going
        lost = sum(SIZES[digest] for digest in before - self._needed())
        if self.quiet:
            assert (deleted.freed_bytes, deleted.leased_bytes) == (lost, 0)
        else:
            assert deleted.freed_bytes + deleted.leased_bytes >= 0

    @rule(name=names, digest=digests)
    def delete_blob(self, name: RepositoryName, digest: Digest) -> None:
        if digest in self._held(name):
            with pytest.raises(OperationDisallowed):
                delete_blob(self.registry, name, digest, ALICE)
            return
        try:
            delete_blob(self.registry, name, digest, ALICE)
        except BlobUnknown:
            assert not self._promised(name, digest)
        for (promised_in, _), promised in self.promises.items():
            if promised_in == name:
                promised.pop(digest, None)

    @rule(name=names)
    def delete_repository(self, name: RepositoryName) -> None:
        if name not in self.repositories:
            with pytest.raises(NameUnknown):
                delete_repository(self.registry, name, ALICE)
            return
        delete_repository(self.registry, name, ALICE)
        # What was promised there still does for a manifest, in the next one of that name.
        del self.repositories[name]
        self.quiet = False

    # -- time passing, stopping and starting

    @rule(seconds=st.sampled_from([1, 11, 1800, 3599]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def reclaim(self) -> None:
        """What the worker does when it wakes up."""
        settle(self.registry)
        self._check_what_can_be_read()

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """Every promise is still kept."""
        if clean:
            self.registry.leases.close(self.registry.db, self.clock())
        else:
            self.quiet = False
            if self.registry.db.dialect == "postgresql":
                for table in (space.leases, space.lease_memory):
                    self.registry.write(lambda tx, table=table: tx.execute_directly(table.delete()))  # type: ignore[misc]
        self.registry = registry_on(self.registry.db, self.store, self.clock)

    @rule()
    def let_everything_end(self) -> None:
        """No promise, no session, nothing due: the store has what is needed, to the byte."""
        self.clock.advance(self.registry.limits.upload_idle.total_seconds())
        settle(self.registry)
        self.clock.advance(self.registry.limits.read_grace.total_seconds())
        settle(self.registry)
        self.promises.clear()
        self.quiet = True
        self._check_what_can_be_read()
        self._check_the_bytes()

    def teardown(self) -> None:
        self.let_everything_end()

    # -- what must be true

    def _check_what_can_be_read(self) -> None:
        registry = self.registry
        assert list_repositories(registry, 10, None, WITHOUT_ACCOUNTS).items == tuple(
            sorted(self.repositories)
        )
        for name, repository in self.repositories.items():
            assert list_tags(registry, name, 10, None).items == tuple(sorted(repository.tags))
            for tag, digest in repository.tags.items():
                assert get_manifest(registry, name, parse_tag(tag)).digest == digest
            for digest, manifest in repository.manifests.items():
                assert get_manifest(registry, name, digest).raw == manifest.raw
            for digest in repository.blobs():
                blob = stat_blob(registry, name, digest)
                assert self.store.size(blob.key) == blob.size == SIZES[digest]
        assert_sound(registry)

    def _check_the_bytes(self) -> None:
        needed = self._needed()
        stored = sorted(found.size for found in self.store.list())
        assert stored == sorted(SIZES[digest] for digest in needed)
        bill = self.registry.read(totals)
        assert (bill["blob_bytes"], bill["pending_bytes"]) == (sum(stored), 0)
        query = sa.select(content.repositories.c.name)
        rows = self.registry.read(lambda tx: tx.execute_directly(query).scalars().all())
        assert sorted(rows) == sorted(self.repositories)
        for name in self.repositories:
            for digest in DATA.keys() - self._held(name):
                with pytest.raises(BlobUnknown):
                    stat_blob(self.registry, name, digest)

    # -- helpers

    def _held(self, name: RepositoryName) -> set[Digest]:
        return self.repositories.get(name, Repository()).blobs()

    def _needed(self) -> set[Digest]:
        return {blob for name in self.repositories for blob in self._held(name)}

    def _promised(self, name: RepositoryName, digest: Digest) -> bool:
        return any(
            self.clock() < promised[digest]
            for (promised_in, _), promised in self.promises.items()
            if promised_in == name and digest in promised
        )

    def _promise(self, name: RepositoryName, digest: Digest, caller: Caller) -> None:
        until = self.clock() + self.registry.limits.lease
        self.promises.setdefault((name, caller.subject), {})[digest] = until
        self.quiet = False

    def _asked(self, name: RepositoryName, digest: Digest, caller: Caller) -> bool:
        """HEAD. What a manifest needs or a promise keeps must be there."""
        try:
            stat_blob_for_push(self.registry, name, digest, caller)
        except BlobUnknown:
            assert digest not in self._held(name)
            assert not self._promised(name, digest)
            return False
        return True

    def _ensure_blob(self, name: RepositoryName, digest: Digest, caller: Caller) -> None:
        if not self._asked(name, digest, caller):
            push_blob(self.registry, name, DATA[digest], caller)

    def _image(self, blobs: Sequence[Digest], note: int) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, DATA[blobs[0]]),
            "layers": [descriptor(LAYER, DATA[digest]) for digest in blobs[1:]],
            "annotations": {"note": str(note)},
        }

    def _artifact(self, blobs: Sequence[Digest], note: int) -> dict[str, Any]:
        return {
            "mediaType": ARTIFACT,
            "artifactType": "application/vnd.example.thing",
            "blobs": [descriptor(LAYER, DATA[digest]) for digest in blobs],
            "annotations": {"note": str(note)},
        }

    def _put(
        self,
        name: RepositoryName,
        tag: str | None,
        body: dict[str, Any],
        blobs: frozenset[Digest],
        children: frozenset[Digest],
        subject: Digest | None,
        caller: Caller,
    ) -> None:
        raw = json.dumps(body).encode()
        digest = digest_of(raw)
        reference = digest if tag is None else parse_tag(tag)
        put_manifest(self.registry, name, reference, raw, body["mediaType"], caller)
        repository = self.repositories.setdefault(name, Repository())
        repository.manifests[digest] = Manifest(raw, body["mediaType"], blobs, children, subject)
        if tag is not None:
            repository.tags[tag] = digest
        # One grant each is redeemed, and an earlier push of this client may have counted on it.
        for blob in blobs:
            self.promises.get((name, caller.subject), {}).pop(blob, None)

    def _forget_if_empty(self, name: RepositoryName) -> None:
        if not self.repositories[name].manifests:
            del self.repositories[name]


ALICE = Caller("alice", "192.0.2.1", "test")


@pytest.mark.parametrize(
    ("engine", "examples"),
    [("sqlite_db", 20), pytest.param("postgres_db", 6, marks=pytest.mark.postgresql)],
)
@pytest.mark.thorough
def test_every_history_ends_with_exactly_what_is_needed(
    request: pytest.FixtureRequest, engine: str, examples: int
) -> None:
    """deletion.md section 1, promises 1, 3, 4 and 6."""
    db: Database = request.getfixturevalue(engine)
    run_histories(RegistryMachine, db, examples, steps=25)

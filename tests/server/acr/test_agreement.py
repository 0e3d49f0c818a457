"""Whatever was pushed, tagged, untagged and deleted: all interfaces give the same answer.

Azure's listings, OCI's answers, `ullage check`'s findings and the files on the disk agree with a
model made of plain sets. ULLAGE_EXAMPLES=500 tries so many histories.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from starlette.testclient import TestClient

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import CONFIG, INDEX, LAYER, MANIFEST, descriptor, settle
from ullage.blobs.files.store import FileBlobStore
from ullage.check.check import check
from ullage.check.findings import Mode
from ullage.database.schema import base
from ullage.database.transaction import Database
from ullage.oci.digest import Digest, digest_of
from ullage.server.app import create_app

NAMES = ("a", "a/b")
TAGS = ("v1", "v2", "latest")
# Each of another size, so that a sum of bytes says which blobs they are.
BLOBS = {digest_of(data): data for data in (b"x" * 2**power for power in range(5))}
CONFIG_BYTES = b'{"architecture":"arm64","os":"linux"}'


class Image:
    """A manifest, and what it holds on to."""

    def __init__(self, body: dict[str, Any], blobs: set[Digest], children: set[Digest]) -> None:
        self.body = body
        self.raw = json.dumps(body).encode()
        self.digest = digest_of(self.raw)
        self.blobs = blobs
        self.children = children
        self.subject: str | None = body.get("subject", {}).get("digest")


class AgreementMachine(RuleBasedStateMachine):
    """A registry over HTTP on files, and its model, through one history."""

    def __init__(self, db: Database, folder: Callable[[], Path]) -> None:
        super().__init__()
        for table in reversed(base.metadata.sorted_tables):
            db.write(lambda tx, table=table: tx.execute_directly(table.delete()))  # type: ignore[misc]
        self.folder = folder()
        self.clock = FakeClock()
        self.registry = registry_on(db, FileBlobStore(self.folder), self.clock)
        self.client = TestClient(
            create_app(self.registry, hosts=["registry"]), headers={"host": "registry"}
        )
        self.images: dict[str, dict[str, Image]] = {name: {} for name in NAMES}
        self.tags: dict[str, dict[str, str]] = {name: {} for name in NAMES}

    # -- what people do

    @rule(
        name=st.sampled_from(NAMES),
        tag=st.none() | st.sampled_from(TAGS),
        layers=st.sets(st.sampled_from(sorted(BLOBS)), max_size=2),
        data=st.data(),
    )
    def push(self, name: str, tag: str | None, layers: set[Digest], data: st.DataObject) -> None:
        subject = data.draw(st.none() | st.sampled_from([*sorted(self.images[name]), NOWHERE]))
        for blob in (CONFIG_BYTES, *(BLOBS[digest] for digest in sorted(layers))):
            path = f"/v2/{name}/blobs/uploads/?digest={digest_of(blob)}"
            assert self.client.post(path, content=blob).status_code == 201
        body: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, CONFIG_BYTES),
            "layers": [descriptor(LAYER, BLOBS[digest]) for digest in sorted(layers)],
        }
        if subject is not None:
            body["subject"] = {"mediaType": MANIFEST, "digest": subject, "size": 1}
        self._put(name, tag, Image(body, {digest_of(CONFIG_BYTES), *layers}, set()))

    @rule(name=st.sampled_from(NAMES), tag=st.none() | st.sampled_from(TAGS), data=st.data())
    def push_index(self, name: str, tag: str | None, data: st.DataObject) -> None:
        known = sorted(self.images[name])
        children: set[str] = (
            data.draw(st.sets(st.sampled_from(known), max_size=2)) if known else set()
        )
        listed = [
            descriptor(self.images[name][child].body["mediaType"], self.images[name][child].raw)
            for child in sorted(children)
        ]
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
        self._put(name, tag, Image(body, set(), {Digest(child) for child in children}))

    def _put(self, name: str, tag: str | None, image: Image) -> None:
        answer = self.client.put(
            f"/v2/{name}/manifests/{tag or image.digest}",
            content=image.raw,
            headers={"Content-Type": image.body["mediaType"]},
        )
        assert answer.status_code == 201, answer.text
        self.images[name][image.digest] = image
        if tag is not None:
            self.tags[name][tag] = image.digest

    @rule(name=st.sampled_from(NAMES), tag=st.sampled_from(TAGS), azure=st.booleans())
    def untag(self, name: str, tag: str, azure: bool) -> None:
        path = f"/acr/v1/{name}/_tags/{tag}" if azure else f"/v2/{name}/manifests/{tag}"
        there = self.tags[name].pop(tag, None)
        assert self.client.delete(path).status_code == (202 if there else 404)

    @precondition(lambda self: any(self.images.values()))
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name in NAMES if self.images[name]]))
        root = data.draw(st.sampled_from(sorted(self.images[name])))
        answer = self.client.delete(f"/v2/{name}/manifests/{root}")
        if self._parents(name, root):
            assert answer.status_code == 405
            return
        assert answer.status_code == 202
        self._forget(name, self._going_with(name, root))

    @rule(name=st.sampled_from(NAMES))
    def delete_repository(self, name: str) -> None:
        answer = self.client.delete(f"/acr/v1/{name}")
        if not self.images[name]:
            assert answer.status_code == 404
            return
        assert answer.json() == {
            "manifestsDeleted": sorted(self.images[name]),
            "tagsDeleted": sorted(self.tags[name]) or None,
        }
        self._forget(name, set(self.images[name]))

    @rule(name=st.sampled_from(NAMES))
    def delete_all_untagged(self, name: str) -> None:
        """The article's script: everything that has null for tags, and nothing else goes wrong."""
        listed = self._listed(name)
        for digest, manifest in listed.items():
            if manifest["tags"] is None:
                assert self.client.delete(f"/v2/{name}/manifests/{digest}").status_code == 202
                self._forget(name, self._going_with(name, digest))
        for digest in self.tags[name].values():
            assert digest in self.images[name]

    # -- the model

    def _parents(self, name: str, digest: str) -> set[str]:
        return {each.digest for each in self.images[name].values() if digest in each.children}

    def _going_with(self, name: str, root: str) -> set[str]:
        """deletion.md section 2: the manifest, its referrers, and children nothing else holds."""
        going: set[str] = set()
        growing = {root}
        while growing:
            going |= growing
            left = self.images[name].keys() - going
            growing = {each for each in left if self._goes(name, each, going)}
        return going

    def _goes(self, name: str, digest: str, going: set[str]) -> bool:
        parents = self._parents(name, digest)
        if parents - going:
            return False
        subject = self.images[name][digest].subject
        held = digest in self.tags[name].values() or subject in self.images[name]
        return subject in going or (bool(parents) and not held)

    def _forget(self, name: str, going: set[str]) -> None:
        for digest in going:
            del self.images[name][digest]
        tags = self.tags[name]
        self.tags[name] = {tag: digest for tag, digest in tags.items() if digest not in going}

    def _tags_shown(self, name: str, digest: str) -> list[str] | None:
        names = sorted(tag for tag, named in self.tags[name].items() if named == digest)
        held = self._parents(name, digest) or self.images[name][digest].subject in self.images[name]
        return names or ([] if held else None)

    # -- all are asked

    def _get(self, path: str) -> Any:
        return self.client.get(path)

    def _listed(self, name: str) -> dict[str, dict[str, Any]]:
        answer = self._get(f"/acr/v1/{name}/_manifests")
        if answer.status_code == 404:
            return {}
        return {each["digest"]: each for each in answer.json()["manifests"] or []}

    @rule()
    def ask(self) -> None:
        """Azure's listings and OCI's answers are the model's."""
        there = sorted(name for name in NAMES if self.images[name])
        assert self._get("/v2/_catalog").json() == {"repositories": there}
        assert self._get("/acr/v1/_catalog").json() == {"repositories": there or None}
        for name in NAMES:
            self._ask_for(name)

    def _ask_for(self, name: str) -> None:
        images, tags = self.images[name], self.tags[name]
        listed = self._listed(name)
        assert sorted(listed) == list(listed) == sorted(images)
        assert {digest: each["tags"] for digest, each in listed.items()} == {
            digest: self._tags_shown(name, digest) for digest in images
        }
        if not images:
            assert self._get(f"/acr/v1/{name}").status_code == 404
            return
        details = self._get(f"/acr/v1/{name}").json()
        assert (details["manifestCount"], details["tagCount"]) == (len(images), len(tags))
        azure = self._get(f"/acr/v1/{name}/_tags").json()["tags"] or []
        assert [(tag["name"], tag["digest"]) for tag in azure] == sorted(tags.items())
        assert self._get(f"/v2/{name}/tags/list").json()["tags"] == sorted(tags)
        for reference, digest in [*tags.items(), *((digest, digest) for digest in images)]:
            assert self._get(f"/v2/{name}/manifests/{reference}").content == images[digest].raw

    def teardown(self) -> None:
        """When every promise has ended: the check finds nothing, the disk holds what is needed."""
        self.ask()
        self.clock.advance(self.registry.limits.upload_idle.total_seconds())
        settle(self.registry)
        self.clock.advance(self.registry.limits.read_grace.total_seconds())
        settle(self.registry)
        report = check(self.registry, Mode.DEEP)
        assert report.findings == ()
        needed = {
            blob for images in self.images.values() for i in images.values() for blob in i.blobs
        }
        sizes = {digest_of(data): len(data) for data in (*BLOBS.values(), CONFIG_BYTES)}
        on_disk = [path.stat().st_size for path in self.folder.glob("*/**/*") if path.is_file()]
        assert sum(on_disk) == sum(sizes[digest] for digest in needed)
        assert report.bytes["blobs"] == sum(on_disk)
        self.client.close()


NOWHERE = digest_of(b"a subject that is never pushed")


@pytest.mark.thorough
def test_listings_answers_check_and_disk_agree(
    db: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On SQLite and PostgreSQL."""
    examples = int(os.environ.get("ULLAGE_EXAMPLES", "0"))
    run_state_machine_as_test(
        lambda: AgreementMachine(db, lambda: tmp_path_factory.mktemp("store")),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples or 8,
            stateful_step_count=15,
            deadline=None,
            derandomize=not examples,
            suppress_health_check=list(HealthCheck),
        ),
    )

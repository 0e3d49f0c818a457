"""What the audit log says the registry holds: its entries applied one by one, in commit order.

Every mutation writes its entry in its own transaction (invariant I22). So the log, read once nobody
changes anything, says exactly which manifests, tags and restorable deletions there are: what it
says was deleted is gone, and nothing else is. While it is applied, each entry is compared with what
the entries before it left: an entry that is missing, doubled or out of order is found there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from tests.crash.harness import Key, State

# They change no manifest and no tag.
_WITHOUT_EFFECT = ("blob.", "policy.", "user.", "token.", "scope_map.", "lock.")


class Entry(NamedTuple):
    """One entry of the audit log; `at` in seconds since 1970."""

    id: int
    at: float
    request_id: str
    action: str
    repository: str | None
    target: str | None
    detail: dict[str, Any]

    def __str__(self) -> str:
        return f"entry {self.id} ({self.action} {self.repository} {self.target} {self.detail})"


class Contradiction(AssertionError):
    """The log says what cannot have happened after what it said before."""


def read_log(url: str, after: int = 0) -> list[Entry]:
    """The entries behind `after`, the oldest first, from the database itself (SQLAlchemy's URL)."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    query = sa.text(
        "SELECT id, at, request_id, action, repository, target, detail FROM audit"
        " WHERE id > :after ORDER BY id"
    )
    try:
        with engine.connect() as connection:
            found = connection.execute(query, {"after": after}).all()
    finally:
        engine.dispose()
    return [
        Entry(
            row.id,
            row.at / 1e6,
            row.request_id,
            row.action,
            row.repository,
            row.target,
            json.loads(row.detail),
        )
        for row in found
    ]


@dataclass
class Repository:
    """Digests, and tags with what they point to."""

    manifests: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)

    def tags_on(self, digests: Collection[str]) -> dict[str, str]:
        return {tag: digest for tag, digest in self.tags.items() if digest in digests}

    def remove(self, digests: Collection[str]) -> dict[str, str]:
        """Take manifests away; the tags that go with them."""
        going = self.tags_on(digests)
        self.manifests -= set(digests)
        self.tags = {tag: digest for tag, digest in self.tags.items() if tag not in going}
        return going


@dataclass
class Operation:
    """A deletion that can be taken back: by repository what it keeps, and the tags it remembers."""

    kept: dict[str, Repository] = field(default_factory=dict)
    untagged: dict[str, dict[str, str]] = field(default_factory=dict)


class Replay:
    """The registry as the log has it so far."""

    def __init__(self) -> None:
        self._children: dict[str, Collection[str]] = {}
        self.live: dict[str, Repository] = {}
        self.operations: dict[str, Operation] = {}
        # Every name the log has ever given something, and what was there when last looked at.
        self.named: set[Key] = set()
        self.last_id = 0

    def learn(self, children: Mapping[str, Collection[str]]) -> None:
        """What indexes list, by digest: the log does not say it."""
        self._children |= children

    def apply(self, entries: Iterable[Entry]) -> None:
        """Raises Contradiction."""
        for entry in entries:
            _require(entry.id > self.last_id, entry, "out of order")
            self.last_id = entry.id
            if not entry.action.startswith(_WITHOUT_EFFECT):
                self._apply(entry)

    def expected(self, keys: Iterable[Key]) -> State:
        """What the registry must show under these names."""
        return {key: self._shown(key) for key in keys}

    def keys(self) -> set[Key]:
        """Every name that must show something."""
        return {
            key
            for name, repository in self.live.items()
            for key in (
                *(("manifest", name, digest) for digest in repository.manifests),
                *(("tag", name, tag) for tag in repository.tags),
            )
        }

    def restorable(self) -> set[str]:
        """The operations that keep something."""
        return {id_ for id_, each in self.operations.items() if each.kept or each.untagged}

    def _shown(self, key: Key) -> str | None:
        kind, name, reference = key
        repository = self.live.get(name, Repository())
        if kind == "tag":
            return repository.tags.get(reference)
        return reference if reference in repository.manifests else None

    # -- entries

    def _apply(self, entry: Entry) -> None:
        match entry.action:
            case "manifest.push":
                self._push(entry)
            case "tag.delete":
                self._untag(entry, [str(entry.target)])
            case "manifest.delete":
                self._delete(entry, exact_tags=True)
            case "repository.delete":
                self._delete_repository(entry)
            case "operation.restore":
                self._restore(entry)
            case "operation.free":
                freed = self.operations.pop(str(entry.target), None)
                _require(freed is not None, entry, "of an operation that is not there")
            case "purge.delete" | "retention.delete":
                # Tags in one batch, manifests in another.
                if entry.detail["manifests"]:
                    self._delete(entry, exact_tags=False)
                else:
                    self._untag(entry, entry.detail["tags"])
            case "purge.start" | "retention.start" | "purge.cancel" | "retention.cancel":
                pass
            case _:
                raise Contradiction(f"{entry}: nobody here does that")

    def _push(self, entry: Entry) -> None:
        repository, digest = self._repository(entry), str(entry.target)
        missing = set(self._children.get(digest, ())) - repository.manifests
        _require(not missing, entry, f"lists {missing}, which are not there")
        repository.manifests.add(digest)
        repository.tags |= dict.fromkeys(entry.detail["tags"], digest)
        self._name(entry, [digest], entry.detail["tags"])

    def _untag(self, entry: Entry, tags: Collection[str]) -> None:
        repository = self._repository(entry)
        for tag in tags:
            digest = repository.tags.pop(tag, None)
            _require(digest is not None, entry, f"{tag} was not there")
            operation = self._operation(entry)
            if operation is not None:
                operation.untagged.setdefault(str(entry.repository), {})[tag] = str(digest)

    def _delete(self, entry: Entry, *, exact_tags: bool) -> None:
        repository, going = self._repository(entry), set(entry.detail["manifests"])
        absent = going - repository.manifests
        _require(not absent, entry, f"{absent} were not there")
        parents = {
            parent
            for parent in repository.manifests - going
            if going.intersection(self._children.get(parent, ()))
        }
        _require(not parents, entry, f"{parents} stay and list something of it")
        tags = repository.remove(going)
        if exact_tags:
            _require(tags.keys() == set(entry.detail["tags"]), entry, f"took the tags {tags}")
        self._keep(entry, going | self._below(going), tags)

    def _keep(self, entry: Entry, digests: set[str], tags: Mapping[str, str]) -> None:
        operation, name = self._operation(entry), str(entry.repository)
        if operation is None:
            return
        kept = operation.kept.setdefault(name, Repository())
        kept.manifests |= digests
        clashing = {tag: digest for tag, digest in tags.items() if tag in kept.tags}
        if clashing:
            operation.untagged.setdefault(name, {}).update(clashing)
        kept.tags |= {tag: digest for tag, digest in tags.items() if tag not in clashing}

    def _delete_repository(self, entry: Entry) -> None:
        gone = self.live.pop(str(entry.repository), Repository())
        operation = self._operation(entry)
        if operation is not None:
            operation.kept[str(entry.repository)] = gone

    def _restore(self, entry: Entry) -> None:
        operation = self.operations.get(str(entry.target))
        name = str(entry.repository)
        if operation is None or not (name in operation.kept or name in operation.untagged):
            raise Contradiction(f"{entry}: of an operation that keeps nothing of {name}")
        live = self._repository(entry)
        back = operation.kept.pop(name, None)
        if back is None:
            remembered = operation.untagged.pop(name)
            tags = {tag: digest for tag, digest in remembered.items() if digest in live.manifests}
            back = Repository(set(), tags)
        clashing = {
            tag: digest for tag, digest in back.tags.items() if live.tags.get(tag, digest) != digest
        }
        _require(not clashing, entry, f"{clashing} point elsewhere, and nobody was forced")
        came = {tag: digest for tag, digest in back.tags.items() if tag not in live.tags}
        counted = {"manifest_count": len(back.manifests), "tag_count": len(came)}
        found = {count: entry.detail[count] for count in counted}
        _require(found == counted, entry, f"{counted} should have come back")
        live.manifests |= back.manifests
        live.tags |= came
        self._name(entry, back.manifests, came)

    # -- parts

    def _repository(self, entry: Entry) -> Repository:
        return self.live.setdefault(str(entry.repository), Repository())

    def _operation(self, entry: Entry) -> Operation | None:
        """Under which it can be taken back, if soft delete was on."""
        id_ = entry.detail.get("operation")
        return None if id_ is None else self.operations.setdefault(id_, Operation())

    def _below(self, digests: Collection[str]) -> set[str]:
        """What these list, and what that lists."""
        found: set[str] = set()
        fresh = set(digests)
        while fresh:
            fresh = {c for each in fresh for c in self._children.get(each, ())} - found
            found |= fresh
        return found

    def _name(self, entry: Entry, digests: Iterable[str], tags: Iterable[str]) -> None:
        name = str(entry.repository)
        self.named |= {("manifest", name, digest) for digest in digests}
        self.named |= {("tag", name, tag) for tag in tags}


def _require(holds: bool, entry: Entry, what: str) -> None:
    if not holds:
        raise Contradiction(f"{entry}: {what}")

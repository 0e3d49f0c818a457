"""Deletions that came after a backup, carried out again: what was deleted for a reason stays gone.

What is read is the audit log of the registry that was lost, as `ullage audit list --output json`
prints it, or one entry a line. A deletion counts if nothing pushed the same again later, and nobody
took it back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ullage.backup.layout import BackupFailed, Description
from ullage.deletion.delete import delete_manifest, delete_repository, delete_tag
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import ManifestUnknown, NameUnknown, RegistryError, TagUnknown
from ullage.oci.reference import RepositoryName, Tag, parse_repository_name, parse_tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry

_GONE = (ManifestUnknown, NameUnknown, TagUnknown)


class Entry(NamedTuple):
    """One of the audit log, as far as it matters here."""

    at: datetime
    action: str
    repository: str
    target: str
    detail: Mapping[str, Any]


@dataclass
class Deletions:
    """What is to go, by repository: whole, manifests, tags."""

    repositories: set[RepositoryName] = field(default_factory=set)
    manifests: set[tuple[RepositoryName, Digest]] = field(default_factory=set)
    tags: set[tuple[RepositoryName, Tag]] = field(default_factory=set)
    # Entries that do not name all that went.
    incomplete: int = 0


@dataclass
class Replayed:
    """What came of it; `refused` says why, by name."""

    manifests: int = 0
    tags: int = 0
    repositories: int = 0
    incomplete: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def read_entries(path: Path) -> list[Entry]:
    """From the oldest to the newest. Raises BackupFailed."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BackupFailed(f"{path} cannot be read: {error}") from error
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
        entries = [_entry(each) for each in found if "action" in each]
    except (ValueError, KeyError, TypeError) as error:
        raise BackupFailed(
            f"{path} is no list of audit entries ({error}) - expected what `ullage audit list "
            "--output json` prints, or one such entry a line"
        ) from error
    return sorted(entries, key=lambda entry: entry.at)


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _entry(found: Mapping[str, Any]) -> Entry:
    return Entry(
        datetime.fromisoformat(found["at"]),
        str(found["action"]),
        str(found.get("repository") or ""),
        str(found.get("target") or ""),
        found.get("detail") or {},
    )


def deletions_since(said: Description, entries: list[Entry]) -> Deletions:
    """What the entries after a backup deleted, and what is not there again after all of them."""
    since = datetime.fromisoformat(said.at)
    later = [entry for entry in entries if entry.at >= since and entry.repository]
    undone = {entry.target for entry in entries if entry.action == "operation.restore"}
    found = Deletions()
    for entry in later:
        name = parse_repository_name(entry.repository)
        if entry.action == "manifest.push":
            _take_off(found, name, entry)
        elif entry.detail.get("operation") not in undone:
            _take_on(found, name, entry)
    return found


def _take_off(found: Deletions, name: RepositoryName, push: Entry) -> None:
    """What is pushed again stays."""
    if name in found.repositories:
        # Only what is known to have been in it goes now.
        found.repositories.discard(name)
        found.incomplete += 1
    found.manifests.discard((name, parse_digest(push.target)))
    for tag in push.detail.get("tags") or ():
        found.tags.discard((name, parse_tag(tag)))


def _take_on(found: Deletions, name: RepositoryName, entry: Entry) -> None:
    detail = entry.detail
    manifests = [parse_digest(digest) for digest in detail.get("manifests") or ()]
    if entry.action == "tag.delete":
        found.tags.add((name, parse_tag(entry.target)))
    elif entry.action == "repository.delete":
        found.repositories.add(name)
    elif entry.action == "plan.apply" or entry.action.endswith(".delete"):
        found.tags.update((name, parse_tag(tag)) for tag in _tags(entry))
        found.incomplete += len(manifests) < int(detail.get("manifest_count", 0))
    else:
        return
    found.manifests.update((name, digest) for digest in manifests)


def _tags(entry: Entry) -> Iterator[str]:
    """Of a job's batch, the tags that went; of a manifest, its tags went with it."""
    tags = entry.detail.get("tags")
    if isinstance(tags, list):
        yield from map(str, tags)


def replay(registry: Registry, deletions: Deletions, caller: Caller) -> Replayed:
    """Carry them out; each is a deletion as any other, with its locks and its audit entry."""
    done = Replayed(incomplete=deletions.incomplete)
    for name in sorted(deletions.repositories):
        done.repositories += _attempt(
            done, name, partial(delete_repository, registry, name, caller)
        )
    for name, tag in sorted(deletions.tags):
        done.tags += _attempt(
            done, f"{name}:{tag}", partial(delete_tag, registry, name, tag, caller)
        )
    _replay_manifests(registry, deletions, caller, done)
    return done


def _attempt(done: Replayed, what: str, delete: Callable[[], object]) -> bool:
    """Whether it was there and is gone; why not is noted."""
    try:
        delete()
    except _GONE:
        return False
    except RegistryError as error:
        done.refused[what] = error.message
        return False
    return True


def _replay_manifests(
    registry: Registry, deletions: Deletions, caller: Caller, done: Replayed
) -> None:
    """A child goes after its index: those that are refused once more, until none goes any more."""
    left = sorted(deletions.manifests)
    while left:
        waiting: list[tuple[RepositoryName, Digest]] = []
        for name, digest in left:
            what = f"{name}@{digest}"
            done.refused.pop(what, None)
            if _attempt(done, what, partial(delete_manifest, registry, name, digest, caller)):
                done.manifests += 1
            elif what in done.refused:
                waiting.append((name, digest))
        if len(waiting) == len(left):
            return
        left = waiting

"""Finding repositories, tags and manifests by a part of what names them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ullage.authorization import Action, Principal
from ullage.database.transaction import Transaction
from ullage.documents import UNSET, Document, UnsetType
from ullage.registry.context import Registry
from ullage.usage.queries import search as queries
from ullage.usage.queries.why import manifests_beginning

# So many rows are read together; the caller may not read about all of them.
READ_TOGETHER = 200
MAX_TEXT = 300
_DIGITS = re.compile(r"(?:(sha256|sha512):)?([0-9a-f]{7,128})")


class Hit(Document, frozen=True, kw_only=True):
    """A repository, a `tag` in it with its digest, or a manifest there by its digest alone."""

    repository: str
    tag: str | UnsetType = UNSET
    digest: str | UnsetType = UNSET

    @property
    def key(self) -> str:
        """By what a page says where the next one begins."""
        if self.tag is not UNSET:
            return f"{self.repository}:{self.tag}"
        return self.repository if self.digest is UNSET else f"{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True)
class Found:
    """A page of hits, and behind which of them the next one begins; None for the last one."""

    hits: Sequence[Hit]
    next: str | None


def search(registry: Registry, text: str, principal: Principal, n: int, last: str | None) -> Found:
    """Up to `n` hits behind `last`, of what the caller may read about.

    First repositories with the text in their names, then tags that begin with it (`app:v1`: in
    repositories with "app" in their names), then manifests whose digests begin with seven or more
    digits. Costs a look into each repository.
    """

    def read(tx: Transaction) -> list[Hit]:
        found: list[Hit] = []
        for hit in _hits(tx, text[:MAX_TEXT], last or ""):
            if len(found) > n:
                break
            if principal.may(Action.METADATA_READ, hit.repository):
                found.append(hit)
        return found

    found = registry.snapshot(read) if text and n else []
    return Found(found[:n], found[n - 1].key if len(found) > n else None)


def _hits(tx: Transaction, text: str, last: str) -> Iterator[Hit]:
    """All of them behind `last`, in their order."""
    part, colon, prefix = text.partition(":")
    if not colon:
        part, prefix = "", text
    if "@" not in last:
        if ":" not in last and not colon:
            yield from _repositories(tx, text, last)
        repository, _, tag = last.partition(":") if ":" in last else ("", "", "")
        yield from _tags(tx, part, prefix, (repository, tag))
    yield from _manifests(tx, text, last if "@" in last else "")


def _repositories(tx: Transaction, text: str, after: str) -> Iterator[Hit]:
    while names := queries.repositories_with(tx, text, after, READ_TOGETHER):
        yield from (Hit(repository=name) for name in names)
        after = names[-1]


def _tags(tx: Transaction, part: str, prefix: str, after: tuple[str, str]) -> Iterator[Hit]:
    while rows := queries.tags_beginning(tx, part, prefix, after, READ_TOGETHER):
        for row in rows:
            yield Hit(repository=row.repository, tag=row.tag, digest=row.digest)
        after = rows[-1].repository, rows[-1].tag


def _manifests(tx: Transaction, text: str, after: str) -> Iterator[Hit]:
    found = _DIGITS.fullmatch(text)
    if found is None:
        return
    algorithms = [found[1]] if found[1] else ["sha256", "sha512"]
    prefixes = [f"{algorithm}:{found[2]}" for algorithm in algorithms]
    places = [place for prefix in prefixes for place in manifests_beginning(tx, prefix)]
    hits = (Hit(repository=name, digest=digest) for name, digest in sorted(places))
    yield from (hit for hit in hits if not after or (hit.key.split("@") > after.split("@")))

"""Sources of deployments: what they report and protect (deletion.md section 9).

A report replaces what its source named. A source that falls silent protects as before, for ever;
only an administrator's `forget` ends that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from ullage.database.transaction import Transaction
from ullage.documents import Document, Duration, RequestBody, Time
from ullage.oci.digest import Digest
from ullage.oci.errors import SourceEmpty, SourceUnknown, TooManyRequests, ValueInvalid, shown
from ullage.oci.reference import RepositoryName, Tag
from ullage.quantities import parse_duration
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks.reported_images import Identity, identities
from ullage.registry.queries import deployments
from ullage.registry.queries.content.repositories import find_repository
from ullage.registry.queries.deployments import Counts, DeployedRow, SourceRow
from ullage.registry.queries.references.manifests import tagged

MAX_IMAGES = 100_000
MAX_SOURCES = 1000
# A text for people of what runs an image.
MAX_PLACE = 200
MAX_REFERENCE = 1000
SHORTEST_TTL, LONGEST_TTL = timedelta(minutes=15), timedelta(days=30)
# The audit log has so many images of one report.
AUDITED = 100
_SOURCE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class ReportedImage(RequestBody, frozen=True):
    """An image as a cluster names it, and what runs it there."""

    image: str = ""
    image_id: str = ""
    where: str = ""
    # "previous" is what a rollback would start.
    state: Literal["running", "previous"] = "running"


class DeploymentReport(RequestBody, frozen=True):
    """What a source runs: all of it, or with `complete` false some more."""

    images: tuple[ReportedImage, ...]
    complete: bool = True
    # After this long without a report the source is called stale. It protects all the same.
    ttl: Duration = "2h"
    # How long what is not reported any more stays protected.
    rollback: Duration = "7d"
    empty_ok: bool = False


class SourceDocument(Document, frozen=True, kw_only=True):
    """A source of deployments as of its last report."""

    source: str
    by: str
    reported: Time
    ttl_seconds: float
    stale: bool
    complete: bool
    # How many it names, and how many it named until lately.
    images: int
    recently: int


class Reported(Document, frozen=True):
    """What a report changed: how many images it added, and how many left."""

    source: SourceDocument
    added: int
    left: int


class DeployedDocument(Document, frozen=True, kw_only=True):
    """An image that a source names. Without a tag its digest alone counts."""

    image: str
    digest: str | None
    repository: str | None
    tag: str | None
    reference: str
    where: str
    state: str
    first: Time
    # The end of its protection, if it is not reported any more.
    until: Time | None


class DeployedImages(Document, frozen=True):
    """A source, and a page of what it names."""

    source: SourceDocument
    images: list[DeployedDocument]


def report(registry: Registry, source: str, said: DeploymentReport, caller: Caller) -> Reported:
    """Put a report in place of what the source named before, in one transaction.

    What is deleted afterwards finds it; what was being deleted is gone before this returns.
    Raises ValueInvalid, SourceEmpty, TooManyRequests.
    """
    if not _SOURCE.fullmatch(source):
        raise ValueInvalid(
            {"source": shown(source)},
            "source: expected up to 63 characters of a-z, 0-9, '.', '_' and '-', "
            "the first a letter or a digit",
        )
    ttl = parse_duration(said.ttl)
    if not SHORTEST_TTL <= ttl <= LONGEST_TTL:
        raise ValueInvalid(message="ttl: expected 15m to 30d")
    rollback = parse_duration(said.rollback)
    named = _named(said.images)
    if said.complete and not named and not said.empty_ok:
        raise SourceEmpty({"source": source})
    now = registry.now()

    def put(tx: Transaction) -> Reported:
        deployments.keep_deletions_out(tx)
        there = {each.name for each in deployments.all_sources(tx)}
        if source not in there and len(there) >= MAX_SOURCES:
            raise TooManyRequests(message=f"{MAX_SOURCES} sources of deployments already")
        row = SourceRow(source, caller.subject, now, ttl, said.complete)
        deployments.put_source(tx, row)
        before = deployments.images_of(tx, source)
        rows = {key: _row(tx, each, before.get(key), now) for key, each in named.items()}
        fresh = {key: each for key, each in rows.items() if before.get(key) != each}
        silent = {key: each for key, each in before.items() if key not in rows}
        leaving = [key for key, each in silent.items() if said.complete and each.until is None]
        over = [key for key, each in silent.items() if each.until and each.until <= now]
        deployments.put_images(tx, source, fresh.values())
        deployments.let_leave(tx, source, leaving, now + rollback)
        deployments.drop_images(tx, source, over)
        document = _document(row, deployments.counts_of(tx, source), now)
        if document.images > MAX_IMAGES:
            raise TooManyRequests(message=f"more than {MAX_IMAGES} images of one source")
        added = [key for key in fresh if key not in before or before[key].until is not None]
        if added or leaving:
            detail = {
                "added": len(added),
                "left": len(leaving),
                "images": document.images,
                "added_images": sorted(added)[:AUDITED],
                "left_images": sorted(leaving)[:AUDITED],
            }
            registry.audit(tx, caller, "guard.report", target=source, detail=detail)
        return Reported(document, len(added), len(leaving))

    return registry.write(put)


class _Named:
    """One image of a report, and all that runs it."""

    def __init__(self, identity: Identity, image: ReportedImage) -> None:
        self.identity = identity
        self.reference = image.image or image.image_id
        self.state: str = image.state
        self.places = [image.where] if image.where else []

    def also(self, image: ReportedImage) -> None:
        if image.where and image.where not in self.places:
            self.places.append(image.where)
        if image.state == "running":
            self.state = image.state

    def place(self) -> str:
        """`prod/deploy/app and 2 more`."""
        more = len(self.places) - 1
        return " and ".join(self.places[:1] + ([f"{more} more"] if more > 0 else []))


def _named(images: Sequence[ReportedImage]) -> Mapping[str, _Named]:
    """What a report names, each image once. Raises ValueInvalid for what names nothing."""
    if len(images) > MAX_IMAGES:
        raise ValueInvalid(message=f"images: more than {MAX_IMAGES}")
    named: dict[str, _Named] = {}
    for number, image in enumerate(images):
        _require_printable(number, image)
        found = identities(image.image, image.image_id)
        if not found:
            text = shown(image.image_id or image.image)
            raise ValueInvalid(message=f"images[{number}]: {text} names no image")
        for each in found:
            named.setdefault(each.key, _Named(each, image)).also(image)
    return named


def _require_printable(number: int, image: ReportedImage) -> None:
    """What is shown to people holds no control characters, and is no essay."""
    for name, text, most in (
        ("image", image.image, MAX_REFERENCE),
        ("image_id", image.image_id, MAX_REFERENCE),
        ("where", image.where, MAX_PLACE),
    ):
        if len(text) > most or not text.isprintable():
            raise ValueInvalid(
                message=f"images[{number}].{name}: expected up to {most} printable characters"
            )


def _row(tx: Transaction, named: _Named, before: DeployedRow | None, now: datetime) -> DeployedRow:
    """The row of a named image, as of this report; what it was first of all stays."""
    digest, repository, tag = named.identity
    known: str = digest or (before.digest if before is not None else "")
    return DeployedRow(
        named.identity.key,
        known or _tag_points_to(tx, repository, tag),
        repository,
        tag,
        named.reference,
        named.place(),
        named.state,
        before.first_at if before is not None else now,
        None,
    )


def _tag_points_to(tx: Transaction, repository: str, tag: str) -> Digest | str:
    """What a tag points to at this moment; "" if there is none."""
    repository_id = find_repository(tx, RepositoryName(repository))
    found = {} if repository_id is None else tagged(tx, repository_id, [Tag(tag)])
    return next((row.digest for row in found.values()), "")


# --- showing and forgetting -----------------------------------------------------------------------


def list_sources(registry: Registry) -> list[SourceDocument]:
    """All sources, by name."""
    now = registry.now()

    def read(tx: Transaction) -> list[SourceDocument]:
        counts = deployments.counts(tx)
        return [
            _document(row, counts.get(row.name, Counts()), now)
            for row in deployments.all_sources(tx)
        ]

    return registry.snapshot(read)


def show_source(registry: Registry, source: str, after: str, limit: int) -> DeployedImages:
    """A source, and up to `limit` of its images behind `after`. Raises SourceUnknown."""
    now = registry.now()

    def read(tx: Transaction) -> DeployedImages:
        row = _require(tx, source)
        page = deployments.image_page(tx, source, after, limit)
        counts = deployments.counts_of(tx, source)
        return DeployedImages(_document(row, counts, now), [_deployed(each) for each in page])

    return registry.snapshot(read)


def forget_source(registry: Registry, source: str, caller: Caller) -> SourceDocument:
    """End all that a source protects: what it was. Raises SourceUnknown."""
    now = registry.now()

    def forget(tx: Transaction) -> SourceDocument:
        deployments.keep_deletions_out(tx)
        gone = _document(_require(tx, source), deployments.counts_of(tx, source), now)
        deployments.forget_source(tx, source)
        detail: dict[str, Any] = {"images": gone.images, "recently": gone.recently}
        detail |= {"reported": gone.reported, "stale": gone.stale}
        registry.audit(tx, caller, "guard.forget", target=source, detail=detail)
        return gone

    return registry.write(forget)


def _require(tx: Transaction, source: str) -> SourceRow:
    row = deployments.find_source(tx, source)
    if row is None:
        raise SourceUnknown({"source": shown(source)})
    return row


def _document(row: SourceRow, counts: Counts, now: datetime) -> SourceDocument:
    return SourceDocument(
        source=row.name,
        by=row.subject,
        reported=row.reported_at.isoformat(),
        ttl_seconds=row.ttl.total_seconds(),
        stale=row.stale(now),
        complete=row.complete,
        images=counts.images,
        recently=counts.recently,
    )


def _deployed(row: DeployedRow) -> DeployedDocument:
    return DeployedDocument(
        image=row.image,
        digest=row.digest or None,
        repository=row.repository or None,
        tag=row.tag or None,
        reference=row.reference,
        where=row.place,
        state=row.state,
        first=row.first_at.isoformat(),
        until=None if row.until is None else row.until.isoformat(),
    )

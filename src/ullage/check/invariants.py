"""What is wrong with one row, by what the database alone says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ullage.check.findings import NAMED_IMAGES, WORKER, Finding, Issue, Severity, done, issue_of
from ullage.check.queries import images, repairs
from ullage.check.queries.manifest_rows import Absent, ManifestFacts
from ullage.check.queries.other_rows import (
    JobFacts,
    JoblessItem,
    KeptFacts,
    LinkFacts,
    OperationFacts,
    Ownerless,
)
from ullage.check.queries.rows import Counts, RepositoryFacts, TagFacts
from ullage.deletion.queries.operations.records import end_if_empty
from ullage.oci.digest import digest_of, parse_digest
from ullage.oci.errors import DigestInvalid, ManifestInvalid, NameInvalid, TagInvalid
from ullage.oci.manifest.descriptor import Descriptor
from ullage.oci.manifest.limits import ManifestLimits
from ullage.oci.manifest.parsing import Manifest, parse_manifest
from ullage.oci.reference import parse_repository_name, parse_tag

# How many problems of one kind a finding names.
_NAMED_PROBLEMS = 3
# Stored manifests were accepted under the limits of their time.
_NO_LIMITS = ManifestLimits(2**53, 1000, 2**53, 2**53)


def repository_issues(repository: RepositoryFacts) -> Iterator[Issue]:
    name = repository.name
    subject = f"repository {name if name is not None else repository.key}"
    try:
        # One without a name is erased, or kept by an operation, which has its name.
        parse_repository_name(name or "", max_length=len(name or ""))
    except NameInvalid as error:
        yield issue_of("I5", "corruption", subject, error.message)
    wrong = [
        f"{field} is {stored}, counted {counted}"
        for field, stored, counted in zip(
            Counts._fields, repository.stored, repository.counted, strict=True
        )
        if stored != counted
    ]
    if wrong:
        yield Issue(
            Finding("I14", "accounting", subject, "; ".join(wrong)),
            done(lambda tx: repairs.recount_repository(tx, repository.key)),
        )


def tag_issues(tag: TagFacts) -> Iterator[Issue]:
    repository_id, name = tag.key
    subject = f"tag {tag.repository or repository_id}:{name}"
    if tag.repository is None:
        yield issue_of("I19", "corruption", subject, "belongs to no repository")
    if tag.manifest_repository_id is None:
        yield issue_of("I5", "corruption", subject, "points to a manifest that does not exist")
    elif tag.manifest_repository_id != repository_id:
        yield issue_of("I5", "corruption", subject, "points to a manifest of another repository")
    try:
        parse_tag(name)
    except TagInvalid as error:
        yield issue_of("I5", "corruption", subject, error.message)


def link_issues(link: LinkFacts) -> Iterator[Issue]:
    repository_id, digest = link.key
    subject = f"{link.repository or repository_id} blob {digest}"
    if link.repository is None:
        yield issue_of("I19", "corruption", subject, "belongs to no repository")
    if link.size is None:
        yield issue_of("I11", "corruption", subject, "is linked, but there is no such blob")


def ownerless_issues(row: Ownerless) -> Iterator[Issue]:
    owner, owned = row.key
    message = f"has {owned}, but does not exist"
    yield issue_of("I19", "corruption", f"manifest row {owner}", message)


def jobless_issues(row: JoblessItem) -> Iterator[Issue]:
    job_id, position = row.key
    yield issue_of("I19", "corruption", f"job item {job_id} {position}", "belongs to no job")


def stalled_issues(job: JobFacts) -> Iterator[Issue]:
    message = f"not worked on for more than an hour{WORKER}"
    yield issue_of("I31", "leak", f"{job.kind} job {job.key}", message)


def kept_issues(kept: KeptFacts) -> Iterator[Issue]:
    subject = f"soft-deleted repository {kept.name}"
    if kept.erased:
        yield issue_of("I32", "corruption", subject, "is kept for a restore, but is gone or going")
    if kept.live_name is not None:
        message = f"is kept for a restore, but is live, as {kept.live_name}"
        yield issue_of("I32", "corruption", subject, message)
    if kept.operation is None:
        yield issue_of("I32", "corruption", subject, "is kept by no operation")


def empty_issues(operation: OperationFacts) -> Iterator[Issue]:
    yield Issue(
        Finding("I32", "hygiene", _operation(operation), "keeps nothing"),
        lambda tx: end_if_empty(tx, operation.key),
    )


def late_operation_issues(operation: OperationFacts) -> Iterator[Issue]:
    message = f"should have been freed more than an hour ago{WORKER}"
    yield issue_of("I33", "leak", _operation(operation), message)


def _operation(operation: OperationFacts) -> str:
    return f"operation {operation.key} ({operation.kind})"


def overdue_issues(link: LinkFacts) -> Iterator[Issue]:
    repository_id, digest = link.key
    subject = f"{link.repository or repository_id} blob {digest}"
    message = f"should have been reviewed more than an hour ago{WORKER}"
    yield issue_of("I10", "leak", subject, message)


# --- manifests ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Problems:
    """What is wrong with one manifest, by invariant and severity: one finding each."""

    found: dict[tuple[str, Severity], list[str]] = field(default_factory=dict)

    def add(self, invariant: str, message: str, severity: Severity = "corruption") -> None:
        self.found.setdefault((invariant, severity), []).append(message)


def manifest_issues(facts: ManifestFacts) -> Iterator[Issue]:
    problems = _Problems()
    if facts.repository is None:
        problems.add("I19", "belongs to no repository")
    _check_references(facts, problems)
    if _digest_is_right(facts, problems):
        manifest = _parsed(facts, problems)
        if manifest is not None:
            _compare_columns(facts, manifest, problems)
            _compare_blobs(facts, manifest, problems)
            _compare_children(facts, manifest, problems)
    for (invariant, severity), messages in problems.found.items():
        more = len(messages) - _NAMED_PROBLEMS
        message = "; ".join(messages[:_NAMED_PROBLEMS]) + (f"; {more} more" if more > 0 else "")
        subject = f"{facts.repository or facts.repository_id}@{facts.digest}"
        yield Issue(
            Finding(invariant, severity, subject, message),
            images=lambda tx: images.images_with_manifest(tx, facts.key, NAMED_IMAGES),
        )


def _check_references(facts: ManifestFacts, problems: _Problems) -> None:
    for reference in facts.references:
        if reference.size is None:
            problems.add("I1", f"needs blob {reference.digest}, which does not exist")
        if not reference.linked or reference.repository_id != facts.repository_id:
            message = f"needs blob {reference.digest}, which its repository does not have"
            problems.add("I3", message, "security")
    for child in facts.children:
        if child.digest is None:
            problems.add("I6", f"lists manifest row {child.id}, which does not exist")
        elif child.repository_id != facts.repository_id:
            problems.add("I6", f"lists {child.digest} of another repository")


def _digest_is_right(facts: ManifestFacts, problems: _Problems) -> bool:
    try:
        found = digest_of(facts.raw, parse_digest(facts.digest).algorithm)
    except DigestInvalid as error:
        problems.add("I4", error.message)
        return False
    if found != facts.digest:
        problems.add("I4", f"its bytes are others: {found}")
        return False
    if len(facts.raw) != facts.size:
        problems.add("I4", f"recorded with {facts.size} bytes, has {len(facts.raw)}")
    return True


def _parsed(facts: ManifestFacts, problems: _Problems) -> Manifest | None:
    complaint = None
    # If the recorded type does not fit the bytes, they may still say what they are.
    for media_type in (facts.media_type, None):
        try:
            return parse_manifest(facts.raw, media_type, _NO_LIMITS)
        except ManifestInvalid as error:
            complaint = complaint or error.message
    # The bytes are what was pushed. An older version took them, so they are not damaged.
    problems.add("I4", f"this version cannot read it: {complaint}", "warning")
    return None


def _compare_columns(facts: ManifestFacts, manifest: Manifest, problems: _Problems) -> None:
    if facts.media_type != manifest.media_type:
        problems.add("I4", f"recorded as {facts.media_type}, says {manifest.media_type}")
    if facts.artifact_type != manifest.artifact_type:
        recorded, says = facts.artifact_type, manifest.artifact_type
        problems.add("I4", f"artifact type recorded as {recorded}, says {says}")
    if _recorded_annotations(facts) != manifest.annotations:
        problems.add("I4", "its annotations are recorded differently")
    if facts.image_size != manifest.image_size:
        message = f"its image recorded with {facts.image_size} bytes, has {manifest.image_size}"
        problems.add("I4", message, "accounting")
    config = manifest.config.media_type if manifest.config else None
    if facts.config_media_type != config:
        recorded = facts.config_media_type
        problems.add("I4", f"its config recorded as {recorded}, is {config}", "accounting")
    subject = manifest.subject.digest if manifest.subject else None
    if facts.subject != subject:
        message = f"listed as a referrer of {facts.subject}, its subject is {subject}"
        problems.add("I7", message)


def _recorded_annotations(facts: ManifestFacts) -> object:
    try:
        return json.loads(facts.annotations) if facts.annotations else {}
    except (ValueError, RecursionError):
        return None


def _compare_blobs(facts: ManifestFacts, manifest: Manifest, problems: _Problems) -> None:
    named = _by_digest(manifest.optional_blobs, manifest.required_blobs)
    recorded = {reference.digest: reference for reference in facts.references}
    absent = _absent_as_named("I4", facts.absent_blobs, manifest.required_blobs, problems)
    for blob in manifest.required_blobs:
        if blob.digest not in recorded and blob.digest not in absent:
            problems.add("I4", f"needs blob {blob.digest}, which is not recorded")
    for digest, reference in recorded.items():
        if digest not in named:
            problems.add("I4", f"does not name blob {digest}, which is recorded")
        elif reference.size is not None and reference.size != named[digest].size:
            message = f"names {named[digest].size} bytes of {digest}, recorded {reference.size}"
            problems.add("I4", message)


def _compare_children(facts: ManifestFacts, manifest: Manifest, problems: _Problems) -> None:
    named = _by_digest(manifest.optional_children, manifest.required_children)
    recorded = {child.digest: child for child in facts.children if child.digest is not None}
    absent = _absent_as_named("I6", facts.absent_children, manifest.required_children, problems)
    for listed in manifest.required_children:
        if listed.digest not in recorded and listed.digest not in absent:
            problems.add("I6", f"lists {listed.digest}, which is not recorded")
    for digest, child in recorded.items():
        if digest not in named:
            problems.add("I4", f"does not list {digest}, which is recorded")
        elif child.size != named[digest].size:
            message = f"lists {named[digest].size} bytes of {digest}, recorded {child.size}"
            problems.add("I4", message)


def _absent_as_named(
    invariant: str,
    recorded: Iterable[Absent],
    required: Iterable[Descriptor],
    problems: _Problems,
) -> set[str]:
    """What is recorded as absent, and so need not be there."""
    named = _by_digest(required)
    absent = {part.digest: part for part in recorded}
    for digest, part in absent.items():
        if digest not in named:
            problems.add("I4", f"does not name {digest}, which is recorded as absent")
        elif part.size != named[digest].size:
            message = f"names {named[digest].size} bytes of {digest}, absent with {part.size}"
            problems.add("I4", message)
        elif part.there:
            problems.add(invariant, f"names {digest}, which is there, and recorded as absent")
    return set(absent)


def _by_digest(*groups: Iterable[Descriptor]) -> dict[str, Descriptor]:
    return {descriptor.digest: descriptor for group in groups for descriptor in group}

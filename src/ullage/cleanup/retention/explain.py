"""Which retention rule decides about a tag or a manifest, and why it goes or stays."""

from __future__ import annotations

from collections.abc import Iterator

from ullage.cleanup.queries.candidates import Candidate
from ullage.cleanup.retention.documents import Explanation, VerdictDocument
from ullage.cleanup.retention.policy import compiled, decider, find_retention
from ullage.cleanup.retention.rules import Retention, Verdict
from ullage.cleanup.retention.run import judged_orphans, judged_tags
from ullage.database.transaction import Transaction
from ullage.documents import changed
from ullage.oci.digest import Digest
from ullage.oci.errors import ManifestUnknown
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import write_pulls
from ullage.registry.queries.content.manifests import get_manifest
from ullage.registry.queries.content.remove_manifests import parents_of, tags_of
from ullage.registry.queries.content.repositories import require_repository


def explain_retention(
    registry: Registry, name: RepositoryName, reference: Tag | Digest
) -> Explanation:
    """Which rule decides about a tag or a manifest, and what it says.

    Raises NameUnknown, ManifestUnknown.
    """
    write_pulls(registry)

    def read(tx: Transaction) -> tuple[int, int, list[Tag], bool, Retention]:
        repository_id = require_repository(tx, name)
        found = get_manifest(tx, name, reference)
        if found is None:
            raise ManifestUnknown({"name": name, "reference": reference})
        tags = tags_of(tx, [found.id])
        listed = bool(parents_of(tx, [found.id]))
        return repository_id, found.id, tags, listed, find_retention(tx)

    repository_id, manifest_id, tags, listed, retention = registry.read(read)

    def explained(verdict: VerdictDocument) -> Explanation:
        goes, rule, because = verdict.goes, verdict.rule, verdict.because
        return Explanation(
            repository=name, reference=reference, goes=goes, rule=rule, because=because
        )

    deciding = decider(compiled(retention.in_force()), name, registry.now())
    if deciding is None:
        return explained(_document(None))
    if isinstance(reference, Digest) and listed:
        return explained(_document(None, "an index holds it, and goes with it or keeps it"))
    if isinstance(reference, Digest) and not tags:
        found = _first(judged_orphans(registry, repository_id, deciding), id_=manifest_id)
        return explained(_document(found, "it belongs to an image that is there"))
    wanted = set(tags) if isinstance(reference, Digest) else {reference}
    verdicts = {
        tag.name: verdict
        for tag, verdict in judged_tags(registry, repository_id, deciding)
        if tag.name in wanted
    }
    if isinstance(reference, Tag):
        attached = "it belongs to an image that is there"
        return explained(_document(verdicts.get(reference), attached))
    goes = len(verdicts) == len(wanted) and all(each.goes for each in verdicts.values())
    because = "all of its tags go" if goes else "a tag of it stays"
    by_tag = {str(tag): _document(verdict) for tag, verdict in sorted(verdicts.items())}
    return changed(explained(VerdictDocument(goes, None, because)), tags=by_tag)


def _first(judged: Iterator[tuple[Candidate, Verdict]], id_: int) -> Verdict | None:
    return next((verdict for each, verdict in judged if each.id == id_), None)


def _document(verdict: Verdict | None, otherwise: str = "no rule is about it") -> VerdictDocument:
    if verdict is None:
        return VerdictDocument(False, None, otherwise)
    rule = verdict.rule.name if verdict.rule else None
    return VerdictDocument(verdict.goes, rule, verdict.because)

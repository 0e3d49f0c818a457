"""Repositories and tags by parts of their names, a page at a time."""

from __future__ import annotations

from typing import NamedTuple

from ullage.database.statements import Statement
from ullage.database.transaction import Transaction


class TagRow(NamedTuple):
    """A tag, and the manifest that it is on."""

    repository: str
    tag: str
    digest: str


_NAMED = """
    SELECT name FROM repositories
    WHERE name > :after AND manifest_count > 0 AND {position}(name, :part) > 0
    ORDER BY name LIMIT :n"""
_WITH_PART = Statement.text(_NAMED.format(position="instr"), _NAMED.format(position="strpos"))
# SQLite looks into each repository's tags, in the order of the repositories' names.
_TAGS_BEGINNING = """
    SELECT o.name, t.name, m.digest
    FROM repositories o CROSS JOIN tags t CROSS JOIN manifests m
    WHERE o.name >= :repository AND {position}(o.name, :part) > 0
        AND t.repository_id = o.id AND t.name >= :tag AND t.name < :end
        AND (o.name > :repository OR t.name > :after)
        AND m.id = t.manifest_id
    ORDER BY o.name, t.name LIMIT :n"""
_WITH_TAG = Statement.text(
    _TAGS_BEGINNING.format(position="instr"), _TAGS_BEGINNING.format(position="strpos")
)


def repositories_with(tx: Transaction, part: str, after: str, n: int) -> list[str]:
    """Up to `n` names of repositories with this part, behind that one; a look at each name."""
    return tx.values(_WITH_PART, part=part, after=after, n=n)


def tags_beginning(
    tx: Transaction, part: str, prefix: str, after: tuple[str, str], n: int
) -> list[TagRow]:
    """Up to `n` tags that begin so, of repositories with this part, behind that (repository, tag).

    One look into each of these repositories.
    """
    repository, tag = after
    rows = tx.rows(
        _WITH_TAG,
        part=part,
        tag=prefix,
        # No character of a tag comes behind it.
        end=f"{prefix}\x7f",
        repository=repository,
        after=tag,
        n=n,
    )
    return [TagRow(*row) for row in rows]

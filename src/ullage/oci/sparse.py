"""Sparse manifests: what an index or image names need not be in its repository, if that is allowed.

distribution-spec, "Pushing Manifests": a registry may take a manifest whose parts it does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ullage.oci.errors import NameInvalid, ValueInvalid
from ullage.oci.reference import parse_repository_name


class Sparse(StrEnum):
    """What may be absent."""

    DENY = "deny"
    # Manifests that an index lists.
    PLATFORMS = "platforms"
    # Configs and layers as well.
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class SparseRules:
    """What may be absent where; `repositories` are names, or prefixes ending in "/*"."""

    default: Sparse = Sparse.DENY
    repositories: tuple[tuple[str, Sparse], ...] = ()

    def of(self, name: str) -> Sparse:
        """What holds for a repository: its own rule, else that of the longest prefix."""
        covering = [rule for rule in self.repositories if _covers(rule[0], name)]
        # A name is longer than any prefix that covers it.
        longest = max(covering, key=lambda rule: len(rule[0].removesuffix("*")), default=None)
        return self.default if longest is None else longest[1]


NOTHING_ABSENT = SparseRules()


def _covers(pattern: str, name: str) -> bool:
    if pattern.endswith("/*"):
        return name.startswith(pattern[:-1])
    return name == pattern


def parse_sparse_rules(text: str) -> SparseRules:
    """`deny`, or with rules for repositories: `deny,mirror/*=platforms,app=allow`.

    Raises ValueInvalid.
    """
    default, rules = Sparse.DENY, []
    for part in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, word = part.rpartition("=")
        try:
            sparse = Sparse(word)
            if equals:
                parse_repository_name(pattern.removesuffix("/*"))
                rules.append((pattern, sparse))
            else:
                default = sparse
        except (ValueError, NameInvalid):
            raise ValueInvalid(message=f"{part!r} is no rule for sparse manifests") from None
    return SparseRules(default, tuple(rules))

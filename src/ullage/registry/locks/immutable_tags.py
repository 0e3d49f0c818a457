"""Tags that are written once, by rules of the registry: which rules, and refusing what they forbid.

A tag that a rule names points to one digest for good: moving it to another, deleting it, its
manifest or its repository is refused as long as the rule stands, also to an administrator and with
`include_locked`. Pushing the same digest again, and a new tag, is a push as any.

The rules are one policy, so that a deletion asks for them in one row; a push asks only if a tag is
there already. The caller has locked the repository's row: a rule that was set before is seen, and
one set later comes after what it would have refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from ullage.database.transaction import Transaction
from ullage.documents import Document, Meta, RequestBody, Text, member, plain, unpacked
from ullage.oci.errors import LockUnknown, OperationDisallowed, TooManyRequests, ValueInvalid, shown
from ullage.oci.reference import RepositoryName, Tag
from ullage.patterns import Matches, any_of, glob
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.queries import policies
from ullage.registry.queries.content.repositories import name_of_repository
from ullage.registry.queries.content.tags import all_tags
from ullage.registry.queries.references.manifests import tags_on

POLICY = policies.IMMUTABLE_TAGS
# Each is tried on every tag that a deletion reaches.
MAX_RULES = 100
MAX_EXCEPTIONS = 20
MAX_PATTERN = 400
# What names are made of, and what stands for any of that.
_PATTERN = re.compile(r"[a-z0-9._/*?-]+:[A-Za-z0-9._*?-]+")
_EXCEPTION = re.compile(r"[A-Za-z0-9._*?-]+")


class ImmutableRule(RequestBody, frozen=True):
    """Tags that are written once: `repository:tag`, where `*` is any characters and `?` is one.

    Not those that one of the exceptions, patterns of tags, matches.
    """

    pattern: Text
    excepted: Annotated[tuple[Text, ...], Meta(max_length=MAX_EXCEPTIONS)] = member(
        name="except", default=()
    )


class ImmutableRules(Document, frozen=True):
    """All rules for tags that are written once, in the order of their patterns."""

    rules: list[ImmutableRule]


@dataclass(frozen=True, slots=True)
class _Compiled:
    pattern: str
    repository: Matches
    tag: Matches
    excepted: Matches


@dataclass(frozen=True, slots=True)
class ImmutableTags:
    """The rules that are about one repository; false if there are none."""

    rules: tuple[_Compiled, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rules)

    def rule_of(self, tag: str) -> str | None:
        """The pattern of the first rule that makes this tag immutable."""
        matching = (each for each in self.rules if each.tag(tag) and not each.excepted(tag))
        return next((each.pattern for each in matching), None)

    def of(self, tag: str) -> str | None:
        """What makes this tag immutable, in words; None if nothing does."""
        rule = self.rule_of(tag)
        return None if rule is None else _in_words(tag, rule)

    def first(self, tags: Iterable[str]) -> str | None:
        """As `of`, of the first of these that is immutable."""
        return next((words for words in map(self.of, tags) if words is not None), None)


NONE = ImmutableTags()


def _in_words(tag: str, rule: str) -> str:
    return f"tag '{tag}' is immutable by the rule '{rule}'"


# --- what is in force -----------------------------------------------------------------------------


def in_force(tx: Transaction, name: RepositoryName) -> ImmutableTags:
    """The rules about a repository: one query of one row, and none of them read twice."""
    return _about(policies.find_text(tx, POLICY), name)


def in_force_in(tx: Transaction, repository_id: int) -> ImmutableTags:
    """As in_force, of a repository whose name is asked for if there is any rule."""
    document = policies.find_text(tx, POLICY)
    name = None if document is None else name_of_repository(tx, repository_id)
    return NONE if name is None else _about(document, name)


def rules_about(registry: Registry, name: RepositoryName) -> ImmutableTags:
    """As in_force."""
    return registry.read(lambda tx: in_force(tx, name))


def _about(document: str | None, name: str) -> ImmutableTags:
    if document is None:
        return NONE
    return ImmutableTags(tuple(each for each in _compiled(document) if each.repository(name)))


@lru_cache(maxsize=4)
def _compiled(document: str) -> tuple[_Compiled, ...]:
    """What is stored, ready to be tried on names: read again only when it has changed."""
    return tuple(map(_compile, unpacked(document, ImmutableRules).rules))


def _compile(rule: ImmutableRule) -> _Compiled:
    repository, _, tag = rule.pattern.partition(":")
    excepted = any_of([glob(each) for each in rule.excepted])
    return _Compiled(rule.pattern, glob(repository), glob(tag), excepted)


def on_manifests(tx: Transaction, immutable: ImmutableTags, ids: Collection[int]) -> dict[int, str]:
    """Which of these manifests an immutable tag keeps, and by what rule, in words."""
    if not immutable:
        return {}
    words = {id_: immutable.first(tags) for id_, tags in tags_on(tx, ids).items()}
    return {id_: said for id_, said in words.items() if said is not None}


def first_in(tx: Transaction, repository_id: int, immutable: ImmutableTags) -> str | None:
    """An immutable tag that keeps the repository, in words."""
    return immutable.first(all_tags(tx, repository_id)) if immutable else None


# --- refusing -------------------------------------------------------------------------------------


def refuse(name: RepositoryName, words: str | None) -> None:
    """Raises OperationDisallowed with what keeps it, if anything does.

    The message has the rule, as clients show no more than that.
    """
    if words is not None:
        raise OperationDisallowed(
            {"name": name}, f"{words}: in repository '{name}' it can neither be moved nor deleted"
        )


def require_movable(document: str | None, name: RepositoryName, tag: Tag) -> None:
    """Raises OperationDisallowed if the tag, which is there, may not be moved.

    `document` is the policy as it is stored.
    """
    refuse(name, _about(document, name).of(tag))


def require_tags_free(tx: Transaction, name: RepositoryName, tags: Iterable[Tag]) -> None:
    """Raises OperationDisallowed if one of these tags may neither be moved nor deleted."""
    refuse(name, in_force(tx, name).first(tags))


def require_manifests_free(
    tx: Transaction, name: RepositoryName, manifest_ids: Collection[int]
) -> None:
    """Raises OperationDisallowed if an immutable tag keeps one of these manifests."""
    found = on_manifests(tx, in_force(tx, name), manifest_ids)
    refuse(name, next(iter(found.values()), None))


def require_repository_free(tx: Transaction, repository_id: int, name: RepositoryName) -> None:
    """Raises OperationDisallowed if an immutable tag keeps the repository."""
    refuse(name, first_in(tx, repository_id, in_force(tx, name)))


# --- setting --------------------------------------------------------------------------------------


def list_rules(registry: Registry) -> ImmutableRules:
    return registry.read(_stored)


def _stored(tx: Transaction) -> ImmutableRules:
    document = policies.find_text(tx, POLICY)
    return ImmutableRules([]) if document is None else unpacked(document, ImmutableRules)


def set_rule(registry: Registry, rule: ImmutableRule, caller: Caller) -> ImmutableRule:
    """Set a rule, in place of one with the same pattern. It counts for tags that are there, too.

    Raises ValueInvalid, and TooManyRequests if there are too many rules.
    """
    _require_patterns(rule)

    def change(rules: dict[str, ImmutableRule]) -> ImmutableRule:
        rules[rule.pattern] = rule
        if len(rules) > MAX_RULES:
            raise TooManyRequests(message=f"{MAX_RULES} rules already")
        return rule

    return _change(registry, caller, "immutable.set", rule.pattern, change)


def remove_rule(registry: Registry, pattern: str, caller: Caller) -> ImmutableRule:
    """Remove the rule with exactly this pattern. Raises LockUnknown."""

    def change(rules: dict[str, ImmutableRule]) -> ImmutableRule:
        if pattern not in rules:
            raise LockUnknown({"pattern": shown(pattern)}, "there is no rule with this pattern")
        return rules.pop(pattern)

    return _change(registry, caller, "immutable.remove", pattern, change)


def _change(
    registry: Registry,
    caller: Caller,
    action: str,
    pattern: str,
    change: Callable[[dict[str, ImmutableRule]], ImmutableRule],
) -> ImmutableRule:
    now = registry.now()

    def put(tx: Transaction) -> ImmutableRule:
        # Where there is no row there is none to lock, and two first rules would become one.
        policies.ensure(tx, POLICY, plain(ImmutableRules([])), now)
        policies.find(tx, POLICY, lock=True)
        rules = {each.pattern: each for each in _stored(tx).rules}
        about = change(rules)
        document = ImmutableRules([rules[each] for each in sorted(rules)])
        policies.put(tx, POLICY, plain(document), now)
        registry.audit(tx, caller, action, target=pattern, detail=plain(about))
        return about

    return registry.write(put)


def _require_patterns(rule: ImmutableRule) -> None:
    for pattern in (rule.pattern, *rule.excepted):
        if len(pattern) > MAX_PATTERN:
            raise ValueInvalid(message=f"a pattern is longer than {MAX_PATTERN} characters")
    if not _PATTERN.fullmatch(rule.pattern):
        raise ValueInvalid(
            message=f"pattern: expected repository:tag, where * is any characters and ? is one, "
            f"such as release/*:v*, and not {shown(rule.pattern)}"
        )
    for excepted in rule.excepted:
        if not _EXCEPTION.fullmatch(excepted):
            raise ValueInvalid(
                message=f"except: expected a pattern of tags such as v*-rc*, not {shown(excepted)}"
            )

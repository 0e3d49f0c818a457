"""What each caller may do: the one place that decides.

Rights are actions on repositories. A scope map lists them with az acr's words
(`repositories/team/app/content/read`), a token has docker's (`repository:team/app:pull`). Both
become grants, and every check of a right asks `Principal.may`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ullage.oci.errors import RegistryError


class Action(StrEnum):
    """What can be done to a repository, in the words of token scopes."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    METADATA_READ = "metadata_read"
    METADATA_WRITE = "metadata_write"
    DELETED_READ = "deleted_read"
    DELETED_RESTORE = "deleted_restore"
    GUARD_REPORT = "guard_report"


ALL_ACTIONS = frozenset(Action)
# Lists of repositories: those that there are, and those that were deleted softly.
CATALOGS = frozenset({"catalog", "deleted_catalog"})
# What administrators do: accounts, keys, the audit log, the uploads of others, checks.
ADMINISTRATION = "admin"
# The words of scope maps (az acr scope-map create --repository R content/read …).
SCOPE_MAP_ACTIONS = {
    "content/read": Action.PULL,
    "content/write": Action.PUSH,
    "content/delete": Action.DELETE,
    "metadata/read": Action.METADATA_READ,
    "metadata/write": Action.METADATA_WRITE,
    "deleted/read": Action.DELETED_READ,
    "deleted/restore": Action.DELETED_RESTORE,
    # What is deployed has digests, whatever the repository: only with all of them (`*`).
    "guard/report": Action.GUARD_REPORT,
}
# A repository name, a prefix ending in "/*", or "*" for all of them.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATTERN = re.compile(rf"\*|{_COMPONENT}(?:/{_COMPONENT})*(?:/\*)?")
MAX_PATTERN = 255
# A token request may name this many scopes; docker asks for two or three, az for one.
MAX_SCOPES = 100


class ScopeInvalid(RegistryError):
    """A right that cannot be granted because its text names no known right."""

    code = "SCOPE_INVALID"
    message = "the scope is malformed"


@dataclass(frozen=True, slots=True)
class Grant:
    """Actions on the repositories that a pattern covers."""

    pattern: str
    actions: frozenset[Action]

    def covers(self, name: str) -> bool:
        """`team/*` covers team/app and team/app/web, never teamx/app nor team itself."""
        if self.pattern.endswith("*"):
            return name.startswith(self.pattern[:-1]) or name == self.pattern
        return name == self.pattern


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller, as far as this request has shown. `subject` is "" for anonymous."""

    subject: str
    grants: tuple[Grant, ...] = ()
    # May manage accounts and see everything.
    admin: bool = False
    # May ask what repositories there are. Anonymous callers never may.
    listing: bool = True
    # What the account may read, where that is more than this request's token says.
    listed: tuple[str, ...] = ()
    # As these two, of what was deleted softly.
    listing_deleted: bool = True
    listed_deleted: tuple[str, ...] = ()

    def may(self, action: Action, name: str) -> bool:
        # A loop: a generator costs as much as all there is to look at.
        for grant in self.grants:  # noqa: SIM110
            if action in grant.actions and grant.covers(name):
                return True
        return False

    def may_all(self, actions: Iterable[Action], name: str) -> bool:
        return all(self.may(action, name) for action in actions)

    def readable(self) -> tuple[str, ...]:
        """Patterns of the repositories whose existence this caller may know of."""
        return self.listed + tuple(
            grant.pattern
            for grant in self.grants
            if grant.actions & {Action.PULL, Action.METADATA_READ}
        )

    def readable_deleted(self) -> tuple[str, ...]:
        """As readable, of what was deleted softly."""
        return self.listed_deleted + tuple(
            grant.pattern for grant in self.grants if Action.DELETED_READ in grant.actions
        )


def everything(subject: str, *, admin: bool) -> Principal:
    """A caller that may do everything with repositories."""
    return Principal(subject, (Grant("*", ALL_ACTIONS),), admin=admin)


# Where no accounts are asked for: a registry on loopback, for its one user.
WITHOUT_ACCOUNTS = everything("", admin=True)


def parse_pattern(text: str) -> str:
    """A repository name, `prefix/*` or `*`. Raises ScopeInvalid."""
    if len(text) > MAX_PATTERN or not _PATTERN.fullmatch(text):
        raise ScopeInvalid(
            {"repository": text[:100]},
            "expected a repository name, a prefix such as team/* or * for all",
        )
    return text


def parse_scope_map_action(text: str) -> Grant:
    """`repositories/<pattern>/<content/read …>`, as a scope map stores it. Raises ScopeInvalid."""
    head, _, rest = text.partition("/")
    pattern, _, verb = rest.rpartition("/")
    pattern, _, noun = pattern.rpartition("/")
    action = SCOPE_MAP_ACTIONS.get(f"{noun}/{verb}")
    if head != "repositories" or action is None:
        raise ScopeInvalid(
            {"action": text[:300]},
            "expected repositories/<repository>/<action>, with an action out of "
            + ", ".join(SCOPE_MAP_ACTIONS),
        )
    return Grant(parse_pattern(pattern), frozenset({action}))


def merged(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """One grant per pattern."""
    actions: dict[str, frozenset[Action]] = {}
    for grant in grants:
        actions[grant.pattern] = actions.get(grant.pattern, frozenset()) | grant.actions
    return tuple(Grant(pattern, those) for pattern, those in sorted(actions.items()))


@dataclass(frozen=True, slots=True)
class ScopeRequest:
    """One part of a token request's scope. `actions` is None for all there are (`*`)."""

    kind: str
    name: str
    actions: frozenset[Action] | None


_SCOPE = re.compile(r"([a-z_-]+)(?:\([a-z0-9]+\))?:(.+):([a-z_,*]*)")


def parse_scopes(texts: Sequence[str]) -> list[ScopeRequest]:
    """docker's scopes: `repository:a/b:pull,push`, repeated or joined by spaces.

    What is malformed or unknown asks for nothing and so is granted nothing: refusing the whole
    request would lock out clients that ask for more than there is. Raises ScopeInvalid for too
    many.
    """
    parts = [part for text in texts for part in text.split(" ") if part]
    if len(parts) > MAX_SCOPES:
        raise ScopeInvalid(message=f"more than {MAX_SCOPES} scopes in one request")
    requests = []
    for part in parts:
        match = _SCOPE.fullmatch(part)
        if match is None:
            continue
        kind, name, verbs = match.groups()
        wanted = frozenset(verb for verb in verbs.split(",") if verb)
        actions = None if "*" in wanted else frozenset(a for a in Action if a.value in wanted)
        requests.append(ScopeRequest(kind, name, actions))
    return requests


def granted(principal: Principal, requests: Iterable[ScopeRequest]) -> list[dict[str, Any]]:
    """What a token may carry: of what was asked for, what is allowed.

    "*" stands for whatever its account may do when the token is used. In the form of docker's token
    specification: [{"type", "name", "actions"}].
    """
    access: list[dict[str, Any]] = []
    for request in requests:
        if request.kind == "registry" and request.name in CATALOGS:
            if principal.listing:
                access.append({"type": "registry", "name": request.name, "actions": ["*"]})
        elif request.kind == "registry" and request.name == ADMINISTRATION:
            if principal.admin:
                access.append({"type": "registry", "name": request.name, "actions": ["*"]})
        elif request.kind == "repository":
            access += _granted_repository(principal, request)
    return access


def _granted_repository(principal: Principal, request: ScopeRequest) -> list[dict[str, Any]]:
    asked = ALL_ACTIONS if request.actions is None else request.actions
    if request.name == "*":
        # Not one by one: what it covers is decided when it is used, from what is allowed then.
        allowed = frozenset[Action]().union(*(grant.actions for grant in principal.grants))
        found = [("*", allowed & asked)]
    elif _PATTERN.fullmatch(request.name) and len(request.name) <= MAX_PATTERN:
        # A prefix is granted only to an account that has it, or a wider one, whole.
        actions = frozenset(a for a in asked if principal.may(a, request.name))
        found = [(request.name, actions)]
    else:
        found = []
    return [
        {"type": "repository", "name": pattern, "actions": sorted(action.value for action in some)}
        for pattern, some in found
        if some
    ]


def narrowed(granted: Sequence[Grant], asked: Sequence[Grant]) -> tuple[Grant, ...]:
    """What both allow."""
    both = []
    for limit in asked:
        for grant in granted:
            actions = limit.actions & grant.actions
            # A pattern covers another one as it covers a name.
            if actions and limit.covers(grant.pattern):
                both.append(Grant(grant.pattern, actions))
            elif actions and grant.covers(limit.pattern):
                both.append(Grant(limit.pattern, actions))
    return merged(both)


def grants_of(access: object) -> tuple[tuple[Grant, ...], frozenset[str]]:
    """What a token's `access` claim asks for: grants, and what of the registry as a whole.

    That is any of CATALOGS and ADMINISTRATION.

    The claim is signed, so it is ours; but it is read as strictly as if it were not.
    """
    grants: list[Grant] = []
    listing: set[str] = set()
    for entry in access if isinstance(access, list) else []:
        if not isinstance(entry, dict):
            continue
        name, verbs = entry.get("name"), entry.get("actions")
        if not isinstance(name, str) or not isinstance(verbs, list):
            continue
        if entry.get("type") == "registry":
            listing |= {name} & (CATALOGS | {ADMINISTRATION})
        elif entry.get("type") == "repository" and _PATTERN.fullmatch(name):
            grants.append(Grant(name, frozenset(a for a in Action if a.value in verbs)))
    return merged(grants), frozenset(listing)

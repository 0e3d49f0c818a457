"""Scope maps: named sets of rights on repositories, for users and tokens.

Each command is one transaction, with its audit entry in it, and answers as az acr does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ullage.accounts import queries
from ullage.accounts.documents import ScopeMapDocument, scope_map_document
from ullage.accounts.names import AccountConflict, AccountInvalid, known, require_name
from ullage.accounts.queries import ScopeMap
from ullage.authorization import SCOPE_MAP_ACTIONS, parse_pattern
from ullage.database.transaction import Transaction
from ullage.registry.clients import Caller
from ullage.registry.context import Registry

MAX_ACTIONS = 500
MAX_DESCRIPTION = 1000


def create_scope_map(
    registry: Registry,
    caller: Caller,
    name: str,
    repositories: Sequence[Sequence[str]],
    description: str = "",
) -> ScopeMapDocument:
    require_name(name)
    _require_short(description)
    actions = actions_of(repositories)

    def make(tx: Transaction) -> ScopeMapDocument:
        if queries.find_scope_map(tx, name) is not None:
            raise AccountConflict(message=f"there is a scope map called {name} already")
        queries.put_scope_map(tx, name, description, actions, registry.now())
        registry.audit(tx, caller, "scope-map.create", target=name, detail={"actions": actions})
        return scope_map_document(_scope_map(tx, name))

    return registry.write(make)


def list_scope_maps(registry: Registry) -> list[ScopeMapDocument]:
    return [scope_map_document(found) for found in registry.read(queries.list_scope_maps)]


def show_scope_map(registry: Registry, name: str) -> ScopeMapDocument:
    return scope_map_document(registry.read(lambda tx: _scope_map(tx, name)))


def update_scope_map(
    registry: Registry,
    caller: Caller,
    name: str,
    *,
    add: Sequence[Sequence[str]] = (),
    remove: Sequence[Sequence[str]] = (),
    description: str | None = None,
) -> ScopeMapDocument:
    _require_short(description or "")
    added, removed = actions_of(add), actions_of(remove)

    def change(tx: Transaction) -> ScopeMapDocument:
        found = _scope_map(tx, name)
        actions = sorted((set(found.actions) - set(removed)) | set(added))
        _require_few(actions)
        text = found.description if description is None else description
        queries.put_scope_map(tx, name, text, actions, registry.now())
        detail = {"added": added, "removed": removed}
        registry.audit(tx, caller, "scope-map.update", target=name, detail=detail)
        return scope_map_document(_scope_map(tx, name))

    return registry.write(change)


def delete_scope_map(registry: Registry, caller: Caller, name: str) -> None:
    def remove(tx: Transaction) -> None:
        _scope_map(tx, name)
        accounts = queries.users_of_scope_map(tx, name)
        if accounts:
            raise AccountConflict(
                {"accounts": accounts[:20]},
                f"scope map {name} is used by {', '.join(accounts[:5])}; give them another first",
            )
        queries.delete_scope_map(tx, name)
        registry.audit(tx, caller, "scope-map.delete", target=name)

    registry.write(remove)


# --- what may be asked for ------------------------------------------------------------------------


def require_scope_map(tx: Transaction, name: str | None) -> None:
    if name is not None:
        _scope_map(tx, name)


def _require_short(description: str) -> None:
    if len(description) > MAX_DESCRIPTION:
        raise AccountInvalid(message=f"a description has at most {MAX_DESCRIPTION} characters")


def _require_few(actions: Sequence[str]) -> None:
    if len(actions) > MAX_ACTIONS:
        raise AccountInvalid(message=f"a scope map holds at most {MAX_ACTIONS} actions")


def actions_of(repositories: Iterable[Sequence[str]]) -> list[str]:
    """[repository, action …] lists as scope map actions."""
    actions = []
    for repository, *verbs in repositories:
        pattern = parse_pattern(repository)
        if not verbs:
            raise AccountInvalid(
                {"repository": pattern},
                f"no action for {pattern}; one or more of " + ", ".join(SCOPE_MAP_ACTIONS),
            )
        for verb in verbs:
            if verb not in SCOPE_MAP_ACTIONS:
                raise AccountInvalid(
                    {"repository": pattern, "action": verb[:100]},
                    f"{verb[:100]!r} for {pattern} is no action; one or more of "
                    + ", ".join(SCOPE_MAP_ACTIONS),
                )
            actions.append(f"repositories/{pattern}/{verb}")
    _require_few(actions)
    return sorted(set(actions))


def _scope_map(tx: Transaction, name: str) -> ScopeMap:
    return known(queries.find_scope_map(tx, name), f"there is no scope map called {name}")

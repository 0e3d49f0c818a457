"""`ullage immutable set`, `list` and `remove`: tags that are written once, by rules."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from ullage.cli.client.scopes import CHANGE_ALL, READ_ALL
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.invocation import Invocation, Result

RULES = "/api/v1/policies/immutable-tags"


def set_rule(invocation: Invocation) -> Result:
    given = invocation.given
    body = {"pattern": given.pattern, "except": given.excepted or []}
    rule = invocation.registry(CHANGE_ALL).post(RULES, body).data
    return Result(rule, lambda: _rows([rule]))


def list_rules(invocation: Invocation) -> Result:
    found = invocation.registry(READ_ALL).get(RULES).data["rules"]
    return Result(found, lambda: _rows(found))


def remove(invocation: Invocation) -> Result:
    query = urlencode({"pattern": invocation.given.pattern})
    rule = invocation.registry(CHANGE_ALL).delete(f"{RULES}?{query}").data
    return Result(rule, lambda: _rows([rule]))


def _rows(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"Pattern": each["pattern"], "Except": ", ".join(each["except"])} for each in rules]


COMMANDS = (
    Command(
        ("immutable", "set"),
        "Let tags be written once, by a rule, in place of the rule with the same pattern.",
        (
            Flag(
                ("pattern",),
                "repository:tag, where * is any characters, `/` among them, and ? is one.",
                "PATTERN",
                required=True,
            ),
            Flag(
                ("--except",),
                "Not tags that this pattern matches. Repeatable.",
                "TAGS",
                repeatable=True,
                dest="excepted",
            ),
            *flags.REGISTRY,
        ),
        set_rule,
        more="A tag that matches can neither be moved to another image nor deleted, nor can its "
        "image or its repository, by no command and no policy. Pushing the same image again is "
        "fine. `*:*` is every tag, `team/*:*` those of a namespace, `app:v*` some of a repository. "
        "What cosign keeps in tags such as sha256-….sig moves: let `--except 'sha256-*'` stand "
        "beside patterns that match it.",
        examples=(
            "ullage immutable set 'release/*:v*' --except 'v*-rc*'",
            "ullage immutable set '*:*' --except latest --except 'sha256-*'",
        ),
    ),
    Command(
        ("immutable", "list"),
        "List the rules.",
        flags.REGISTRY,
        list_rules,
    ),
    Command(
        ("immutable", "remove"),
        "Remove the rule with exactly this pattern; the audit log has who did.",
        (
            Flag(("pattern",), "The pattern, as it was set.", "PATTERN", required=True),
            *flags.REGISTRY,
        ),
        remove,
        exits=MISSING,
    ),
)

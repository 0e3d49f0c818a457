"""What a retention rule says, and what it decides (docs/design/policies.md): pure decisions."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.cleaning import retention, rules
from ullage.cleanup.retention.rules import (
    Decider,
    Fact,
    Rule,
    Untagged,
    Verdict,
    Why,
    parse_days,
    retention_document,
    retention_of,
    rule_document,
    rules_of,
)
from ullage.documents import packed
from ullage.oci.errors import ValueInvalid

NOW = datetime(2026, 6, 1, tzinfo=UTC)
UNTAGGED: dict[str, Any] = {"untagged": True, "older_than": "7d"}


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def as_json(document: object) -> Any:
    return json.loads(packed(document))


def deciding(*those: dict[str, Any]) -> Decider:
    parsed = rules_of(rules(*those))
    return Decider([(rule, _matches(rule)) for rule in parsed], NOW)


def _matches(rule: Rule) -> Any:
    return re.compile(rule.tags or "").search


# --- conditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "fact", "goes"),
    [
        ({"older_than": "30d"}, Fact(ago(31)), True),
        ({"older_than": "30d"}, Fact(ago(30)), False),
        ({"older_than": "0d"}, Fact(ago(0.001)), True),
        # Never pulled: its age counts from its push (harbor#18479).
        ({"not_pulled_for": "30d"}, Fact(ago(1)), False),
        ({"not_pulled_for": "30d"}, Fact(ago(31)), True),
        ({"not_pulled_for": "30d"}, Fact(ago(90), ago(31)), True),
        ({"not_pulled_for": "30d"}, Fact(ago(90), ago(29)), False),
        # Pushed again since it was pulled.
        ({"not_pulled_for": "30d"}, Fact(ago(2), ago(31)), False),
        # All conditions have to hold.
        ({"older_than": "30d", "not_pulled_for": "10d"}, Fact(ago(31), ago(11)), True),
        ({"older_than": "30d", "not_pulled_for": "10d"}, Fact(ago(29), ago(11)), False),
        ({"older_than": "30d", "not_pulled_for": "10d"}, Fact(ago(31), ago(9)), False),
        ({"older_than": "1d"}, Fact(ago(31), locked=True), False),
        ({"keep": True}, Fact(ago(1000)), False),
        # What was pulled in the last seven days may be running (containers-roadmap#1036).
        ({"older_than": "1d"}, Fact(ago(31), ago(6.9)), False),
        ({"older_than": "1d"}, Fact(ago(31), ago(7.1)), True),
        ({"older_than": "1d", "allow": ["pulled-recently"]}, Fact(ago(31), ago(1)), True),
    ],
)
def test_conditions(rule: dict[str, Any], fact: Fact, goes: bool) -> None:
    assert deciding({"tags": ".*", **rule}).tag("v1", fact).goes == goes
    assert deciding({"untagged": True, **rule}).orphan(fact).goes == goes


def test_the_first_rule_that_matches_decides() -> None:
    decider = deciding(
        {"name": "releases", "tags": r"^v\d", "keep": True},
        {"name": "pull requests", "tags": "^pr-", "older_than": "7d"},
        {"name": "rest", "tags": ".*", "older_than": "30d"},
        {"name": "orphans", **UNTAGGED},
        {"name": "never reached", "untagged": True, "older_than": "0d"},
    )
    old = Fact(ago(10))
    found = [decider.tag(tag, old) for tag in ("v1", "pr-1", "latest")]
    found.append(decider.orphan(Fact(ago(5))))
    names = [(verdict.rule.name if verdict.rule else None, verdict.goes) for verdict in found]
    assert names == [
        ("releases", False),
        ("pull requests", True),
        ("rest", False),
        ("orphans", False),
    ]
    assert deciding(UNTAGGED).tag("v1", old) == Verdict(Why.NO_RULE)


def test_the_newest_of_all_that_a_rule_is_about_stay() -> None:
    """Whatever their age; others that match an earlier rule do not count."""
    decider = deciding(
        {"tags": "^latest$", "keep": True},
        {"tags": ".*", "older_than": "5d", "keep_newest": 2},
    )
    facts = {"latest": 0, "d1": 1, "d4": 4, "d6": 6, "d7": 7}
    gone = [tag for tag, days in facts.items() if decider.tag(tag, Fact(ago(days))).goes]
    assert gone == ["d6", "d7"]
    only_count = deciding({"tags": ".*", "keep_newest": 3})
    assert [only_count.tag(tag, Fact(ago(1))).goes for tag in "abcde"] == [
        *(False, False, False, True, True)
    ]


def test_azs_policy_spares_what_was_untagged_before() -> None:
    """azure.md section 5.5: what becomes untagged after enabling; existing ones are unaffected."""
    rule = Untagged(True, 7, since=ago(20)).rule()
    assert rule is not None
    decider = Decider([(rule, _matches(rule))], NOW)
    assert [decider.orphan(Fact(ago(days))).goes for days in (6, 8, 21)] == [False, True, False]
    assert Untagged(False, 7).rule() is None


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"tags": ".*"},
        {"tags": ".*", "untagged": True, "older_than": "7d"},
        {"untagged": False, "older_than": "7d"},
        {"tags": ".*", "keep": True, "older_than": "7d"},
        {"tags": ".*", "older_then": "7d"},
        {"tags": ".*", "older_than": 7},
        {"tags": ".*", "older_than": "-1d"},
        {"tags": ".*", "older_than": "999999d"},
        {"tags": ".*", "keep_newest": -1},
        {"tags": ".*", "keep_newest": True},
        {"tags": "", "older_than": "7d"},
        {"tags": ".*", "older_than": "7d", "allow": ["everything"]},
        {"tags": ".*", "older_than": "7d", "allow": "only-tag"},
        {"name": "config retention", **UNTAGGED},
        "tags",
    ],
)
def test_a_rule_that_is_not_understood_is_refused(rule: Any) -> None:
    """A misspelt condition must not mean a rule without it."""
    with pytest.raises(ValueInvalid):
        rules_of(rules(rule))


@pytest.mark.parametrize(
    "document",
    [
        {"rules": {}},
        {"rules": [UNTAGGED] * 101},
        {"rules": [{"name": "a", **UNTAGGED}, {"name": "a", **UNTAGGED}]},
        {"rule": []},
        {"every": "1m"},
        {"every": 1},
        {"max_manifests": "10"},
        {"max_bytes": "10 parsecs"},
        {"max_bytes": -1},
        {"enabled": "yes"},
    ],
)
def test_a_policy_that_is_not_understood_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueInvalid):
        retention_of(retention(document), Untagged())


def test_what_is_written_down_is_what_was_read() -> None:
    those: list[dict[str, Any]] = [
        {"name": "a", "repositories": "ci/.*", "tags": "^pr-", "older_than": "36h"},
        {"name": "b", "repositories": ".*", "untagged": True, "not_pulled_for": "1500ms"},
        {"name": "c", "repositories": ".*", "tags": "x", "keep": True},
        {
            "name": "d",
            "repositories": ".*",
            "tags": "x",
            "keep_newest": 3,
            "allow": ["only-tag"],
        },
    ]
    assert [as_json(rule_document(rule)) for rule in rules_of(rules(*those))] == those
    document = {
        "enabled": False,
        "every": "12h",
        "max_manifests": 1000,
        "max_bytes": 10**9,
        "rules": those,
    }
    policy = retention_of(retention(document), Untagged())
    assert as_json(retention_document(policy)) == document
    assert [rule.name for rule in rules_of(rules(UNTAGGED, {"tags": "x", "keep": True}))] == [
        *("rule 1", "rule 2")
    ]


@pytest.mark.parametrize("days", [-1, 366, "7", True, None, 1.5])
def test_days_are_refused_in_azs_words(days: object) -> None:
    """azure.md section 3.3."""
    with pytest.raises(ValueInvalid, match="Invalid value for days: should be from 0 to 365"):
        parse_days(days)
    assert [parse_days(0), parse_days(365)] == [0, 365]

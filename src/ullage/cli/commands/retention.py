"""`ullage retention`, `ullage pullers` and `ullage config retention`: policies of a registry."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ullage.cli.client.image_names import parse_image, whole_image
from ullage.cli.client.scopes import CHANGE_ALL, READ_ALL, scope_of
from ullage.cli.commands.job import UNFINISHED, finish, image_of, item_row, items_of, queued
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import (
    age,
    ago,
    counted,
    grouped,
    images_in,
    manifests_and_tags,
    short_digests,
    size,
)

_POLICIES = "/api/v1/policies"
# A year of a busy registry takes a while.
_TEST_SECONDS = 600


def _document(path: str) -> Any:
    """JSON or YAML from a file, or from standard input for `-`."""
    import yaml

    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return yaml.safe_load(text)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: is no text in UTF-8") from error
    except yaml.YAMLError as error:
        raise Failure(f"{path} is neither JSON nor YAML: {_place_of(error)}") from error


def _place_of(error: Exception) -> str:
    """What YAML says, on one line, with where that is."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    return f"{problem}{where}" if problem else " ".join(str(error).split())


def _object(path: str) -> dict[str, Any]:
    """A policy; a list is its rules."""
    document = _document(path)
    if isinstance(document, list):
        return {"rules": document}
    if not isinstance(document, dict):
        raise Failure(f"{path}: expected an object")
    return document


# --- retention ------------------------------------------------------------------------------------


def show(invocation: Invocation) -> Result:
    data = invocation.registry(READ_ALL).get(f"{_POLICIES}/retention").data
    return Result(data, lambda: _rule_rows(data))


def set_rules(invocation: Invocation) -> Result:
    document = _object(invocation.given.file)
    document = {name: document[name] for name in document if name not in ("last_run", "next_run")}
    data = invocation.registry(CHANGE_ALL).put(f"{_POLICIES}/retention", document).data
    if data["next_run"]:
        invocation.console.note(
            f"Runs at {data['next_run']}; what it would do: ullage retention run --dry-run"
        )
    return Result(data, lambda: _rule_rows(data))


def _rule_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "Rule": rule["name"],
            "Repositories": rule["repositories"],
            "Tags": rule.get("tags", "(untagged)"),
            "Does": _does(rule),
        }
        for rule in data["rules"]
    ]


def _does(rule: Mapping[str, Any]) -> str:
    if rule.get("keep"):
        return "keep"
    words = {"older_than": "older than", "not_pulled_for": "not pulled for"}
    conditions = [f"{words[name]} {rule[name]}" for name in words if name in rule]
    if "keep_newest" in rule:
        conditions.append(f"not among the newest {rule['keep_newest']}")
    return f"delete if {' and '.join(conditions)}"


def explain(invocation: Invocation) -> Result:
    image = parse_image(invocation.given.image)
    registry = invocation.registry(scope_of(image.repository, "metadata_read"))
    image = whole_image(registry, image)
    query = {
        "repository": image.repository,
        "tag": image.tag or None,
        "digest": image.digest or None,
    }
    data = registry.get("/api/v1/retention/explain", query).data
    by = f", by '{data['rule']}'" if data["rule"] else ""
    invocation.console.note(
        f"{image} {'goes' if data['goes'] else 'stays'}{by}: {data['because']}."
    )
    return Result(data)


def run(invocation: Invocation) -> Result:
    given = invocation.given
    registry = invocation.registry(CHANGE_ALL)
    job = registry.post("/api/v1/retention/runs", {"dry_run": given.dry_run}).data
    if given.no_wait:
        return queued(invocation, job)
    job = finish(invocation, registry, job)
    if given.dry_run:
        invocation.console.note(
            f"Would delete {images_in(job)}, and free {size(job['planned_bytes'])} "
            f"({job['planned_bytes']} bytes). Nothing is deleted."
        )
    else:
        invocation.console.note(
            f"Deleted {manifests_and_tags(job['manifests_deleted'], job['tags_deleted'])}, freed "
            f"{size(job['freed_bytes'])} ({job['freed_bytes']} bytes)."
        )
    found = list(items_of(registry, job["id"]))
    code = 0 if job["state"] == "done" else 1
    return Result(
        job | {"items": found}, lambda: [item_row(item, "would go") for item in found], code=code
    )


def test(invocation: Invocation) -> Result:
    request: dict[str, Any] = {"since": invocation.given.since or "90d"}
    if invocation.given.file is not None:
        request["rules"] = _object(invocation.given.file).get("rules", [])
    registry = invocation.registry(READ_ALL)
    data = registry.post("/api/v1/retention/test", request, _TEST_SECONDS).data
    for note in data["notes"]:
        invocation.console.warning(f"The rules would have run into a rail: this {note}.")
    invocation.console.note(
        f"In {data['repositories']} repositories since {data['since']}: would have deleted "
        f"{manifests_and_tags(data['manifests_deleted'], data['tags_deleted'])}; "
        f"{data['pulled_later']} of these were pulled later ({data['regret_percent']} %)."
    )
    if data["pulls_since"] is None or data["pulls_since"] > data["since"]:
        known = data["pulls_since"] or "never"
        invocation.console.warning(
            f"Pulls are known since: {known}. What was pulled before counts as not."
        )
    if invocation.given.all:
        return Result(data, lambda: _gone_rows(data))
    return Result(data, lambda: _trial_rows(data), after=_after_trial(data))


def _trial_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the trial comes to, and how much of the registry it could say nothing about."""
    there, unseen = data["manifest_count"], data["unseen_count"]
    percent = f" ({100 * unseen / there:.1f} %)" if there else ""
    return [
        {
            "What": "would have been deleted",
            "Manifests": grouped(data["manifests_deleted"]),
            "Tags": grouped(data["tags_deleted"]),
        },
        {"What": "of both, pulled later", "Manifests": grouped(data["pulled_later"])},
        {"What": "there now in these repositories", "Manifests": grouped(there)},
        {"What": f"not in the history, not tried{percent}", "Manifests": grouped(unseen)},
    ]


def _after_trial(data: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if data["deleted"]:
        lines.append(f"{counted(len(data['deleted']), 'line')} more with --all.")
    if data["unseen_count"]:
        lines.append("What the rules would do with all there is: ullage retention run --dry-run")
    return lines


def _gone_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    short = short_digests(each["digest"] for each in data["deleted"])
    return [
        {
            "Image": image_of(each | {"digest": short[each["digest"]]}),
            "Rule": each["rule"],
            "Deleted": age(each["deleted"]),
            "PulledLater": _regret(each["pulled_later"]),
        }
        for each in data["deleted"]
    ]


def _regret(regret: Mapping[str, Any] | None) -> str:
    return "" if regret is None else f"{ago(regret['first'])}, by: {regret['by']}"


# --- as az has it ---------------------------------------------------------------------------------


def show_untagged(invocation: Invocation) -> Result:
    return Result(invocation.registry(READ_ALL).get(f"{_POLICIES}/untagged").data)


def update_untagged(invocation: Invocation) -> Result:
    given = invocation.given
    if given.days is not None and not 0 <= given.days <= 365:
        raise Failure("Invalid value for days: should be from 0 to 365")
    changes = without_none(status=given.status, days=given.days)
    return Result(invocation.registry(CHANGE_ALL).patch(f"{_POLICIES}/untagged", changes).data)


# --- pullers --------------------------------------------------------------------------------------


def show_pullers(invocation: Invocation) -> Result:
    data = invocation.registry(READ_ALL).get(f"{_POLICIES}/pullers").data
    return Result(data, lambda: _puller_rows(data))


def set_pullers(invocation: Invocation) -> Result:
    document = _object(invocation.given.file)
    document.pop("usual", None)
    data = invocation.registry(CHANGE_ALL).put(f"{_POLICIES}/pullers", document).data
    return Result(data, lambda: _puller_rows(data))


def _puller_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "Class": each["class"],
            "Counts": each["class"] not in data["ignored"],
            "UserAgent": each["agent"],
        }
        for each in (*data["patterns"], *data["usual"])
    ]


_FILE = Flag(("file",), "JSON or YAML; `-` for standard input.", "FILE", required=True)

COMMANDS = (
    Command(
        ("retention", "show"),
        "Show the rules, and when they run.",
        flags.REGISTRY,
        show,
    ),
    Command(
        ("retention", "set"),
        "Set the rules, in place of all that were.",
        (_FILE, *flags.REGISTRY),
        set_rules,
        more='A list of rules, or {"enabled": true, "every": "24h", "rules": […]}: what a rule is, '
        "in docs/guides/retention.md. They run for the first time when an interval has passed.",
        examples=(
            "ullage retention set rules.yaml",
            "ullage retention show | ullage retention set -",
        ),
    ),
    Command(
        ("retention", "explain"),
        "Say which rule decides about an image, and why it goes or stays.",
        (
            Flag(("image",), "name:tag or name@digest.", "IMAGE", required=True),
            *flags.REGISTRY,
        ),
        explain,
        examples=("ullage retention explain hello:v1",),
        exits=MISSING,
    ),
    Command(
        ("retention", "run"),
        "Run the rules now, or say what they would do.",
        (
            Flag(("--dry-run",), "Say what would be deleted, and delete nothing."),
            Flag(("--no-wait",), "Leave it to the registry and return at once."),
            *flags.REGISTRY,
        ),
        run,
        examples=("ullage retention run --dry-run",),
        exits=UNFINISHED,
    ),
    Command(
        ("retention", "test"),
        "Try rules out on what has been: what they would have deleted, and what was pulled later.",
        (
            Flag(
                ("file",),
                "Rules as for `retention set`; left out, those that are set. `-` for standard "
                "input.",
                "FILE",
            ),
            Flag(("--since",), "How far to go back. Default: 90d.", "DURATION"),
            Flag(("--all",), "A line for each that would have been deleted."),
            *flags.REGISTRY,
        ),
        test,
        more="Nothing is deleted. Pushes and deletions are known since the registry was made, "
        "pulls for 400 days.",
        examples=("ullage retention test rules.yaml --since 90d",),
    ),
    Command(
        ("config", "retention", "show"),
        "Show after how many days manifests without a tag are deleted.",
        flags.REGISTRY,
        show_untagged,
    ),
    Command(
        ("config", "retention", "update"),
        "Let manifests be deleted a number of days after they lost their last tag.",
        (
            Flag(
                ("--status",),
                "Whether it is done.",
                "STATUS",
                choices=("enabled", "disabled"),
            ),
            Flag(("--days",), "From 0 to 365. Default: 7.", "DAYS", kind=int),
            Flag(
                ("--type",),
                "What it is about.",
                "TYPE",
                choices=("untaggedmanifests",),
                required=True,
            ),
            *flags.REGISTRY,
        ),
        update_untagged,
        more="As az has it: manifests that were untagged before are not affected.",
        examples=(
            "ullage config retention update --status enabled --days 7 --type UntaggedManifests",
        ),
    ),
    Command(
        ("pullers", "show"),
        "Show how pullers are told apart, and whose pulls keep nothing.",
        flags.REGISTRY,
        show_pullers,
    ),
    Command(
        ("pullers", "set"),
        "Set patterns of your own, and classes whose pulls do not count.",
        (_FILE, *flags.REGISTRY),
        set_pullers,
        more='{"patterns": [{"agent": "^our-mirror/", "class": "replication"}], "ignored": '
        '["scanner", "replication", "tool"]}. An expression (RE2) matches some part of a user '
        "agent; those of your own come first.",
    ),
)

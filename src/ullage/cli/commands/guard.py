"""`ullage guard`: what clusters run, so that no deletion takes it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ullage.cli.client.administration import SCOPE as ADMINISTRATION
from ullage.cli.client.scopes import READ_ALL, REPORT_ALL
from ullage.cli.commands.reported import images_in
from ullage.cli.commands.why import digest_meant
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.console import confirm
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result, without_none
from ullage.cli.shell.tables import ago, counted, minute

DEPLOYMENTS = "/api/v1/deployments"


def report(invocation: Invocation) -> Result:
    given = invocation.given
    images = images_in(_input(given.file), given.format or "auto")
    body = {"images": images, "complete": not given.add, "empty_ok": given.empty_ok}
    body |= without_none(ttl=given.ttl, rollback=given.rollback)
    reported = invocation.registry(REPORT_ALL).put(_path(given.source), body).data
    source = reported["source"]
    invocation.console.note(
        f"{counted(source['images'], 'image')}: {reported['added']} new, {reported['left']} left."
    )
    return Result(reported, lambda: [_row(source)])


def list_sources(invocation: Invocation) -> Result:
    found = invocation.registry(READ_ALL).get(DEPLOYMENTS).data["sources"]
    for each in found:
        if each["stale"]:
            invocation.console.warning(
                f"{each['source']} last reported {ago(each['reported'])}. What it named stays "
                "protected; `ullage guard forget` ends that."
            )
    return Result(found, lambda: [_row(each) for each in found])


def show(invocation: Invocation) -> Result:
    registry = invocation.registry(READ_ALL)
    found = list(registry.pages(_path(invocation.given.source), "images"))
    return Result(found, lambda: [_image_row(each) for each in found])


def forget(invocation: Invocation) -> Result:
    given = invocation.given
    confirm(
        f"All that '{given.source}' names may then be deleted.\nAre you sure you want to continue?",
        given.yes,
    )
    gone = invocation.registry(ADMINISTRATION).delete(f"{_path(given.source)}?confirm=1").data
    return Result(gone, lambda: [_row(gone)])


def status(invocation: Invocation) -> Result:
    digest = digest_meant(invocation, invocation.given.image)
    data = invocation.registry(READ_ALL).get(f"/api/v1/why/{quote(digest, safe=':')}").data
    found = [
        {"repository": place["repository"], "digest": digest, "deployed": each["by"]}
        for place in data.get("manifest", [])
        for each in place["held_by"]
        if each["kind"] == "deployed"
    ]
    if not found:
        invocation.console.note(f"{digest}: no source names it.")
    return Result(found, lambda: [_status_row(each) for each in found])


def _input(path: str | None) -> str:
    """The text of a file or of standard input."""
    try:
        return sys.stdin.read() if path is None else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}. Nothing was reported.") from error
    except UnicodeDecodeError as error:
        raise Failure("The input is no text in UTF-8. Nothing was reported.") from error


def _path(source: str) -> str:
    return f"{DEPLOYMENTS}/{quote(source, safe='')}"


def _row(source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Source": source["source"],
        "Images": source["images"],
        "Recently": source["recently"],
        "Reported": ago(source["reported"]),
        "State": "stale" if source["stale"] else "current",
        "By": source["by"],
    }


def _image_row(image: Mapping[str, Any]) -> dict[str, Any]:
    until = image["until"]
    return {
        "Image": image["reference"],
        "Digest": image["digest"],
        "Where": image["where"],
        "State": f"until {minute(until)}" if until else image["state"],
    }


def _status_row(found: Mapping[str, Any]) -> dict[str, Any]:
    return {"Repository": found["repository"], "Deployed": found["deployed"]}


_SOURCE = Flag(("source",), "The name of the source.", "SOURCE", required=True)

COMMANDS = (
    Command(
        ("guard", "report"),
        "Report what a cluster runs, read from standard input, in place of its last report.",
        (
            Flag(("--source",), "The cluster's name, such as prod.", "SOURCE", required=True),
            Flag(
                ("--format",),
                "pods: what `kubectl get … -o json` prints; list: one reference on each line. "
                "Default: what it looks like.",
                "FORMAT",
                choices=("auto", "pods", "list"),
            ),
            Flag(("--file",), "Read this file. Default: standard input.", "FILE"),
            Flag(("--add",), "What is not named stays named: not all was read."),
            Flag(
                ("--ttl",),
                "When the next report is due: 15m to 30d. Default: 2h. A source that is late is "
                "called stale, and protects all the same.",
                "DURATION",
            ),
            Flag(
                ("--rollback",),
                "How long what is not named any more stays protected. Default: 7d.",
                "DURATION",
            ),
            Flag(("--empty-ok",), "No image at all is meant, and no failed query."),
            *flags.REGISTRY,
        ),
        report,
        more="No deletion, plan, purge or retention rule takes what is reported: the manifest, the "
        "indexes that list it, what these list, and what refers to them. Takes the right "
        "guard/report on all repositories.",
        examples=(
            "kubectl get pods,replicasets,cronjobs -A -o json | ullage guard report --source prod",
            "ullage guard report --source vm7 --format list --file references.txt",
        ),
    ),
    Command(
        ("guard", "list"),
        "List the sources, what they name and how fresh that is.",
        flags.REGISTRY,
        list_sources,
    ),
    Command(
        ("guard", "show"),
        "Show what a source names.",
        (_SOURCE, *flags.REGISTRY),
        show,
        exits=MISSING,
    ),
    Command(
        ("guard", "forget"),
        "End all that a source protects; for administrators.",
        (_SOURCE, flags.YES, *flags.REGISTRY),
        forget,
        exits=MISSING,
    ),
    Command(
        ("guard", "status"),
        "Say which sources name an image, or something that it belongs to.",
        (
            Flag(
                ("image",),
                "The image as name:tag or name@digest, or a digest or its first digits.",
                "IMAGE",
                required=True,
            ),
            *flags.REGISTRY,
        ),
        status,
        exits=MISSING,
    ),
)

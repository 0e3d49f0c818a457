"""Deleting images: asking first, one as az does it, many at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ullage.cli.client.image_names import Image, digest_of_tag, parse_image
from ullage.cli.client.registry import RemoteRegistry, content_path, tags_path
from ullage.cli.shell.console import Console, confirm, progress
from ullage.cli.shell.errors import Failure, Refused
from ullage.cli.shell.invocation import CONNECTIONS, Result
from ullage.cli.shell.tables import size

# A question that fills the screen is not read.
_SHOWN = 20
_PLAN_SECONDS = 10


# --- asking ---------------------------------------------------------------------------------------


def freed(registry: RemoteRegistry, request: Mapping[str, Any]) -> str:
    """What a deletion gives back, as a line to put before the question: `…\\n`, or "" if unknown.

    `request` is a body of POST /api/v1/plans. Registries that cannot say, such as Azure's, are no
    reason not to delete.
    """
    try:
        plan = registry.post("/api/v1/plans", request, _PLAN_SECONDS).data
    except Failure:
        return ""
    now = plan.get("freed_bytes") if isinstance(plan, dict) else None
    if not isinstance(now, int):
        return ""
    _require_unlocked(plan)
    later = plan.get("freed_later_bytes")
    more = f", {size(later)} more later" if isinstance(later, int) and later > 0 else ""
    until = plan.get("restorable_until")
    if until is not None:
        return f"This can be taken back. It gives back {size(now)} now{more}, at {until}.\n"
    return f"This gives back {size(now)}{more}.\n"


def _require_unlocked(plan: Mapping[str, Any]) -> None:
    """Refuse what the registry would refuse before anything is asked. Raises Failure."""
    if plan.get("manifest_count") or not plan.get("repositories"):
        return
    reasons = [str(part["locked"]) for part in plan["repositories"] if "locked" in part]
    reasons += [
        f"{keeper['kind']} {keeper['by']} holds it"
        if keeper["kind"] in ("index", "tag", "subject")
        else str(keeper["by"])
        for item in plan.get("stays", ())
        for keeper in item["held_by"]
    ]
    if reasons:
        raise Failure(f"Nothing was deleted: {reasons[0]}.")


def announcement(repository: str, digest: str, tags: Sequence[str]) -> str:
    """azure.md section 3.4, without the full stop."""
    text = f"This operation will delete the manifest '{digest}'"
    if tags:
        images = ", ".join(f"'{repository}:{tag}'" for tag in tags)
        text += f" and all the following images: {images}"
    return text


def tags_by_digest(registry: RemoteRegistry, repository: str) -> dict[str, list[str]]:
    """All tags of a repository, in the registry's order, by what they point to."""
    found: dict[str, list[str]] = {}
    for tag in registry.pages(tags_path(repository), "tags"):
        found.setdefault(str(tag.get("digest")), []).append(str(tag.get("name")))
    return found


# --- one ------------------------------------------------------------------------------------------


def delete_image(registry: RemoteRegistry, console: Console, image: Image, *, yes: bool) -> None:
    """Delete the manifest and all its tags, after a question that names them."""
    digest = digest_of_tag(registry, image)
    tags = tags_by_digest(registry, image.repository).get(digest, [])
    text = announcement(image.repository, digest, tags)
    if yes:
        console.warning(text)
    else:
        line = freed(registry, {"repository": image.repository, "digests": [digest]})
        confirm(f"{text}.\n{line}Are you sure you want to continue?", yes)
    registry.delete(content_path(image.repository, digest))


# --- many -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeletionOutcome:
    """What became of an image: "deleted", "gone" (before we came) or "failed", and why."""

    image: str
    result: str
    reason: str = ""


def images_given(values: Sequence[str]) -> list[Image]:
    """The images of all `--image`, each once. `-` and `NAME@-` read lines of standard input.

    Behind `-` a line is an image, behind `NAME@-` a digest or a tag of that repository.
    """
    images: list[Image] = []
    for value in values:
        if not reads_input(value):
            images.append(parse_image(value))
        elif value == "-":
            images += [parse_image(line) for line in _lines()]
        else:
            repository = value.removesuffix("@-")
            images += [
                parse_image(f"{repository}{'@' if ':' in line else ':'}{line}") for line in _lines()
            ]
    return list(dict.fromkeys(images))


def reads_input(value: str) -> bool:
    """Whether this `--image` stands for what is on standard input."""
    return value == "-" or value.endswith("@-")


def _lines() -> list[str]:
    return [line.strip() for line in sys.stdin if line.strip()]


def delete_images(
    registry: RemoteRegistry, console: Console, images: Sequence[Image], *, yes: bool
) -> Result:
    """Delete many at once. One that fails does not stop the others; then the exit code is 1."""
    outcomes: list[DeletionOutcome] = []
    targets: dict[tuple[str, str], Image] = {}
    for image, digest, refusal in _at_once(images, lambda image: digest_of_tag(registry, image)):
        if refusal is not None:
            outcomes.append(DeletionOutcome(str(image), "failed", str(refusal)))
        else:
            targets[image.repository, str(digest)] = image
    if targets:
        _ask(registry, sorted(targets), yes=yes)
    outcomes += _deleted(registry, sorted(targets))
    _sum_up(console, outcomes)
    return _result(outcomes)


def _ask(registry: RemoteRegistry, targets: Sequence[tuple[str, str]], *, yes: bool) -> None:
    if yes:
        return
    repositories = dict.fromkeys(repository for repository, _ in targets)
    tags = {repository: tags_by_digest(registry, repository) for repository in repositories}
    lines = [
        announcement(repository, digest, tags[repository].get(digest, [])) + ".\n"
        for repository, digest in targets[:_SHOWN]
    ]
    if len(targets) > _SHOWN:
        lines.append(f"… and {len(targets) - _SHOWN} more manifests.\n")
    if len(repositories) == 1:
        digests = [digest for _, digest in targets]
        lines.append(freed(registry, {"repository": targets[0][0], "digests": digests}))
    confirm(f"{''.join(lines)}Are you sure you want to continue?", yes)


def _deleted(registry: RemoteRegistry, targets: Sequence[tuple[str, str]]) -> list[DeletionOutcome]:
    def delete(target: tuple[str, str]) -> None:
        registry.delete(content_path(*target))

    outcomes = []
    done = _at_once(targets, delete)
    for (repository, digest), _, refusal in progress(done, len(targets), "Deleting"):
        name = f"{repository}@{digest}"
        if refusal is None:
            outcomes.append(DeletionOutcome(name, "deleted"))
        elif isinstance(refusal, Refused) and refusal.status == 404:
            # Such as a signature that went with an image deleted a moment ago.
            outcomes.append(DeletionOutcome(name, "gone"))
        else:
            outcomes.append(DeletionOutcome(name, "failed", str(refusal)))
    return outcomes


def _at_once(
    items: Sequence[Any], work: Callable[[Any], Any]
) -> Iterable[tuple[Any, Any, Failure | None]]:
    """Each item with what `work` made of it or why it failed, as they are finished."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    pool = ThreadPoolExecutor(max_workers=max(1, min(CONNECTIONS, len(items))))
    try:
        running = {pool.submit(work, item): item for item in items}
        for future in as_completed(running):
            try:
                yield running[future], future.result(), None
            except Failure as failure:
                yield running[future], None, failure
    finally:
        # An interruption also ends what has not begun.
        pool.shutdown(cancel_futures=True)


def _sum_up(console: Console, outcomes: Sequence[DeletionOutcome]) -> None:
    count = {
        result: sum(outcome.result == result for outcome in outcomes)
        for result in ("deleted", "gone", "failed")
    }
    text = f"Deleted {count['deleted']} of {len(outcomes)}."
    if count["gone"]:
        text += f" Gone already: {count['gone']}."
    if count["failed"]:
        text += f" Failed: {count['failed']}."
    console.note(text)
    for outcome in outcomes:
        if outcome.reason:
            console.error(f"{outcome.image}: {outcome.reason}")


def _result(outcomes: Sequence[DeletionOutcome]) -> Result:
    ordered = sorted(outcomes, key=lambda outcome: outcome.image)
    data: dict[str, list[Any]] = {"deleted": [], "gone": [], "failed": []}
    for outcome in ordered:
        failed = outcome.result == "failed"
        data[outcome.result].append(
            {"image": outcome.image, "reason": outcome.reason} if failed else outcome.image
        )
    return Result(
        data,
        lambda: [{"Image": one.image, "Result": one.result} for one in ordered],
        code=1 if data["failed"] else 0,
    )

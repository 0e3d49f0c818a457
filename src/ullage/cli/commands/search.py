"""`ullage search`: repositories, tags and manifests by a part of what names them.

Registries other than Ullage have no such answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ullage.cli.client.scopes import READ_ALL
from ullage.cli.shell import flags
from ullage.cli.shell.commands import Command, Flag
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import short_digests


def search(invocation: Invocation) -> Result:
    given = invocation.given
    registry = invocation.registry(READ_ALL)
    pages = registry.pages("/api/v1/search", "hits", given.top, filters={"q": given.text})
    hits = list(pages)
    short = short_digests(hit["digest"] for hit in hits if "digest" in hit)
    return Result(hits, lambda: [_row(hit, short) for hit in hits])


def _row(hit: Mapping[str, Any], short: Mapping[str, str]) -> dict[str, Any]:
    return {
        "Repository": hit["repository"],
        "Tag": hit.get("tag"),
        "Digest": short[hit["digest"]] if "digest" in hit else None,
    }


COMMANDS = (
    Command(
        ("search",),
        "Find repositories, tags and manifests by a part of their names.",
        (
            Flag(
                ("text",),
                "A part of a name, the beginning of a tag or of a digest.",
                "TEXT",
                required=True,
            ),
            flags.TOP,
            *flags.REGISTRY,
        ),
        search,
        more="Repositories with TEXT in their names, tags that begin with it, and manifests whose "
        "digests begin with it, which takes seven digits. `app:v1` are tags that begin with v1 in "
        "repositories with app in their names.",
        examples=("ullage search web", "ullage search web:v1", "ullage search 3f2a91c"),
    ),
)

"""`ullage usage` and `show-usage`: what takes the space, and how much is stored.

Registries other than Ullage have no such answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ullage.cli.client.scopes import READ_ALL, scope_of
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result
from ullage.cli.shell.tables import age, grouped, short_digests, size

# Lines of a table without --top.
_SHOWN = 20


def usage(invocation: Invocation) -> Result:
    given = invocation.given
    scope = scope_of(given.repository or "*", "metadata_read")
    registry = invocation.registry(scope)
    # On a screen the largest are enough; what reads JSON gets all.
    top = _SHOWN if given.top is None and invocation.table else given.top
    query = {
        "repository": given.repository,
        "by": given.by,
        "sort": given.sort,
        "q": given.match,
        "top": None if top is None else str(top),
        "check": "true" if given.check else None,
        "fresh": "true" if given.fresh else None,
    }
    data = registry.get("/api/v1/usage", query).data
    if "as_of" in data and not given.fresh:
        invocation.console.note(f"As of {data['as_of'][:19]} UTC; --fresh counts anew.")
    if not given.check:
        return Result(data, lambda: _usage_rows(data))
    return _checked(invocation, data)


def _checked(invocation: Invocation, data: dict[str, Any]) -> Result:
    if "registry" not in data:
        raise Failure("--check is for those who may read all repositories.")
    unexplained = data["registry"]["unexplained_bytes"]
    stored = data["registry"]["store_bytes"]
    invocation.console.note(f"{stored} bytes in the store, {unexplained} of them unexplained.")
    return Result(data, lambda: _usage_rows(data), code=1 if unexplained else 0)


_SUMS = ("tagged", "untagged", "leased", "soft_deleted", "uploading", "pending")


def _usage_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = data.get("entries", [data["repository"]] if "repository" in data else [])
    short = short_digests(str(entry["digest"]) for entry in entries if "digest" in entry)
    rows = [_usage_row(entry, short) for entry in entries]
    if data.get("omitted"):
        rows.append({"Name": f"({data['omitted']:,} more: --top NUMBER)"})
    if "registry" in data:
        sums = data["registry"]
        rows += [{"Name": ""}] + [
            {"Name": f"({word.replace('_', '-')})", "Size": size(sums[f"{word}_bytes"])}
            for word in _SUMS
        ]
        rows.append({"Name": "(on the disk)", "Size": size(sums["disk_bytes"])})
        if sums.get("free_bytes") is not None:
            rows.append({"Name": "(free there)", "Size": size(sums["free_bytes"])})
    return rows


def _usage_row(entry: Mapping[str, Any], short: Mapping[str, str]) -> dict[str, Any]:
    if "digest" in entry:
        tags = entry["tag"] if "tag" in entry else ", ".join(entry["tags"]) or "(untagged)"
        names = {"Name": tags, "Digest": short[entry["digest"]]}
    else:
        names = {"Name": _name(entry)}
    return names | {
        "Size": size(entry["bytes"]),
        "Exclusive": size(entry["exclusive_bytes"]),
        "Shared": size(entry["shared_bytes"]),
        "FairShare": size(entry["fair_share_bytes"]),
        **({"Untagged": size(entry["untagged_bytes"])} if "untagged_bytes" in entry else {}),
        "Manifests": grouped(entry["manifest_count"]),
        **({"Pulled": age(entry["last_pull"])} if "last_pull" in entry else {}),
    }


def _name(entry: Mapping[str, Any]) -> str:
    if entry["name"] is None:
        return "(being erased)"
    deleted = " (soft-deleted)" if entry.get("operation") else ""
    return f"{entry['name']}{deleted}" or "(soft-deleted)"


def show_usage(invocation: Invocation) -> Result:
    """azure.md section 3.5: the shape of `az acr show-usage`."""
    data = invocation.registry(READ_ALL).get("/api/v1/usage", {"top": "0"}).data
    if "registry" not in data:
        raise Failure("show-usage is for those who may read all repositories.")
    used = {"Size": ("Bytes", data["registry"]["disk_bytes"])}
    used |= dict.fromkeys(_AZURE_COUNTS, ("Count", 0))
    # There is no limit but the disk.
    value = [
        {"name": name, "limit": -1, "currentValue": current, "unit": unit}
        for name, (unit, current) in used.items()
    ]
    return Result({"value": value}, lambda: [_azure_row(each) for each in value])


# What Azure counts and there is none of here.
_AZURE_COUNTS = (
    "Webhooks",
    "Geo-replications",
    "IPRules",
    "VNetRules",
    "PrivateEndpointConnections",
)


def _azure_row(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "NAME": each["name"],
        "LIMIT": each["limit"],
        "CURRENT VALUE": each["currentValue"],
        "UNIT": each["unit"],
    }


COMMANDS = (
    Command(
        ("usage",),
        "Show what takes the space: exclusive, shared and fair-share bytes.",
        (
            Flag(
                ("--repository",), "Only this one, with --by image or tag its parts.", "REPOSITORY"
            ),
            Flag(
                ("--by",),
                "What a line is about. Default: repository.",
                "KIND",
                choices=("repository", "namespace", "tag", "image"),
            ),
            Flag(
                ("--sort",),
                "The order of images or tags. Default: share.",
                "ORDER",
                choices=("share", "size", "frees", "tag", "pull"),
            ),
            Flag(("--match",), "Only images or tags with this in a tag or the digest.", "TEXT"),
            flags.TOP,
            Flag(
                ("--fresh",),
                "Count anew, in place of showing a large registry as it was counted last.",
            ),
            Flag(("--check",), "List the store too, and find bytes that nothing explains."),
            *flags.REGISTRY,
        ),
        usage,
        more="Exclusive is what deleting it alone would free. A fair share counts each byte in "
        "equal parts for all that hold it, so that all shares sum to the disk.",
        examples=(
            "ullage usage --top 10",
            "ullage usage --repository hello --by image",
            "ullage usage --repository hello --by tag --sort frees --match nightly",
            "ullage usage --check",
        ),
        exits=MISSING | {1: "With --check: a byte is unexplained. Or any other error."},
    ),
    Command(
        ("show-usage",),
        "Show how much is stored, as `az acr show-usage` does.",
        flags.REGISTRY,
        show_usage,
        more="A limit of -1 is none. `ullage usage` says what takes the space.",
    ),
)

"""One image: what it is made of, what else needs that, what refers to it, and why it stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from starlette.responses import Response

from ullage.authorization import Action
from ullage.deletion.closure import KeepReason, KeptBy
from ullage.oci import strict_json
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import RegistryError
from ullage.oci.reference import RepositoryName, parse_tag
from ullage.oci.strict_json import JSONInvalid, JSONValue
from ullage.registry.context import Registry
from ullage.registry.pull import read
from ullage.registry.push.platforms import MAX_CONFIG_BYTES
from ullage.server.http.permissions import METADATA_READ
from ullage.server.http.routes import Route
from ullage.server.ui.formats import address
from ullage.server.ui.repositories import platform_of
from ullage.server.ui.visit import Visit
from ullage.usage import shown_images, why
from ullage.usage.shown_images import ImageParts

# Of each kind; a page has no room for more.
MAX_SHOWN = 100
MAX_RAW = 20_000
_DIGEST_MARK = ":"
# What an account has set: its words are not for visitors without one.
_FOR_ACCOUNTS = (KeepReason.LOCK, KeepReason.HOLD, KeepReason.IMMUTABLE)


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob of the image; `others` counts manifests beside it that refer to it, anywhere."""

    digest: str
    media_type: str
    bytes: int
    others: int
    absent: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A manifest that belongs to the image: a platform of it, or what is attached to it."""

    digest: str
    what: str
    bytes: int
    tags: Sequence[str]
    absent: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A line of the image's history."""

    by: str
    empty: bool


@dataclass(frozen=True, slots=True)
class Config:
    """What the image's config says of how it was made and how it runs."""

    facts: Sequence[tuple[str, str]]
    labels: Sequence[tuple[str, str]]
    history: Sequence[Step]


async def show_image(visit: Visit, name: str, reference: str) -> Response:
    """Everything about one image (ui.md section 3)."""
    repository = visit.name(name)
    wanted = parse_digest(reference) if _DIGEST_MARK in reference else parse_tag(reference)
    found = await visit.run(shown_images.image_parts, visit.registry, repository, wanted)
    details = found.image.details
    manifest = _object(found.raw)
    reasons = await visit.run(why.explain, visit.registry, details.digest, visit.principal)
    referrers = await visit.run(
        read.list_referrers, visit.registry, repository, details.digest, None, MAX_SHOWN, None
    )
    config = None
    if visit.principal.may(Action.PULL, repository):
        config = await visit.run(_config, visit.registry, repository, manifest)
    shown = found.image.tags[0] if found.image.tags else ""
    name_of_tag = f"{visit.host}/{repository}:{shown}" if shown else ""
    name_of_digest = f"{visit.host}/{repository}@{details.digest}"
    return await visit.page(
        "image.html",
        name=repository,
        image=found.image,
        reference=reference,
        platform=platform_of(found.image),
        platforms=[*_platforms(found, manifest)][:MAX_SHOWN],
        layers=[*_layers(found, manifest)][:MAX_SHOWN],
        referrers=referrers.descriptors,
        annotations=[*_texts(manifest.get("annotations"))][:MAX_SHOWN],
        config=config,
        keepers=[
            each
            for each in _keepers(reasons, repository)
            # The reasons of locks and the rules are for accounts.
            if not visit.is_anonymous or each.kind not in _FOR_ACCOUNTS
        ],
        pulls=_pulls(found),
        commands=_commands(name_of_tag, name_of_digest),
        raw=found.raw.decode("utf-8", "replace")[:MAX_RAW],
        may_delete=visit.principal.may(Action.DELETE, repository),
        repository_path=f"repositories/{address(repository)}",
        image_path=f"images/{address(repository)}",
    )


def _keepers(reasons: why.Reasons, repository: RepositoryName) -> list[KeptBy]:
    """What keeps it where it is."""
    live = (place for place in reasons.manifest or () if not place.operation)
    return [each for place in live if place.repository == repository for each in place.held_by]


def _commands(tag: str, digest: str) -> list[tuple[str, str]]:
    """What to paste: by tag where there is one, and by digest."""
    by_tag = [("docker", f"docker pull {tag}")] if tag else []
    return [
        *by_tag,
        ("docker", f"docker pull {digest}"),
        ("podman", f"podman pull {tag or digest}"),
        ("crane", f"crane pull {tag or digest} image.tar"),
        ("Dockerfile", f"FROM {digest}"),
    ]


def _pulls(found: ImageParts) -> list[tuple[str, str]]:
    last = found.image.last_pull
    return sorted(last.classes.items(), key=lambda pull: pull[1], reverse=True) if last else []


# --- the manifest ---------------------------------------------------------------------------------


def _object(raw: bytes) -> Mapping[str, JSONValue]:
    try:
        value = strict_json.loads(raw)
    except JSONInvalid:
        return {}
    return value if isinstance(value, dict) else {}


def _objects(value: JSONValue) -> Iterator[Mapping[str, Any]]:
    for each in value if isinstance(value, list) else []:
        if isinstance(each, dict) and isinstance(each.get("digest"), str):
            yield each


def _texts(value: JSONValue) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        yield from ((key, each) for key, each in sorted(value.items()) if isinstance(each, str))


def _layers(found: ImageParts, manifest: Mapping[str, JSONValue]) -> Iterator[Layer]:
    """The config and the layers, in the manifest's order."""
    for each in chain(_objects([manifest.get("config")]), _objects(manifest.get("layers"))):
        blob = found.blobs.get(Digest(each["digest"]))
        size = each.get("size")
        yield Layer(
            each["digest"],
            str(each.get("mediaType", "")),
            blob.size if blob is not None else size if isinstance(size, int) else 0,
            blob.manifest_refs - 1 if blob is not None else 0,
            absent=blob is None,
        )


def _platforms(found: ImageParts, manifest: Mapping[str, JSONValue]) -> Iterator[Part]:
    """What an index lists."""
    for each in _objects(manifest.get("manifests")):
        details = found.manifests.get(Digest(each["digest"]))
        platform = each.get("platform")
        words = platform if isinstance(platform, dict) else {}
        said = [words.get(key) for key in ("os", "architecture", "variant")]
        yield Part(
            each["digest"],
            "/".join(word for word in said if isinstance(word, str)),
            details.image_size if details is not None else 0,
            details.tags or () if details is not None else (),
            absent=details is None,
        )


# --- the config -----------------------------------------------------------------------------------


def _config(
    registry: Registry, name: RepositoryName, manifest: Mapping[str, JSONValue]
) -> Config | None:
    """What the config says; None where there is none that can be read."""
    described = manifest.get("config")
    digest = described.get("digest") if isinstance(described, dict) else None
    if not isinstance(digest, str):
        return None
    try:
        blob = read.open_blob(registry, name, parse_digest(digest))
    except RegistryError:
        return None
    try:
        if blob.size > MAX_CONFIG_BYTES:
            return None
        value = _object(blob.read_at(0, blob.size))
    except RegistryError:
        return None
    finally:
        blob.close()
    return _told(value) if value else None


def _told(value: Mapping[str, JSONValue]) -> Config:
    inner = value.get("config")
    run: Mapping[str, JSONValue] = inner if isinstance(inner, dict) else {}
    facts = [
        (word, _words(part))
        for word, part in (
            ("created", value.get("created")),
            ("author", value.get("author")),
            ("os", value.get("os")),
            ("architecture", value.get("architecture")),
            ("Entrypoint", run.get("Entrypoint")),
            ("Cmd", run.get("Cmd")),
            ("WorkingDir", run.get("WorkingDir")),
            ("User", run.get("User")),
            ("ExposedPorts", run.get("ExposedPorts")),
            ("Env", run.get("Env")),
        )
        if part
    ]
    history = value.get("history")
    steps = [
        Step(
            str(step.get("created_by") or step.get("comment") or ""), bool(step.get("empty_layer"))
        )
        for step in (history if isinstance(history, list) else [])
        if isinstance(step, dict)
    ]
    return Config(facts, [*_texts(run.get("Labels"))][:MAX_SHOWN], steps[:MAX_SHOWN])


def _words(value: JSONValue) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(value)
    return str(value)


ROUTES = (Route("ui-image", "GET", "/ui/images/{name}/{reference}", show_image, METADATA_READ),)

"""`ullage manifest …`: az acr's commands of that name (azure.md section 3)."""

from __future__ import annotations

from typing import Any

from ullage.cli.client.address import split_specifier
from ullage.cli.client.ids import is_short, only_beginning
from ullage.cli.client.image_names import Image, digest_of_tag
from ullage.cli.client.registry import RemoteRegistry, content_path, deleted_path, referrers_path
from ullage.cli.client.scopes import scope_of
from ullage.cli.commands import columns
from ullage.cli.commands.delete_images import freed
from ullage.cli.commands.repository import (
    attributes,
    changes_of,
    manifest_metadata,
    named_image,
    path_of_image,
)
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.console import confirm
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import CONNECTIONS, Invocation, Result


def list_contents(invocation: Invocation) -> Result:
    from concurrent.futures import ThreadPoolExecutor

    name, repository = _repository(invocation)
    items = manifest_metadata(invocation, repository, name)
    registry = invocation.registry(scope_of(repository, "pull,metadata_read"), name=name)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        paths = (content_path(repository, item["digest"]) for item in items)
        data = list(pool.map(lambda path: registry.get(path, manifest=True).data, paths))
    return Result(data, columns.contents(data))


def list_metadata(invocation: Invocation) -> Result:
    name, repository = _repository(invocation)
    items = manifest_metadata(invocation, repository, name)
    return Result(items, columns.manifests(items))


def show(invocation: Invocation) -> Result:
    name, image = _image(invocation)
    registry = invocation.registry(scope_of(image.repository, "pull"), name=name)
    path = content_path(image.repository, image.digest or image.tag)
    reply = registry.get(path, manifest=True)
    if invocation.given.raw:
        # Byte for byte: `| sha256sum` is its digest.
        return Result(text=reply.raw.decode("utf-8", "surrogateescape"))
    return Result(reply.data)


def show_metadata(invocation: Invocation) -> Result:
    name, image = _image(invocation)
    return attributes(invocation, path_of_image(image), {}, name)


def update_metadata(invocation: Invocation) -> Result:
    name, image = _image(invocation)
    return attributes(invocation, path_of_image(image), changes_of(invocation), name)


def delete(invocation: Invocation) -> None:
    name, image = _image(invocation)
    registry = invocation.registry(scope_of(image.repository, "delete,metadata_read"), name=name)
    digest = digest_of_tag(registry, image)
    if not invocation.given.yes:
        line = freed(registry, {"repository": image.repository, "digests": [digest]})
        confirm(
            f"{line}Are you sure you want to delete the artifact '{digest}' and all manifests that "
            "refer to it?",
            yes=False,
        )
    registry.delete(content_path(image.repository, digest))


def list_referrers(invocation: Invocation) -> Result:
    name, image = _image(invocation)
    registry = invocation.registry(scope_of(image.repository, "pull,metadata_read"), name=name)
    digest = digest_of_tag(registry, image)
    found = _referrers(registry, image.repository, digest, invocation.given.artifact_type)
    if invocation.given.recursive:
        seen = {digest}
        for descriptor in found:  # It grows while we read it, until nothing refers to the last.
            if descriptor["digest"] not in seen:
                seen.add(descriptor["digest"])
                found += _referrers(registry, image.repository, descriptor["digest"], None)
    return Result({"manifests": found}, columns.descriptors(found))


def _referrers(
    registry: RemoteRegistry, repository: str, digest: str, kind: str | None
) -> list[Any]:
    path = referrers_path(repository, digest)
    query: dict[str, str] | None = {"artifactType": kind} if kind else None
    found: list[Any] = []
    while True:
        reply = registry.get(path, query)
        found += (reply.data or {}).get("manifests") or []
        if reply.next_page is None or reply.next_page == query:
            return found
        query = reply.next_page


# --- what was deleted softly ----------------------------------------------------------------------


def list_deleted(invocation: Invocation) -> Result:
    name, repository = _repository(invocation)
    registry = invocation.registry(scope_of(repository, "deleted_read"), name=name)
    items = list(registry.pages(deleted_path(repository, "_manifests"), "manifests"))
    return Result(items, columns.deleted(items))


def list_deleted_tags(invocation: Invocation) -> Result:
    name, repository, tag = _deleted_image(invocation, default_tag=None)
    registry = invocation.registry(scope_of(repository, "deleted_read"), name=name)
    items = list(registry.pages(deleted_path(repository, "_tags"), "tags"))
    if tag is not None:
        items = [item for item in items if item["tag"] == tag]
    return Result(items, columns.deleted(items))


def restore(invocation: Invocation) -> Result:
    given = invocation.given
    # az takes the positional form without a tag for :latest, and --name without one for no tag.
    name, repository, tag = _deleted_image(
        invocation, default_tag="latest" if given.manifest_id else None
    )
    registry = invocation.registry(scope_of(repository, "deleted_read,deleted_restore"), name=name)
    digest = (
        _deleted_digest(registry, repository, given.digest)
        if given.digest
        else _newest_deleted(registry, repository, tag, yes=given.yes)
    )
    path, force = deleted_path(repository, "_manifests", digest), str(bool(given.force))
    return Result(registry.post(path, {"tag": tag}, query={"force": force}).data)


def _deleted_digest(registry: RemoteRegistry, repository: str, text: str) -> str:
    """The digest of a deleted manifest, also by its first digits. Raises Failure."""
    if not is_short(text):
        return text
    found = registry.pages(deleted_path(repository, "_manifests"), "manifests")
    return only_beginning(text, {str(item["digest"]) for item in found})


def _newest_deleted(
    registry: RemoteRegistry, repository: str, tag: str | None, *, yes: bool
) -> str:
    """azure.md section 3.4, with the space that az's question lacks."""
    found = registry.pages(deleted_path(repository, "_tags"), "tags")
    digests = [str(item["digest"]) for item in found if item["tag"] == tag]
    if not digests:
        raise Failure(f"No deleted manifests found for tag: {tag}")
    if len(digests) > 1:
        confirm(
            f"Multiple deleted manifests found for tag: {tag}. Restoring most recently deleted "
            f"manifest with digest: {digests[-1]}. Is this okay?",
            yes,
        )
    return digests[-1]


def _deleted_image(
    invocation: Invocation, *, default_tag: str | None
) -> tuple[str | None, str, str | None]:
    """The registry, the repository, and the tag if one is meant."""
    name, image = _image(invocation)
    given = invocation.given.name or invocation.given.manifest_id
    if image.digest:
        raise Failure("Give the digest with --digest: here a tag is meant, or none.")
    tagged = ":" in given.rpartition("/")[2]
    return name, image.repository, image.tag if tagged else default_tag


# --- what is meant --------------------------------------------------------------------------------


def _repository(invocation: Invocation) -> tuple[str | None, str]:
    """The registry, None for the default's, and the repository."""
    given = invocation.given
    _require_one(given.repo_id, given.name, "repository", "hello-world")
    if given.name:
        if ":" in given.name:
            raise Failure(
                "Parameter 'name' refers to a repository and should not include a tag or digest."
            )
        return given.registry, given.name
    registry, rest = _split(invocation, given.repo_id, "repo_id", "repository", "hello-world")
    if ":" in rest:
        raise Failure("The positional parameter 'repo_id' should not include a tag or digest.")
    return registry, rest


def _image(invocation: Invocation) -> tuple[str | None, Image]:
    given = invocation.given
    _require_one(given.manifest_id, given.name, "manifest", "hello-world:latest")
    if given.name:
        return given.registry, named_image(invocation, given.name, given.registry)
    registry, rest = _split(
        invocation, given.manifest_id, "manifest_id", "manifest", "hello-world:latest"
    )
    return registry, named_image(invocation, rest, registry)


def _require_one(positional: str | None, name: str | None, kind: str, example: str) -> None:
    if bool(positional) == bool(name):
        raise Failure(
            f"You must provide either a fully qualified {kind} specifier such as "
            f"'myregistry.azurecr.io/{example}' as a positional parameter or provide "
            f"'-r MyRegistry -n {example}' argument values."
        )


def _split(
    invocation: Invocation, text: str, parameter: str, kind: str, example: str
) -> tuple[str, str]:
    found = split_specifier(text, invocation.saved_registries)
    if found is None:
        more = " or 'myregistry.azurecr.io/hello-world@sha256:abc123'" if ":" in example else ""
        raise Failure(
            f"The positional parameter '{parameter}' must be a fully qualified {kind} specifier "
            f"such as 'myregistry.azurecr.io/{example}'{more}."
        )
    return found


_REPOSITORY = (
    Flag(("repo_id",), "The repository with its registry: registry/name."),
    Flag(("--name", "-n"), "The name of the repository.", "REPOSITORY"),
)
_ARTIFACT = (
    Flag(("manifest_id",), "The artifact with its registry: registry/name:tag or @digest."),
    Flag(
        ("--name", "-n"),
        "The artifact: name:tag or name@digest; name alone is name:latest.",
        "NAME",
    ),
)
_REGISTRY = flags.MANIFEST_REGISTRY

COMMANDS = (
    Command(
        ("manifest", "list"),
        "List the manifests of a repository, as they were pushed.",
        (*_REPOSITORY, flags.TOP, flags.ORDERBY, *_REGISTRY),
        list_contents,
    ),
    Command(
        ("manifest", "list-metadata"),
        "List the manifests of a repository: tags, sizes, platforms, locks.",
        (*_REPOSITORY, flags.TOP, flags.ORDERBY, *_REGISTRY),
        list_metadata,
        examples=(
            "ullage manifest list-metadata --name hello",
            "ullage manifest list-metadata 127.0.0.1:5000/hello --orderby time_desc",
        ),
    ),
    Command(
        ("manifest", "show"),
        "Show a manifest.",
        (*_ARTIFACT, Flag(("--raw",), "Byte for byte, as it was pushed."), *_REGISTRY),
        show,
        examples=("ullage manifest show --name hello:v1 --raw | sha256sum",),
        exits=MISSING,
    ),
    Command(
        ("manifest", "show-metadata"),
        "Show what is known about a tag or a manifest, with its locks.",
        (*_ARTIFACT, *_REGISTRY),
        show_metadata,
        exits=MISSING,
    ),
    Command(
        ("manifest", "update-metadata"),
        "Lock or unlock a tag or a manifest.",
        (*_ARTIFACT, *flags.ATTRIBUTES, *_REGISTRY),
        update_metadata,
        examples=("ullage manifest update-metadata --name hello:v1 --write-enabled false",),
    ),
    Command(
        ("manifest", "delete"),
        "Delete a manifest, all its tags and all that refers to it.",
        (*_ARTIFACT, flags.YES, *_REGISTRY),
        delete,
    ),
    Command(
        ("manifest", "list-referrers"),
        "List what refers to a manifest: signatures, bills of materials.",
        (
            *_ARTIFACT,
            Flag(("--artifact-type",), "Only of this type.", "TYPE"),
            Flag(("--recursive",), "And what refers to those, to the end."),
            *_REGISTRY,
        ),
        list_referrers,
    ),
    Command(
        ("manifest", "list-deleted"),
        "List the manifests that were deleted softly.",
        (*_REPOSITORY, *_REGISTRY),
        list_deleted,
    ),
    Command(
        ("manifest", "list-deleted-tags"),
        "List the tags that were deleted softly.",
        (*_ARTIFACT, *_REGISTRY),
        list_deleted_tags,
    ),
    Command(
        ("manifest", "restore"),
        "Restore a manifest that was deleted softly.",
        (
            *_ARTIFACT,
            Flag(("--digest", "-d"), "Which. Default: the last deleted with this tag.", "DIGEST"),
            Flag(("--force", "-f"), "Overwrite the tag if it is there."),
            flags.YES,
            *_REGISTRY,
        ),
        restore,
        more="Its children and all that refers to it come along. With a tag it comes back under "
        "this one, with --digest alone under all that it had. `ullage restore` takes a whole "
        "deletion back.",
        examples=(
            "ullage manifest restore --name hello:v1",
            "ullage manifest restore --name hello --digest sha256:" + "0" * 64,
        ),
    ),
)

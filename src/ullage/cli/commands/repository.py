"""`ullage repository …`: az acr's commands of that name (azure.md section 3)."""

from __future__ import annotations

from typing import Any

from ullage.cli.client.ids import is_short
from ullage.cli.client.image_names import Image, parse_image, whole_image
from ullage.cli.client.registry import manifests_path, repository_path, tags_path
from ullage.cli.client.scopes import CATALOG, scope_of
from ullage.cli.commands import columns
from ullage.cli.commands.delete_images import (
    delete_image,
    delete_images,
    freed,
    images_given,
    reads_input,
)
from ullage.cli.shell import flags
from ullage.cli.shell.commands import MISSING, Command, Flag
from ullage.cli.shell.console import confirm
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.invocation import Invocation, Result

ORDERBY = {None: None, "time_asc": "timeasc", "time_desc": "timedesc"}
ATTRIBUTES = {
    "delete_enabled": "deleteEnabled",
    "list_enabled": "listEnabled",
    "read_enabled": "readEnabled",
    "write_enabled": "writeEnabled",
}


def list_repositories(invocation: Invocation) -> Result:
    registry = invocation.registry(CATALOG)
    items = list(registry.pages("/v2/_catalog", "repositories", invocation.given.top))
    return Result(items, columns.names(items, "Repository"))


def list_deleted(invocation: Invocation) -> Result:
    registry = invocation.registry("registry:deleted_catalog:*")
    items = list(registry.pages("/acr/v1/_deleted/_catalog", "repositories"))
    return Result(items, columns.deleted(items))


def show_tags(invocation: Invocation) -> Result:
    given = invocation.given
    registry = invocation.registry(scope_of(given.repository, "metadata_read"))
    path, orderby = tags_path(given.repository), ORDERBY[given.orderby]
    items = list(registry.pages(path, "tags", given.top, orderby))
    data = items if given.detail else [item["name"] for item in items]
    return Result(data, columns.tags(items))


def show_manifests(invocation: Invocation) -> Result:
    items = manifest_metadata(invocation, invocation.given.repository)
    data: Any = items
    if not invocation.given.detail:
        data = [
            {
                "digest": item.get("digest", ""),
                "tags": item.get("tags", []),
                "timestamp": item.get("lastUpdateTime", ""),
            }
            for item in items
        ]
    return Result(data, columns.manifests(items))


def manifest_metadata(
    invocation: Invocation, repository: str, name: str | None = None
) -> list[Any]:
    """All manifests of a repository as the registry describes them."""
    registry = invocation.registry(scope_of(repository, "metadata_read"), name=name)
    orderby = ORDERBY[invocation.given.orderby]
    return list(
        registry.pages(manifests_path(repository), "manifests", invocation.given.top, orderby)
    )


def show(invocation: Invocation) -> Result:
    _require_one(invocation)
    return attributes(invocation, _path_of(invocation), {})


def update(invocation: Invocation) -> Result:
    _require_one(invocation)
    return attributes(invocation, _path_of(invocation), changes_of(invocation))


def changes_of(invocation: Invocation) -> dict[str, bool]:
    """The attributes that were given, by the names they have in the API."""
    given = vars(invocation.given)
    return {name: given[flag] == "true" for flag, name in ATTRIBUTES.items() if given[flag]}


def attributes(
    invocation: Invocation,
    target: tuple[str, str, str],
    changes: dict[str, bool],
    name: str | None = None,
) -> Result:
    """Read attributes, or change them; `target` is a repository, a path and the answer's key."""
    repository, path, key = target
    actions = "metadata_write,metadata_read" if changes else "metadata_read"
    registry = invocation.registry(scope_of(repository, actions), name=name)
    reply = registry.patch(path, changes) if changes else registry.get(path)
    data = reply.data[key] if key and isinstance(reply.data, dict) else reply.data
    return Result(data, columns.attributes(data) if isinstance(data, dict) else None)


def path_of_image(image: Image) -> tuple[str, str, str]:
    if image.digest:
        return image.repository, manifests_path(image.repository, image.digest), "manifest"
    return image.repository, tags_path(image.repository, image.tag), "tag"


def named_image(invocation: Invocation, text: str, name: str | None = None) -> Image:
    """The image of this name, also by the beginning of its digest; `name` is the registry's."""
    return complete_image(invocation, parse_image(text), name)


def complete_image(invocation: Invocation, image: Image, name: str | None = None) -> Image:
    """With all of its digest. Raises Failure."""
    if not is_short(image.digest):
        return image
    reading = invocation.registry(scope_of(image.repository, "metadata_read"), name=name)
    return whole_image(reading, image)


def _path_of(invocation: Invocation) -> tuple[str, str, str]:
    if invocation.given.image:
        return path_of_image(named_image(invocation, invocation.given.image))
    return invocation.given.repository, repository_path(invocation.given.repository), ""


def untag(invocation: Invocation) -> None:
    image = parse_image(invocation.given.image, allow_digest=False)
    registry = invocation.registry(scope_of(image.repository, "delete"))
    registry.delete(tags_path(image.repository, image.tag))


def delete(invocation: Invocation) -> Result | None:
    _require_one(invocation)
    if invocation.given.repository:
        return _delete_repository(invocation, invocation.given.repository)
    values = invocation.given.image
    images = images_given(values)
    if not images:
        invocation.console.note("Nothing to delete.")
        return None
    repositories = dict.fromkeys(image.repository for image in images)
    scopes = [scope_of(repository, "delete,metadata_read") for repository in repositories]
    registry = invocation.registry(*scopes)
    if len(values) > 1 or reads_input(values[0]):
        return delete_images(registry, invocation.console, images, yes=invocation.given.yes)
    delete_image(
        registry, invocation.console, whole_image(registry, images[0]), yes=invocation.given.yes
    )
    return None


def _delete_repository(invocation: Invocation, repository: str) -> Result:
    registry = invocation.registry(scope_of(repository, "delete,metadata_read"))
    if not invocation.given.yes:
        line = freed(registry, {"repositories": [repository]})
        confirm(
            f"{line}Are you sure you want to delete the repository '{repository}' "
            "and all images under it?",
            yes=False,
        )
    data = registry.delete(repository_path(repository)).data
    return Result(data, lambda: _counts(data))


def _counts(data: Any) -> list[dict[str, int]]:
    gone = data if isinstance(data, dict) else {}
    return [
        {
            "ManifestsDeleted": len(gone.get("manifestsDeleted") or []),
            "TagsDeleted": len(gone.get("tagsDeleted") or []),
        }
    ]


def _require_one(invocation: Invocation) -> None:
    if bool(invocation.given.repository) == bool(invocation.given.image):
        raise Failure(
            "Usage error: You need to provide either --image IMAGE | --repository REPOSITORY, "
            "but not both"
        )


_REQUIRED = Flag(flags.REPOSITORY.names, flags.REPOSITORY.help, "REPOSITORY", required=True)
_LISTING = (_REQUIRED, flags.TOP, flags.ORDERBY, flags.DETAIL, *flags.REGISTRY)
_ONE = (flags.REPOSITORY, flags.IMAGE)

UNTAGGED_TO_DELETE = (
    'ullage repository show-manifests --repository hello --query "[?tags==null].digest" '
    "-o tsv | ullage repository delete --image hello@- --yes"
)

COMMANDS = (
    Command(
        ("repository", "list"),
        "List the repositories.",
        (flags.TOP, *flags.REGISTRY),
        list_repositories,
        examples=("ullage repository list", "ullage repository list --name myregistry -o tsv"),
    ),
    Command(
        ("repository", "show"),
        "Show a repository, or an image by tag or digest, with its locks.",
        (*_ONE, *flags.REGISTRY),
        show,
        examples=(
            "ullage repository show --repository hello",
            "ullage repository show --image hello:v1",
        ),
        exits=MISSING,
    ),
    Command(
        ("repository", "show-tags"),
        "List the tags of a repository.",
        _LISTING,
        show_tags,
        examples=("ullage repository show-tags --repository hello --orderby time_desc --top 10",),
    ),
    Command(
        ("repository", "show-manifests"),
        "List the manifests of a repository: digest, tags, time.",
        _LISTING,
        show_manifests,
        more="An image without any tag has `null` for tags. One that an index or a signature's "
        "subject still holds has an empty list: it is no orphan.",
        examples=(
            "ullage repository show-manifests --repository hello",
            'ullage repository show-manifests --repository hello --query "[?tags==null].digest"',
        ),
        warning="This command has been deprecated and will be removed in a future release. "
        "Use 'acr manifest list-metadata' instead.",
    ),
    Command(
        ("repository", "update"),
        "Lock or unlock a repository, a tag or a manifest.",
        (*_ONE, *flags.ATTRIBUTES, *flags.REGISTRY),
        update,
        more="A tag and its manifest have locks of their own. Without any flag it shows them.",
        examples=("ullage repository update --image hello:v1 --delete-enabled false",),
    ),
    Command(
        ("repository", "untag"),
        "Take a tag away. The image stays, and its space.",
        (
            Flag(
                ("--image", "-t"),
                "The tag: name:tag; name alone is name:latest.",
                "IMAGE",
                required=True,
            ),
            *flags.REGISTRY,
        ),
        untag,
        examples=("ullage repository untag --image hello:v1",),
    ),
    Command(
        ("repository", "delete"),
        "Delete a repository, or images with all their tags, and get their space back.",
        (
            flags.REPOSITORY,
            Flag(
                flags.IMAGE.names,
                "The image: name:tag or name@digest; name alone is name:latest. Repeatable. `-` "
                "reads images from standard input, `name@-` digests (or tags) of that repository, "
                "one a line.",
                "IMAGE",
                repeatable=True,
            ),
            flags.YES,
            *flags.REGISTRY,
        ),
        delete,
        more="Deleting by tag deletes the image and all its tags; `untag` takes one tag away. Asks "
        "first, naming everything that goes and the bytes that come back. Several images are "
        "deleted at once; one that fails does not stop the others.",
        examples=(
            "ullage repository delete --repository hello",
            "ullage repository delete --image hello:v1",
            UNTAGGED_TO_DELETE,
        ),
        exits={1: "An image was not deleted, or any other error."},
    ),
    Command(
        ("repository", "list-deleted"),
        "List repositories that were deleted while soft delete was on.",
        flags.REGISTRY,
        list_deleted,
        more="One that was pushed to since is not listed, though images of it may be restored: see "
        "`ullage deleted list`.",
    ),
)

"""What `--image` and a specifier name (azure.md section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ullage.cli.client.ids import is_short, whole_digest
from ullage.cli.client.registry import RemoteRegistry, tags_path
from ullage.cli.shell.errors import Failure


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest of a repository, by one of its tags or by its digest; the other is ""."""

    repository: str
    tag: str
    digest: str

    def __str__(self) -> str:
        return (
            f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"
        )


def parse_image(text: str, *, allow_digest: bool = True) -> Image:
    """`name`, `name:tag` or `name@digest`. Raises Failure with az's text.

    An empty name, tag or digest is none: it would turn into another request than was meant.
    """
    repository, at, digest = text.partition("@")
    if allow_digest and at and repository and digest and "@" not in digest:
        return Image(repository, "", digest)
    repository, colon, tag = text.partition(":")
    if not at and repository and ":" not in tag and (tag or not colon):
        return Image(repository, tag or "latest", "")
    if allow_digest:
        raise Failure(
            "The name of the image may include a tag in the format 'name:tag' or digest in the "
            "format 'name@digest'."
        )
    raise Failure("The name of the image may include a tag in the format 'name:tag'.")


def whole_image(registry: RemoteRegistry, image: Image) -> Image:
    """The image, if it is named by the beginning of its digest with all of that.

    The registry is asked with the right to read the repository. Raises Failure.
    """
    if not is_short(image.digest):
        return image
    return replace(image, digest=whole_digest(registry, image.digest, image.repository))


def digest_of_tag(registry: RemoteRegistry, image: Image) -> str:
    """The digest behind a tag, asked for unless it is known. Raises Refused."""
    if image.digest:
        return whole_digest(registry, image.digest, image.repository)
    data = registry.get(tags_path(image.repository, image.tag)).data
    tag = data.get("tag") if isinstance(data, dict) else None
    digest = tag.get("digest") if isinstance(tag, dict) else None
    if not digest:
        raise Failure(f"Could not get the manifest digest for image '{image}'.")
    return str(digest)

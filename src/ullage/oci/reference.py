"""Repository names and tags, in the grammars of distribution-spec, "Pulling manifests".

Each class is a `str` known to be well formed, so that nothing behind the routes has to check.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import NameInvalid, TagInvalid, shown

# "<name> MUST match the following regular expression:
#  [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
# The same language. A separator and what it separates have no character in common, so there is one
# way to read any text and nothing to backtrack into.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")

# "<reference> as a tag MUST be at most 128 characters in length and MUST match the following
#  regular expression: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


class RepositoryName(str):
    """A repository's name, such as `library/app`. Made by `parse_repository_name`."""

    __slots__ = ()


class Tag(str):
    """A tag, such as `v1.2`. Made by `parse_tag`."""

    __slots__ = ()


@lru_cache(maxsize=1024)
def parse_repository_name(text: str, max_length: int = 255) -> RepositoryName:
    """Read a repository name of at most `max_length` characters. Raises NameInvalid."""
    if len(text) > max_length:
        raise NameInvalid(
            {"name": shown(text)},
            f"repository name of {len(text)} characters: expected at most {max_length}",
        )
    if not _NAME.fullmatch(text):
        raise NameInvalid(
            {"name": shown(text)},
            f"repository name {shown(text)}: expected components of a-z and 0-9, separated by '/', "
            "that may have '.', '_', '__' or '-' between two of their characters",
        )
    return RepositoryName(text)


def parse_tag(text: str) -> Tag:
    """Read a tag. Raises TagInvalid."""
    if not _TAG.fullmatch(text):
        raise TagInvalid(
            {"tag": shown(text)},
            f"tag {shown(text)}: expected 1 to 128 characters of a-z, A-Z, 0-9, '_', '.' and '-', "
            "the first neither '.' nor '-'",
        )
    return Tag(text)


def parse_reference(text: str) -> Tag | Digest:
    """Read the last part of a manifest's address: no tag has a colon in it, every digest has one.

    Raises TagInvalid or DigestInvalid.
    """
    return parse_digest(text) if ":" in text else parse_tag(text)

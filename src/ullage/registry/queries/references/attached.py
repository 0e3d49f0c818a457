"""What oci/attached.py says of a tag's name, said in SQL."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.database.schema import content
from ullage.oci.attached import SUFFIXES

_NAME = content.tags.c.name
_HEX = "0123456789abcdef"


def _attaches(algorithm: str, length: int) -> sa.ColumnElement[bool]:
    start = len(algorithm) + 2
    hexadecimal = sa.func.substr(_NAME, start, length)
    return sa.and_(
        sa.func.substr(_NAME, 1, start - 1) == f"{algorithm}-",
        sa.func.length(hexadecimal) == length,
        sa.func.ltrim(hexadecimal, _HEX) == "",
        sa.or_(*(sa.func.substr(_NAME, start + length) == suffix for suffix in SUFFIXES)),
    )


# The digest of the image that a row of `tags` attaches its manifest to; NULL for any other tag.
ATTACHED_TO = sa.case(
    (_attaches("sha256", 64), sa.literal("sha256:") + sa.func.substr(_NAME, 8, 64)),
    (_attaches("sha512", 128), sa.literal("sha512:") + sa.func.substr(_NAME, 8, 128)),
)

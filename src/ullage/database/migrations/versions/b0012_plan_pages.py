"""What goes by a plan in pages of its own, so that each is read alone."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "b0012"
down_revision = "b0011"
branch_labels = None
depends_on = None

# As many as a client is given at once.
PAGE = 1000


def upgrade() -> None:
    pages = op.create_table(
        "plan_pages",
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["plan_id"], ["plans.id"], name="fk_plan_pages_plan_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("plan_id", "number", name="pk_plan_pages"),
    )
    plans = sa.table("plans", sa.column("id"), sa.column("document"))
    connection = op.get_bind()
    for plan_id in connection.execute(sa.select(plans.c.id)).scalars().all():
        this_one = plans.c.id == plan_id
        document = connection.execute(sa.select(plans.c.document).where(this_one)).scalar_one()
        head = json.loads(zlib.decompress(document))
        items = list(_items(head))
        head |= {"item_count": len(items), "items": []}
        if "chosen" in head:
            head["chosen"] = []
        connection.execute(plans.update().where(this_one).values(document=_packed(head)))
        for number, start in enumerate(range(0, len(items), PAGE)):
            page = _packed(items[start : start + PAGE])
            connection.execute(pages.insert().values(plan_id=plan_id, number=number, document=page))


def _items(head: dict[str, Any]) -> Iterator[Any]:
    """What was named, as it is; what was chosen, each manifest with the tags that were items."""
    if "chosen" not in head:
        yield from head.get("items", ())
        return
    tags: dict[int, list[list[Any]]] = {}
    for each in head["chosen"]:
        if each[1] == "tag":
            tags.setdefault(each[4], []).append(each)
    for place, kind, _, digest, manifest_id, seen_at, *more in head["chosen"]:
        if kind != "tag":
            lost, why, of = (more + [[], "asked", None][len(more) :])[:3]
            own = [[each[2], each[5]] for each in tags.pop(manifest_id, ())]
            yield [place, kind, digest, manifest_id, seen_at, lost, own, why, of]
    for manifest_id, some in tags.items():
        own = [[each[2], each[5]] for each in some]
        yield [some[0][0], "tag", some[0][3], manifest_id, 0, [], own, "untagged"]


def _packed(document: object) -> bytes:
    return zlib.compress(json.dumps(document).encode(), 1)

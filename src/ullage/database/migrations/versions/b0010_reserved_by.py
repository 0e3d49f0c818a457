"""Reserved storage keys have an owner: the process that has them in hand."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0010"
down_revision = "b0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("reserved_keys", sa.Column("reserved_by", sa.Text()))

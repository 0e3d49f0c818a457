"""What an upload session needs to go on in another process: the store's state, and the digest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0006"
down_revision = "b0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("uploads", "tombstones"):
        op.add_column(
            table, sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("''"))
        )
    op.add_column("uploads", sa.Column("hash", sa.LargeBinary()))
    op.add_column(
        "uploads", sa.Column("stored", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.execute('UPDATE uploads SET stored = "offset"')

"""What each call lost of the cache, as columns that can be added up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("calls", sa.Column("miss_cause", sa.Text(), nullable=True))
    op.add_column("calls", sa.Column("miss_tokens", sa.BigInteger(), nullable=True))
    op.add_column("calls", sa.Column("miss_cost", sa.Text(), nullable=True))

"""How often a turn was taken up again, and which rows of the ledger are estimates.

Server defaults, so that workers of the version before can write to the newer schema.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("turns", sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("calls", sa.Column("estimated", sa.Boolean(), server_default=sa.false(), nullable=False))

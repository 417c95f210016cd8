"""What is spent under each budget. A table of its own, so that workers of the versions before can go on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "spending",
        sa.Column("number", _Number, primary_key=True),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=True),
        sa.Column("call", sa.Text(), nullable=True),
        sa.Column("leaves", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("expected", sa.BigInteger(), nullable=False),
        sa.Column("most", sa.BigInteger(), nullable=False),
    )
    op.create_index("spending_scope", "spending", ["scope", "leaves"])
    op.create_index("spending_leaves", "spending", ["leaves"])
    op.create_index("spending_call", "spending", ["session", "call"])
    op.execute("UPDATE warmline_version SET oldest = '0004', oldest_of = '0006'")

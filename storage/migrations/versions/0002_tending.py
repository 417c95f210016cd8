"""When an idle session is due, what its calls were made with, and who warms which point."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("calls", sa.Column("prompt", sa.Text(), nullable=True))
    op.create_table(
        "prompts",
        sa.Column("number", _Number, primary_key=True),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
    )
    op.create_index("prompts_digest", "prompts", ["session", "digest"], unique=True)
    op.add_column("sessions", sa.Column("tend_at", sa.Float(), nullable=True))
    op.create_index(
        "sessions_due",
        "sessions",
        ["tend_at"],
        sqlite_where=sa.text("tend_at IS NOT NULL"),
        postgresql_where=sa.text("tend_at IS NOT NULL"),
    )
    op.create_table(
        "warmups",
        sa.Column("point", sa.Text(), primary_key=True),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("ttl", sa.Text(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
    )
    op.create_index("warmups_until", "warmups", ["until"])

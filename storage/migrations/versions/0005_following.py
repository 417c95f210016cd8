"""Turns in a queue, decisions on tool calls, who follows which session, and which code may use the schema.

What is new may be absent or has a table of its own, so that workers of the version before can go on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    _add_columns()
    _add_indexes()
    _add_tables()
    op.add_column("warmline_version", sa.Column("oldest", sa.String(32), nullable=True))
    op.add_column("warmline_version", sa.Column("oldest_of", sa.String(32), nullable=True))
    # Each revision from this one on says so of itself: what is left from the one before does not count.
    op.execute("UPDATE warmline_version SET oldest = '0004', oldest_of = '0005'")


def _add_columns() -> None:
    op.add_column("sessions", sa.Column("stop", sa.Text(), nullable=True))
    op.add_column("turns", sa.Column("queued", sa.Text(), nullable=True))
    op.add_column("turns", sa.Column("pending", sa.Text(), nullable=True))


def _add_indexes() -> None:
    op.create_index(
        "sessions_forked_from",
        "sessions",
        ["forked_from"],
        sqlite_where=sa.text("forked_from IS NOT NULL"),
        postgresql_where=sa.text("forked_from IS NOT NULL"),
    )
    op.create_index(
        "turns_queued",
        "turns",
        ["session", "sequence"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "turns_sequence",
        "turns",
        ["session", "sequence"],
        sqlite_where=sa.text("state <> ''"),
        postgresql_where=sa.text("state <> ''"),
    )


def _add_tables() -> None:
    op.create_table(
        "decisions",
        sa.Column("number", _Number, primary_key=True),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("index", sa.BigInteger(), nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("decided", sa.Float(), nullable=False),
        sa.Column("input", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
    )
    op.create_index("decisions_place", "decisions", ["session", "entry", "index"], unique=True)
    server = op.get_bind().dialect
    unlogged = ["UNLOGGED"] if server.name == "postgresql" else []
    op.create_table(
        "followers",
        sa.Column("session", sa.Text(), primary_key=True),
        sa.Column("reader", sa.Text(), primary_key=True),
        sa.Column("expires", sa.Float(), nullable=False),
        prefixes=unlogged,
    )
    op.create_table(
        "relays",
        sa.Column("number", _Number, primary_key=True),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("turn", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("written", sa.Float(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        prefixes=unlogged,
        sqlite_autoincrement=True,
    )
    op.create_index("relays_place", "relays", ["session", "turn", "number"])
    # From that version on a crash would set the numbers back to 1, and readers that go by them would miss what comes.
    if server.name == "postgresql" and (server.server_version_info or ()) >= (15,):
        op.execute("ALTER SEQUENCE relays_number_seq SET LOGGED")

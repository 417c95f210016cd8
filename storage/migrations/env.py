"""Alembic's entry: runs the migrations on the connection that `upgrade` hands over, one process at a time."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from storage.tables import VERSION_TABLE, metadata

LOCK = 0x5741524D
"""The advisory lock that keeps two upgrades of one PostgreSQL apart."""

connection: Connection = context.config.attributes["connection"]
if connection.dialect.name == "sqlite":
    connection.exec_driver_sql("BEGIN IMMEDIATE")
else:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
context.run_migrations()

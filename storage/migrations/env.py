"""Alembic's entry: runs the migrations on the connection that `upgrade` hands over, one process at a time."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.schema import CreateSchema

from storage.tables import VERSION_TABLE, metadata

LOCK = 0x5741524D
"""The advisory lock that keeps two upgrades of one PostgreSQL apart."""

connection: Connection = context.config.attributes["connection"]
schema: str | None = context.config.attributes.get("schema")
if connection.dialect.name == "sqlite":
    connection.exec_driver_sql("BEGIN IMMEDIATE")
else:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    if schema is not None:
        if connection.execute(text("SELECT to_regnamespace(:name)"), {"name": f'"{schema}"'}).scalar() is None:
            connection.execute(CreateSchema(schema))  # its IF NOT EXISTS asks for the right to make one all the same
        # For this transaction only, and so behind a pooler too.
        connection.execute(text("SELECT set_config('search_path', :path, true)"), {"path": f'"{schema}"'})
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
context.run_migrations()

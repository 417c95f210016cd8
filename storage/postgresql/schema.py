"""What stands in the schema of a PostgreSQL: nothing, our tables, or somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from storage import revisions
from storage.errors import SchemaTooOld, StoreDamaged, StoreUnavailable
from storage.records import SchemaState
from storage.tables import VERSION_TABLE, metadata

_COLUMNS = """
SELECT c.relname, a.attname FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relname = ANY(%s)
AND CASE WHEN %s::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = %s END
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What the schema says of itself, and the columns of the tables that have names of ours."""

    state: SchemaState
    columns: Mapping[str, set[str]]


def look(raw: psycopg.Connection, schema: str | None) -> Found:
    """Without a schema, in the one that the server looks in by itself."""
    columns: dict[str, set[str]] = {}
    names = [VERSION_TABLE, *metadata.tables]
    for table, column in raw.execute(_COLUMNS, (names, schema, schema)).fetchall():
        columns.setdefault(table, set()).add(column)
    row = None
    if "version_num" in columns.pop(VERSION_TABLE, ()):
        row = raw.execute(f"SELECT * FROM {_qualified(schema)}{VERSION_TABLE}").fetchone()
    return Found(revisions.state_of(row), columns)


def _qualified(schema: str | None) -> str:
    return "" if schema is None else f'"{schema}".'


def check_upgradable(store: str, found: Found) -> None:
    """Raises `SchemaTooNew`, and `StoreUnavailable` where tables stand that have names of ours and no revision."""
    revisions.check_known(store, found.state)
    if found.state.revision is None and found.columns:
        raise StoreUnavailable(
            f"{store} has tables named {', '.join(sorted(found.columns))} and no record of who made them: they are"
            " another program's, or left of an unfinished copy; give the store a schema of its own"
            " (`?schema=warmline` at the end of its URL), or remove them"
        )


def check(store: str, found: Found, upgrade: str) -> None:
    """Raises, beside these, `SchemaTooOld` that names the command `upgrade`, and `StoreDamaged`."""
    check_upgradable(store, found)
    if revisions.is_too_old(found.state):
        go_on = revisions.others_go_on(found.state)
        raise SchemaTooOld(store, found.state.revision, upgrade, others_go_on=go_on)
    wanted = {(name, column.name) for name, table in metadata.tables.items() for column in table.columns}
    missing = wanted - {(name, column) for name, columns in found.columns.items() for column in columns}
    if missing:
        named = ", ".join(f"{table}.{column}" for table, column in sorted(missing)[:5])
        raise StoreDamaged(f"{store} has schema {found.state.revision}, but lacks {named}: restore a copy")

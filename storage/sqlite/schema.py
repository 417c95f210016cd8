"""What an SQLite file holds: nothing, our tables, or somebody else's; and our tables in an empty one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

from sqlalchemy.schema import CreateIndex, CreateTable

from storage import revisions
from storage.records import SchemaState
from storage.tables import OLDEST, REVISION, VERSION_TABLE, metadata
from storage.transactions.statements import DIALECTS

APPLICATION = 0x5741524D
"""Marks a file as ours ("WARM"), so that no other program's database is ever touched."""


def is_empty(raw: sqlite3.Connection) -> bool:
    """Whether it is nobody's: without a mark and without a table."""
    return not _pragma(raw, "application_id") and not raw.execute("SELECT 1 FROM sqlite_master").fetchone()


def is_ours(raw: sqlite3.Connection) -> bool:
    """Whether it has our mark."""
    return _pragma(raw, "application_id") == APPLICATION


def create(raw: sqlite3.Connection, patience: float) -> None:
    """Makes the newest schema, unless another process was faster; `patience`: seconds that it waits for others."""
    write_ahead(raw, patience)
    raw.execute("BEGIN IMMEDIATE")
    if is_empty(raw):
        for statement in _definitions():
            raw.execute(statement)
        raw.execute(f"PRAGMA application_id = {APPLICATION}")
    raw.execute("COMMIT")


def state(raw: sqlite3.Connection) -> SchemaState:
    """What a database of ours says of its schema."""
    if raw.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchone() is None:
        return SchemaState(None, None)
    return revisions.state_of(raw.execute(f"SELECT * FROM {VERSION_TABLE}").fetchone())


def check_writable(raw: sqlite3.Connection) -> None:
    """A file that may only be read is refused when it is opened, not at its first write. Raises the driver's error."""
    raw.execute("BEGIN IMMEDIATE")
    raw.execute(f"PRAGMA application_id = {APPLICATION}")
    raw.execute("ROLLBACK")


def write_ahead(raw: sqlite3.Connection, patience: float) -> None:
    """Turns the write-ahead log on, which SQLite refuses without waiting while another process does the same."""
    deadline = time.monotonic() + patience
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _pragma(raw: sqlite3.Connection, name: str) -> int:
    return int(raw.execute(f"PRAGMA {name}").fetchone()[0])


def _definitions() -> Iterator[str]:
    """The newest schema from scratch, as the migrations arrive at it step by step (a test compares them)."""
    for table in metadata.sorted_tables:
        yield str(CreateTable(table).compile(dialect=DIALECTS["sqlite"]))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index).compile(dialect=DIALECTS["sqlite"]))
    columns = "version_num VARCHAR(32) NOT NULL PRIMARY KEY, oldest VARCHAR(32), oldest_of VARCHAR(32)"
    yield f"CREATE TABLE {VERSION_TABLE} ({columns})"
    yield f"INSERT INTO {VERSION_TABLE} VALUES ('{REVISION}', '{OLDEST}', '{REVISION}')"

"""A connection to SQLite, and the same as the transactions see it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage.transactions import Cursor
from storage.transactions.statements import Statement
from storage.values import seconds

from . import functions

BUSY_TIMEOUT = 60.0
"""Seconds that a write waits for another process to finish its own."""

TRUNCATING = 0.1
"""Seconds that emptying the log waits for those who still read from it; nobody writes meanwhile."""


def connect(place: str | Path, *, uri: bool = False) -> sqlite3.Connection:
    """A new connection, which may go from thread to thread and begins its transactions by itself."""
    raw = sqlite3.connect(place, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, uri=uri)
    functions.teach(raw)
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA secure_delete = ON")  # deleted words are overwritten, not just forgotten
    return raw


class SQLiteDatabase:
    """An SQLite connection as the transactions see it."""

    again = False  # no network lies between: the outcome of a COMMIT is always known

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw
        self.owes = False
        self._asked: list[sqlite3.Cursor] = []

    def run(self, statement: Statement, values: Mapping[str, Any]) -> Cursor:
        answer = self.raw.execute(statement.text["sqlite"], statement.filled(values))
        if answer.description is not None:
            self._asked.append(answer)
        return answer

    def rest(self) -> None:
        """Ends the work's questions. One that is not read to its end would keep the connection in its transaction for
        as long as anybody keeps the cursor, and the traceback of an error does.
        """
        for answer in self._asked:
            answer.close()
        self._asked.clear()

    def time(self, now: float) -> float:
        return seconds("now", now)

    def ask_time(self, now: float) -> Callable[[], float]:
        return lambda: self.time(now)

    def tell(self, name: str) -> None:
        """Nobody listens to a file."""

    def forget(self) -> None:
        self.owes = True

    def truncate(self) -> None:
        """Empties the log, where deleted words stand on; `owes` stays as long as somebody still reads from it."""
        self.raw.execute(f"PRAGMA busy_timeout = {TRUNCATING * 1000:.0f}")
        try:
            self.owes = bool(self.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        finally:
            self.raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT * 1000:.0f}")

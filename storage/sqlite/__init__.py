"""The store in an SQLite file, or in memory."""

from __future__ import annotations

from .database import SQLiteDatabase
from .dialect import SQLite
from .schema import APPLICATION

__all__ = ["APPLICATION", "SQLite", "SQLiteDatabase"]

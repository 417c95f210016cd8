"""SQLite's errors as ours: the one place where they change."""

from __future__ import annotations

import sqlite3

from storage.errors import StorageError, StoreDamaged, StoreUnavailable

_UNREADABLE = ("Could not decode to UTF-8", "user-defined function raised", "user-defined aggregate's")
"""How the driver's errors begin, without a code, where a value is not what was written."""

_DAMAGE = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}
"""Codes of a file that is not as it was written. The last: a statement names what is not there, and all are fixed."""

_REMEDIES = {
    sqlite3.SQLITE_CANTOPEN: "check the path and your rights to the file and its directory",
    sqlite3.SQLITE_PERM: "check your rights to the file and its directory",
    sqlite3.SQLITE_READONLY: "the file or its directory cannot be written; change their rights, or name another file",
    sqlite3.SQLITE_FULL: "the disk is full; free some space and try again",
    sqlite3.SQLITE_IOERR: "the disk failed; nothing of this write was kept",
    sqlite3.SQLITE_BUSY: "another process keeps it locked; try again",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked; try again",
}


def translated(error: BaseException, store: str) -> BaseException:
    """A driver's error as one of ours where the user can do something about it; others as they are."""
    if isinstance(error, OSError):
        remedy = _REMEDIES[sqlite3.SQLITE_CANTOPEN]
        return _caused(StoreUnavailable(f"{store} cannot be reached ({error}): {remedy}"), error)
    # The driver's words hold the text itself, which is private.
    if isinstance(error, UnicodeDecodeError) or str(error).startswith(_UNREADABLE):
        problem = f"{store} is damaged (a stored text or number cannot be read): restore a copy"
        return _caused(StoreDamaged(problem), error)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGE:
        problem = f"{store} is damaged or no SQLite database ({error}): restore a copy, or name another file"
        return _caused(StoreDamaged(problem), error)
    if code in _REMEDIES:
        return _caused(StoreUnavailable(f"{store} cannot be used ({error}): {_REMEDIES[code]}"), error)
    return error


def _caused(error: StorageError, cause: BaseException) -> StorageError:
    error.__cause__ = cause
    return error

"""SQLite: a file with a write-ahead log, or memory. One thread writes; reads run beside it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL
from sqlalchemy.schema import CreateIndex, CreateTable

from . import migrations, threads
from .errors import SchemaTooNew, SchemaTooOld, StorageError, StoreDamaged, StoreNotOpen, StoreUnavailable
from .group import GroupCommit
from .records import Statistics
from .searching import words
from .statements import DIALECTS, Statement
from .tables import REVISION, VERSION_TABLE, metadata
from .totals import DecimalSum
from .transactions import Cursor, Database, Work, side_by_side
from .urls import upgrade_command
from .values import seconds
from .watching import Deaf, Watch

T = TypeVar("T")

BUSY_TIMEOUT = 60.0
"""Seconds that a write waits for another process to finish its own."""

POLL = 0.02
"""Seconds between two looks of somebody who waits for another process: a look costs a file next to nothing."""

TRUNCATING = 0.1
"""Seconds that emptying the log waits for those who still read from it; nobody writes meanwhile."""

APPLICATION = 0x5741524D
"""Marks a file as ours ("WARM"), so that no other program's database is ever touched."""

_creating = threading.Lock()  # closing a file drops this process's locks on it, those of another store's too


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


class SQLite:
    """A file, or memory (`path` None), where reads take their turn among the writes.

    `reading`: a file that may not be written is opened all the same, and its writes are refused.
    """

    def __init__(self, path: str | None, reading: bool = False) -> None:
        self._path = None if path in {None, "", ":memory:"} else Path(str(path)).absolute()
        self._name = "the SQLite store in memory" if self._path is None else str(self._path)
        self._reading, self._read_only = reading, False
        self._writer: GroupCommit | None = None
        self._idle: deque[sqlite3.Connection] = deque()
        self._opening = threading.Lock()
        self._process = 0

    def open(self) -> None:
        with self._opening:
            if self._writer is not None:
                return
            with self._translation():
                self._check_path()
                self._read_only = self._reading and not self._may_write()
                if self._path is not None and not self._read_only:
                    _make_private(self._path)
                raw = self._connect()
                try:
                    self._prepare(raw)
                except BaseException:
                    raw.close()
                    raise
            self._process = os.getpid()
            self._writer = GroupCommit(raw, SQLiteDatabase(raw), self._translated)

    def close(self) -> None:
        with self._opening:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
            while self._idle:
                self._idle.pop().close()

    def upgrade(self) -> str:
        was_open = self._writer is not None
        self._check_health()
        self.open()
        if not was_open:
            self.close()
        return REVISION

    def backup(self, place: Path) -> None:
        """One state of the store, whole, while others write: the pages of the file and what its log adds to them."""
        with self._translation():
            self._check_path()
            self._read_only = not self._may_write()
            with contextlib.closing(self._connect()) as raw, contextlib.closing(sqlite3.connect(place)) as copy:
                self._check_owner(raw)
                raw.backup(copy)

    @property
    def is_shared(self) -> bool:
        return self._path is not None

    def statistics(self) -> Statistics:
        return self._writer.statistics if self._writer is not None else Statistics()

    def write(self, work: Callable[[Database], T], *, durable: bool = True) -> Future[T]:
        return self._live().submit(work, durable=durable)

    def change(self, session: str, work: Work[T], *, durable: bool = True) -> Future[T]:
        return self.write(lambda db: side_by_side([work], db)[0], durable=durable)

    def read(self, work: Callable[[Database], T]) -> Future[T]:
        writer = self._live()
        if self._path is None:
            return writer.submit(work, durable=False)
        return threads.start(self._read, work)

    def watch(self, name: str) -> Watch:
        return Deaf(POLL)

    def _live(self) -> GroupCommit:
        if self._writer is None:
            raise StoreNotOpen(self._name)
        if self._process != os.getpid():  # pragma: no cover - true in a forked child, where a test goes too
            raise StoreUnavailable(
                f"{self._name} was opened before this process was forked: open a store of its own here"
            )
        return self._writer

    def _read(self, work: Callable[[Database], T]) -> T:
        with self._translation():
            try:
                raw = self._idle.pop()
            except IndexError:
                raw = self._connect()
            database = SQLiteDatabase(raw)
            try:
                return work(database)
            finally:
                database.rest()
                if self._writer is None:  # closed meanwhile
                    raw.close()
                else:
                    self._idle.append(raw)

    def _connect(self) -> sqlite3.Connection:
        place, uri = (self._unchanged(), True) if self._read_only else (self._path or ":memory:", False)
        raw = sqlite3.connect(place, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, uri=uri)
        raw.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows ASCII only
        raw.create_function("words", 2, words, deterministic=True)
        raw.create_aggregate("decimal_sum", 1, DecimalSum)  # type: ignore[arg-type]  # typeshed: finalize gives an int
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("PRAGMA secure_delete = ON")  # deleted words are overwritten, not just forgotten
        return raw

    def _check_path(self) -> None:
        if self._path is None:
            return
        if self._path.is_dir():
            raise StoreUnavailable(f"{self._path} is a directory: name a file in it")
        if not self._path.parent.is_dir():
            raise StoreUnavailable(f"the directory {self._path.parent} does not exist: create it, or name another one")

    def _may_write(self) -> bool:
        """Whether the file may be written, and its directory, where the log stands beside it."""
        if self._path is None:
            return True
        effective = os.access in os.supports_effective_ids
        return all(os.access(path, os.W_OK, effective_ids=effective) for path in (self._path, self._path.parent))

    def _unchanged(self) -> str:
        """The URI that opens the file without a trace.

        While others have it open there is a log, which is read with their locks; without one nobody writes now.
        """
        assert self._path is not None
        log = self._path.with_name(f"{self._path.name}-wal")
        return f"{self._path.as_uri()}?{'mode=ro' if log.exists() else 'immutable=1'}"

    def _check_health(self) -> None:
        """Looks at every page before anything is changed. Raises `StoreDamaged`; nothing is ever repaired."""
        with self._translation():
            if self._path is None or not self._path.is_file():
                return
            with contextlib.closing(sqlite3.connect(self._unchanged(), uri=True)) as raw:
                (found,) = raw.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StoreDamaged(
                f"{self._name} is damaged ({' '.join(found.split())}): restore a copy, or name another file"
            )

    def _check_owner(self, raw: sqlite3.Connection) -> None:
        if _pragma(raw, "application_id") != APPLICATION:
            raise StoreUnavailable(f"{self._name} is the database of another program: name another file")

    def _prepare(self, raw: sqlite3.Connection) -> None:
        """Creates the schema in an empty database, or brings ours up to date; any other is left alone."""
        if self._is_empty(raw):
            self._create(raw)
        self._check_owner(raw)
        revision = _revision(raw)
        if revision > REVISION:
            raise SchemaTooNew(self._name, revision)
        if not self._read_only:
            _check_writable(raw)
        elif revision < REVISION:
            raise SchemaTooOld(self._name, revision, upgrade_command(URL.create("sqlite", database=self._name)))
        if revision < REVISION:
            migrations.upgrade("sqlite://", creator=self._connect)

    def _is_empty(self, raw: sqlite3.Connection) -> bool:
        return not _pragma(raw, "application_id") and not raw.execute("SELECT 1 FROM sqlite_master").fetchone()

    def _create(self, raw: sqlite3.Connection) -> None:
        _write_ahead(raw)
        raw.execute("BEGIN IMMEDIATE")
        if self._is_empty(raw):  # else another process was faster
            for statement in _definitions():
                raw.execute(statement)
            raw.execute(f"PRAGMA application_id = {APPLICATION}")
        raw.execute("COMMIT")

    @contextlib.contextmanager
    def _translation(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError, OSError) as error:
            raise self._translated(error) from error

    def _translated(self, error: BaseException) -> BaseException:
        """A driver's error as one of ours where the user can do something about it; others as they are."""
        if isinstance(error, OSError):
            remedy = _REMEDIES[sqlite3.SQLITE_CANTOPEN]
            return _caused(StoreUnavailable(f"{self._name} cannot be reached ({error}): {remedy}"), error)
        if isinstance(error, UnicodeDecodeError) or str(error).startswith(
            _UNREADABLE
        ):  # the driver's words hold the text itself, which is private
            found = f"{self._name} is damaged (a stored text or number cannot be read): restore a copy"
            return _caused(StoreDamaged(found), error)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGE:
            found = f"{self._name} is damaged or no SQLite database ({error}): restore a copy, or name another file"
            return _caused(StoreDamaged(found), error)
        if code in _REMEDIES:
            return _caused(StoreUnavailable(f"{self._name} cannot be used ({error}): {_REMEDIES[code]}"), error)
        return error


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


def _caused(error: StorageError, cause: BaseException) -> StorageError:
    error.__cause__ = cause
    return error


def _make_private(path: Path) -> None:
    """Makes a new file that only its owner may read; the files beside it take after it. What exists is left alone."""
    with _creating, contextlib.suppress(FileExistsError):
        place = path.resolve()
        if not place.exists():
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _pragma(raw: sqlite3.Connection, name: str) -> int:
    return int(raw.execute(f"PRAGMA {name}").fetchone()[0])


def _revision(raw: sqlite3.Connection) -> str:
    """The revision of a database of ours; "" if it has no schema."""
    if raw.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchone() is None:
        return ""
    row = raw.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
    return "" if row is None else str(row[0])


def _check_writable(raw: sqlite3.Connection) -> None:
    """A file that may only be read is refused when it is opened, not at its first write."""
    raw.execute("BEGIN IMMEDIATE")
    raw.execute(f"PRAGMA application_id = {APPLICATION}")
    raw.execute("ROLLBACK")


def _write_ahead(raw: sqlite3.Connection) -> None:
    """Turns the write-ahead log on, which SQLite refuses without waiting while another process does the same."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _definitions() -> Iterator[str]:
    """The newest schema from scratch, as the migrations arrive at it step by step (a test compares them)."""
    for table in metadata.sorted_tables:
        yield str(CreateTable(table).compile(dialect=DIALECTS["sqlite"]))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index).compile(dialect=DIALECTS["sqlite"]))
    yield f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
    yield f"INSERT INTO {VERSION_TABLE} VALUES ('{REVISION}')"

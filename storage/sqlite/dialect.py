"""SQLite: a file with a write-ahead log, or memory. One thread writes; reads run beside it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL

from storage import migrations, revisions, threads
from storage.errors import SchemaTooOld, StoreDamaged, StoreNotOpen, StoreUnavailable
from storage.records import SchemaState, Statistics
from storage.tables import OLDEST, REVISION
from storage.transactions import Database, Work, side_by_side
from storage.urls import upgrade_command
from storage.watching import Deaf, Watch

from . import schema
from .database import BUSY_TIMEOUT, SQLiteDatabase, connect
from .failures import translated
from .group import GroupCommit

T = TypeVar("T")

POLL = 0.02
"""Seconds between two looks of somebody who waits for another process: a look costs a file next to nothing."""

_creating = threading.Lock()  # closing a file drops this process's locks on it, those of another store's too


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
                    _make_private(self._path)  # before SQLite would make it, with everybody's rights
                raw = self._connect()
                try:
                    self._prepare(raw)
                except BaseException:
                    raw.close()
                    raise
            self._process = os.getpid()
            self._writer = GroupCommit(raw, SQLiteDatabase(raw), partial(translated, store=self._name))

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
        try:
            return self.schema_state().revision or REVISION
        finally:
            if not was_open:
                self.close()

    def schema_state(self) -> SchemaState:
        if self._path is None:
            return SchemaState(REVISION, OLDEST)
        with self._translation():
            self._check_path()
            with contextlib.closing(sqlite3.connect(self._unchanged(), uri=True)) as raw:
                if schema.is_empty(raw):
                    return SchemaState(None, None)
                self._check_owner(raw)
                return schema.state(raw)

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
        return connect(self._unchanged(), uri=True) if self._read_only else connect(self._path or ":memory:")

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
                (verdict,) = raw.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreDamaged(
                f"{self._name} is damaged ({' '.join(verdict.split())}): restore a copy, or name another file"
            )

    def _check_owner(self, raw: sqlite3.Connection) -> None:
        if not schema.is_ours(raw):
            raise StoreUnavailable(f"{self._name} is the database of another program: name another file")

    def _prepare(self, raw: sqlite3.Connection) -> None:
        """Creates the schema in an empty database, or brings ours up to date; any other is left alone."""
        if schema.is_empty(raw):
            schema.create(raw, BUSY_TIMEOUT)
        self._check_owner(raw)
        found = schema.state(raw)
        revisions.check_known(self._name, found)
        if not self._read_only:
            schema.check_writable(raw)
            if revisions.is_too_old(found):
                migrations.upgrade("sqlite://", creator=self._connect)
        elif revisions.is_too_old(found):
            command = upgrade_command(URL.create("sqlite", database=self._name))
            raise SchemaTooOld(self._name, found.revision, command)

    @contextlib.contextmanager
    def _translation(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError, OSError) as error:
            raise translated(error, self._name) from error


def _make_private(path: Path) -> None:
    """Makes a new file that only its owner may read; the files beside it take after it. What exists is left alone."""
    with _creating, contextlib.suppress(FileExistsError):
        place = path.resolve()
        if not place.exists():
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

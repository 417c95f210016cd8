"""A store of its own, as small as one can be: one connection, one lock, each piece of work a transaction by itself.

It borrows SQLite as its engine, and of `storage.sqlite` only the tables and functions that the statements name. What a
real one has to do besides: turn its driver's errors into `storage.errors`, and let several processes in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import URL

from storage import Statistics, StoreNotOpen, StoreUnavailable, threads
from storage.records import SchemaState
from storage.sqlite import functions, schema
from storage.tables import OLDEST, REVISION
from storage.threads import Bell
from storage.transactions import Cursor, Database, Work, side_by_side
from storage.transactions.statements import Statement
from storage.values import seconds
from storage.watching import Watch

T = TypeVar("T")


class PlainDatabase:
    """The connection inside a transaction. `told` are the names of which there is news when it is committed."""

    again = False

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw
        self.told: list[str] = []

    def run(self, statement: Statement, values: Mapping[str, Any]) -> Cursor:
        return self._raw.execute(statement.text["sqlite"], statement.filled(values))

    def time(self, now: float) -> float:
        return seconds("now", now)

    def ask_time(self, now: float) -> Callable[[], float]:
        return lambda: self.time(now)

    def tell(self, name: str) -> None:
        self.told.append(name)

    def forget(self) -> None:
        """There is no log in which deleted words would stand on."""


class Plain:
    """`plain:///path`: a file that one process uses."""

    is_shared = False

    def __init__(self, url: URL, reading: bool) -> None:
        if not url.database:
            raise StoreUnavailable("plain:/// needs the path of a file behind it")
        self._path = url.database
        self._raw: sqlite3.Connection | None = None
        self._lock = Lock()
        self._bells: list[tuple[str, Bell]] = []
        self._statistics = Statistics()

    def open(self) -> None:
        if self._raw is None:
            self._raw = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            functions.teach(self._raw)
            schema.create(self._raw, 1.0)

    def close(self) -> None:
        with self._lock:
            if self._raw is not None:
                self._raw.close()
            self._raw = None

    def upgrade(self) -> str:
        return REVISION

    def backup(self, place: Path) -> None:
        raise StoreUnavailable("a plain store is copied with its program at rest")

    def schema_state(self) -> SchemaState:
        return SchemaState(REVISION, OLDEST)

    def statistics(self) -> Statistics:
        return self._statistics

    def write(self, work: Callable[[Database], T], *, durable: bool = True) -> Future[T]:
        return threads.start(self._run, work)

    def change(self, session: str, work: Work[T], *, durable: bool = True) -> Future[T]:
        return self.write(lambda db: side_by_side([work], db)[0])

    def read(self, work: Callable[[Database], T]) -> Future[T]:
        return self.write(work)

    def watch(self, name: str) -> Watch:
        return Ear(self._bells, name)

    def _run(self, work: Callable[[Database], T]) -> T:
        with self._lock:
            if self._raw is None:
                raise StoreNotOpen(self._path)
            database = PlainDatabase(self._raw)
            self._raw.execute("BEGIN")
            try:
                result = work(database)
            except BaseException:
                self._raw.execute("ROLLBACK")
                raise
            self._raw.execute("COMMIT")
            self._statistics = Statistics(self._statistics.writes + 1, self._statistics.transactions + 1)
        for name, bell in list(self._bells):
            if name in database.told:
                bell.ring()
        return result


class Ear:
    """A waiter's ear: it hears what is told, but not of a lease that is released, so it looks now and then too."""

    is_live = False
    pause = 0.02

    def __init__(self, bells: list[tuple[str, Bell]], name: str) -> None:
        self._bells = bells
        self._mine = name, Bell()

    async def news(self) -> None:
        await self._mine[1].heard()

    def __enter__(self) -> Self:
        self._bells.append(self._mine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bells.remove(self._mine)

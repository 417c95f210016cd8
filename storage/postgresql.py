"""PostgreSQL through psycopg: a connection for each transaction under way, and the server's time for leases.

No session state is relied on (no prepared statements, no session locks), so a transaction-pooling proxy may stand
between.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from threading import Lock
from typing import Any, TypeVar, cast

import psycopg
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from . import migrations, threads
from .errors import SchemaTooNew, SchemaTooOld, StorageError, StoreUnavailable
from .records import Statistics
from .statements import Statement
from .tables import REVISION, VERSION_TABLE
from .transactions import Cursor, Database

T = TypeVar("T")

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

CONNECT_TIMEOUT = 10
"""Seconds to wait for the server when connecting."""


class PostgreSQLDatabase:
    """A PostgreSQL connection as the transactions see it."""

    def __init__(self, raw: psycopg.Connection) -> None:
        self.raw = raw

    def run(self, statement: Statement, values: Mapping[str, Any]) -> Cursor:
        text = statement.text["postgresql"].encode()
        return cast(Cursor, self.raw.execute(text, {**statement.fixed, **values}))

    def time(self, now: float) -> float:
        row = self.raw.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        assert row is not None
        return float(row[0])


class PostgreSQL:
    """One database on a server. Idle connections are kept for the next transaction."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._name = url.render_as_string()  # without the password
        self._idle: deque[psycopg.Connection] = deque()
        self._open = False
        self._lock = Lock()
        self._writes = 0

    def open(self) -> None:
        if self._open:
            return
        with self._translation(), self._connection() as raw:
            _check_revision(self._name, _revision(raw))
        self._open = True

    def close(self) -> None:
        self._open = False
        self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def upgrade(self) -> str:
        with self._translation():
            with self._connection() as raw:
                revision = _revision(raw)
            if revision is not None and revision > REVISION:
                raise SchemaTooNew(self._name, revision)
            migrations.upgrade("postgresql+psycopg://", creator=partial(self._connect, autocommit=False))
        return REVISION

    def statistics(self) -> Statistics:
        return Statistics(self._writes, self._writes)

    def write(self, work: Callable[[Database], T], *, durable: bool = True) -> Future[T]:
        """Always durable: after a crash of the server its workers live on, so no lease may be forgotten."""
        self._check_open()
        return threads.start(self._write, work)

    def read(self, work: Callable[[Database], T]) -> Future[T]:
        self._check_open()
        return threads.start(self._transaction, work)

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable(f"{self._name} is not open: await open() first")

    def _write(self, work: Callable[[Database], T]) -> T:
        result = self._transaction(work)
        with self._lock:
            self._writes += 1
        return result

    def _transaction(self, work: Callable[[Database], T]) -> T:
        with self._translation(), self._connection() as raw:
            result = work(PostgreSQLDatabase(raw))
            raw.execute("COMMIT")
            return result

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        """A connection with a transaction begun, rolled back unless it was committed."""
        raw = self._begun()
        try:
            yield raw
        finally:
            with contextlib.suppress(psycopg.OperationalError):  # a lost connection has nothing left to undo
                if raw.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    raw.execute("ROLLBACK")
            if not raw.closed:
                self._idle.append(raw)
            if not self._open:  # closed meanwhile, perhaps after the line above
                self._drain()

    def _begun(self) -> psycopg.Connection:
        """An idle connection, or a new one when the idle ones were cut (a server restarted)."""
        while True:
            try:
                raw = self._idle.pop()
            except IndexError:
                raw = self._connect()
                try:
                    raw.execute(_BEGIN)
                except BaseException:
                    raw.close()
                    raise
                return raw
            try:
                raw.execute(_BEGIN)
            except psycopg.OperationalError:
                raw.close()
            else:
                return raw

    def _connect(self, *, autocommit: bool = True) -> psycopg.Connection:
        url = self._url.render_as_string(hide_password=False)
        try:
            return psycopg.connect(url, autocommit=autocommit, prepare_threshold=None, connect_timeout=CONNECT_TIMEOUT)
        except psycopg.ProgrammingError as error:  # an option that the driver does not know
            raise self._unavailable(error) from error

    @contextlib.contextmanager
    def _translation(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise StoreUnavailable(f"{self._name} is read-only: name the primary server") from error
        except psycopg.errors.UndefinedTable as error:
            raise SchemaTooOld(self._name, None) from error
        except psycopg.OperationalError as error:
            raise self._unavailable(error) from error
        except DBAPIError as error:  # from a migration
            raise self._unavailable(error.orig or error) from error

    def _unavailable(self, error: BaseException) -> StorageError:
        problem = " ".join(str(error).split())
        return StoreUnavailable(f"{self._name} cannot be used ({problem}): check the URL and that the server runs")


def _revision(raw: psycopg.Connection) -> str | None:
    row = raw.execute("SELECT to_regclass(%s)::text", (VERSION_TABLE,)).fetchone()
    if row is None or row[0] is None:
        return None
    row = raw.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
    return None if row is None else str(row[0])


def _check_revision(store: str, revision: str | None) -> None:
    if revision is None or revision < REVISION:
        raise SchemaTooOld(store, revision)
    if revision > REVISION:
        raise SchemaTooNew(store, revision)

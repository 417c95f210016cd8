"""A connection to PostgreSQL as the transactions see it, and work run on it: reads by themselves, writes together.

Statements go out together until an answer is looked at, so a write takes few round trips.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar, cast

import psycopg
from psycopg import waiting
from psycopg.pq.abc import PGconn

from storage.transactions import Cursor, Database, Row
from storage.transactions.statements import TELL, Statement
from storage.watching import channel, topic

T = TypeVar("T")

FROZEN = 10.0
"""Seconds that a process may sleep inside a transaction before the server ends it: its locks keep others waiting."""

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_COMMIT = "COMMIT"
_LIMITS = (
    "SELECT set_config('idle_in_transaction_session_timeout', %s::text, true),"
    " set_config('lock_timeout', %s::text, true)"
)
_LOST = ("08", "25P", "57P")
"""SQLSTATEs that come with a lost connection: its failure, a transaction that slept too long, a shutdown."""
_PASSING = (*_LOST, "40", "53300", "55P03", "57014")
"""Those that pass: also deadlocks, no more connections, locks held too long, statements that took too long."""


class PostgreSQLDatabase:
    """A PostgreSQL connection as the transactions see it; without a pipeline each statement stands for itself."""

    def __init__(
        self, raw: psycopg.Connection, schema: str | None, pipeline: psycopg.Pipeline | None = None, again: bool = False
    ) -> None:
        self.raw = raw
        self._schema, self._channel = schema, channel(schema)
        self.again = again
        self._pipeline = pipeline
        self._asked = self._answered = 0

    def run(self, statement: Statement, values: Mapping[str, Any]) -> Cursor:
        return self._ask(statement.in_schema(self._schema), statement.filled(values) | {"channel": self._channel})

    def time(self, now: float) -> float:
        return self.ask_time(now)()

    def ask_time(self, now: float) -> Callable[[], float]:
        answer = self._ask(b"SELECT extract(epoch FROM clock_timestamp())::float8", {})
        return lambda: float(cast(Row, answer.fetchone())[0])

    def tell(self, name: str) -> None:
        self.run(TELL, {"topic": topic(name)})

    def forget(self) -> None:
        """The server's own files and its vacuum are its operator's."""

    def _ask(self, text: bytes, values: Mapping[str, Any]) -> Cursor:
        self._asked += 1
        return _Answer(self, self._asked, self.raw.execute(text, values))

    def wait_for(self, number: int) -> None:
        """Waits for that answer and all others. (Not for some: the server's limits need a complete exchange.)"""
        if self._pipeline is not None and number > self._answered:
            self.raw.wait(_sent(self.raw.pgconn))
            self._pipeline.sync()
            self._answered = self._asked


def _sent(connection: PGconn) -> Generator[waiting.Wait, waiting.Ready | int]:
    """Sends all that was asked, whatever its size.

    A pipeline (psycopg 3.3) sends once and then waits for answers. Of a last statement that does not fit into the
    socket's buffer, a megabyte or so, the server would never see the end, and both would wait for ever.
    """
    while connection.flush():
        yield waiting.Wait.RW
        connection.consume_input()  # what the server says meanwhile; nothing where it says nothing


class _Answer:
    """What a statement answers; whoever looks waits for it."""

    def __init__(self, database: PostgreSQLDatabase, number: int, cursor: psycopg.Cursor[Any]) -> None:
        self._database, self._number, self._cursor = database, number, cursor

    @property
    def rowcount(self) -> int:
        self._database.wait_for(self._number)
        return self._cursor.rowcount

    def __iter__(self) -> Iterator[Row]:
        return iter(self.fetchall())

    def fetchone(self) -> Row | None:
        self._database.wait_for(self._number)
        return cast(Row | None, self._cursor.fetchone())

    def fetchall(self) -> list[Row]:
        self._database.wait_for(self._number)
        return cast(list[Row], self._cursor.fetchall())


class LostInCommit(psycopg.OperationalError):
    """The connection was lost when the COMMIT was on its way: only a look at the data tells what became of it."""


def read(work: Callable[[Database], T], schema: str | None, again: bool, raw: psycopg.Connection) -> T:
    """Each statement by itself: READ COMMITTED shows each the newest state anyway."""
    return work(PostgreSQLDatabase(raw, schema))


def transaction(
    work: Callable[[Database], T], schema: str | None, patience: float, again: bool, raw: psycopg.Connection
) -> T:
    """Runs the work and commits; `patience`: seconds that a statement waits for the lock of a session.

    Raises the first failure, not what came of it, and `LostInCommit` where nobody knows whether it was committed.
    """
    done: list[T] = []
    failure: BaseException | None = None
    committing = False
    # A pipeline ends with a Flush behind its Sync (psycopg 3.3). A pooler that has just taken its connection back gives
    # the client another one for that, which no answer ever ends: the client would keep it at rest, and others wait.
    # So a pooler sees the end of the pipeline inside the transaction, at the price of one more round trip.
    ends_inside = raw.prepare_threshold is None  # so it is where a pooler was seen: it keeps no plans
    try:
        with raw.pipeline() as pipeline:
            try:
                raw.execute(_BEGIN, prepare=False)
                raw.execute(_LIMITS, (f"{FROZEN * 1000:.0f}", f"{patience * 1000:.0f}"))
                done.append(work(PostgreSQLDatabase(raw, schema, pipeline, again)))
                committing = not ends_inside
                if committing:
                    raw.execute(_COMMIT, prepare=False)
            except BaseException as error:  # raised below: the pipeline would write into the user's log
                failure = error
        if failure is None and ends_inside:
            committing = True
            raw.execute(_COMMIT, prepare=False)
    except psycopg.Error as error:  # the end waits for what is still unanswered
        failure = failure or first_failure(error)
    if committing and isinstance(failure, psycopg.OperationalError) and is_lost(failure):
        raise LostInCommit(str(failure)) from failure
    if failure is not None:
        raise failure
    return done[0]


def first_failure(error: psycopg.Error) -> psycopg.Error:
    """What failed, where the error only says that something behind it was skipped."""
    before = error.__context__
    if isinstance(error, psycopg.errors.PipelineAborted) and isinstance(before, psycopg.Error):
        return first_failure(before)
    return error


def is_passing(error: psycopg.OperationalError) -> bool:
    """Whether it is worth trying again later; an error without a code is a connection that broke."""
    return error.sqlstate is None or error.sqlstate.startswith(_PASSING)


def is_lost(error: psycopg.OperationalError) -> bool:
    """Whether the connection is gone, before any COMMIT: the same work may run on another one."""
    return not isinstance(error, LostInCommit) and (error.sqlstate is None or error.sqlstate.startswith(_LOST))

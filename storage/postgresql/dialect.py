"""PostgreSQL through psycopg: a connection for each transaction under way, and the server's time for leases.

No session state is relied on (no session locks, and plans are kept only where no pooler is seen), so a
transaction-pooling proxy may stand between. Statements go out together until an answer is looked at, so a write takes
few round trips, and work on several sessions shares them. While the server is away, work is tried again: what had not
reached its COMMIT was not written, and what had is looked for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import psycopg
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from storage import migrations, revisions, threads
from storage.errors import SchemaTooOld, ServerAway, StorageError, StoreDamaged, StoreNotOpen, StoreUnavailable
from storage.records import SchemaState, Statistics
from storage.tables import REVISION
from storage.transactions import Database, Work, side_by_side
from storage.transactions.statements import TELL
from storage.urls import own_options, shown, upgrade_command
from storage.watching import Watch, channel

from . import schema
from .connections import Connections
from .database import LostInCommit, is_lost, is_passing, read, transaction
from .listening import Listener, ListeningWatch
from .patience import Outage, Patience
from .sharing import Sharing

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that work waits for a server that went away; the first to miss it starts the count for all."""
SHARED_PATIENCE = 0.2
"""Seconds that a shared transaction waits for the lock of a session before its works go alone."""

_CHECK = "check the URL and that the server runs"
_REMEDIES: dict[type[psycopg.Error], str] = {
    psycopg.errors.DiskFull: "free some space",
    psycopg.errors.InsufficientPrivilege: "grant its user the right to it",
}


class PostgreSQL:
    """One database on a server."""

    def __init__(self, url: URL) -> None:
        self._name, self._upgrade = shown(url), upgrade_command(url)
        place, options = own_options(url)
        self._schema = options.schema
        self._connections = Connections(place, options.pool_size)
        self._listener = Listener(self._connections.connect, self._tell, channel(options.schema))
        self._sharing = Sharing(self._together, self._alone)
        self._open = False
        self._process = 0
        self._lock = Lock()
        self._statistics = Statistics()
        self._outage = Outage(self._name)

    def open(self) -> None:
        if self._open:
            return
        with self._translation(), self._connections.lent() as (raw, _):
            schema.check(self._name, schema.look(raw, self._schema), self._upgrade)
        self._process = os.getpid()
        self._open = True
        self._connections.open()
        self._listener.open()

    def close(self) -> None:
        self._open = False
        self._listener.close()
        self._connections.close()

    def upgrade(self) -> str:
        with self._translation():
            with contextlib.closing(self._connections.connect()) as raw:
                found = schema.look(raw, self._schema)
            schema.check_upgradable(self._name, found)
            if revisions.is_too_old(found.state):
                connect = partial(self._connections.connect, autocommit=False)
                migrations.upgrade("postgresql+psycopg://", schema=self._schema, creator=connect)
                return REVISION
        return str(found.state.revision)

    def schema_state(self) -> SchemaState:
        with self._translation(), contextlib.closing(self._connections.connect()) as raw:
            return schema.look(raw, self._schema).state

    def backup(self, place: Path) -> None:
        raise StoreUnavailable(f"{self._name} is a server, which has its own program for copies: use pg_dump")

    is_shared = True

    def statistics(self) -> Statistics:
        return self._statistics

    def write(self, work: Callable[[Database], T], *, durable: bool = True) -> Future[T]:
        """Always durable: after a crash of the server its workers live on, so no lease may be forgotten."""
        self._check_open()
        return threads.start(self._write, work)

    def change(self, session: str, work: Work[T], *, durable: bool = True) -> Future[T]:
        self._check_open()
        return self._sharing.submit(session, work)

    def read(self, work: Callable[[Database], T]) -> Future[T]:
        self._check_open()
        return threads.start(self._patiently, partial(read, work, self._schema))

    def watch(self, name: str) -> Watch:
        return ListeningWatch(self._listener, name)

    def _tell(self, topic: str) -> None:
        with self._connections.lent() as (raw, _):
            raw.execute(TELL.in_schema(None), {"channel": channel(self._schema), "topic": topic})

    def _check_open(self) -> None:
        if not self._open:
            raise StoreNotOpen(self._name)
        if self._process != os.getpid():  # pragma: no cover - true in a forked child, where a test goes too
            raise StoreUnavailable(
                f"{self._name} was opened before this process was forked: open a store of its own here"
            )

    def _write(self, work: Callable[[Database], T], unknown: bool = False) -> T:
        result = self._patiently(partial(transaction, work, self._schema, PATIENCE), unknown)
        self._count(1)
        return result

    def _together(self, works: Sequence[Work[Any]]) -> list[Any]:
        patience = PATIENCE if len(works) == 1 else SHARED_PATIENCE  # else all wait for the lock of one
        results = self._attempt(partial(transaction, partial(side_by_side, works), self._schema, patience, False))
        self._count(len(works))
        return results

    def _alone(self, work: Work[T], error: BaseException) -> T:
        """What its shared transaction did not do. That one may have been committed, when its answer was lost."""
        unknown = isinstance(error, ServerAway) and error.unknown
        return self._write(lambda db: side_by_side([work], db)[0], unknown)

    def _count(self, writes: int) -> None:
        with self._lock:
            self._statistics = Statistics(self._statistics.writes + writes, self._statistics.transactions + 1)

    def _patiently(self, work: Callable[[bool, psycopg.Connection], T], unknown: bool = False) -> T:
        """Tries again while the server is away, and says so when patience is at its end.

        The work is told whether an earlier try may have been committed.
        """
        pause = 0.02
        with Patience(self._outage) as patience:
            while True:
                try:
                    return self._attempt(partial(work, unknown))
                except ServerAway as error:
                    unknown = unknown or error.unknown
                    if not patience.goes_on(error.problem, pause, PATIENCE) or not self._open:
                        raise ServerAway(self._name, error.problem, unknown=unknown) from error.__cause__
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def _attempt(self, work: Callable[[psycopg.Connection], T]) -> T:
        """On a connection that was at rest; or on the next one, when that was cut meanwhile (a server restarted)."""
        with self._translation():
            while True:
                with self._connections.lent() as (raw, is_new):
                    try:
                        result = work(raw)
                    except psycopg.OperationalError as error:
                        if is_new or not is_lost(error):
                            raise
                    except psycopg.errors.ReadOnlySqlTransaction:
                        raw.close()  # to be connected anew, perhaps to another server
                        self._connections.renew()
                        raise
                    else:
                        self._outage.over()
                        return result

    @contextlib.contextmanager
    def _translation(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise self._read_only() from error
        except psycopg.errors.UndefinedTable as error:
            raise SchemaTooOld(self._name, None, self._upgrade) from error
        except psycopg.errors.UndefinedColumn as error:
            raise StoreDamaged(
                f"{self._name} has lost a column ({error.diag.message_primary}): restore a copy"
            ) from error
        except (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted) as error:
            raise StoreDamaged(f"{self._name} is damaged ({error.diag.message_primary}): restore a copy") from error
        except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege) as error:
            raise self._unavailable(error) from error
        except DBAPIError as error:  # from a migration
            raise self._unavailable(error.orig or error) from error

    def _unavailable(self, error: BaseException) -> StorageError:
        problem = " ".join(str(error).split())
        if self._open and isinstance(error, psycopg.OperationalError) and is_passing(error):
            return ServerAway(self._name, problem, unknown=isinstance(error, LostInCommit))
        remedy = next((words for kind, words in _REMEDIES.items() if isinstance(error, kind)), _CHECK)
        return StoreUnavailable(f"{self._name} cannot be used ({problem}): {remedy}")

    def _read_only(self) -> StorageError:
        """A server that has been written to may have handed over to another one, which is waited for."""
        if self._statistics.writes:
            return ServerAway(self._name, "it is read-only: name the primary server if it stays so")
        return StoreUnavailable(f"{self._name} is read-only: name the primary server")

"""Which dialect a URL means, and what every dialect offers; the differences are in the module of each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import URL

from .errors import StoreUnavailable
from .records import SchemaState, Statistics
from .sqlite import SQLite
from .transactions import Database, Work
from .urls import parse, unknown
from .watching import Watch

T = TypeVar("T")


class Dialect(Protocol):
    """A database that runs plain functions in transactions. What gives no future, `open` and so on, blocks.

    What it raises is one of `storage.errors`: a driver's own errors stay below. Work may run on any thread, and runs to
    its end even if nobody waits for the future any more.
    """

    def open(self) -> None:
        """As `Store.open`."""

    def close(self) -> None:
        """As `Store.close`."""

    def upgrade(self) -> str:
        """As `Store.upgrade`."""
        ...

    def backup(self, place: Path) -> None:
        """Copies the database into an empty file, while others use it. Raises `StoreUnavailable` where it cannot."""

    def schema_state(self) -> SchemaState:
        """What the database says of its schema, open or not; nothing is changed."""
        ...

    @property
    def is_shared(self) -> bool:
        """As `Store.is_shared`."""
        ...

    def statistics(self) -> Statistics:
        """As `Store.statistics`."""
        ...

    def write(self, work: Callable[[Database], T], *, durable: bool = True) -> Future[T]:
        """Runs the work in a transaction, which is undone if it raises; on a server perhaps again (`Database.again`).

        Without `durable`, a loss of power may lose what was written, never halve it; a dialect may do more.
        """
        ...

    def change(self, session: str, work: Work[T], *, durable: bool = True) -> Future[T]:
        """As `write`, for work that locks this session and no other: it may share a transaction with others' work."""
        ...

    def read(self, work: Callable[[Database], T]) -> Future[T]:
        """Runs work that writes nothing, beside the writes where that is possible."""
        ...

    def watch(self, name: str) -> Watch:
        """As `Store.watch`."""
        ...


def _sqlite(url: URL, reading: bool) -> Dialect:
    if url.host or url.username or url.query:  # a path of two slashes, or options: none that we have
        raise unknown("sqlite://")
    return SQLite(url.database, reading)


def _postgresql(url: URL, reading: bool) -> Dialect:
    try:
        from .postgresql import PostgreSQL  # its driver is an extra
    except ImportError as error:
        raise StoreUnavailable(f"PostgreSQL needs psycopg ({error}): install warmline[postgres]") from error
    return PostgreSQL(url.set(drivername="postgresql"))


DIALECTS: dict[str, Callable[[URL, bool], Dialect]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "postgresql+psycopg": _postgresql,
    "postgres": _postgresql,
}
"""What makes the dialect of a URL, by how the URL begins: a new store has its one line here.

Each is given the URL and whether it is only to be read, touches nothing, and raises `StoreUnavailable` for a URL that
it cannot take. A dialect runs the statements in one of their forms (`transactions.statements.Statement`); one whose
database speaks neither adds its own there. `storage.testing.check_store` says whether the store keeps the contract.
"""


def dialect(url: str, reading: bool = False) -> Dialect:
    """The dialect of a URL; nothing is touched. A URL of another form raises `StoreUnavailable`.

    `reading`: it is only to be read, which is enough for an SQLite file that may not be written.
    """
    parsed = parse(url)
    make = DIALECTS.get(parsed.drivername)
    if make is None:
        raise unknown(url)
    return make(parsed, reading)

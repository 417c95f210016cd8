"""Which dialect a URL means, and what every dialect offers; the differences are in the module of each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import URL

from .errors import StoreUnavailable
from .records import Statistics
from .sqlite import SQLite
from .transactions import Database, Work
from .urls import parse, unknown
from .watching import Watch

T = TypeVar("T")


class Dialect(Protocol):
    """A database that runs plain functions in transactions; `open`, `close`, `upgrade` and `backup` block."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def upgrade(self) -> str: ...
    def backup(self, place: Path) -> None: ...
    @property
    def is_shared(self) -> bool: ...
    def statistics(self) -> Statistics: ...
    def write(self, work: Callable[[Database], T], *, durable: bool = True) -> Future[T]: ...
    def change(self, session: str, work: Work[T], *, durable: bool = True) -> Future[T]: ...
    def read(self, work: Callable[[Database], T]) -> Future[T]: ...
    def watch(self, name: str) -> Watch: ...


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
it cannot take.
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

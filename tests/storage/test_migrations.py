"""The schema from scratch is the schema by migration, on both dialects."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, create_engine, inspect
from sqlalchemy.pool import NullPool

import storage
from storage import open_store
from storage.sqlite import APPLICATION
from storage.tables import REVISION, VERSION_TABLE, metadata
from storage.testing import ME, call_record, session_record


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection that is closed with the block, also where an assertion fails in it."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def described(url: str) -> dict[str, Any]:
    with connected(url) as connection:
        return _described(connection)


def _described(connection: Connection) -> dict[str, Any]:
    found = inspect(connection)
    return {
        name: (
            [
                (c["name"], str(c["type"]), c["nullable"], c["default"], c["primary_key"])
                for c in found.get_columns(name)
            ],
            found.get_pk_constraint(name)["constrained_columns"],
            sorted((str(i["name"]), i["column_names"], bool(i["unique"])) for i in found.get_indexes(name)),
        )
        for name in found.get_table_names()
    }


def partial_indexes(path: Path) -> list[str]:
    raw = sqlite3.connect(path)
    rows = raw.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '%WHERE%' ORDER BY name")
    found = [sql for (sql,) in rows]
    raw.close()
    return found


async def migrated(path: Path) -> None:
    """A file that is ours and has no schema yet takes every migration from the first on."""
    raw = sqlite3.connect(path)
    raw.execute(f"PRAGMA application_id = {APPLICATION}")
    raw.close()
    assert await open_store(f"sqlite:///{path}").upgrade() == REVISION


def upgraded(connection: Connection, revision: str) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(storage.__file__).parent / "migrations"))
    command.upgrade(config, revision)


def inserted(connection: Connection, table: Table, **values: Any) -> None:
    """A row with these values, and zero wherever something must stand."""
    cells: dict[str, Any] = {c.name: 0 for c in table.columns if not c.nullable and c.name != "number"}
    connection.execute(table.insert().values(cells | values))


async def test_scratch_equals_migration(tmp_path: Path) -> None:
    scratch, stepwise = tmp_path / "scratch.db", tmp_path / "stepwise.db"
    await open_store(f"sqlite:///{scratch}").upgrade()
    await migrated(stepwise)
    one, other = described(f"sqlite:///{scratch}"), described(f"sqlite:///{stepwise}")
    assert one == other
    assert set(one) == {*metadata.tables, VERSION_TABLE}
    assert len(partial_indexes(scratch)) == 3
    assert partial_indexes(scratch) == partial_indexes(stepwise)


async def test_migration_equals_the_tables(tmp_path: Path, new_database: Callable[[], str]) -> None:
    await migrated(tmp_path / "a.db")
    server = new_database()
    await open_store(server).upgrade()
    for url in (f"sqlite:///{tmp_path}/a.db", server.replace("postgresql:", "postgresql+psycopg:")):
        with connected(url) as connection:
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            assert compare_metadata(context, metadata) == []
            assert context.get_current_revision() == REVISION


async def test_a_migrated_file_works(path: Path, url: str) -> None:
    await migrated(path)
    store = open_store(url)
    await store.open()
    await store.create(session_record())
    assert len(await store.list()) == 1
    await store.close()


async def test_a_file_of_the_first_revision_keeps_what_it_holds(path: Path, url: str) -> None:
    raw = sqlite3.connect(path)
    raw.execute(f"PRAGMA application_id = {APPLICATION}")
    raw.close()
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        upgraded(connection, "0001")
        old = Table("sessions", MetaData(), autoload_with=connection)
        assert "tend_at" not in old.columns
        cells: dict[str, Any] = dict.fromkeys((c.name for c in old.columns if not c.nullable), 0)
        texts = {"id": "s", "tree": "s", "cost": "0.5", "gaps": "{}", "metadata": "{}", "settings": '{"a": 1}'}
        connection.execute(old.insert().values(cells | texts))
        connection.commit()
    store = open_store(url)
    await store.open()
    assert (await store.load("s")).settings == '{"a": 1}'
    await store.tend("s", -1.0, now=1.0)
    assert await store.claim_due(ME, now=1.0, limit=1, seconds=1.0) == ["s"]
    await store.record(call_record(prompt="p"))
    assert [call.prompt for call in await store.calls("s")] == ["p"]
    await store.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_workers_of_the_third_revision_write_is_kept(
    kind: str, path: Path, url: str, new_database: Callable[[], str]
) -> None:
    """Rows from before the migration, and rows of a worker that still runs and knows the older columns only."""
    given = url if kind == "sqlite" else new_database()
    if kind == "sqlite":
        raw = sqlite3.connect(path)
        raw.execute(f"PRAGMA application_id = {APPLICATION}")
        raw.close()
    with connected(given.replace("postgresql:", "postgresql+psycopg:")) as connection:
        upgraded(connection, "0003")
        turns, calls = (Table(name, MetaData(), autoload_with=connection) for name in ("turns", "calls"))
        assert "attempts" not in turns.columns
        assert "estimated" not in calls.columns
        for number in (1, 2):
            if number == 2:
                upgraded(connection, "head")
            turn = {"id": f"t{number}", "session": "s", "sequence": number, "state": "running"}
            inserted(connection, turns, **turn)
            call = {"id": f"c{number}", "session": "s", "kind": "turn", "model": "m", "status": "ok"}
            inserted(connection, calls, **call, points="[]", counters=True)
            connection.commit()
    store = open_store(given)
    await store.open()
    assert [(turn.id, turn.attempts) for turn in await store.turns("s")] == [("t1", 0), ("t2", 0)]
    assert [(call.id, call.estimated) for call in await store.calls("s")] == [("c1", False), ("c2", False)]
    await store.close()


def test_revisions_are_numbered_upwards_and_shipped() -> None:
    scripts = ScriptDirectory(str(Path(storage.__file__).parent / "migrations"))
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)
    assert revisions[0] == REVISION == scripts.get_current_head()


def test_there_is_no_way_down(path: Path) -> None:
    """Older data is kept by expanding; a database is never turned back."""
    scripts = ScriptDirectory(str(Path(storage.__file__).parent / "migrations"))
    assert not any(hasattr(script.module, "downgrade") for script in scripts.walk_revisions())


@pytest.mark.parametrize("count", [3])
async def test_upgrades_at_the_same_time(new_database: Callable[[], str], count: int) -> None:
    url = new_database()
    assert await asyncio.gather(*(open_store(url).upgrade() for _ in range(count))) == [REVISION] * count

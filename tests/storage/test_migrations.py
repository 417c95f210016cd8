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
            [(c["name"], str(c["type"]), c["nullable"], c["primary_key"]) for c in found.get_columns(name)],
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
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(Path(storage.__file__).parent / "migrations"))
        command.upgrade(config, "0001")
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

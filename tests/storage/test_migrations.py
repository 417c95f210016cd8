"""The schema from scratch is the schema by migration, on both dialects."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, create_engine, inspect, text
from sqlalchemy.pool import NullPool

import storage
from storage import LeaseGone, SchemaTooNew, SchemaTooOld, open_store
from storage.dialects import dialect
from storage.sqlite import APPLICATION
from storage.tables import OLDEST, REVISION, VERSION_TABLE, metadata
from storage.testing import ME, NOW, call_record, hold, session_record, turn_record

NEXT = f"{int(REVISION) + 1:04}"
"""The revision of a version that is yet to come."""


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


def asked(path: Path, query: str) -> list[Any]:
    raw = sqlite3.connect(path)
    found = raw.execute(query).fetchall()
    raw.close()
    return found


def partial_indexes(path: Path) -> list[str]:
    rows = asked(path, "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '%WHERE%' ORDER BY name")
    return [sql for (sql,) in rows]


def versions(path: Path) -> list[Any]:
    return asked(path, f"SELECT * FROM {VERSION_TABLE}")


def numbered(path: Path) -> list[str]:
    """The tables that never give a number twice."""
    return [name for (name,) in asked(path, "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'")]


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
    assert versions(scratch) == versions(stepwise) == [(REVISION, OLDEST, REVISION)]
    assert numbered(scratch) == numbered(stepwise) == ["relays"]
    assert set(one) == {*metadata.tables, VERSION_TABLE}
    assert len(partial_indexes(scratch)) == 6
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


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_workers_of_the_fourth_revision_go_on_beside_new_ones(
    kind: str, path: Path, url: str, new_database: Callable[[], str]
) -> None:
    """One that still runs knows the older columns only: what it writes is read, and it leaves what is new as it is."""
    given = url if kind == "sqlite" else new_database()
    if kind == "sqlite":
        raw = sqlite3.connect(path)
        raw.execute(f"PRAGMA application_id = {APPLICATION}")
        raw.close()
    with connected(given.replace("postgresql:", "postgresql+psycopg:")) as connection:
        upgraded(connection, "0004")
        sessions, turns = (Table(name, MetaData(), autoload_with=connection) for name in ("sessions", "turns"))
        assert "stop" not in sessions.columns
        assert not {"queued", "pending"} & set(turns.columns.keys())
        texts = {"tree": "s", "cost": "0", "gaps": "{}", "metadata": "{}", "settings": "{}"}
        for number in (1, 2):
            if number == 2:
                upgraded(connection, "head")
            inserted(connection, sessions, id=f"s{number}", **texts)
            inserted(connection, turns, id="t", session=f"s{number}", sequence=1, state="running")
            connection.commit()
        store = open_store(given)
        await store.open()
        assert [record.state for record in await store.list()] == ["running", "running"]
        assert sorted(await store.orphans(now=NOW, limit=9)) == ["s1", "s2"]
        queued = await store.queue(turn_record("q", "s2", queued="words"))
        assert await store.ask_stop("s2", "t", now=NOW) == "running"
        lease = await hold(store, "s2")
        connection.execute(turns.update().where(turns.c.session == "s2").values(state="interrupted"))
        connection.execute(sessions.update().where(sessions.c.id == "s2").values(title="old", lease_token=7))
        connection.commit()
        assert (await store.turn("s2", id="q")) == replace(queued, state="interrupted")
        with pytest.raises(LeaseGone):
            await store.renew(lease, seconds=60, now=NOW)
        assert (await hold(store, "s2")).stop == "t"
        connection.execute(turns.delete())
        connection.execute(sessions.delete())
        connection.commit()
        assert await store.list() == []
        await store.close()


@pytest.mark.parametrize(("revision", "is_said"), [("0001", False), (OLDEST, True)])
async def test_an_older_schema_is_refused_with_the_order_of_an_upgrade(
    revision: str, is_said: bool, new_database: Callable[[], str]
) -> None:
    """That old workers go on is said where they do."""
    given = new_database()
    with connected(given.replace("postgresql:", "postgresql+psycopg:")) as connection:
        upgraded(connection, revision)
        connection.commit()
    with pytest.raises(SchemaTooOld, match=f"has schema {revision}.*run `warmline db upgrade") as raised:
        await open_store(given).open()
    assert ("workers of the version before go on meanwhile" in str(raised.value)) is is_said


async def newer(given: str, oldest: str | None) -> None:
    """What a later version makes of the database: another table and column, and what it says of them."""
    await open_store(given).upgrade()
    with connected(given.replace("postgresql:", "postgresql+psycopg:")) as connection:
        connection.execute(text("CREATE TABLE another (id TEXT NOT NULL)"))
        connection.execute(text("ALTER TABLE sessions ADD COLUMN another TEXT"))
        said = "" if oldest is None else f", oldest = '{oldest}', oldest_of = '{NEXT}'"
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{NEXT}'{said}"))
        connection.commit()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_newer_schema_is_used_where_it_says_that_this_version_may(
    kind: str, url: str, new_database: Callable[[], str]
) -> None:
    given = url if kind == "sqlite" else new_database()
    await newer(given, oldest=REVISION)
    store = open_store(given)
    assert await store.upgrade() == NEXT
    await store.open()
    await store.create(session_record())
    await store.queue(turn_record())
    assert [record.state for record in await store.list()] == ["running"]
    assert await store.upgrade() == NEXT
    await store.delete("s")
    await store.close()
    assert dialect(given).schema_state() == (NEXT, REVISION)


@pytest.mark.parametrize("oldest", [NEXT, None], ids=["not from this version on", "nothing said"])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_newer_schema_is_refused_where_it_does_not_say_so(
    kind: str, oldest: str | None, url: str, new_database: Callable[[], str]
) -> None:
    given = url if kind == "sqlite" else new_database()
    await newer(given, oldest)
    store = open_store(given)
    for work in (store.open, store.upgrade):
        with pytest.raises(SchemaTooNew, match=f"{NEXT}.*install a newer warmline"):
            await work()
    assert dialect(given).schema_state() == (NEXT, oldest)


async def test_a_crash_of_the_server_sets_no_number_back(new_database: Callable[[], str]) -> None:
    """Followers and relays are gone with it, which is well; the numbers that readers go by are not to begin anew."""
    given = new_database()
    await open_store(given).upgrade()
    with connected(given.replace("postgresql:", "postgresql+psycopg:")) as connection:
        kinds = connection.execute(text("SELECT relname, relpersistence FROM pg_class WHERE relkind IN ('r', 'S')"))
        unlogged = {name for name, kind in kinds if kind == "u"}
    assert unlogged == {"followers", "relays"}


async def test_what_a_database_says_of_its_schema(path: Path, url: str, new_database: Callable[[], str]) -> None:
    assert dialect("sqlite://").schema_state() == (REVISION, OLDEST)
    sqlite3.connect(path).close()
    for given in (url, new_database()):
        assert dialect(given).schema_state() == (None, None)
        await open_store(given).upgrade()
        assert dialect(given).schema_state() == (REVISION, OLDEST)
        with connected(given.replace("postgresql:", "postgresql+psycopg:")) as connection:
            connection.execute(text(f"DELETE FROM {VERSION_TABLE}"))
            connection.commit()
        assert dialect(given).schema_state() == (None, None)


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

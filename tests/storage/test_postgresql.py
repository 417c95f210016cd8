"""What only a server has: its own time, connections that are cut, schemas that others upgrade."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from storage import (
    LeaseTaken,
    SchemaTooNew,
    SchemaTooOld,
    Store,
    StoreDamaged,
    StoreUnavailable,
    open_store,
)
from storage.dialects import dialect
from storage.tables import REVISION, VERSION_TABLE, metadata
from storage.testing import ME, NOW, OTHER, change, entries_of, hold, session_record
from storage.threads import outcome
from storage.transactions.writing import create
from storage.watching import channel
from tests.storage.relay import Relay

psycopg = pytest.importorskip("psycopg", reason="no PostgreSQL driver: install the extra postgres")


@pytest.fixture
def url(new_store: Callable[[], str]) -> str:
    return new_store()


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("size", [1_100_000, 20_000_000])
async def test_a_text_larger_than_the_sockets_buffer_is_written(url: str, size: int) -> None:
    store = open_store(url)
    await store.open()
    title = "x" * size
    await asyncio.wait_for(store.create(replace(session_record("long"), title=title)), 60)
    assert (await store.load("long")).title == title
    await store.close()


async def test_a_schema_that_is_missing_or_too_new(new_database: Callable[[], str]) -> None:
    url = new_database()
    store = open_store(url)
    with pytest.raises(SchemaTooOld, match=r"no schema.*warmline db upgrade"):
        await store.open()
    assert await store.upgrade() == REVISION
    await store.open()
    await store.open()
    await store.close()
    execute(url, "UPDATE warmline_version SET version_num = '0000'")
    with pytest.raises(SchemaTooOld, match="schema 0000"):
        await store.open()
    execute(url, "UPDATE warmline_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew, match="9999"):
        await store.open()
    with pytest.raises(SchemaTooNew, match="9999"):
        await store.upgrade()
    execute(url, "DELETE FROM warmline_version")
    for work in (store.open, store.upgrade):
        with pytest.raises(StoreUnavailable, match=r"calls, decisions, entries, .* no record of who made them"):
            await work()
    with pytest.raises(StoreUnavailable, match=r"await open\(\) first"):
        await store.load("s")


@pytest.mark.parametrize("password", ["", ":hunter2"])
async def test_the_command_that_the_first_error_names_works(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    """As it is printed. A password stands in the environment only, and in no message."""
    url = new_database().replace("@", f"{password}@")
    store = open_store(url)
    with pytest.raises(SchemaTooOld, match=r"has no schema yet: run `") as raised:
        await store.open()
    assert "hunter2" not in str(raised.value)
    command = re.search("`(.+)`", str(raised.value))
    assert command is not None
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if password:
        monkeypatch.setenv("WARMLINE_STORE", url)
    upgrading = await asyncio.create_subprocess_shell(command[1], stdout=subprocess.DEVNULL)
    assert await upgrading.wait() == 0
    await store.open()
    await store.close()


async def test_the_tables_of_another_program_are_left_alone(new_database: Callable[[], str]) -> None:
    url = new_database()
    execute(url, "CREATE TABLE sessions (cookie text)")
    store = open_store(url)
    for work in (store.open, store.upgrade):
        with pytest.raises(StoreUnavailable, match=r"tables named sessions .* another program's.*\?schema=warmline"):
            await work()
    own = open_store(f"{url}&schema=warmline")
    with pytest.raises(SchemaTooOld, match=r"has no schema yet: run .*schema=warmline'"):
        await own.open()
    assert await own.upgrade() == await own.upgrade() == REVISION
    await own.open()
    await own.create(session_record())
    await own.close()
    made = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('public', 'warmline') ORDER BY 1"
    with psycopg.connect(url) as connection:
        found = [name for (name,) in connection.execute(made)]
    assert found == ["public.sessions", *sorted(f"warmline.{name}" for name in [*metadata.tables, VERSION_TABLE])]


async def test_schemas_of_one_database_hear_nothing_of_each_other(new_database: Callable[[], str]) -> None:
    url = new_database()
    execute(url, "CREATE SCHEMA one")  # its operator may have made it
    stores = [open_store(f"{url}&schema={name}") for name in ("one", "two")] + [open_store(url)]
    for store in stores:
        await store.upgrade()
        await store.open()
        await store.create(session_record())
    with psycopg.connect(url, autocommit=True) as ear:
        for schema in ("one", "two", None):
            ear.execute(f"LISTEN {channel(schema)}")
        heard = []
        for store in stores:
            lease = await hold(store)
            with contextlib.suppress(LeaseTaken):
                await store.acquire("s", OTHER, seconds=60, now=NOW, queue=60)
            await store.release(lease)
            await store.led("p", 1, ttl=None, alive=0, now=NOW)
            heard.append([notice.channel for notice in ear.notifies(timeout=0.5)])
    assert heard == [[channel(name)] * 2 for name in ("one", "two", None)]
    for store in stores:
        await store.close()


@pytest.mark.parametrize(
    "damage", ["DROP TABLE turns", "ALTER TABLE turns DROP COLUMN result", "ALTER TABLE turns RENAME TO rounds"]
)
async def test_a_schema_that_lacks_something_is_damaged(url: str, damage: str) -> None:
    execute(url, damage)
    with pytest.raises(StoreDamaged, match=r"has schema \d+, but lacks turns\..*: restore a copy"):
        await open_store(url).open()


async def test_a_version_table_that_is_none(new_database: Callable[[], str]) -> None:
    url = new_database()
    execute(url, f"CREATE TABLE {VERSION_TABLE} (other text)")
    with pytest.raises(SchemaTooOld, match="no schema yet"):
        await open_store(url).open()
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        await open_store(url).upgrade()


async def test_a_column_that_goes_under_a_store(url: str, store: Store) -> None:
    execute(url, "ALTER TABLE sessions DROP COLUMN gaps")
    with pytest.raises(StoreDamaged, match=r"has lost a column .*gaps.*: restore a copy"):
        await store.load("s")


async def test_a_page_of_a_server_that_is_damaged(url: str, store: Store) -> None:
    """What a server says of a page whose checksum is wrong."""
    wrong = "DO $$ BEGIN RAISE EXCEPTION 'invalid page in block 0' USING ERRCODE = 'XX001'; END $$"
    with pytest.raises(StoreDamaged, match=r"is damaged \(invalid page in block 0\): restore a copy"):
        await outcome(store.dialect.read(lambda db: db.raw.execute(wrong)))  # type: ignore[attr-defined]


async def test_a_user_without_rights(url: str) -> None:
    execute(url, "DROP ROLE IF EXISTS nobody", "CREATE ROLE nobody LOGIN")
    theirs = url.replace("postgres:@", "nobody@")
    for store in (open_store(theirs), open_store(f"{theirs}&schema=s")):
        with pytest.raises(StoreUnavailable, match=r"permission denied .*: grant its user the right to it"):
            await store.upgrade()
    with pytest.raises(StoreUnavailable, match=r"permission denied .*: grant its user the right to it"):
        await open_store(theirs).open()


async def test_a_pool_has_a_largest_size(url: str) -> None:
    store = open_store(f"{url}&pool_size=2&application_name=small")
    await store.open()
    begun = threading.Barrier(3, timeout=30)

    def work(db: Any) -> None:
        if len(first) < 2:
            first.append(1)
            begun.wait()

    first: list[int] = []
    reads = [asyncio.ensure_future(outcome(store.dialect.read(work))) for _ in range(6)]  # type: ignore[attr-defined]
    while len(first) < 2:
        await asyncio.sleep(0.01)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'small'"
    with psycopg.connect(url) as connection:
        assert connection.execute(count).fetchone() == (2,)
    await asyncio.to_thread(begun.wait)
    await asyncio.gather(*reads)
    with psycopg.connect(url) as connection:
        assert connection.execute(count).fetchone() == (2,)
    await store.close()


async def test_a_schema_dropped_under_a_store(url: str, store: Store) -> None:
    execute(url, "DROP TABLE sessions")
    with pytest.raises(SchemaTooOld):
        await store.load("s")


async def test_a_server_that_takes_no_writes_is_read_and_says_who_should_act(url: str, store: Store) -> None:
    """A standby, or a primary that its operator has closed for a move."""
    await store.create(session_record())
    name = make_url(url).database
    execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    closed = open_store(url)
    await closed.open()
    assert (await closed.load("s")).id == "s"
    for work in (closed.create(session_record("other")), closed.delete("s")):
        with pytest.raises(StoreUnavailable, match="is read-only: name the primary server"):
            await work
    await closed.close()
    again = f"ALTER DATABASE {name} RESET default_transaction_read_only"
    execute(url, "SET default_transaction_read_only = off", again)
    assert [one.id for one in await store.list()] == ["s"]


async def test_ancestors_in_a_circle_are_said(url: str, store: Store) -> None:
    await store.create(session_record(head="c"), entries_of("a", "b", "c"))
    execute(url, "UPDATE entries SET parent = 'c' WHERE id = 'b'")
    with pytest.raises(StoreDamaged, match="the entries before 'c' form a loop: restore a copy"):
        await store.chain("s", "c")


@pytest.mark.parametrize("depth", [-(2**63), -1, 0, 1, 2, 4, 2**62, 2**63 - 1])
async def test_a_damaged_depth_is_no_other_error(depth: int, url: str, store: Store) -> None:
    await store.create(session_record(head="c"), entries_of("a", "b", "c"))
    for damaged in "cb":
        execute(url, f"UPDATE entries SET depth = {depth} WHERE id = '{damaged}'")
        try:
            assert sorted(entry.id for entry in await store.chain("s", "c")) == ["a", "b", "c"]
        except StoreDamaged as error:
            assert "restore a copy" in str(error)


async def test_leases_go_by_the_time_of_the_server(store: Store) -> None:
    await store.create(session_record())
    lease = await store.acquire("s", ME, seconds=60, now=5.0)
    assert abs(lease.expires - 60 - time.time()) < 30
    with pytest.raises(LeaseTaken):
        await store.acquire("s", OTHER, seconds=60, now=1e12)
    assert (await store.renew(lease, seconds=120, now=5.0)).expires > lease.expires + 30


async def test_cut_connections_are_replaced(url: str, store: Store) -> None:
    await store.create(session_record())
    await asyncio.gather(*(store.load("s") for _ in range(8)))
    others = f"FROM pg_stat_activity WHERE datname = '{make_url(url).database}' AND pid <> pg_backend_pid()"
    execute(url, f"SELECT pg_terminate_backend(pid) {others}")
    assert (await store.load("s")).id == "s"


async def test_a_new_connection_that_is_cut_at_once_is_said(url: str) -> None:
    with Relay(url) as relay:
        relay.fate = lambda piece: "lose" if b"SELECT" in piece else "pass"
        with pytest.raises(StoreUnavailable, match="check the URL and that the server runs"):
            await open_store(relay.url).open()


async def test_a_failing_transaction_leaves_nothing_and_a_working_connection(store: Store) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        await store.create(session_record(settings=None))
    assert await store.list() == []
    before = store.statistics().writes
    await store.create(session_record())
    assert store.statistics().writes == before + 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("host=/nowhere", "check the URL"), ("connect_timeot=1", "connect_timeot.*check the URL")],
)
async def test_a_server_that_cannot_be_reached(wrong: str, words: str) -> None:
    store = open_store(f"postgresql://me:secret@/d?{wrong}")
    for work in (store.open, store.upgrade):
        with pytest.raises(StoreUnavailable, match=words) as raised:
            await work()
        assert "secret" not in str(raised.value)


async def test_many_writers_of_one_session_and_its_forks(store: Store) -> None:
    """Commits, forks and deletions of one tree at once end in a tree without gaps."""
    await store.create(session_record(head="c"), entries_of("a", "b", "c"))

    async def fork(number: int) -> None:
        name = f"f{number}"
        await store.create(session_record(name, tree="s", head="b"))
        lease = await hold(store, name)
        await store.commit(lease, change("b", name, entries=entries_of(name, after=entries_of("a", "b")[1])))
        if number % 2:
            await store.delete(name)

    await asyncio.gather(*(fork(number) for number in range(8)), store.delete("s"), return_exceptions=True)
    for session in await store.list():
        assert [entry.id for entry in await store.chain(session.id, session.head)][:2] == ["a", "b"]


async def test_a_fork_that_is_being_made_keeps_its_entries(url: str, store: Store) -> None:
    """The session is deleted at the same time: the deletion waits for the fork, and then takes it into account."""
    await store.create(session_record(head="b"), entries_of("a", "b"))
    made, go = threading.Event(), threading.Event()

    def fork(db: Any) -> None:
        create(db, session_record("f", tree="s", head="b"), (), ())
        made.set()
        go.wait(10)

    forking = asyncio.ensure_future(outcome(store.dialect.write(fork)))
    await asyncio.to_thread(made.wait, 10)
    deleting = asyncio.ensure_future(store.delete("s"))
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(waits).fetchone() is None:
            await asyncio.sleep(0.01)
    go.set()
    await asyncio.gather(forking, deleting)
    assert [entry.id for entry in await store.chain("f", "b")] == ["a", "b"]


async def test_a_fork_keeps_its_entries_when_all_that_it_waited_for_is_gone(url: str, store: Store) -> None:
    """It waits for the session that is deleted; meanwhile another fork has come, and is deleted before it is done."""
    await store.create(session_record(head="b"), entries_of("a", "b"))
    events = {name: threading.Event() for name in ("first made", "first", "second made", "second")}

    def fork(db: Any, name: str, order: str) -> None:
        create(db, session_record(name, tree="s", head="b"), (), ())
        events[f"{order} made"].set()
        assert events[order].wait(30)

    def waiting(number: int) -> bool:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        with psycopg.connect(url, autocommit=True) as connection:
            return bool(connection.execute(query).fetchone() == (number,))

    first = asyncio.ensure_future(outcome(store.dialect.write(partial(fork, name="f1", order="first"))))  # type: ignore[attr-defined]
    await asyncio.to_thread(events["first made"].wait, 30)
    deleting = asyncio.ensure_future(store.delete("s"))
    while not waiting(1):
        await asyncio.sleep(0.01)
    second = asyncio.ensure_future(outcome(store.dialect.write(partial(fork, name="f2", order="second"))))  # type: ignore[attr-defined]
    while not waiting(2):
        await asyncio.sleep(0.01)
    events["first"].set()
    await asyncio.gather(first, deleting)
    await asyncio.to_thread(events["second made"].wait, 30)
    last = asyncio.ensure_future(store.delete("f1"))
    while not (last.done() or waiting(1)):
        await asyncio.sleep(0.01)
    events["second"].set()
    await asyncio.gather(second, last)
    assert [entry.id for entry in await store.chain("f2", "b")] == ["a", "b"]


async def test_closing_lets_a_read_finish(store: Store) -> None:
    await store.create(session_record())
    reading = asyncio.create_task(
        outcome(store.dialect.read(lambda db: db.raw.execute("SELECT pg_sleep(0.2)").fetchall()))
    )
    await asyncio.sleep(0)
    await store.close()
    assert len(await reading) == 1


async def test_a_server_is_copied_by_its_own_program(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="use pg_dump"):
        dialect(url).backup(tmp_path / "copy")

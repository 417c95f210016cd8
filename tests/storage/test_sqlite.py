"""Files that cannot be used are refused by name, with nothing created and nothing changed; the good ones open fast."""

# ruff: noqa: ASYNC240  # nothing else runs on these loops, so they may block

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import sqlite3
import threading
from pathlib import Path

import pytest

from storage import (
    LeaseGone,
    SchemaTooNew,
    Store,
    StoreDamaged,
    StoreUnavailable,
    open_store,
)
from storage.sqlite import APPLICATION, SQLite, SQLiteDatabase
from storage.sqlite.database import BUSY_TIMEOUT
from storage.sqlite.schema import create, write_ahead
from storage.tables import REVISION
from storage.testing import (
    NOW,
    OTHER,
    call_record,
    change,
    entries_of,
    hold,
    session_record,
    turn_record,
)
from storage.threads import outcome
from storage.transactions import Database
from storage.transactions.listing import page
from tests.storage.refusals import refused


async def test_relative_and_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url, name in (("sqlite:///a.db", "a.db"), (f"sqlite:///{tmp_path}/b ö%.db", "b ö%.db")):
        store = open_store(url)
        await store.open()
        await store.close()
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///"])
async def test_memory_is_private_to_its_store(url: str) -> None:
    one, other = open_store(url), open_store(url)
    await one.open()
    await other.open()
    await one.create(session_record())
    assert (len(await one.list()), len(await other.list())) == (1, 0)
    await one.close()
    await other.close()


def test_only_a_file_is_shared_with_other_processes(url: str) -> None:
    assert open_store(url).is_shared
    assert not open_store("sqlite://").is_shared


@pytest.mark.parametrize(
    "url", ["", "chat.db", "sqlite:/x", "sqlite://host/x.db", "sqlite:///x.db?mode=ro", "mysql://h/d"]
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"sqlite:///path.*postgresql://"):
        open_store(url)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(StoreUnavailable) as raised:
        open_store("mysql://me:secret@host/d")
    assert "secret" not in str(raised.value)


async def test_a_directory_is_no_file(tmp_path: Path) -> None:
    await refused(f"sqlite:///{tmp_path}", StoreUnavailable, "is a directory: name a file in it")


async def test_directories_are_not_created(tmp_path: Path) -> None:
    await refused(f"sqlite:///{tmp_path}/no/chat.db", StoreUnavailable, "does not exist: create it")
    assert not list(tmp_path.iterdir())


async def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    await refused(f"sqlite:///{tmp_path}/{'x' * 300}/chat.db", StoreUnavailable, "check the path")


def test_the_log_is_turned_on_when_others_let_go(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        tries: list[str] = []

        class Watched(sqlite3.Connection):
            def execute(self, statement: str) -> sqlite3.Cursor:  # type: ignore[override]
                tries.append(statement)
                if len(tries) == 3:
                    other.execute("ROLLBACK")
                return super().execute(statement)

        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0, factory=Watched)) as raw:
            write_ahead(raw, BUSY_TIMEOUT)
            assert len(tries) == 3
            assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_of_two_who_create_the_schema_the_second_finds_it(path: Path) -> None:
    database = SQLite(str(path))
    database.open()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        create(raw, BUSY_TIMEOUT)
    database.close()


def test_the_log_is_not_waited_for_for_ever(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with (
            contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as raw,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            write_ahead(raw, -1.0)


@pytest.mark.parametrize("content", [b"not a database, but a text of some length\n" * 100, b"x" * 10])
async def test_a_file_that_is_no_database(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    await refused(f"sqlite:///{path}", StoreDamaged, "restore a copy, or name another file")
    assert path.read_bytes() == content


async def test_an_empty_file_becomes_a_store(path: Path, url: str) -> None:
    path.touch()
    store = open_store(url)
    await store.open()
    assert await store.list() == []
    await store.close()


async def test_the_database_of_another_program(path: Path, url: str) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE sessions (id)")
    raw.close()
    content = path.read_bytes()
    await refused(url, StoreUnavailable, "another program: name another file")
    assert path.read_bytes() == content


async def test_a_database_of_a_newer_version(path: Path, url: str) -> None:
    store = open_store(url)
    assert await store.upgrade() == REVISION
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE warmline_version SET version_num = '9999'")
    raw.close()
    content = path.read_bytes()
    await refused(url, SchemaTooNew, "9999.*install a newer warmline")
    with pytest.raises(SchemaTooNew):
        await store.upgrade()
    assert path.read_bytes() == content


async def test_a_program_error_stays_what_it_is(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await store.create(session_record(settings=None))
    assert await store.list() == []


async def test_opening_and_closing_twice(url: str) -> None:
    store = open_store(url)
    await store.open()
    await store.open()
    assert await store.upgrade() == REVISION
    await store.create(session_record())
    await store.close()
    await store.close()
    assert store.statistics().writes == 0
    with pytest.raises(StoreUnavailable, match=r"await open\(\) first"):
        await store.create(session_record("t"))
    await store.open()
    assert len(await store.list()) == 1
    await store.close()


async def test_closing_lets_a_read_finish(store: Store) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(db: SQLiteDatabase) -> int:
        begun.set()
        assert go_on.wait(60)
        return len(db.raw.execute("SELECT 1").fetchall())

    reading = asyncio.create_task(outcome(store.dialect.read(work)))
    await asyncio.to_thread(begun.wait)
    await store.close()
    go_on.set()
    assert await reading == 1


async def test_exactly_one_of_key_and_id(store: Store) -> None:
    for wrong in ({}, {"key": "k", "id": "t"}):
        with pytest.raises(ValueError, match="either key or id"):
            await store.turn("s", **wrong)


def open_and_write(url: str, name: str) -> None:
    async def main() -> None:
        store = open_store(url)
        await store.open()
        await store.create(session_record(name))
        await store.close()

    asyncio.run(main())


async def test_processes_that_create_one_file_at_once(url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=open_and_write, args=(url, f"s{i}")) for i in range(4)]
    for child in children:
        child.start()
    for child in children:
        await asyncio.to_thread(child.join)
    assert [child.exitcode for child in children] == [0] * 4
    store = open_store(url)
    await store.open()
    assert len(await store.list()) == 4
    await store.close()


async def test_a_cancelled_acquire_holds_nothing(store: Store) -> None:
    await store.create(session_record())
    task = asyncio.create_task(hold(store))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other = await store.acquire("s", OTHER, seconds=60, now=NOW)
    assert other.token == 2
    failing = asyncio.create_task(hold(store))
    await asyncio.sleep(0)
    failing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await failing


async def test_a_cancelled_commit_is_whole(store: Store) -> None:
    await store.create(session_record())
    lease = await hold(store)
    task = asyncio.create_task(store.commit(lease, change(None, "b", entries=entries_of("a", "b"))))
    await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store.load("s")).head == "b"


async def test_an_error_that_somebody_keeps_keeps_nothing_open(url: str, store: Store) -> None:
    """Its traceback holds the answers that were not read; the writes behind it are none of its business."""
    await store.create(session_record())
    stale = await hold(store)
    turned = change(None, None, turn=turn_record(), calls=(call_record("c"), call_record("d")))
    await store.commit(stale, turned)
    await store.acquire("s", OTHER, seconds=60, now=stale.expires + 1)
    (kept,) = await asyncio.gather(store.commit(stale, turned), return_exceptions=True)
    other = open_store(url)
    await other.open()
    await other.create(session_record("of another process"))
    await store.create(session_record("behind it"))
    assert isinstance(kept, LeaseGone)
    await other.close()


async def test_an_error_that_a_reader_keeps_keeps_nothing_open(store: Store) -> None:
    """Else what a later reader finds would be what the first one found."""
    await store.create(session_record())
    await store.create(session_record("t"))

    def failing(db: Database) -> None:
        answer = db.run(page(frozenset()), {"limit": 9})
        raise ZeroDivisionError(answer)

    (kept,) = await asyncio.gather(outcome(store.dialect.read(failing)), return_exceptions=True)
    await store.delete("t")
    assert [one.id for one in await store.list()] == ["s"]
    assert isinstance(kept, ZeroDivisionError)


async def test_who_finds_it_locked_is_told_of_no_wait_that_was_not(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.sqlite.database.BUSY_TIMEOUT", 0.0)
    other = open_store(f"sqlite:///{path}")
    await other.open()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process keeps it locked; try again"):
            await other.create(session_record())
    await other.close()


def in_a_fork(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="open a store of its own here"):
        asyncio.run(store.list())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # what is tested
def test_a_store_is_not_used_across_a_fork(url: str) -> None:
    store = open_store(url)
    asyncio.run(store.open())
    child = multiprocessing.get_context("fork").Process(target=in_a_fork, args=(store,))
    child.start()
    child.join(30)
    asyncio.run(store.close())
    assert child.exitcode == 0


def test_the_mark_is_four_letters() -> None:
    assert APPLICATION.to_bytes(4, "big") == b"WARM"


async def test_a_backup_is_a_database_and_another_programs_is_none(path: Path, url: str, tmp_path: Path) -> None:
    store = open_store(url)
    await store.open()
    await store.create(session_record(title="kept"))
    SQLite(str(path)).backup(tmp_path / "copy.db")  # while it is in use
    await store.close()
    copy = open_store(f"sqlite:///{tmp_path / 'copy.db'}")
    await copy.open()
    assert (await copy.load("s")).title == "kept"
    await copy.close()
    sqlite3.connect(tmp_path / "foreign.db").close()
    with pytest.raises(StoreUnavailable, match="another program"):
        SQLite(str(tmp_path / "foreign.db")).backup(tmp_path / "none.db")

"""Files that cannot be used are refused by name, with nothing created and nothing changed; the good ones open fast."""

# ruff: noqa: ASYNC240  # nothing else runs on these loops, so they may block

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from storage import (
    LeaseGone,
    PromptRecord,
    SchemaTooNew,
    SchemaTooOld,
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
    tool_call_record,
    turn_record,
)
from storage.threads import outcome
from storage.transactions import Database
from storage.transactions.statements import listing


async def refused(url: str, kind: type[Exception], words: str) -> None:
    store = open_store(url)
    with pytest.raises(kind, match=words):
        await store.open()
    with pytest.raises(StoreUnavailable, match=r"await open\(\) first"):
        await store.load("s")
    await store.close()


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


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a directory where nobody can write")
async def test_a_directory_without_write_access() -> None:
    await refused("sqlite:////proc/self/chat.db", StoreUnavailable, "check the path and your rights")


as_nobody = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become a user without rights"
)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Does what is inside as a user without rights."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
async def others() -> AsyncIterator[Path]:
    """A database with one session, in a directory that everybody can reach."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chat ö%.db"
        path.parent.chmod(0o777)
        await write(path, "s")
        path.chmod(0o644)
        yield path


async def write(path: Path, session: str) -> None:
    store = open_store(f"sqlite:///{path}")
    await store.open()
    await store.create(session_record(session))
    await store.close()


@as_nobody
async def test_a_file_that_may_only_be_read(others: Path) -> None:
    others.chmod(0o444)
    with nobody():
        await refused(f"sqlite:///{others}", StoreUnavailable, "cannot be written; change their rights")


@as_nobody
@pytest.mark.parametrize("rights", [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)])
@pytest.mark.parametrize("live", [False, True])
async def test_who_only_reads_may_be_forbidden_to_write(others: Path, rights: tuple[int, int], live: bool) -> None:
    writer = open_store(f"sqlite:///{others}")
    if live:
        await writer.open()
        await writer.create(session_record("t"))
    others.chmod(rights[0])
    others.parent.chmod(rights[1])
    before = {path: path.read_bytes() for path in others.parent.iterdir() if path.suffix != ".db-shm"}
    store = open_store(f"sqlite:///{others}", reading=True)
    with nobody():
        await store.open()
        assert len(await store.list()) == 1 + live
        with pytest.raises(StoreUnavailable, match="cannot be written; change their rights"):
            await store.create(session_record("new"))
        await store.close()
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(others.parent.iterdir())) == len(before) + live
    await writer.close()


@as_nobody
async def test_a_file_without_any_rights(others: Path) -> None:
    others.chmod(0)
    for reading in (False, True):
        store = open_store(f"sqlite:///{others}", reading=reading)
        with nobody(), pytest.raises(StoreUnavailable, match="your rights to the file and its directory"):
            await store.open()


@as_nobody
async def test_an_older_schema_that_may_only_be_read(others: Path) -> None:
    with contextlib.closing(sqlite3.connect(others)) as raw:
        raw.execute("UPDATE warmline_version SET version_num = '0000'")
        raw.commit()
    others.chmod(0o444)
    store = open_store(f"sqlite:///{others}", reading=True)
    with nobody(), pytest.raises(SchemaTooOld, match=r"0000.*warmline db upgrade"):
        await store.open()


async def test_who_only_reads_and_may_write_is_no_different(url: str) -> None:
    for one in (url, "sqlite://"):
        store = open_store(one, reading=True)
        await open_store(one).upgrade()
        await store.open()
        await store.create(session_record())
        await store.close()


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


@pytest.fixture
async def damaged(path: Path, url: str) -> Path:
    """A database with one page overwritten."""
    store = open_store(url)
    await store.open()
    await store.create(session_record(head="e199"), entries_of(*(f"e{i}" for i in range(200))))
    await store.close()
    content = bytearray(path.read_bytes())
    with sqlite3.connect(path) as raw:
        (page,) = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries_id'").fetchone()
        (size,) = raw.execute("PRAGMA page_size").fetchone()
    raw.close()
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("log", [False, True])
async def test_a_damaged_file_is_not_upgraded(damaged: Path, url: str, log: bool) -> None:
    with contextlib.closing(sqlite3.connect(damaged)) as other:
        if log:  # somebody has it open, and has written into the log
            other.execute("PRAGMA user_version = 7")
            other.commit()
        before = damaged.read_bytes()
        with pytest.raises(StoreDamaged, match=r"is damaged .*: restore a copy"):
            await open_store(url).upgrade()
        assert damaged.read_bytes() == before
        assert len(list(damaged.parent.iterdir())) == (3 if log else 1)


async def test_a_damaged_page_is_said(damaged: Path, url: str) -> None:
    store = open_store(url)
    await store.open()
    with pytest.raises(StoreDamaged, match="restore a copy"):
        await store.chain("s", "e199")
    with pytest.raises(StoreDamaged, match="restore a copy"):
        await store.create(session_record("new", tree="s", head="e"))
    await store.close()


async def flip(path: Path, words: str) -> None:
    """Sets the high bit of the first letter of those words, wherever in the file they stand."""
    content = path.read_bytes()
    assert words.encode() in content
    path.write_bytes(content.replace(words.encode(), bytes([ord(words[0]) | 0x80]) + words[1:].encode()))


async def test_a_flipped_bit_in_a_text_is_said_without_the_text(path: Path, url: str) -> None:
    store = open_store(url)
    await store.open()
    await store.create(session_record(title="Rome in May"))
    await store.close()
    await flip(path, "Rome in May")
    await store.open()
    for look in (store.load("s"), store.list(), store.list(search="may")):
        with pytest.raises(StoreDamaged, match=r"is damaged .*: restore a copy") as caught:
            await look
        assert "May" not in str(caught.value)
    await store.close()


async def test_a_flipped_bit_in_a_cost_is_said(path: Path, url: str) -> None:
    store = open_store(url)
    await store.open()
    await store.create(session_record())
    await store.record(call_record(cost=Decimal("0.123456789")))
    await store.close()
    await flip(path, "0.123456789")
    await store.open()
    with pytest.raises(StoreDamaged, match=r"is damaged .*: restore a copy"):
        await store.totals()
    await store.close()


async def test_a_missing_ancestor_is_said(path: Path, url: str, store: Store) -> None:
    await store.create(session_record(head="c"), entries_of("a", "b", "c"))
    with sqlite3.connect(path) as raw:
        raw.execute("DELETE FROM entries WHERE id = 'a'")
    raw.close()
    with pytest.raises(StoreDamaged, match=r"entry 'a', before 'c', is gone"):
        await store.chain("s", "c")


async def test_a_missing_head_is_said_to_who_reads_the_session(path: Path, store: Store) -> None:
    await store.create(session_record(head="b"), entries_of("a", "b"))
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("DELETE FROM entries WHERE id = 'b'")
        raw.commit()
    with pytest.raises(StoreDamaged, match="entry 'b', the head of 's', is gone: restore a copy"):
        await store.read("s", calls=1)


async def test_a_column_that_is_gone_is_said(path: Path, store: Store) -> None:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("ALTER TABLE turns DROP COLUMN reply")
    with pytest.raises(StoreDamaged, match=r"no such column.*restore a copy"):
        await store.turns("s")


@pytest.mark.parametrize("cost", ["1.x", "", b"1"])
async def test_a_price_that_is_no_number_is_said(path: Path, store: Store, cost: object) -> None:
    await store.create(session_record())
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE sessions SET cost = ?", (cost,))
        raw.commit()
    for work in (store.load("s"), store.record(call_record())):
        with pytest.raises(StoreDamaged, match="a stored price is no number any more: restore a copy"):
            await work


async def test_a_time_that_is_none_is_said(path: Path, store: Store) -> None:
    await store.create(session_record(), calls=[call_record()])
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE calls SET started = 1e300")
        raw.commit()
    with pytest.raises(StoreDamaged, match="the time of a stored call is none any more: restore a copy"):
        await store.totals("day")


async def test_ancestors_in_a_circle_are_said(path: Path, url: str, store: Store) -> None:
    await store.create(session_record(head="c"), entries_of("a", "b", "c"))
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE entries SET parent = 'c' WHERE id = 'b'")
    raw.close()
    with pytest.raises(StoreDamaged, match="the entries before 'c' form a loop: restore a copy"):
        await store.chain("s", "c")


@pytest.mark.parametrize("depth", [-(2**63), -1, 0, 1, 2, 4, 2**62, 2**63 - 1])
async def test_a_damaged_depth_is_no_other_error(depth: int, path: Path, store: Store) -> None:
    """Whether the chain is read (for `verify` to name the entry) or damage is said: never anything else."""
    entries = entries_of("a", "b", "c")
    await store.create(session_record(head="c"), entries)
    for damaged in "cb":
        with sqlite3.connect(path) as raw:
            raw.execute("UPDATE entries SET depth = ? WHERE id = ?", (depth, damaged))
        raw.close()
        try:
            assert sorted(entry.id for entry in await store.chain("s", "c")) == ["a", "b", "c"]
        except StoreDamaged as error:
            assert "restore a copy" in str(error)


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


async def test_what_is_deleted_cannot_be_read_from_the_file(path: Path, store: Store) -> None:
    secret = "a phrase that nobody else writes"
    entry = entries_of("e")[0]
    await store.create(session_record(title=secret, head="e"), [entry])
    await store.delete("s")
    await store.close()
    assert secret.encode() not in path.read_bytes()


SECRET = b"a phrase that nobody else writes"


def told(path: Path) -> list[str]:
    """The files of the database in which the secret stands."""
    return [one.name for one in sorted(path.parent.iterdir()) if SECRET in one.read_bytes()]


async def keep_secret(store: Store) -> None:
    """Wherever a session keeps words."""
    secret = SECRET.decode()
    (entry,) = entries_of("e")
    call = call_record(error=secret, prompt="p")
    await store.create(
        session_record(metadata=secret, head="e"), [entry._replace(content=f'"{secret}{"." * 9000}"')], [call]
    )
    await store.record(call_record("d"), PromptRecord("p", secret))
    lease = await hold(store)
    journal = (tool_call_record(content=secret),)
    turned = change("e", "e", turn=turn_record(error=secret, key=secret), tool_calls=journal, title=secret)
    await store.commit(lease, turned)


async def test_what_is_deleted_is_in_no_file_while_the_store_is_open(path: Path, store: Store) -> None:
    await keep_secret(store)
    await store.list(search="nobody else")
    assert told(path) == ["chat.db-wal"]
    await store.delete("s")
    assert told(path) == []


async def test_what_is_deleted_goes_when_its_last_reader_has_ended(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader in another process still needs the log. Nothing else has to be written for it to go."""
    await keep_secret(store)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT title FROM sessions").fetchone()
        await store.delete("s")
        assert "chat.db-wal" in told(path)
    ((name, level, words),) = caplog.record_tuples
    assert (name, level) == ("storage", logging.WARNING)
    assert "deleted words stay in the write-ahead log" in words
    for _ in range(600):
        if not told(path):
            break
        await asyncio.sleep(0.05)
    assert told(path) == []


async def test_new_files_are_their_owners_only(path: Path, store: Store) -> None:
    await store.create(session_record())
    modes = {one.name: one.stat().st_mode & 0o777 for one in path.parent.iterdir()}
    assert modes == {"chat.db": 0o600, "chat.db-wal": 0o600, "chat.db-shm": 0o600}


@pytest.mark.parametrize("mode", [0o640, 0o666])
async def test_the_rights_to_a_file_that_exists_are_left(path: Path, url: str, mode: int) -> None:
    path.touch()
    path.chmod(mode)
    store = open_store(url)
    await store.open()
    await store.create(session_record())
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {mode}
    await store.close()


async def test_the_target_of_a_link_is_private_too(path: Path) -> None:
    path.with_name("link.db").symlink_to(path)
    store = open_store(f"sqlite:///{path.with_name('link.db')}")
    await store.open()
    assert path.stat().st_mode & 0o777 == 0o600
    await store.close()


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
        answer = db.run(listing(owner=False, before=False, search=False, prefix=False), {"limit": 9})
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

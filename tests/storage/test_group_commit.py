"""Writes that arrive together share a transaction, and each gets its own answer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import HeadMoved, Store, StoreUnavailable
from storage.sqlite import SQLite, SQLiteDatabase
from storage.sqlite.group import GroupCommit
from storage.testing import change, entries_of, hold, session_record
from storage.transactions import Database


async def test_many_committers_share_few_transactions(store: Store) -> None:
    leases = []
    for number in range(50):
        await store.create(session_record(f"s{number}"))
        leases.append(await hold(store, f"s{number}"))
    before = store.statistics()

    async def work(number: int) -> int:
        refused, entries = 0, entries_of(*"abcdefghij")
        for last, entry in zip((None, *entries), entries, strict=False):
            try:
                await store.commit(leases[number], change("wrong", entry.id, entries=(entry,)))
            except HeadMoved:
                refused += 1
            await store.commit(leases[number], change(last and last.id, entry.id, entries=(entry,)))
        return refused

    assert await asyncio.gather(*map(work, range(50))) == [10] * 50
    for number in range(50):
        assert [entry.id for entry in await store.chain(f"s{number}", "j")] == list("abcdefghij")
    after = store.statistics()
    assert after.writes - before.writes == 500
    assert after.transactions - before.transactions < 250


@pytest.fixture
def raw(path: Path) -> sqlite3.Connection:
    raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    raw.execute("PRAGMA foreign_keys = ON")
    raw.execute("CREATE TABLE words (word TEXT PRIMARY KEY)")
    raw.execute("CREATE TABLE said (word TEXT REFERENCES words (word) DEFERRABLE INITIALLY DEFERRED)")
    return raw


@pytest.fixture
def writer(raw: sqlite3.Connection) -> Iterator[GroupCommit]:
    writer = GroupCommit(raw, SQLiteDatabase(raw), lambda error: error)
    yield writer
    writer.close()


class Together:
    """Holds the writer until all the jobs of a test wait for it, so that they share one transaction."""

    def __init__(self, writer: GroupCommit) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        writer.submit(self._wait)
        assert self.reached.wait(30)

    def _wait(self, db: Database) -> None:
        self.reached.set()
        assert self.opened.wait(30)


def words(path: Path) -> list[str]:
    with sqlite3.connect(path) as other:
        found = [word for (word,) in other.execute("SELECT word FROM words ORDER BY word")]
    other.close()
    return found


def add(word: str, *, fail: bool = False, undo: bool = False, dangle: bool = False):  # type: ignore[no-untyped-def]
    def work(db: Database) -> str:
        assert isinstance(db, SQLiteDatabase)
        db.raw.execute("INSERT INTO words VALUES (?)", (word,))
        if dangle:
            db.raw.execute("INSERT INTO said VALUES ('unknown')")
        if undo:
            db.raw.execute("ROLLBACK")
        if fail:
            raise ValueError(word)
        return word

    return work


def test_a_failing_write_is_undone_alone(writer: GroupCommit, path: Path) -> None:
    together = Together(writer)
    jobs = [writer.submit(add(word, fail=word == "b")) for word in "abc"]
    together.opened.set()
    assert [jobs[0].result(30), jobs[2].result(30)] == ["a", "c"]
    with pytest.raises(ValueError, match="b"):
        jobs[1].result(30)
    assert words(path) == ["a", "c"]
    assert (writer.statistics.writes, writer.statistics.transactions) == (3, 2)


def test_when_the_commit_fails_everyone_hears_of_it(writer: GroupCommit, path: Path) -> None:
    together = Together(writer)
    jobs = [writer.submit(add(word, dangle=word == "b", fail=word == "c")) for word in "abc"]
    together.opened.set()
    for job in jobs[:2]:
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            job.result(30)
    with pytest.raises(ValueError, match="c"):
        jobs[2].result(30)
    assert words(path) == []
    assert writer.submit(add("d")).result(30) == "d"
    assert words(path) == ["d"]


def test_when_the_transaction_is_lost_everyone_hears_of_it(writer: GroupCommit, path: Path) -> None:
    together = Together(writer)
    jobs = [writer.submit(add(word, undo=word == "b", fail=word == "b")) for word in "abc"]
    together.opened.set()
    for job in jobs:
        with pytest.raises(ValueError, match="b"):
            job.result(30)
    assert words(path) == []


def test_an_undurable_write_waits_for_no_disk(writer: GroupCommit, raw: sqlite3.Connection, path: Path) -> None:
    def synchronous(db: Database) -> int:
        return int(raw.execute("PRAGMA synchronous").fetchone()[0])

    assert writer.submit(synchronous, durable=False).result(30) == 1
    assert writer.submit(synchronous).result(30) == 2
    together = Together(writer)
    jobs = [writer.submit(synchronous, durable=durable) for durable in (False, True)]
    together.opened.set()
    assert [job.result(30) for job in jobs] == [2, 2]


def test_closing_finishes_what_waits_and_refuses_what_comes_later(raw: sqlite3.Connection, path: Path) -> None:
    writer = GroupCommit(raw, SQLiteDatabase(raw), lambda error: error)
    together = Together(writer)
    job = writer.submit(add("a"))
    closing = threading.Thread(target=writer.close)
    closing.start()
    together.opened.set()
    closing.join(30)
    assert job.result(0) == "a"
    assert words(path) == ["a"]
    with pytest.raises(StoreUnavailable, match="open it again"):
        writer.submit(add("b"))


def test_a_full_disk_is_said_and_nothing_is_kept(path: Path) -> None:
    database = SQLite(str(path))
    database.open()

    def shrink(db: Database) -> None:
        assert isinstance(db, SQLiteDatabase)
        (pages,) = db.raw.execute("PRAGMA page_count").fetchone()
        db.raw.execute(f"PRAGMA max_page_count = {pages}")

    def fill(db: Database) -> None:
        assert isinstance(db, SQLiteDatabase)
        db.raw.execute("CREATE TABLE big (text)")
        db.raw.execute("INSERT INTO big VALUES (?)", ("x" * 1_000_000,))

    database.write(shrink).result(30)
    with pytest.raises(StoreUnavailable, match="the disk is full; free some space"):
        database.write(fill).result(30)
    database.close()
    assert sqlite3.connect(path).execute("SELECT 1 FROM sqlite_master WHERE name = 'big'").fetchone() is None


def test_a_log_that_cannot_be_emptied_undoes_nothing(
    writer: GroupCommit, raw: sqlite3.Connection, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("INSERT INTO words VALUES ('one'), ('two')")
    unread = raw.execute("SELECT word FROM words")

    def forget(db: Database) -> None:
        raw.execute("DELETE FROM words WHERE word = 'one'")
        db.forget()

    for _ in range(2):
        writer.submit(forget).result(30)
    assert words(path) == ["two"]
    assert [one.getMessage() for one in caplog.records] == [
        "deleted words stay in the write-ahead log (database table is locked): it is tried again every second"
    ]
    unread.close()
    writer.submit(lambda db: None).result(30)
    assert path.with_name("chat.db-wal").stat().st_size == 0

"""What is not as it was written is said, by name and without the words in it; nothing is ever repaired."""

# ruff: noqa: ASYNC240  # nothing else runs on these loops, so they may block

from __future__ import annotations

import contextlib
import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest

from storage import (
    Store,
    StoreDamaged,
    open_store,
)
from storage.testing import (
    call_record,
    entries_of,
    session_record,
)


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

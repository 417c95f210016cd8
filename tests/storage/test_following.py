"""What the contract cannot see of followers and relays: rows of no use go, and nothing else is written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from storage import Store
from storage.testing import change, entries_of, hold, relay_record, session_record, turn_record
from storage.transactions.following import LONGEST, SWEPT


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as raw:
        return raw.execute(f"SELECT * FROM {table}").fetchall()


async def test_followers_that_lapsed_go_as_others_come(store: Store, path: Path) -> None:
    for number in range(SWEPT + 20):
        await store.follow("s", f"r{number}", seconds=0.5, now=1.0)
    await store.follow("s", "late", seconds=10, now=2.0)
    assert len(rows(path, "followers")) == 20 + 1
    await store.follow("s", "later", seconds=10, now=3.0)
    assert [follower.reader for follower in await store.followed(now=3.0)] == ["late", "later"]
    assert len(rows(path, "followers")) == 2


async def test_a_follower_of_before_a_reboot_does_not_count_and_goes(store: Store, path: Path) -> None:
    """The clock of leases begins anew with the machine: what was said by the old one would last for days."""
    await store.follow("s", "before", seconds=10, now=1_000_000.0)
    assert await store.followed(now=5.0) == []
    await store.follow("s", "now", seconds=LONGEST, now=5.0)
    assert [row[1] for row in rows(path, "followers")] == ["now"]
    assert [follower.reader for follower in await store.followed(now=5.0)] == ["now"]


async def test_following_and_relaying_write_nothing_else(store: Store, path: Path) -> None:
    await store.create(session_record())
    turn = turn_record()
    await store.commit(await hold(store), change(None, "a", entries=entries_of("a"), turn=turn))
    others = ("sessions", "entries", "turns", "calls", "tool_calls", "decisions", "prompts", "warmups")
    before = [rows(path, table) for table in others]
    await store.follow("s", "r", seconds=10, now=1.0)
    await store.relay([relay_record(), relay_record("b")])
    await store.unfollow("s", "r")
    await store.end_relays(before=0.0)
    assert [rows(path, table) for table in others] == before


@pytest.mark.parametrize("count", [1, 500])
async def test_all_rows_of_a_relay_are_one_write(store: Store, path: Path, count: int) -> None:
    written = store.statistics().writes
    await store.relay([relay_record(str(number), content="x" * 1000) for number in range(count)])
    assert store.statistics().writes == written + 1
    assert [row.id for row in await store.relayed("s", "t")] == [str(number) for number in range(count)]

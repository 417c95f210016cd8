"""What the contract cannot see: rows of no use go, nothing idle is read, a cancelled caller leads nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from storage import Store, open_store
from storage.testing import ME, OTHER
from storage.transactions.following import RELAYED
from storage.transactions.listing import page
from storage.transactions.statements import (
    ALL_QUEUED,
    CLAIM_DUE,
    DELETE_WARMUPS,
    LOAD,
    OPEN,
    QUEUED,
    RUNNING,
    TURNS_BACK,
    Statement,
)


def rows(path: Path) -> int:
    raw = sqlite3.connect(path)
    (count,) = raw.execute("SELECT count(*) FROM warmups").fetchone()
    raw.close()
    return int(count)


async def test_rows_of_no_use_go_as_others_come(store: Store, path: Path) -> None:
    for number in range(300):
        now = float(number)
        warmup = await store.lead(f"p{number}", ME, seconds=10, now=now)
        if number % 2:
            await store.led(f"p{number}", warmup.token, ttl="5m", alive=5.0, now=now)
    await store.lead("last", ME, seconds=10, now=301.0)
    assert rows(path) == 1 + 4 + 2  # itself, leaders whose ten seconds last, and what lives for five


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (CLAIM_DUE, "sessions_due"),
        (RUNNING, "turns_open"),
        (ALL_QUEUED, "turns_queued"),
        (QUEUED, "turns_queued"),
        (DELETE_WARMUPS, "warmups_until"),
        (LOAD, "turns_sequence"),
        (page(frozenset({"parent"})), "sessions_forked_from"),
        (page(frozenset({"parent", "state"})), "turns_sequence"),
        (TURNS_BACK, "turns_sequence"),
        (OPEN, "turns_open"),
        (RELAYED, "relays_place"),
    ],
    ids=[
        "claim_due",
        "orphans",
        "orphans of the queue",
        "queued",
        "sweep",
        "state",
        "parent",
        "states",
        "turns",
        "open_turn",
        "relayed",
    ],
)
async def test_what_is_idle_is_not_read(store: Store, path: Path, statement: Statement, index: str) -> None:
    raw = sqlite3.connect(path)
    numbers = dict.fromkeys(("due", "now", "latest", "again", "limit", "after"), 1.0)
    texts = dict.fromkeys(("lease_holder", "session", "parent", "state", "turn"), "")
    values = {**numbers, **texts, **statement.fixed}
    plan = raw.execute(f"EXPLAIN QUERY PLAN {statement.text['sqlite']}", values).fetchall()
    raw.close()
    assert any(index in step[3] for step in plan)
    scanned = [step[3] for step in plan if step[3].startswith("SCAN") and index not in step[3]]
    assert not {"SCAN sessions", "SCAN turns", "SCAN warmups", "SCAN relays"} & set(scanned)


async def test_a_caller_that_asyncio_cancels_leads_nothing(url: str) -> None:
    store = open_store(url)
    await store.open()
    for rounds in range(6):
        task = asyncio.create_task(store.lead("p", OTHER, seconds=60, now=1.0))
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        try:
            quick = await task
        except asyncio.CancelledError:
            pass
        else:  # it had led before the cancellation
            await store.led("p", quick.token, ttl=None, alive=0.0, now=1.0)
        mine = await store.lead("p", ME, seconds=60, now=1.0)
        assert mine.state == "leading"
        await store.led("p", mine.token, ttl=None, alive=0.0, now=1.0)
    await store.close()


async def test_a_caller_cancelled_while_another_leads_takes_nothing_from_it(store: Store) -> None:
    leading = await store.lead("p", ME, seconds=60, now=1.0)
    task = asyncio.create_task(store.lead("p", OTHER, seconds=60, now=1.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    seen = await store.lead("p", OTHER, seconds=60, now=1.0)
    assert (seen.state, seen.token, seen.holder) == ("taken", leading.token, ME)

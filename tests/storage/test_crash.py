"""A process that is killed leaves whole commits and loses its lease at once; two processes never hold one session."""

# ruff: noqa: ASYNC230  # nothing else runs on these loops, so they may block

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from storage import Holder, LeaseTaken, Store, open_store
from storage.testing import call_record, change, entries_of, session_record, turn_record

spawn = multiprocessing.get_context("spawn")
HOUR = 3600.0


async def grow(url: str, told: Connection) -> None:
    """Commits one entry after the other, for ever, and tells of each after it is written."""
    store = open_store(url)
    await store.open()
    lease = await store.acquire("s", Holder.current(), seconds=HOUR, now=0.0)
    head, last = None, None
    for number in range(1_000_000):
        (entry,) = entries_of(f"e{number}", after=last)
        rows = {"calls": (call_record(f"c{number}", output=1),), "turn": turn_record(f"t{number}", sequence=number)}
        await store.commit(lease, change(head, entry.id, entries=(entry,), **rows))
        told.send(number)
        head, last = entry.id, entry


def run_grow(url: str, told: Connection) -> None:
    asyncio.run(grow(url, told))


@pytest.mark.parametrize("after", [1, 7, 30])
async def test_a_killed_writer(url: str, store: Store, after: int) -> None:
    await store.create(session_record())
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(target=run_grow, args=(url, theirs))
    child.start()
    acknowledged = -1
    while acknowledged < after:
        acknowledged = await asyncio.to_thread(ours.recv)
    with pytest.raises(LeaseTaken):
        await store.acquire("s", Holder.current(), seconds=HOUR, now=1.0)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    while ours.poll(0.2):
        acknowledged = ours.recv()
    lease = await store.acquire(
        "s", Holder.current(), seconds=HOUR, now=1.0
    )  # while the dead process is not reaped yet
    await asyncio.to_thread(child.join)

    session = await store.load("s")
    chain = await store.chain("s", session.head)
    written = len(chain)
    assert written in {acknowledged + 1, acknowledged + 2}  # the last one may be written and not told
    assert [entry.id for entry in chain] == [f"e{number}" for number in range(written)]
    assert [call.id for call in await store.calls("s")] == [f"c{number}" for number in range(written)]
    assert [turn.id for turn in await store.turns("s")] == [f"t{number}" for number in range(written)]
    assert (session.totals.calls, session.totals.turns, session.totals.output) == (written,) * 3
    assert lease.token == 2
    await store.commit(lease, change(session.head, None))


def compete(url: str, name: str, rounds: int, log: str) -> None:
    """Takes the lease again and again; marks in a shared file where it holds it."""

    async def main() -> None:
        store = open_store(url)
        await store.open()
        done = 0
        while done < rounds:
            try:
                lease = await store.acquire("s", Holder.current(), seconds=HOUR, now=0.0)
            except LeaseTaken:
                await asyncio.sleep(0.001)
                continue
            with Path(log).open("a", encoding="ascii") as marks:
                marks.write(f"+{name}\n")
                marks.flush()
                session = await store.load("s")
                last = await store.entry("s", session.head) if session.head else None
                (entry,) = entries_of(f"{name}{done}", after=last)
                await store.commit(lease, change(session.head, entry.id, entries=(entry,)))
                marks.write(f"-{name}\n")
            await store.release(lease)
            done += 1
        await store.close()

    asyncio.run(main())


async def test_processes_take_turns(url: str, store: Store, tmp_path: Path) -> None:
    await store.create(session_record())
    log = tmp_path / "log"
    children = [spawn.Process(target=compete, args=(url, name, 20, str(log))) for name in "abc"]
    for child in children:
        child.start()
    for child in children:
        await asyncio.to_thread(child.join)
    assert [child.exitcode for child in children] == [0] * 3
    marks = log.read_text(encoding="ascii").split()
    assert len(marks) == 120
    assert all(begin == f"+{end[1:]}" for begin, end in zip(marks[::2], marks[1::2], strict=True))
    chain = await store.chain("s", (await store.load("s")).head)
    assert sorted(entry.id for entry in chain) == sorted(f"{name}{number}" for name in "abc" for number in range(20))

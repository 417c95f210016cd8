"""The measurements: a writer in a process of its own, the followers here."""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

from sessions import SessionManager, Turn
from sessions.following.events import Delta
from storage import open_store
from tests.benchmarks.follow import writer
from tests.benchmarks.send import MODEL
from tests.benchmarks.speed.measures import Table, note, server

ROOT = Path(__file__).parents[3]


async def tables(turns: int = 64, rounds: int = 15, at_once: int = 100, followers: int = 1000) -> AsyncIterator[Table]:
    """All of it. `turns` on each database, followed in another process and by nobody; then `followers` of `at_once`."""
    with tempfile.TemporaryDirectory(prefix="follow", ignore_cleanup_errors=True) as name:
        root = Path(name)
        places = {"SQLite": f"sqlite:///{root}/a.db"}
        with server(root) as url:
            with psycopg.connect(url.format(database="postgres"), autocommit=True) as raw:
                raw.execute("CREATE DATABASE follow")
            places["PostgreSQL"] = url.format(database="follow")
            for kind, place in places.items():
                yield await elsewhere(place, turns, kind)
                yield await nobody(place, turns, rounds, kind)
        gc.collect()
        yield await together(root, at_once, followers)


class Writer:
    """A writer's process, and the ids of its sessions."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.sessions: list[str] = []

    async def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(await self._process.stdout.readline())


@asynccontextmanager
async def started(url: str, kind: str, turns: int, way: str) -> AsyncIterator[Writer]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.follow.writer", url, kind, str(turns), way]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, limit=1 << 20)
    found = Writer(process)
    try:
        found.sessions = await found.hear()
        yield found
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def elsewhere(url: str, turns: int, kind: str) -> Table:
    """So many answers at once, each of 25 pieces a second, nobody's and followed from here."""
    columns = ["writer: % of a core", "reader: %", "server: %", "delay ms, median", "p95", "writes"]
    table = Table(f"{turns} answers at once on {kind}, followed in another process", columns, digits=1)
    for name, way, follows in (("alone", "alone", False), ("nobody", "shared", False), ("followed", "shared", True)):
        note(f"{kind}: {name}")
        async with started(url, way, turns, "go") as process:
            table.rows[name] = await _answers(url, process, follows)
    return table


async def _answers(url: str, process: Writer, follows: bool) -> list[float | None]:
    async with SessionManager(open_store(url), tend=False) as manager:
        before, own = _of_server(), time.process_time()
        await process.say("go")
        assert await process.hear() == "begun"
        delays: list[float] = []
        if follows:
            await asyncio.gather(*(_delays(manager, session, delays) for session in process.sessions))
        answered = await process.hear()
        share = 100 / answered["seconds"]
        figures = sorted(delays)
        return [
            answered["cpu"] * share,
            (time.process_time() - own) * share,
            (_of_server() - before) * share,
            1000 * statistics.median(figures) if figures else None,
            1000 * figures[int(0.95 * len(figures))] if figures else None,
            answered["writes"],
        ]


async def _delays(manager: SessionManager, session: str, delays: list[float]) -> None:
    turn = await manager.turn(session)
    assert turn is not None
    async for event in turn.follow():
        if isinstance(event, Delta):
            now = time.time()
            delays += [now - float(said) for said in event.text.split()]


def _of_server() -> float:
    """The processor time of all processes of the server that this process has started."""
    found = 0.0
    for process in psutil.process_iter(["name", "cpu_times"]):
        if process.info["name"] == "postgres" and process.info["cpu_times"] is not None:
            times = process.info["cpu_times"]
            found += times.user + times.system
    return found


async def nobody(url: str, turns: int, rounds: int, kind: str) -> Table:
    """Turns whose model answers at once: what it costs that somebody could follow."""
    columns = ["ms of processor a turn", "ms a turn", "writes a turn"]
    table = Table(f"{turns} answers at once on {kind}, followed by nobody", columns, digits=3)
    note(f"{kind}: instant answers")
    async with started(url, "alone", turns, "instant") as alone, started(url, "shared", turns, "instant") as shared:
        found: dict[str, list[dict[str, float]]] = {"alone": [], "could be followed": []}
        for number in range(rounds + 2):
            for name, process in zip(found, (alone, shared), strict=True):
                await process.say("go")
                assert await process.hear() == "begun"
                answered = await process.hear()
                if number >= 2:  # the first ones warm up
                    found[name].append(answered)
    for name, answers in found.items():
        table.rows[name] = [
            1000 * statistics.median(one["cpu"] for one in answers) / turns,
            1000 * statistics.median(one["seconds"] for one in answers) / turns,
            statistics.median(one["writes"] for one in answers) / turns,
        ]
    return table


async def together(root: Path, turns: int, followers: int) -> Table:
    """Many followers of the turns of one process: what each keeps, and what one that does not read does to the rest."""
    columns = ["kB a follower", "delay ms, median", "p95"]
    table = Table(f"{followers} followers of {turns} turns in one process", columns, digits=2)
    for name, idle in (("all read", 0), ("one in ten does not", followers // 10)):
        note(f"{followers} followers: {name}")
        model = writer.Paced(60, 0.1)
        async with writer.manager(open_store(f"sqlite:///{root}/{idle}.db"), model) as manager:
            sessions = [await manager.create(model=MODEL, max_tokens=1000) for _ in range(turns)]
            begun = [await session.begin("hi") for session in sessions]
            table.rows[name] = await _followed(begun, followers, idle)
            await asyncio.gather(*(turn.reply() for turn in begun))
    return table


async def _followed(begun: Sequence[Turn], followers: int, idle: int) -> list[float | None]:
    delays: list[float] = []

    async def follow(turn: Turn, reads: bool) -> None:
        async with aclosing(turn.follow()) as events:
            async for event in events:
                if not reads:
                    await turn.reply()
                elif isinstance(event, Delta):
                    delays.append(time.time() - float(event.text))

    async with asyncio.TaskGroup() as group:
        for turn in begun:
            group.create_task(follow(turn, True))  # what a turn keeps for all its followers is there
        await asyncio.sleep(0.5)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(followers):
            group.create_task(follow(begun[number % len(begun)], number >= idle))
        await asyncio.sleep(0.5)
        kept = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        delays.clear()
    figures = sorted(delays)
    return [
        kept / followers / 1000, 1000 * statistics.median(figures), 1000 * figures[int(0.95 * len(figures))],
    ]  # fmt: skip

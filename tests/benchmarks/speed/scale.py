"""What a turn leaves in a PostgreSQL and asks of it: rows, bytes, write-ahead log, commits. The README extrapolates."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg

from sessions import tool
from sessions.manager import SessionManager
from sessions.simulator import Engine, Request
from sessions.simulator import client as simulated_client
from storage import open_store
from tests.benchmarks.send import MODEL
from tests.benchmarks.speed.measures import Table
from tests.benchmarks.speed.subjects import ANSWER, WORDS

TABLES = ("sessions", "entries", "calls", "turns", "tool_calls", "prompts", "warmups")
CONVERSATIONS, TURNS = 32, 15


@tool(idempotent=True)
async def look(place: str) -> str:
    """Looks at a place."""
    return f"{place}: {WORDS}"


def answer(request: Request) -> Any:
    """Text, or for words that ask for it one tool call and then text."""
    if "look" in request.text and not request.results:
        return [{"type": "tool_use", "name": "look", "input": {"place": "here"}}]
    return ANSWER


def state(url: str) -> dict[str, float]:
    """The server's own figures."""
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("SELECT pg_stat_clear_snapshot()")

        def one(query: str) -> float:
            row = raw.execute(query).fetchone()  # type: ignore[call-overload]
            return float(row[0] or 0)

        found = {f"rows of {name}": one(f"SELECT count(*) FROM {name}") for name in TABLES}
        found["commits"] = one("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        found["bytes of log"] = one("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        sizes = " + ".join(f"pg_total_relation_size('{name}')" for name in TABLES)
        raw.execute("VACUUM")
        return found | {"bytes": one(f"SELECT {sizes}")}


async def talk(session: Any, words: str, turns: int) -> None:
    for number in range(turns):
        await session.send(f"{number} {words} {WORDS}")


async def measure(url: str) -> list[Table]:
    """Figures for each turn: of plain ones, and of turns with one tool call."""
    store = open_store(url)
    await store.upgrade()
    table = Table("What one turn of 2 kB leaves in a PostgreSQL, and asks of it", ["plain", "one tool call"], digits=1)
    for words in ("say", "look"):
        client = simulated_client(engine=Engine(answer))
        async with SessionManager(store, client=client) as manager:
            held = [
                await manager.create(model=MODEL, max_tokens=1000, system="You are terse. " * 100, tools=[look])
                for _ in range(CONVERSATIONS)
            ]
            await asyncio.gather(*(talk(one, words, 1) for one in held))
            await asyncio.sleep(1.5)  # the server publishes its counters once a second
            before, start = state(url), time.perf_counter()
            await asyncio.gather(*(talk(one, words, TURNS) for one in held))
            seconds = time.perf_counter() - start
            await asyncio.sleep(1.5)
        after, count = state(url), CONVERSATIONS * TURNS
        for name in after:
            if name != "rows of sessions":
                table.rows.setdefault(name, []).append((after[name] - before[name]) / count)
        table.rows.setdefault("turns a second", []).append(count / seconds)
    return [table]

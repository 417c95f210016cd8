"""What a turn leaves in a PostgreSQL and asks of it: rows, bytes, log, commits (for docs/operating.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
import psycopg

from sessions import tool
from sessions.manager import SessionManager
from sessions.simulator import Engine, Request
from sessions.simulator import client as simulated_client
from storage import Store, open_store
from tests.benchmarks.send import MODEL
from tests.benchmarks.speed.measures import Table
from tests.benchmarks.speed.subjects import ANSWER, WORDS

TABLES = ("sessions", "entries", "calls", "turns", "tool_calls", "prompts", "warmups")
CONVERSATIONS, TURNS = 32, 20


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

        def one(query: str) -> float:
            row = raw.execute(query).fetchone()  # type: ignore[call-overload]
            return float(row[0] or 0)

        found = {f"rows of {name}": one(f"SELECT count(*) FROM {name}") for name in TABLES}
        found["bytes of log"] = one("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        sizes = " + ".join(f"pg_total_relation_size('{name}')" for name in TABLES)
        raw.execute("VACUUM")
        return found | {"bytes": one(f"SELECT {sizes}")}


def processor(url: str) -> float:
    """Seconds of processor time that the server has used, with those of its processes that have ended."""
    with psycopg.connect(url) as raw:
        server = psutil.Process(raw.info.backend_pid).parent()
        assert server is not None
        times = [server.cpu_times(), *(one.cpu_times() for one in server.children())]
        return sum(one.user + one.system for one in times) + times[0].children_user + times[0].children_system


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
            alone = await asked(store, url, held[:1], words)
            found = await asked(store, url, held, words)
        for name in ("commits", "server ms", "turns a second"):
            table.rows.setdefault(f"{name}, one conversation", []).append(alone[name])
            found[f"{name}, {CONVERSATIONS} at once"] = found.pop(name)
        for name, value in found.items():
            table.rows.setdefault(name, []).append(value)
    return [table]


async def asked(store: Store, url: str, held: Sequence[Any], words: str) -> dict[str, float]:
    """What each turn of these sessions at once adds to the server's figures, and its commits that write."""
    before, count = state(url), len(held) * TURNS
    worked, commits, start = processor(url), store.statistics().transactions, time.perf_counter()
    await asyncio.gather(*(talk(one, words, TURNS) for one in held))
    seconds, commits = time.perf_counter() - start, store.statistics().transactions - commits
    worked, after = processor(url) - worked, state(url)
    found = {name: (after[name] - before[name]) / count for name in after if name != "rows of sessions"}
    return found | {"commits": commits / count, "server ms": worked / count * 1000, "turns a second": count / seconds}

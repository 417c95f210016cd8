"""What `session.send` costs beside the bare SDK call with the same body, in one run: `make bench`.

Both sides go through the SDK and an in-process transport that answers at once; the session's side also stores the turn
in SQLite with two durable commits. Pairs alternate, so that both meet the same machine; medians are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sqlite3
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
from anthropic import AsyncAnthropic

from sessions import SessionManager
from sessions.session import Session

MODEL = "claude-sonnet-5-5"
_USAGE = {"input_tokens": 10, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 250}
_START = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "stop_reason": None}
_REPLY = "r" * 1000
_EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**_START, "usage": _USAGE}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": _REPLY}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 250}},
    {"type": "message_stop"},
]
_BODY = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in _EVENTS).encode()


class Instant(httpx2.AsyncBaseTransport):
    """Answers every request at once and keeps the size of the last body."""

    last = b""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.last = await request.aread()
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=_BODY)


def client(transport: Instant) -> AsyncAnthropic:
    return AsyncAnthropic(api_key="none", http_client=httpx2.AsyncClient(transport=transport), max_retries=0)


def history(count: int) -> list[dict[str, Any]]:
    """That many messages of 1 kB, alternating."""
    return [
        {"role": ("user", "assistant")[n % 2], "content": [{"type": "text", "text": f"{n:6} " + "x" * 1000}]}
        for n in range(count)
    ]


def commit_seconds(folder: Path, rounds: int) -> float:
    """The median time of one bare durable commit of 2 kB on this disk."""
    database = sqlite3.connect(folder / "bare.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE t (text TEXT)")
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO t VALUES (?)", ("x" * 2000,))
        database.execute("COMMIT")
        times.append(time.perf_counter() - start)
    database.close()
    return statistics.median(times)


async def bare(sdk: AsyncAnthropic, body: dict[str, Any]) -> float:
    """Seconds of one call through the SDK alone, read to its end."""
    start = time.perf_counter()
    events: AsyncIterator[Any] = await sdk.messages.create(**body, stream=True)
    async for _ in events:
        pass
    return time.perf_counter() - start


async def whole(session: Session) -> float:
    """Seconds of one turn of the session."""
    start = time.perf_counter()
    await session.send("y" * 1000)
    return time.perf_counter() - start


async def measure(count: int, rounds: int, folder: Path) -> tuple[float, float, float]:
    """Medians in seconds of the bare call, the whole turn, and their difference pair by pair."""
    transport = Instant()
    sdk = client(transport)
    async with SessionManager(f"sqlite:///{folder / f'{count}.db'}", client=sdk) as manager:
        session = await manager.create(model=MODEL, max_tokens=1000, system="You are terse.")
        await session.append(history(count))
        await whole(session)
        pairs = []
        for _ in range(rounds):
            body = json.loads(transport.last)
            body.pop("stream")
            gc.collect()  # the parsed body's garbage is nobody's cost
            alone_first = await bare(sdk, body)
            gc.collect()
            pairs.append((alone_first, await whole(session)))
        alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
        return alone, both, statistics.median(second - first for first, second in pairs)


async def memory(count: int, turns: int, folder: Path) -> float:
    """Bytes that an open session grows by in one turn of 2 kB, at that length."""
    async with SessionManager(f"sqlite:///{folder / 'memory.db'}", client=client(Instant())) as manager:
        session = await manager.create(model=MODEL, max_tokens=1000)
        await session.append(history(count))
        tracemalloc.start()
        for _ in range(2):  # the first goes through `create`; from the second on the text of each message is kept
            await whole(session)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(turns):
            await whole(session)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return (after - before) / turns


async def main(sizes: list[int], rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commit = commit_seconds(folder, 50)
        print(f"one bare durable commit: {commit * 1000:.2f} ms (median); times below are medians in ms")
        print(f"{'messages':>8} {'SDK alone':>10} {'session':>9} {'more':>7} {'more - 2 commits':>17} {'ratio':>6}")
        for count in sizes:
            alone, both, more = await measure(count, rounds, folder)
            rest = more - 2 * commit
            print(
                f"{count:8} {alone * 1000:10.2f} {both * 1000:9.2f} {more * 1000:7.2f} {rest * 1000:17.2f}"
                f" {both / alone:6.2f}"
            )
        for count in (100, 5000):
            grown = await memory(count, 50, folder)
            print(f"memory per turn of 2 kB at {count} messages: {grown / 1000:.1f} kB")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 1000, 5000])
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    asyncio.run(main(given.sizes, given.rounds))

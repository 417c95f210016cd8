"""The process that runs the turns: `python -m tests.benchmarks.follow.writer STORE` does what its input says.

`go`: as many turns as asked at once, whose model says something every `PACE` seconds. `instant`: the same with a model
that answers at once. It answers with what that took, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sessions import Session, SessionManager
from sessions.core.incoming import Incoming
from storage import open_store
from storage.sql import SQLStore
from tests.benchmarks.send import MODEL

DELTAS, PACE = 150, 0.04
"""What an answer comes in, and the seconds between two: 25 each second, as a fast model's."""
_START = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "stop_reason": None}
_USAGE = {"input_tokens": 10, "output_tokens": 1}


class Alone(SQLStore):
    """A store that no other process uses: nothing is passed on."""

    is_shared = False


class Paced:
    """A way to the Messages API whose answers come a little at a time; each piece says when it was said."""

    base_url = "http://nobody/"

    def __init__(self, deltas: int = DELTAS, pace: float = PACE) -> None:
        self.deltas, self.pace = deltas, pace

    @asynccontextmanager
    async def stream(
        self, body: Mapping[str, Any], incoming: Incoming, *, typed: bool = False
    ) -> AsyncIterator[AsyncIterator[Any]]:
        yield self._events(incoming)

    async def _events(self, incoming: Incoming) -> AsyncIterator[Any]:
        for event in self._said_first():
            incoming.feed(event)
            yield event
        due = time.monotonic()
        for _ in range(self.deltas):
            due += self.pace
            if self.pace:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            delta = {"type": "text_delta", "text": f"{time.time():.4f} "}
            event = {"type": "content_block_delta", "index": 0, "delta": delta}
            incoming.feed(event)
            yield event
        for event in self._said_last():
            incoming.feed(event)
            yield event

    def _said_first(self) -> list[dict[str, Any]]:
        block = {"type": "text", "text": ""}
        return [
            {"type": "message_start", "message": {**_START, "usage": _USAGE}},
            {"type": "content_block_start", "index": 0, "content_block": block},
        ]

    def _said_last(self) -> list[dict[str, Any]]:
        return [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 250}},
            {"type": "message_stop"},
        ]

    async def send(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        raise NotImplementedError("no zero-token request is measured")


def manager(store: SQLStore, model: Any) -> SessionManager:
    return SessionManager(store, client=model, tend=False, warmup=False, diagnostics=False)


async def answer(manager: SessionManager, sessions: list[Session], begun: Any = lambda: None) -> dict[str, float]:
    """One turn in each session, all at once."""
    store = manager.runtime.store
    writes, cpu, began = store.statistics().writes, time.process_time(), time.perf_counter()
    turns = [await session.begin("hi") for session in sessions]
    begun()
    await asyncio.gather(*(turn.reply() for turn in turns))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": took, "cpu": cpu, "writes": store.statistics().writes - writes}


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)


async def work(url: str, kind: str, count: int, way: str) -> None:
    store = (Alone if kind == "alone" else SQLStore)(url)
    model = Paced() if way == "go" else Paced(20, 0.0)
    async with manager(store, model) as made:
        sessions = [await made.create(model=MODEL, max_tokens=1000) for _ in range(count)]
        say([session.id for session in sessions])
        while await asyncio.to_thread(sys.stdin.readline):
            say(await answer(made, sessions, lambda: say("begun")))


if __name__ == "__main__":
    asyncio.run(open_store(sys.argv[1]).upgrade())
    asyncio.run(work(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))

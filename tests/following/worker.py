"""A process that runs turns and is killed: `python -m tests.following.worker STORE MODEL` does what its input says.

Each line is the id of a session: a turn begins in it. A line is written when its words are durable. It also finishes
what others have left.
"""

from __future__ import annotations

import random
import sys
import time

import anyio
import anyio.to_thread
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

from sessions import SessionManager, Tool, ToolContext, profile_for, tool
from tests.following.world import MODEL


def tools() -> list[Tool]:
    """What the model may call; all may be done again."""

    @tool(idempotent=True)
    async def quick(key: str) -> str:
        return f"did {key}"

    @tool(idempotent=True)
    async def slow(key: str, context: ToolContext) -> str:
        for part in range(3):
            context.progress(f"{key}: {part}")
            await anyio.sleep(random.uniform(0, 0.2))
        return f"did {key}"

    @tool(idempotent=True)
    def thread(key: str, context: ToolContext) -> str:
        context.progress(f"{key} in a thread")
        time.sleep(random.uniform(0, 0.1))
        return f"did {key}"

    @tool(idempotent=True)
    async def fail(key: str) -> str:
        raise RuntimeError(f"failed {key}")

    return [quick, slow, thread, fail]


async def work(store: str, model: str) -> None:
    """Until its input ends."""
    http = DefaultAsyncHttpxClient(verify=False)
    async with (
        AsyncAnthropic(base_url=model, api_key="simulated", http_client=http, max_retries=0) as client,
        SessionManager(
            store, client=client, profile=profile_for(MODEL), tools=tools(), recover=True, tend=False, warmup=False
        ) as manager,
    ):
        while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            session = await manager.open(line.strip(), tools=tools())
            await session.begin("go")
            print(line.strip(), flush=True)  # noqa: T201


if __name__ == "__main__":
    anyio.run(work, *sys.argv[1:])

"""A process that makes first calls: `python -m tests.crash.first_calls JOB COUNT` sends them when told on its input."""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio

from sessions.simulator import filler
from tests.crash.worker import MODEL, Job

SYSTEM = filler(3000)


async def main(job: Job, count: int) -> None:
    async with job.manager(warmup=True) as manager:
        sessions = [await manager.create(model=MODEL, max_tokens=100, system=SYSTEM) for _ in range(count)]
        say("ready")
        await anyio.to_thread.run_sync(sys.stdin.readline)

        async def send(number: int) -> None:
            reply = await sessions[number].send("Hello")
            say([reply.usage.cache_write, reply.usage.cache_read, reply.calls[0].waited])

        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(send, number)


def say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, Job(**json.loads(sys.argv[1])), int(sys.argv[2]))

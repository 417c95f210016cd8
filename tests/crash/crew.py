"""Workers of one back end: `python -m tests.crash.crew JOB ADDRESS` imports once and forks a worker for each line read.

The line is the worker's number. A worker connects to ADDRESS, is told messages to send, and tells what became of them.
Workers with an even number are on one machine, the others on another.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from sessions import ConfigurationError, Session, SessionManager, SessionsError
from storage import Holder, holders
from tests.crash.worker import Job, _rehearse

Work: TypeAlias = Callable[[Job, str, int], Coroutine[Any, Any, None]]
"""What a worker does, given its job, the address that it is told things at, and its number."""


def move(number: int) -> None:
    """To the machine that the worker with this number is on."""
    platform.node = lambda: f"machine-{number % 2}"
    holders.host.cache_clear()
    assert Holder.current().host.startswith(platform.node())


async def work(job: Job, address: str, number: int) -> None:
    """Sends what it is told to send, everything at the same time, until it is killed or nobody tells it any more."""
    move(number)
    tools = job.tools()
    async with job.manager(warmup=True, recover=True, tools=tools) as manager, asyncio.TaskGroup() as group:
        reader, writer = await asyncio.open_unix_connection(address)
        opened: dict[str, Session] = {}

        async def send(asked: dict[str, Any]) -> None:
            answer = {"id": asked["id"]} | await _sent(manager, opened, tools, asked)
            writer.write(json.dumps(answer).encode() + b"\n")

        writer.write(json.dumps({"number": number, "pid": os.getpid()}).encode() + b"\n")
        while line := await reader.readline():
            group.create_task(send(json.loads(line)))


async def _sent(
    manager: SessionManager, opened: dict[str, Session], tools: Any, asked: dict[str, Any]
) -> dict[str, Any]:
    """The reply to one message, or the error. Some sessions are held open, others are opened anew."""
    id, message = asked["session"], asked["message"]
    try:
        session = opened.get(id) or await manager.open(id, tools=tools)
        if random.random() < 0.5:
            opened[id] = session
        reply = await session.send(f"message {message}", idempotency_key=f"key {message}")
    except SessionsError as error:
        opened.pop(id, None)
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": reply.text}


def crew(job: Job, address: str, work: Work) -> None:
    """Forks until its input ends. The workers are reaped by the system."""
    asyncio.run(_rehearse(job))  # its threads are idle by now: they hold no lock that a child would miss
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while line := sys.stdin.readline():
        if os.fork() == 0:
            _be(job, address, int(line), work)


def _be(job: Job, address: str, number: int, work: Work) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    random.seed(f"{job.seed} {number}")
    try:
        asyncio.run(work(job, address, number))
    except ConfigurationError:  # the server is just being restarted: whoever looks after workers starts another one
        time.sleep(0.5)
        _be(job, address, number, work)
    except KeyboardInterrupt:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    crew(Job(**json.loads(sys.argv[1])), sys.argv[2], work)

"""Memory of open sessions, each kind in a process of its own: `python -m tests.benchmarks.speed.memory <name> …`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import psutil

from tests.benchmarks.send import MODEL, history

KINDS = ("warmline", "openai-agents SQLiteSession", "openai-agents SQLAlchemySession")


async def warmline(folder: Path, sessions: int, messages: int) -> tuple[list[Any], Any, float]:
    """Open sessions of one manager, and the bytes that it counts in its bounded cache of transcripts."""
    from tests.benchmarks.speed.subjects import Warmline

    class Bounded(Warmline):
        options: ClassVar[dict[str, Any]] = {"transcript_bytes": 16 * 2**20}

    subject = Bounded(folder)
    await subject.start()
    manager = subject.manager
    held = []
    for _ in range(sessions):
        held.append(await manager.create(model=MODEL, max_tokens=1000, system="You are terse.", owner="o", title="t"))
        await held[-1].append(history(messages))
    return held, manager, manager.runtime.conversations.memory.total


async def openai_agents(name: str, folder: Path, sessions: int, messages: int) -> tuple[list[Any], Any, float]:
    """Open sessions of openai-agents; they keep no transcript at all."""
    from tests.benchmarks.speed import peers

    kind = peers.OpenAIAgents if name.endswith("SQLiteSession") else peers.OpenAIAgentsSQLAlchemy
    subject = kind(folder)
    await subject.start()
    return [await subject.begin(messages) for _ in range(sessions)], subject, 0.0


async def measure(name: str, sessions: int, messages: int) -> dict[str, float]:
    """Bytes of resident memory and open files for each session, its share of the bounded cache included."""
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:

        async def some(count: int) -> tuple[list[Any], Any, float]:
            place = Path(tempfile.mkdtemp(dir=folder))
            if name == "warmline":
                return await warmline(place, count, messages)
            return await openai_agents(name, place, count, messages)

        warm = await some(10)  # what is made once is made now
        gc.collect()
        before, files = process.memory_info().rss, process.num_fds()
        held, keeper, cached = await some(sessions)
        gc.collect()
        after, more = process.memory_info().rss, process.num_fds()
        found = {
            "each": (after - before) / sessions,
            "cached": cached,
            "files": (more - files) / sessions,
            "tasks": float(len(asyncio.all_tasks()) - 1),
        }
        os.write(1, json.dumps(found).encode())
        del held, keeper, warm
        os._exit(0)  # whoever holds ten thousand files takes minutes to close them


def in_process(name: str, sessions: int, messages: int) -> dict[str, float]:
    """The measurement in a new process."""
    command = [sys.executable, "-m", "tests.benchmarks.speed.memory", name, str(sessions), str(messages)]
    found = subprocess.run(command, check=True, capture_output=True).stdout
    result: dict[str, float] = json.loads(found)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=KINDS)
    parser.add_argument("sessions", type=int)
    parser.add_argument("messages", type=int)
    given = parser.parse_args()
    asyncio.run(measure(given.name, given.sessions, given.messages))

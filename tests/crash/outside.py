"""What stands outside the processes that are killed: the model's server, and the view of what they left."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal

from sessions import Session, simulator
from sessions.core.transcript import encode, entry_id
from sessions.simulator import Engine, Latency
from tests.crash.worker import MODEL, SESSION, Job, noted

ROOT = Path(__file__).parents[2]
SYSTEM = simulator.filler(600)
TELLING = re.compile(r"message (\d+)$")


@contextmanager
def model_server(engine: Engine, latency: Latency | None = None) -> Iterator[str]:
    """The simulator on a port of its own, in a thread: it outlives every worker."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulator.serving(engine, latency=latency)) as url,
    ):
        yield url


def bill(url: str) -> dict[str, Any]:
    """What the server says of itself."""
    with urllib.request.urlopen(f"{url}/_simulator/bill") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


async def create(job: Job) -> None:
    """The session that all workers share."""
    async with job.manager() as manager:
        await manager.create(
            model=MODEL, max_tokens=4000, system=SYSTEM, tools=job.tools(), id=SESSION, thinking={"type": "adaptive"}
        )


class Worker:
    """A process that talks. Each line sent to it is one message; what it says comes back as dicts."""

    def __init__(self, job: Job) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tests.crash.worker", "talk", job.text]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, *lines: str) -> None:
        """Gives it messages to send, one after the other."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next thing it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the worker ended by itself"
        found: dict[str, Any] = json.loads(line)
        return found

    def replies(self, count: int) -> list[str]:
        """Its next replies; how often it had to wait is left out."""
        found: list[str] = []
        while len(found) < count:
            said = self.hear()
            found += [said["reply"]] if "reply" in said else []
        return found

    def end(self, *, kill: bool = False) -> None:
        """Lets it end, or kills it."""
        if kill:
            self.process.kill()
        self.process.communicate()
        assert kill or self.process.returncode == 0


async def check_chain(session: Session) -> None:
    """Every entry hashes to its id, each one's parent is the one before it, and what is open here is what is stored."""
    assert await session.verify() is None
    parent = None
    for entry in session.entries:
        assert entry.parent == parent, f"{entry.id} does not follow {parent}"
        assert entry.id == entry_id(parent, entry.role, encode(entry.content)), f"entry {entry.id} is damaged"
        parent = entry.id
    assert session.head == parent


def numbers(message: dict[str, Any]) -> list[int]:
    """The numbered words of a message."""
    found = (TELLING.match(block["text"]) for block in message["content"] if block["type"] == "text")
    return [int(one[1]) for one in found if one]


def conversation(session: Session) -> list[tuple[int, list[dict[str, Any]]]]:
    """Each numbered message with all that came between its words and the next."""
    found: list[tuple[int, list[dict[str, Any]]]] = []
    for message in session.messages:
        if message["role"] == "user":
            found += [(number, []) for number in numbers(message)]
        if found:
            found[-1][1].append(message)
    return found


def texts(messages: Sequence[dict[str, Any]]) -> list[str]:
    """What the model said in these messages."""
    return [b["text"] for m in messages if m["role"] == "assistant" for b in m["content"] if b["type"] == "text"]


def results_by_key(session: Session) -> dict[str, str]:
    """What the model was told of each tool call: the text of its result, by name and key."""
    names: dict[str, str] = {}
    found: dict[str, str] = {}
    for block in (block for message in session.messages for block in message["content"]):
        if block["type"] == "tool_use":
            names[block["id"]] = f"{block['name']} {block['input']['key']}"
        if block["type"] == "tool_result":
            found[names[block["tool_use_id"]]] = block["content"]
    assert len(found) == len(names), "a call has no result, or two calls have one key"
    return found


def effects(job: Job) -> Counter[str]:
    """How often each tool call took effect."""
    return Counter(" ".join(words) for words in noted(job.effects))

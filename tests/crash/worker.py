"""Processes to be killed: `python -m tests.crash.worker talk|lives JOB` drives turns of one session over HTTP.

`talk` does what it is told on its standard input. `lives` imports everything once, then forks one life after another,
kills each at a random moment and starts the next: so two hundred kills take a minute, not ten.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import anyio
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

from sessions import Session, SessionManager, Tool, profile_for, tool
from sessions.clock import SystemClock
from sessions.simulator import Request, Scripted
from sessions.testing import simulated_manager
from storage import LeaseTaken, open_store

MODEL = "claude-sonnet-5-5"
SESSION = "fixed"
WAIT = 600.0
"""Seconds that a sender waits for its turn: longer than any test."""


@dataclass(frozen=True, slots=True)
class Job:
    """Where everything is. `pause`: the most seconds that a tool waits before and after its effect.

    `hang`: a call whose key ends so never comes back. `kills`, `seed`, `longest`: of `lives`.
    """

    store: str
    url: str
    directory: str
    pause: float = 0.0
    hang: str = "never"
    kills: int = 0
    seed: int = 0
    longest: float = 0.0

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))

    @property
    def effects(self) -> Path:
        """One line for each time a tool took effect."""
        return Path(self.directory, "effects")

    @property
    def notes(self) -> Path:
        """What the worker was told: `say`, `heard` (the words are stored) and `answered`, with the message's number."""
        return Path(self.directory, "notes")

    def client(self) -> AsyncAnthropic:
        """A client that does not load certificates: there are none to check."""
        http = DefaultAsyncHttpxClient(verify=False)
        return AsyncAnthropic(base_url=self.url, api_key="simulated", http_client=http)

    @asynccontextmanager
    async def manager(self, store: Any = None, **given: Any) -> AsyncIterator[SessionManager]:
        """A manager of this process. The server's address must not be taken for a stranger's."""
        options: dict[str, Any] = {"profile": profile_for(MODEL), "busy_timeout": WAIT, "warmup": False, **given}
        async with self.client() as client, SessionManager(store or self.store, client=client, **options) as manager:
            yield manager

    def tools(self) -> list[Tool]:
        """One harmless to repeat, and two that are not: on the loop, and in a thread."""

        @tool(idempotent=True)
        async def look(key: str) -> str:
            """Looks. Harmless to repeat."""
            return await self._act("look", key)

        @tool
        async def act(key: str) -> str:
            """Acts. Not to be done twice."""
            return await self._act("act", key)

        @tool
        def press(key: str) -> str:
            """Acts, in a thread. Not to be done twice."""
            time.sleep(random.uniform(0, self.pause))
            note(self.effects, f"press {key}")
            time.sleep(random.uniform(0, self.pause))
            return f"did press {key}"

        return [look, act, press]

    async def _act(self, name: str, key: str) -> str:
        await anyio.sleep(random.uniform(0, self.pause))
        note(self.effects, f"{name} {key}")
        if key.endswith(self.hang):
            await anyio.sleep_forever()
        await anyio.sleep(random.uniform(0, self.pause))
        return f"did {name} {key}"


def note(path: Path, line: str) -> None:
    """Appends a line that survives the process and the machine."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)


def noted(path: Path) -> list[list[str]]:
    """The lines of a file of notes, in words."""
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def script(request: Request) -> Scripted:
    """Message n takes n % 3 rounds of one to four calls at once; each call's key says message, round and place."""
    number = int(request.text.split()[-1])
    spoken = [index for index, message in enumerate(request.messages) if _has_words(message)]
    done = sum(1 for message in request.messages[spoken[-1] :] if message["role"] == "assistant")
    if done >= number % 3:
        return Scripted(f"answer to message {number}", thinking=f"That was message {number}.")
    names = ["act", "look", "press", "act"][: 1 + (number + done) % 4]
    calls = [
        {"type": "tool_use", "name": name, "input": {"key": f"{number}.{done}.{place}"}}
        for place, name in enumerate(names)
    ]
    return Scripted([{"type": "text", "text": "I act."}, *calls], thinking=f"Round {done} of message {number}.")


def _has_words(message: Any) -> bool:
    return message["role"] == "user" and any(block["type"] == "text" for block in message["content"])


# -- talking as told --


class Telling:
    """A store that tells, once for each message, that somebody else has the session."""

    def __init__(self, url: str) -> None:
        self.real: Any = open_store(url)
        self.told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def acquire(self, *given: Any, **named: Any) -> Any:
        try:
            return await self.real.acquire(*given, **named)
        except LeaseTaken:
            if not self.told:
                self.told = True
                _say(waiting=True)
            raise


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def talk(job: Job) -> None:
    """Sends each line of the input and tells the reply's text; an empty line resumes."""
    store = Telling(job.store)
    async with job.manager(store) as manager:
        session = await manager.open(SESSION, tools=job.tools())
        _say(ready=os.getpid())
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            store.told = False
            words = line.strip()
            reply = await (session.send(words) if words else session.resume())
            _say(reply=reply.text if reply else None)


# -- living until killed --


async def live(job: Job, life: int) -> None:
    """Finds what the last life left, goes on from it in one of the ways an application may, and never stops."""
    rng = random.Random(f"{job.seed}/{life}")
    async with job.manager() as manager:
        session = await manager.open(SESSION, tools=job.tools())
        said = [int(words[1]) for words in noted(job.notes) if words[0] == "say"]
        newest = max(said, default=0)
        note(job.notes, f"found {await _found(manager, session)}")
        how = rng.choice(["resume", "key", "both", "new"]) if newest else "new"
        if how in ("resume", "both") and (reply := await session.resume()) is not None:
            note(job.notes, f"answered {reply.text.split()[-1]}")
        if how in ("key", "both"):
            await _say_message(job, session, newest, rng)
        while life < job.kills:
            newest += 1
            await _say_message(job, session, newest, rng)
        await session.resume()
        await _say_message(job, session, newest + 1, rng)


async def _say_message(job: Job, session: Session, number: int, rng: random.Random) -> None:
    note(job.notes, f"say {number}")
    words, key = f"message {number}", f"key {number}"
    if rng.random() < 0.5:
        heard, text = False, ""
        async for step in session.run(words, idempotency_key=key):
            if not heard:
                note(job.notes, f"heard {number}")
            heard, text = True, step.content[-1].get("text", "")
        if not heard:  # a turn that had finished has no steps; its reply is stored
            text = (await session.send(words, idempotency_key=key)).text
    else:
        async with session.stream(words, idempotency_key=key) as stream:
            async for _ in stream:
                note(job.notes, f"heard {number}")
                break
            text = (await stream.get_final_reply()).text
    assert text == f"answer to message {number}", (number, text)
    note(job.notes, f"answered {number}")


async def _found(manager: SessionManager, session: Session) -> str:
    """Where the last life ended, for the record."""
    turn = await manager.runtime.store.open_turn(session.id)
    last = session.entries[-1] if session.entries else None
    if turn is None:
        return "between-turns"
    if turn.call is not None:
        return "in-a-model-call"
    if last is not None and last.role == "assistant" and any(one["type"] == "tool_use" for one in last.content):
        rows = await manager.runtime.store.journal(session.id, last.id)
        if any(row.ended for row in rows) and not all(row.ended for row in rows):
            return "in-tools-some-done"
        return "in-tools" if rows else "before-tools"
    return "interrupted-in-resume"


async def _rehearse(job: Job) -> None:
    """One turn with everything but the network, in memory: what is imported at first use is imported here."""
    with tempfile.TemporaryDirectory() as directory:
        tools = replace(job, directory=directory).tools()
        async with job.client(), simulated_manager(script=script, clock=SystemClock()) as manager:
            session = await manager.create(model=MODEL, max_tokens=1000, tools=tools)
            await session.send("message 5")


def lives(job: Job) -> int:
    """Forks, kills and reaps; the last life finishes what is left, says one thing more and ends by itself."""
    rng = random.Random(job.seed)
    asyncio.run(_rehearse(job))  # its threads are idle by now: they hold no lock that a child would miss
    gc.freeze()
    for life in range(job.kills + 1):
        child = os.fork()
        if child == 0:
            _be(job, life)
        if life < job.kills:
            time.sleep(rng.uniform(0, job.longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        expected = -signal.SIGKILL if life < job.kills else 0
        if os.waitstatus_to_exitcode(status) != expected:
            sys.stderr.write(f"life {life} of seed {job.seed} ended by itself\n")
            return 1
    return 0


def _be(job: Job, life: int) -> None:
    """One life, in a process of its own."""
    random.seed(f"{job.seed} {life}")
    try:
        asyncio.run(live(job, life))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[2]))
    if sys.argv[1] == "lives":
        sys.exit(lives(given))
    asyncio.run(talk(given))

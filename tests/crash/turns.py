"""Workers of a chat back end: `python -m tests.crash.turns JOB ADDRESS` is `crew.py` for turns of the conversation.

A worker begins turns, follows, stops and decides as it is told, and recovers what others left. Told to end by SIGTERM,
it drains first.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import anyio

from sessions import Reply, Session, SessionManager, SessionsError, Tool, ToolContext, Turn, tool
from sessions.simulator import Request, Scripted
from tests.crash.crew import crew, move
from tests.crash.worker import Job, note

WORDS = re.compile(r"message (\d+)$")
DRAIN = 0.5
"""Seconds that a worker which is told to end gives its turns."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TurnsJob(Job):
    """The same with the tools of a chat: one harmless that tells how far it is, and one that a human has to approve."""

    def tools(self) -> list[Tool]:
        @tool(idempotent=True)
        async def look(key: str, context: ToolContext) -> str:
            """Looks. Harmless to repeat."""
            for part in range(3):
                context.progress(f"part {part}")
                await anyio.sleep(random.uniform(0, self.pause))
            return f"did look {key}"

        @tool(needs_approval=True)
        async def book(key: str, context: ToolContext) -> str:
            """Books. Not to be done twice, and not unless somebody says so."""
            await anyio.sleep(random.uniform(0, self.pause))
            note(self.effects, f"{context.call_id} {key} {time.time()}")
            await anyio.sleep(random.uniform(0, self.pause))
            return f"did book {key}"

        return [look, book]


def answer_to(number: int) -> str:
    """What the model says in the end: long enough to be read along, and to be cut."""
    return f"answer to message {number}: " + " ".join(f"word {place}" for place in range(20 + 10 * (number % 5)))


def script(request: Request) -> Scripted:
    """Message n takes n % 4 rounds of calls at most; each call's key says message, round and place."""
    spoken = [(place, number) for place, one in enumerate(request.messages) if (number := number_of(one)) is not None]
    place, number = spoken[-1]
    done = sum(1 for message in request.messages[place:] if message["role"] == "assistant")
    rounds: Sequence[Sequence[str]] = [[], [["look", "book"]], [["look", "look"], ["book", "book"]], [["book"]]][
        number % 4
    ]
    if done >= len(rounds):
        return Scripted(answer_to(number), thinking=f"That was message {number}.")
    calls = [
        {"type": "tool_use", "name": name, "input": {"key": f"{number}.{done}.{place}"}}
        for place, name in enumerate(rounds[done])
    ]
    return Scripted([{"type": "text", "text": f"I act, round {done}."}, *calls], thinking=f"Message {number}, {done}.")


def number_of(message: Any) -> int | None:
    """The number of the user's words in a message, where it has any."""
    if message["role"] != "user":
        return None
    found = [WORDS.match(block["text"]) for block in message["content"] if block["type"] == "text"]
    return next((int(one[1]) for one in found if one), None)


class Worker:
    """What one worker can be told to do: each method takes what was asked and gives the answer."""

    def __init__(self, manager: SessionManager, tools: Sequence[Tool]) -> None:
        self._manager, self._tools = manager, tools
        self._opened: dict[str, Session] = {}

    async def answer(self, asked: dict[str, Any], tell: Tell) -> dict[str, Any]:
        """Does it. Some sessions are held open, others are opened anew."""
        id = asked["session"]
        does: dict[str, Callable[[Session, dict[str, Any], Tell], Awaitable[Any]]] = {
            "begin": self._begin, "follow": self._follow, "stop": self._stop, "decide": self._decide,
        }  # fmt: skip
        try:
            session = self._opened.get(id) or await self._manager.open(id, tools=self._tools)
            if random.random() < 0.5:
                self._opened[id] = session
            return {"text": json.dumps(await does[asked["do"]](session, asked, tell))}
        except SessionsError as error:
            self._opened.pop(id, None)
            return {"error": f"{type(error).__name__}: {error}"}

    async def _begin(self, session: Session, asked: dict[str, Any], tell: Tell) -> str:
        number = asked["message"]
        turn = await session.begin(
            f"message {number}", idempotency_key=f"key {number}", while_running=asked["while_running"]
        )
        return turn.id

    async def _turn(self, session: Session, id: str) -> Turn:
        turn = await self._manager.turn(session.id)
        if turn is not None and turn.id == id:
            return turn
        row = await self._manager.runtime.store.turn(session.id, id=id)
        assert row is not None, f"turn {id} was acknowledged, and is lost"

        async def reply_of(outcome: Any) -> Reply:
            return Reply.of(outcome, session)

        return Turn(self._manager.runtime, row, reply_of)

    async def _follow(self, session: Session, asked: dict[str, Any], tell: Tell) -> None:
        turn = await self._turn(session, asked["turn"])
        with anyio.move_on_after(asked["seconds"]):
            async with aclosing(turn.follow(asked["after"])) as events:
                async for event in events:
                    tell(event.to_json())

    async def _stop(self, session: Session, asked: dict[str, Any], tell: Tell) -> str:
        turn = await self._turn(session, asked["turn"])
        await turn.stop()
        row = await self._manager.runtime.store.turn(session.id, id=turn.id)
        return row.state if row is not None else "gone"

    async def _decide(self, session: Session, asked: dict[str, Any], tell: Tell) -> int:
        """Decides some of what waits: how each went is told."""
        await session.refresh()
        calls = [call for call in session.pending if random.random() < 0.8]
        for call in calls:
            how = random.choice(["approve", "approve", "approve another", "deny"])
            told = {"call": call.call_id, "how": how}
            tell(json.dumps({**told, "became": "asked"}))
            try:
                if how == "deny":
                    await session.deny(call.call_id, "too dear")
                else:
                    changed = {"key": f"{call.input['key']}.changed"} if how == "approve another" else None
                    await session.approve(call.call_id, changed)
            except SessionsError as error:
                tell(json.dumps({**told, "became": type(error).__name__}))
            else:
                tell(json.dumps({**told, "became": "done"}))
        return len(session.pending)


async def work(job: Job, address: str, number: int) -> None:
    """Does what it is told, everything at the same time, until it is killed, told to end, or nobody tells it more."""
    move(number)
    tools = job.tools()
    reader, writer = await asyncio.open_unix_connection(address, limit=1 << 24)
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    async with job.manager(warmup=True, recover=True, tools=tools) as manager, asyncio.TaskGroup() as group:
        worker = Worker(manager, tools)

        def say(**what: Any) -> None:
            writer.write(json.dumps(what).encode() + b"\n")

        async def do(asked: dict[str, Any]) -> None:
            say(id=asked["id"], **await worker.answer(asked, lambda event: say(id=asked["id"], event=event)))

        doing: set[asyncio.Task[None]] = set()

        async def listen() -> None:
            with suppress(ConnectionError):
                while line := await reader.readline():
                    task = group.create_task(do(json.loads(line)))
                    doing.add(task)
                    task.add_done_callback(doing.discard)
            ending.set()

        say(number=number, pid=os.getpid())
        listening = group.create_task(listen())
        await ending.wait()
        await manager.drain(DRAIN)
        listening.cancel()
        for task in doing:  # as a server ends its requests
            task.cancel()
        with suppress(ConnectionError):
            await writer.drain()


if __name__ == "__main__":
    crew(TurnsJob(**json.loads(sys.argv[1])), sys.argv[2], work)

"""Followers come and go at any moment, workers die at any moment: what each of them saw adds up to what is stored.

`WARMLINE_EXAMPLES=1000` tries that many in place of a few.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sessions import SessionManager, SessionsError, ToolContext, Turn, simulator, tool
from sessions.simulator import Engine, Fault, Latency, Request, Scripted
from sessions.testing import ManualClock
from tests.crash.machine import Mortal
from tests.following.world import MODEL, Seen, check

EXAMPLES = int(os.environ.get("WARMLINE_EXAMPLES", "12"))
FOLLOWERS = 6
"""Two at each of three workers."""
SESSION = "s"
Script: TypeAlias = list[tuple[tuple[str, int], float]]
"""What is done with whom, and how many seconds pass then."""
TOOLS = ("quick", "slow", "thread", "fail", "asks")


@dataclass(frozen=True)
class Answer:
    """One reply of the model. `tools`: of what names its calls are; `fault`: how its first request goes wrong."""

    texts: tuple[str, ...]
    thinking: str | None = None
    tools: tuple[str, ...] = ()
    fault: Fault | None = None


texts = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), min_size=1, max_size=200)
faults = st.sampled_from(
    [None, None, None, Fault.http(529), Fault.drop(), Fault.cut(6), Fault.error(7), Fault("interleaved"),
     Fault("repeated_id"), Fault.end(5)]
)  # fmt: skip
answers = st.builds(
    Answer,
    texts=st.lists(texts, min_size=1, max_size=3).map(tuple),
    thinking=st.none() | texts,
    tools=st.lists(st.sampled_from(TOOLS), max_size=3).map(tuple),
    fault=faults,
)
moments = st.sampled_from([0.03, 0.11, 0.3, 1.1, 4.0])
comings = st.tuples(st.sampled_from(["attach", "attach", "leave"]), st.integers(0, FOLLOWERS - 1))
doings = st.sampled_from([("kill", 0), ("close", 0), ("stop", 0), ("stop", 1), ("stop", 2)])
steps = st.lists(st.tuples(comings | comings | doings, moments), min_size=3, max_size=14)


@dataclass
class Theatre:
    """Three workers on one file, one clock for all, and a model that answers as was drawn. The first one may die."""

    folder: str
    plan: list[Answer]
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.path = Path(self.folder, "a.db")
        self.mortal = Mortal(self.path)
        self.asked: dict[int, int] = {}
        self.engine = Engine(self._script)
        self.tools = [
            tool(self._quick, name="quick", idempotent=True), tool(self._slow, name="slow", idempotent=True),
            tool(self._thread, name="thread"), tool(self._fail, name="fail", idempotent=True),
            tool(self._asks, name="asks", idempotent=True, needs_approval=True),
        ]  # fmt: skip

    def worker(self, store: Any = None, **given: Any) -> SessionManager:
        latency = Latency(first_event=0.05, per_output_token=0.02)
        client = simulator.client(engine=self.engine, clock=self.clock, latency=latency, max_retries=0)
        return SessionManager(
            store or f"sqlite:///{self.path}", client=client, clock=self.clock, tend=False, warmup=False,
            tools=self.tools, **given,
        )  # fmt: skip

    def _script(self, request: Request) -> Scripted:
        done = sum(message["role"] == "assistant" for message in request.messages)
        answer = self.plan[done] if done < len(self.plan) else Answer(("the end",))
        self.asked[done] = self.asked.get(done, 0) + 1
        calls = [
            {"type": "tool_use", "name": name, "input": {"key": f"{done}.{n}"}} for n, name in enumerate(answer.tools)
        ]
        content: list[dict[str, Any]] = [{"type": "text", "text": text} for text in answer.texts]
        fault = answer.fault if self.asked[done] == 1 else None
        return Scripted([*content, *calls], thinking=answer.thinking, fault=fault)

    async def _quick(self, key: str) -> str:
        return f"did {key}"

    async def _slow(self, key: str, context: ToolContext) -> str:
        for part in range(3):
            context.progress(f"{key}: {part}")
            await self.clock.sleep(0.3)
        return f"did {key}"

    def _thread(self, key: str, context: ToolContext) -> str:
        context.progress(f"{key} in a thread")
        return f"did {key}"

    async def _fail(self, key: str) -> str:
        raise RuntimeError(f"failed {key}")

    async def _asks(self, key: str) -> str:
        return f"was allowed {key}"


class Follower:
    """A client: it follows at its worker, leaves, and comes again behind what it has seen, perhaps elsewhere."""

    def __init__(self, manager: SessionManager) -> None:
        self.manager, self.seen = manager, Seen()
        self._scope: anyio.CancelScope | None = None

    def attach(self, group: TaskGroup) -> None:
        if self._scope is None:
            self._scope = anyio.CancelScope()
            group.start_soon(self._follow, self._scope)

    def leave(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def _follow(self, scope: anyio.CancelScope) -> None:
        with scope, suppress(SessionsError):  # its worker has died
            await self.seen.follow(await newest(self.manager))
        self._scope = None


class Play:
    """What was drawn, played: the first worker runs the turn, the second recovers, the third only reads."""

    def __init__(self, theatre: Theatre, workers: Sequence[SessionManager], closing: Callable[[], Any]) -> None:
        self.theatre, self.workers, self._closing = theatre, workers, closing
        self.followers = [Follower(workers[number % 3]) for number in range(FOLLOWERS)]
        self._is_alive = True

    async def go(self, script: Script) -> None:
        async with anyio.create_task_group() as group:
            for (doing, number), pause in script:
                self._do(group, doing, number)
                await self.theatre.clock.advance(pause)
                if not self._is_alive:
                    for follower in self.followers[::3]:  # they come to another worker
                        follower.manager = self.workers[2]
            await self._settle(group)

    def _do(self, group: TaskGroup, doing: str, number: int) -> None:
        if doing == "attach":
            self.followers[number].attach(group)
        elif doing == "leave":
            self.followers[number].leave()
        elif doing == "stop":
            group.start_soon(stop, self.workers[number])
        elif self._is_alive:
            self._is_alive = False
            if doing == "kill":
                self.theatre.mortal.dead = True
            else:
                group.start_soon(self._closing)
            for follower in self.followers[::3]:
                follower.leave()

    async def approve(self) -> None:
        """A turn that waits for the user goes on."""
        if (await newest(self.workers[2])).state != "waiting":
            return
        session = await self.workers[2].open(SESSION, tools=self.theatre.tools)
        async with anyio.create_task_group() as group:
            for call in session.pending:
                await session.approve(call.call_id)
            await self._settle(group)

    async def _settle(self, group: TaskGroup) -> None:
        """Everybody follows, and all that can happen has happened, a lease that lapses and a recovery included."""
        for follower in self.followers:
            follower.attach(group)
        for _ in range(200):
            turn = await newest(self.workers[2])
            await self.theatre.clock.advance(1.0)
            if turn.state not in ("running", "queued"):
                await self.theatre.clock.advance(3.0)
                await self._compare()
                return
        raise AssertionError(f"the turn does not end: {turn}")

    async def _compare(self) -> None:
        expected = Seen()
        await expected.follow(await newest(self.workers[2]))
        for follower in self.followers:
            check(follower.seen, expected.view)


async def play(folder: str, plan: list[Answer], script: Script) -> None:
    theatre = Theatre(folder, plan)
    async with AsyncExitStack() as stack:
        two = await stack.enter_async_context(theatre.worker(recover=True))
        three = await stack.enter_async_context(theatre.worker())
        first = await stack.enter_async_context(AsyncExitStack())
        one = await first.enter_async_context(theatre.worker(theatre.mortal))
        thinking = {"type": "adaptive"}
        session = await one.create(model=MODEL, max_tokens=4000, thinking=thinking, tools=theatre.tools, id=SESSION)
        await session.begin("go")
        drama = Play(theatre, (one, two, three), first.aclose)
        await drama.go(script)
        await drama.approve()


async def newest(manager: SessionManager) -> Turn:
    turn = await manager.turn(SESSION)
    assert turn is not None
    return turn


async def stop(manager: SessionManager) -> None:
    with suppress(SessionsError):  # its worker has died
        await (await newest(manager)).stop()


@contextmanager
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield name


@given(backend=st.sampled_from(["asyncio", "trio"]), plan=st.lists(answers, min_size=1, max_size=4), script=steps)
@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_whoever_follows_has_seen_what_is_stored(backend: str, plan: list[Answer], script: Script) -> None:
    with folder() as name:
        anyio.run(play, name, plan, script, backend=backend)

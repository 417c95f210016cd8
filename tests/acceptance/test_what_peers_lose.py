"""What other libraries lose when they are killed, shared, cancelled or resumed: the same situations, one test each.

The killed process is a real one, ended by SIGKILL while its parallel tool B (`look`) runs and tool A (`act`) is done.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import LeaseLost, ModelError, Session, SessionManager, StepLimitReached, tool
from sessions.core.steps import INTERRUPTED, NOT_RUN
from sessions.simulator import Engine, Fault, Latency, Request, Scripted
from storage import open_store
from tests.crash.outside import Worker, check_chain, create, effects, model_server, results_by_key, texts
from tests.crash.worker import SESSION, Job
from tests.sessions.world import World, answers, call, results, words
from tests.sessions.world import create as create_in

WORDS, A, B, C = "message 4", "act 4.0.0", "look 4.0.1", "press 4.0.2"
"""What is asked for, and the three calls that it takes. `look` may be repeated, the others may not."""


def one_round(request: Request) -> Scripted:
    """Three calls at once, then an answer; later messages are answered at once."""
    if request.results and request.text == WORDS:
        return Scripted("answer to message 4", thinking="All done.")
    if request.text != WORDS:
        return Scripted(f"answer to {request.text}", thinking="Something new.")
    calls = [{"type": "tool_use", "name": n, "input": {"key": k}} for n, k in (one.split() for one in (A, B, C))]
    return Scripted([{"type": "text", "text": "I act."}, *calls], thinking="Three at once.")


# -- killed while tool B runs, tool A already done --


@pytest.fixture(scope="module")
def wreck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed process left: its database and the effects of its tools."""
    directory = tmp_path_factory.mktemp("wreck")
    with model_server(Engine(one_round)) as url, ExitStack() as stack:
        job = Job(f"sqlite:///{directory}/chat.db", url, str(directory), hang="4.0.1")
        anyio.run(create, job)
        worker = Worker(job)
        stack.callback(worker.end, kill=True)
        worker.tell(WORDS)
        anyio.run(_until_a_is_done, job)
        worker.end(kill=True)
    return directory


async def _until_a_is_done(job: Job) -> None:
    store = open_store(job.store)
    await store.open()
    while not {A, B, C} <= set(effects(job)) or sum(bool(row.ended) for row in await store.journal(SESSION)) < 2:
        await anyio.sleep(0.01)
    await store.close()


class Restart:
    """A new process on a copy of the wreck (its model forgets nothing: it is the same Claude)."""

    def __init__(self, wreck: Path, directory: Path) -> None:
        shutil.copytree(wreck, directory, dirs_exist_ok=True)
        self.job = Job(f"sqlite:///{directory}/chat.db", "", str(directory))
        self.world = World(one_round, url=directory / "chat.db")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """The session, open; afterwards the chain is whole and no request was refused."""
        async with self.world.manager() as manager:
            session = await manager.open(SESSION, tools=self.job.tools())
            yield session
            await check_chain(session)
        self.world.check()


@pytest.fixture
def restart(wreck: Path, tmp_path: Path) -> Restart:
    return Restart(wreck, tmp_path)


async def test_the_paid_reply_and_the_result_of_a_are_there(restart: Restart) -> None:
    """openai-agents: both are gone."""
    async with restart.session() as session:
        assert [message["role"] for message in session.messages] == ["user", "assistant"]
        assert [block["type"] for block in session.messages[1]["content"]] == ["thinking", "text"] + ["tool_use"] * 3
        assert [(one.status, one.usage.output > 0) for one in await session.calls()] == [("ok", True)]
        reply = await session.resume()
        assert reply is not None
        assert (reply.text, len(restart.world.requests)) == ("answer to message 4", 1), "the reply was paid twice"
        assert results_by_key(session)[A] == f"did {A}"


@pytest.mark.parametrize("in_doubt", ["report", "rerun"])
async def test_a_does_not_run_again(in_doubt: Any, restart: Restart) -> None:
    """langgraph, pydantic-ai and google-adk run it again."""
    async with restart.session() as session:
        await session.resume(in_doubt=in_doubt)
        assert effects(restart.job) == {A: 1, B: 2, C: 1}, "only B was in doubt, and it may be repeated"


async def test_a_new_message_sends_no_orphan(restart: Restart) -> None:
    """langgraph: the API refuses the next message, and every one after it."""
    async with restart.session() as session:
        assert (await session.send("are you there?")).text == "answer to are you there?"
        assert (await session.send("and now?")).text == "answer to and now?"
        told = results_by_key(session)
        assert (told[A], told[B], told[C]) == (f"did {A}", INTERRUPTED, f"did {C}")
        assert effects(restart.job) == {A: 1, B: 1, C: 1}


async def test_the_model_is_told_the_truth_of_a(restart: Restart) -> None:
    """strands: it is told that A failed."""
    async with restart.session() as session:
        await session.resume()
        told = results(restart.world.bodies[0]["messages"][2])
        assert [(one["content"], one.get("is_error", False)) for one in told] == [
            (f"did {key}", False) for key in (A, B, C)
        ]


async def test_the_words_are_there(restart: Restart) -> None:
    """agno: the user's message is lost too."""
    async with restart.session() as session:
        assert words(session) == [WORDS]


async def test_cancelled_while_b_runs() -> None:
    """anthropic `thread()`: A's result is lost, and the next message goes out without a tool_result."""
    running = anyio.Event()

    @tool
    async def a() -> str:
        """Quick."""
        return "a is done"

    @tool
    async def b() -> str:
        """Slow."""
        running.set()
        await anyio.sleep_forever()
        return "never"

    world = World(answers([call("a"), call("b")]))
    async with world.manager() as manager:
        session = await create_in(manager, tools=[a, b])
        turn = asyncio.create_task(session.send("go"))
        await running.wait()
        while not any(row.ended for row in await manager.runtime.store.journal(session.id)):
            await asyncio.sleep(0)
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn
        assert (await session.send("what now?")).text == "fine"
        assert [one["content"] for one in results(session.messages[2])] == ["a is done", INTERRUPTED]
    world.check()


# -- two senders on one session at the same moment --


async def _two_at_once(world: World, one: SessionManager, other: SessionManager) -> list[Any]:
    session = await create_in(one)
    same = await other.open(session.id)
    replies: list[Any] = [None, None]

    async def send(number: int, to: Session) -> None:
        replies[number] = (await to.send(f"message {number}")).text

    async with anyio.create_task_group() as group:
        group.start_soon(send, 0, session)
        group.start_soon(send, 1, same)
        await world.clock.advance(30)
    found = await one.open(session.id)
    return [found, replies]


@pytest.mark.parametrize("processes", [1, 2])
async def test_two_senders(processes: int, tmp_path: Path) -> None:
    """openai-agents interleaves; langgraph and strands lose a turn; adk raises; pydantic-ai raises after paying."""
    world = World(lambda request: f"re: {request.text}", url=tmp_path / "a.db", latency=Latency(first_event=1.0))
    async with world.manager() as one, world.manager() as another:
        found, replies = await _two_at_once(world, one, another if processes == 2 else one)
        assert replies == ["re: message 0", "re: message 1"]
        assert [message["role"] for message in found.messages] == ["user", "assistant"] * 2
        assert sorted(words(found)) == ["message 0", "message 1"]
        for asked, answered in zip(words(found), texts(found.messages), strict=True):
            assert answered == f"re: {asked}"
        assert len(world.requests) == 2
    world.check()


async def test_a_stale_worker_is_fenced_off(tmp_path: Path) -> None:
    """No peer has a fencing token: whoever lost its lease writes nothing, and the other's turn stands alone."""
    world = World(lambda request: f"re: {request.text}", url=tmp_path / "a.db", latency=Latency(first_event=1.0))
    async with world.manager() as stale, world.manager() as fresh:
        session = await create_in(stale)
        stale.runtime.leases.renew_after = 10_000.0
        turn = asyncio.create_task(session.send("from the stale one"))
        await world.clock.advance(0.5)
        record = await fresh.runtime.store.acquire(
            session.id, fresh.runtime.leases.holder, seconds=10, now=world.clock.now() + 60
        )
        await fresh.runtime.store.release(record)
        await world.clock.advance(5)
        with pytest.raises(LeaseLost):
            await turn
        other = await fresh.open(session.id)
        replying = asyncio.create_task(other.send("from the fresh one"))
        await world.clock.advance(30)
        assert (await replying).text == "re: from the fresh one"
        assert words(other) == ["from the stale one", "from the fresh one"]
        assert texts(other.messages) == ["re: from the fresh one"]
    world.check()


async def test_an_idempotent_send_survives_a_restart(restart: Restart) -> None:
    """No peer has one. The killed turn had no key, so a new one is sent twice, by two processes."""
    async with restart.session() as session:
        await session.resume()
        first = await session.send("once", idempotency_key="k")
    requests = len(restart.world.requests)
    async with restart.session() as session:
        again = await session.send("once", idempotency_key="k")
        assert (again.text, again.stop_reason) == (first.text, first.stop_reason)
        assert len(restart.world.requests) == requests
        assert words(session) == [WORDS, "once"]


# -- what people complain about most, in the order of the list --


@pytest.mark.parametrize("how", ["timeout", "trim"])
async def test_1_no_orphan_after_a_timeout_or_a_trim(how: str) -> None:
    """An orphan tool_use makes a session unsendable for ever."""

    @tool
    async def slow() -> str:
        """Takes a minute."""
        await world.clock.sleep(60)
        return "done"

    world = World(answers([call("slow")], "done", "and on"))
    async with world.manager() as manager:
        session = await create_in(manager, tools=[slow])
        turn = asyncio.create_task(session.send("go", timeout=5 if how == "timeout" else None))
        await world.clock.advance(100)
        if how == "timeout":
            with pytest.raises(TimeoutError):
                await turn
        else:
            await turn
            await session.rewind(session.entries[1].id)
        assert (await session.send("go on")).text
        (told,) = results(session.messages[2])
        assert told["content"] == (INTERRUPTED if how == "timeout" else "done")
        assert (await session.send("and on")).text
    world.check()


async def test_2_thinking_comes_back_as_it_was(tmp_path: Path) -> None:
    """Thinking that the store alters or drops is a permanent 400: the simulator checks every signature."""

    def think(request: Request) -> Scripted:
        odd = {"type": "thinking", "thinking": "ä\u2028\u0000 “x” \\ </s> 🎈", "z": {"b": 1, "a": [0.1, 1e-7]}}
        calls = [] if request.results else [call("look", n=1)]
        return Scripted([odd, {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "so"}, *calls])

    @tool
    def look(n: int) -> str:
        """Looks."""
        return str(n)

    world = World(think, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create_in(manager, tools=[look], thinking={"type": "adaptive"}, id="fixed")
        await session.send("one")
    async with world.manager() as manager:
        session = await manager.open("fixed", tools=[look])
        branch = await session.fork()
        await session.send("two")
        await branch.send("three")
        first = json.dumps([one.content for one in session.entries if one.role == "assistant"][:2])
    for body in world.bodies[2:]:
        sent = [message["content"] for message in body["messages"] if message["role"] == "assistant"][:2]
        for block in (block for content in sent for block in content):
            block.pop("cache_control", None)
        assert json.dumps(sent) == first
    world.check()


async def test_3_the_store_grows_with_what_is_said(tmp_path: Path) -> None:
    """Stores that write the whole history every turn grow with its square."""
    sizes: dict[int, int] = {}
    for turns in (50, 100):
        world = World(lambda request: "a" * 1000, url=tmp_path / f"{turns}.db")
        async with world.manager() as manager:
            session = await create_in(manager)
            for _ in range(turns):
                await session.send("u" * 1000)
        sizes[turns] = (tmp_path / f"{turns}.db").stat().st_size  # closed: nothing is left in the log beside it
    assert sizes[100] < 2.1 * sizes[50]
    assert sizes[100] - sizes[50] < 50 * 5_000, "a turn of 2 kB takes less than 5"


async def test_4_many_runs_at_once_lose_nothing(tmp_path: Path) -> None:
    """Concurrent runs on one session lose data."""
    world = World(lambda request: f"re: {request.text}", url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create_in(manager)
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(session.send, f"message {number}")
        assert words(session) == [f"message {number}" for number in range(20)]
        assert texts(session.messages) == [f"re: message {number}" for number in range(20)]
    world.check()


@pytest.mark.parametrize("how", ["cancel", "error", "limit"])
async def test_5_work_is_saved_on_cancel_error_and_limit(how: str, tmp_path: Path) -> None:
    """What was done before a turn broke off is there after a restart, and is not done again."""
    ran: list[int] = []

    @tool
    def work(n: int) -> str:
        """Works."""
        ran.append(n)
        return f"did {n}"

    def rounds(request: Request) -> Scripted:
        done = len(request.calls)
        return Scripted([call("work", n=done)] if done < 3 else "all done", delay=1.0)

    world = World(rounds, url=tmp_path / "a.db", faults={2: Fault.http(500)} if how == "error" else None)
    async with world.manager(max_steps=2 if how == "limit" else 100) as manager:
        session = await create_in(manager, tools=[work], id="fixed")
        turn = asyncio.create_task(session.send("go"))
        await world.clock.advance(2.5 if how == "cancel" else 10)
        turn.cancel()
        (ended,) = await asyncio.gather(turn, return_exceptions=True)
        expected = {"cancel": asyncio.CancelledError, "error": ModelError, "limit": StepLimitReached}
        assert type(ended) is expected[how]
    assert ran == [0, 1]
    async with world.manager() as manager:
        session = await manager.open("fixed", tools=[work])
        resuming = asyncio.create_task(session.resume())
        await world.clock.advance(30)
        reply = await resuming
        assert reply is not None
        assert reply.text == "all done"
        assert ran == [0, 1, 2]
        assert words(session) == ["go"]
        assert sum(block["type"] == "tool_use" for m in session.messages for block in m["content"]) == 3
    world.check()


async def test_6_nothing_finished_runs_again_however_often_it_is_resumed(restart: Restart) -> None:
    """Tools run again after a resume."""
    for _ in range(3):
        async with restart.session() as session:
            await session.resume()
            assert await session.resume() is None
    assert effects(restart.job) == {A: 1, B: 2, C: 1}
    assert NOT_RUN not in results_by_key(session).values()


async def test_7_a_resume_is_warm(tmp_path: Path) -> None:
    """Cost spikes on resume: the request after a restart reads all that the one before it left in the cache."""
    world = World(lambda request: "word " * 300, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create_in(manager, id="fixed")
        for turn in range(3):
            await session.send(f"turn {turn}")
        before = (await session.calls())[-1].usage
    async with world.manager() as manager:
        session = await manager.open("fixed")
        after = (await session.send("back again")).usage
    assert after.cache_read == before.cache_read + before.cache_write
    assert after.cache_write + after.input < 400, "only the last answer and the new words are new"
    world.check()

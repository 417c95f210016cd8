"""Tools: whatever they do, the model gets a result and the conversation stays sendable."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anthropic import beta_async_tool, beta_tool
from anthropic.lib.tools import ToolError

from sessions import ConfigurationError, Tool, jobs, tool
from sessions.simulator import Fault
from tests.sessions.world import World, answers, call, create, everywhere, results, words


def outcomes(session: Any) -> list[tuple[Any, bool]]:
    """(content, is_error) of every tool result in the history."""
    return [
        (one["content"], bool(one.get("is_error")))
        for message in session.messages
        if message["role"] == "user"
        for one in results(message)
    ]


@everywhere
async def test_sync_async_and_sdk_tools_give_results_in_call_order(tmp_path: Path) -> None:
    @tool
    def plain(n: int) -> str:
        """Sync."""
        return f"plain {n}"

    @tool(name="renamed")
    async def other(n: int) -> dict[str, int]:
        """Async."""
        return {"n": n}

    @beta_tool
    def of_sdk(n: int) -> str:
        """Sync, the SDK's."""
        return f"sdk {n}"

    @beta_async_tool
    async def of_sdk_async(n: int) -> str:
        """Async, the SDK's."""
        return f"async sdk {n}"

    def bare(n: int) -> str:
        """A function as it is."""
        return f"bare {n}"

    names = ["of_sdk", "renamed", "bare", "plain", "of_sdk_async"]
    world = World(answers([call(name, n=number) for number, name in enumerate(names)]), url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, tools=[plain, other, of_sdk, of_sdk_async, bare])
        reply = await session.send("go")
        assert reply.text == "fine"
        assert outcomes(session) == [
            ("sdk 0", False), ('{"n":1}', False), ("bare 2", False), ("plain 3", False), ("async sdk 4", False),
        ]  # fmt: skip
        ids = [block["id"] for block in session.messages[1]["content"] if block["type"] == "tool_use"]
        assert [one["tool_use_id"] for one in results(session.messages[2])] == ids
    world.check()


def test_a_tool_still_is_its_function() -> None:
    @tool(idempotent=True, timeout=3)
    def double(n: int) -> int:
        """Doubles."""
        return 2 * n

    assert isinstance(double, Tool)
    assert double(4) == 8
    assert (double.name, double.idempotent, double.timeout, double.__doc__) == ("double", True, 3, "Doubles.")
    assert double.definition["input_schema"]["properties"]["n"]["type"] == "integer"


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        tool(timeout=timeout)(lambda: "x")


@everywhere
async def test_whatever_goes_wrong_is_told_to_the_model() -> None:
    @tool
    def breaks(n: int) -> str:
        """Raises."""
        raise ValueError(f"no {n}")

    @tool
    async def explains() -> str:
        """Raises what the SDK has for this."""
        raise ToolError([{"type": "text", "text": "see for yourself"}])

    @tool
    async def fussy(n: int) -> str:
        """Wants a number."""
        return str(n)

    @tool
    def silent() -> None:
        """Says nothing."""

    @tool
    def surrogate() -> str:
        """Says what is no text."""
        return "bad \ud800 text"

    @tool
    def empty() -> str:
        """Says the empty string."""
        return ""

    @tool
    async def late() -> str:
        """Raises a TimeoutError of its own."""
        raise TimeoutError("the upstream was slow")

    asked = [
        call("breaks", n=1), call("explains"), call("fussy", n="many"), call("fussy"), call("nobody"), call("silent"),
        call("surrogate"), call("empty"), call("late"),
    ]  # fmt: skip
    world = World(answers(asked))
    async with world.manager() as manager:
        session = await create(manager, tools=[breaks, explains, fussy, silent, surrogate, empty, late])
        assert (await session.send("go")).text == "fine"
        found = outcomes(session)
        assert [error for _, error in found] == [True, True, True, True, True, False, False, False, True]
        assert "no 1" in found[0][0]
        assert found[1][0] == [{"type": "text", "text": "see for yourself"}]
        assert "nobody" in found[4][0]
        assert "upstream was slow" in found[8][0]
        assert all(content for content, _ in found)
        assert (await session.send("and on")).text == "fine"
    world.check()


@everywhere
async def test_a_tool_that_takes_too_long_is_given_up() -> None:
    world = World(answers([call("slow"), call("quick")]))
    ended: list[str] = []

    @tool(timeout=20)
    async def slow() -> str:
        """Takes an hour."""
        try:
            await world.clock.sleep(3600)
        finally:
            ended.append("slow")
        return "late"

    @tool(timeout=20)
    async def quick() -> str:
        """Takes ten seconds."""
        await world.clock.sleep(10)
        return "in time"

    async with world.manager() as manager:
        session = await create(manager, tools=[slow, quick])
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "go")
            await world.clock.advance(19)
            assert len(session.messages) == 2
            await world.clock.advance(1)
        assert ended == ["slow"]
        (first, failed), second = outcomes(session)
        assert failed
        assert "timed out after 20 seconds" in first
        assert second == ("in time", False)
    world.check()


@everywhere
async def test_parallel_calls_run_at_the_same_time() -> None:
    world = World(answers([call("wait", seconds=n) for n in (50, 10, 30)]))

    @tool
    async def wait(seconds: int) -> str:
        """Waits."""
        await world.clock.sleep(seconds)
        return f"at {world.clock.now() - start:g}"

    start = world.clock.now()
    async with world.manager() as manager:
        session = await create(manager, tools=[wait])
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "go")
            await world.clock.advance(50)
        assert [content for content, _ in outcomes(session)] == ["at 50", "at 10", "at 30"]
        assert world.clock.now() == start + 50


@everywhere
async def test_sync_tools_run_at_the_same_time_in_threads() -> None:
    together = threading.Barrier(4, timeout=30)

    @tool
    def meet(n: int) -> str:
        """Returns when four are here."""
        together.wait()
        return f"met {n}"

    world = World(answers([call("meet", n=n) for n in range(4)]))
    async with world.manager() as manager:
        session = await create(manager, tools=[meet])
        await session.send("go")
        assert [content for content, _ in outcomes(session)] == [f"met {n}" for n in range(4)]


async def test_each_result_is_durable_when_it_is_there(tmp_path: Path) -> None:
    world = World(answers([call("act", n=n) for n in range(8)]), url=tmp_path / "a.db")

    @tool
    async def act(n: int) -> str:
        """Acts."""
        await world.clock.sleep(n)
        return "done"

    async with world.manager() as manager, world.manager() as other:
        session = await create(manager, tools=[act])
        task = asyncio.create_task(session.send("go"))
        for number in range(7):
            await world.clock.advance(1)
            rows = await other.runtime.store.journal(session.id)
            assert [row.index for row in rows if row.ended is not None] == list(range(number + 2))
        await task


async def test_no_result_is_lost_when_several_come_at_once(tmp_path: Path) -> None:
    @tool
    async def act(n: int) -> str:
        """Acts."""
        await anyio.lowlevel.checkpoint()
        return "done"

    world = World(answers([call("act", n=n) for n in range(8)]), url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, tools=[act])
        await session.send("go")
        rows = await manager.runtime.store.journal(session.id)
        assert len(rows) == 8
        assert [row.index for row in rows if row.ended is None] == []


async def test_a_tool_whose_own_task_was_cancelled_has_failed_like_any_other() -> None:
    runs: list[str] = []

    @tool(idempotent=True)
    async def lost() -> str:
        """Waits for something that somebody cancelled."""
        runs.append("lost")
        if len(runs) > 5:
            raise RuntimeError("run again and again")
        waited = asyncio.get_running_loop().create_future()
        waited.cancel()
        return str(await waited)

    world = World(answers([call("lost")]))
    async with world.manager() as manager:
        session = await create(manager, tools=[lost])
        assert (await session.send("go")).text == "fine"
        assert runs == ["lost"]
        assert outcomes(session)[0][1]
    world.check()


async def test_synchronous_tools_that_never_got_a_thread_are_not_busy() -> None:
    before, hold, begun = jobs.busy(), threading.Event(), threading.Event()

    @tool
    def act(n: int) -> str:
        """Waits until it may go."""
        begun.set()
        hold.wait(30)
        return "x"

    world = World(answers([call("act", n=n) for n in range(60)]))
    async with world.manager() as manager:
        session = await create(manager, tools=[act])
        task = asyncio.create_task(session.send("go"))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        hold.set()
    try:
        for _ in range(2000):
            if jobs.busy() == before:
                break
            await asyncio.sleep(0.001)
        assert jobs.busy() == before
    finally:
        jobs._busy = before  # or every later test would wait for ever


# -- tools that the caller runs --

APPROVE = {"name": "approve", "description": "Asks a person.", "input_schema": {"type": "object", "properties": {}}}


@tool
def own(n: int) -> str:
    """Ours."""
    return f"own {n}"


@everywhere
async def test_the_caller_answers_plain_tools_also_after_a_restart(tmp_path: Path) -> None:
    world = World(
        answers([call("approve", "toolu_a"), call("own", n=1), call("approve", "toolu_b")]), url=tmp_path / "a.db"
    )
    async with world.manager() as manager:
        session = await create(manager, tools=[APPROVE, own])
        reply = await session.send("may I?")
        assert reply.stop_reason == "tool_use"
        assert [block["name"] for block in reply.content] == ["approve", "own", "approve"]
        assert await session.resume() is None
    await world.clock.advance(1000)
    async with world.manager() as manager:
        session = await manager.open(session.id, tools=[APPROVE, own])
        assert await session.resume() is None
        reply = await session.send([{"type": "tool_result", "tool_use_id": "toolu_b", "content": "no"},
                                    {"type": "tool_result", "tool_use_id": "toolu_a", "content": "yes"}])  # fmt: skip
        assert reply.text == "fine"
        assert [content for content, _ in outcomes(session)] == ["yes", "own 1", "no"]
        assert len(session.messages) == 4
    world.check()


@everywhere
async def test_answers_come_together_and_words_may_follow() -> None:
    world = World(answers([call("approve", "toolu_a"), call("approve", "toolu_b")]))
    async with world.manager() as manager:
        session = await create(manager, tools=[APPROVE])
        await session.send("may I?")
        for wrong in ("toolu_x", "own"):
            before = session.messages
            with pytest.raises(ConfigurationError, match="answers no open"):
                await session.send([{"type": "tool_result", "tool_use_id": wrong, "content": "?"}])
            assert session.messages == before
        given = [
            {"type": "text", "text": "well,"},
            {"type": "tool_result", "tool_use_id": "toolu_b", "content": "yes"},
        ]
        with pytest.raises(ConfigurationError, match="no tool_result for toolu_a: hand in"):
            await session.send(given)
        assert session.messages == before
        await session.send([*given, {"type": "tool_result", "tool_use_id": "toolu_a", "content": "no"}])
        assert [content for content, _ in outcomes(session)] == ["no", "yes"]
        assert [block["type"] for block in session.messages[2]["content"]] == ["tool_result", "tool_result", "text"]
    world.check()


async def test_plain_words_close_what_waits_for_the_caller() -> None:
    world = World(answers([call("approve")]))
    async with world.manager() as manager:
        session = await create(manager, tools=[APPROVE])
        await session.send("may I?")
        await session.send("forget it")
        assert outcomes(session) == [("was not run", True)]
        assert words(session) == ["may I?", "forget it"]
    world.check()


async def test_the_same_answer_twice_in_one_message_is_refused_or_merged_not_sent() -> None:
    world = World(answers([call("approve", "toolu_a")]))
    async with world.manager() as manager:
        session = await create(manager, tools=[APPROVE])
        await session.send("may I?")
        twice = [{"type": "tool_result", "tool_use_id": "toolu_a", "content": text} for text in ("yes", "no")]
        try:
            await session.send(twice)
        except ConfigurationError:
            await session.send(twice[:1])
        assert len(outcomes(session)) == 1
    world.check()


# -- blocks as results --


async def test_results_may_be_content_blocks() -> None:
    @tool
    def picture() -> list[dict[str, Any]]:
        """Blocks."""
        return [{"type": "text", "text": "look:"}, {"type": "text", "text": " "}]

    @tool
    def one() -> dict[str, Any]:
        """One block, marked by somebody."""
        return {"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}

    @tool
    def data() -> list[Any]:
        """No blocks."""
        return [{"type": "unheard_of"}, float("nan"), {"ø": 1}]

    world = World(answers([call("picture"), call("one"), call("data")]))
    async with world.manager() as manager:
        session = await create(manager, tools=[picture, one, data])
        await session.send("go")
        found = [content for content, _ in outcomes(session)]
        assert found[0] == [{"type": "text", "text": "look:"}]
        assert found[1] == [{"type": "text", "text": "one"}]
        assert "unheard_of" in found[2]
        assert "ø" in found[2]
    world.check()


@pytest.mark.parametrize("kind", ["repeated_id", "unoffered", "interleaved"])
async def test_servers_that_answer_oddly(kind: Any) -> None:
    given = [{"type": "text", "text": "I look."}, call("own", n=1), call("own", n=2)]
    world = World(answers(given), faults={0: Fault(kind)})
    async with world.manager() as manager:
        session = await create(manager, tools=[own])
        assert (await session.send("go")).text
        asked = [block for block in session.messages[1]["content"] if block["type"] == "tool_use"]
        assert len({block["id"] for block in asked}) == len(asked) == len(outcomes(session))
        assert (await session.send("more")).text
    world.check()


async def test_server_tools_and_tools_of_both_kinds_are_sent_as_given() -> None:
    server = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    world = World(answers("ok"))
    async with world.manager() as manager:
        session = await create(manager, tools=[server, own, APPROVE])
        await session.send("go")
        sent = [
            {key: value for key, value in one.items() if key != "cache_control"} for one in world.bodies[0]["tools"]
        ]
        assert sent[0] == server
        assert sent[2] == APPROVE
        assert [one["name"] for one in sent] == ["web_search", "own", "approve"]
    world.check()

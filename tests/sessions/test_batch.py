"""`session.batch`: half the price, the shared history written once, and nothing lost or paid twice on the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import BatchIncomplete, ConfigurationError, ModelError, Reply, Session, tool
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage
from sessions.simulator import Fault, Latency, Request, Scripted, filler
from tests.sessions.world import MODEL, World, buckets, call, create, everywhere, marks, words

MINUTE = 60.0
SLOW = Latency(batch=10 * MINUTE)
COLORS = ["red", "green", "blue", "gray"]


async def turned(world: World, seconds: float, work: Callable[[], Awaitable[Any]]) -> Any:
    """The result of `work()` while the clock is turned that far; what it raises comes out."""
    found: list[Any] = []
    failed: list[Exception] = []

    async def run() -> None:
        try:
            found.append(await work())
        except Exception as error:
            failed.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await world.clock.advance(seconds)
    if failed:
        raise failed[0]
    return found[0]


def echo(request: Request) -> Any:
    return Scripted(f"re: {request.text}", thinking="hm")


def items(world: World) -> list[Any]:
    """The requests that were in batches."""
    return [one for one in world.requests if one.path.endswith("/request")]


def batches(world: World) -> int:
    """How many batches were made."""
    return len(world.engine.batches)


async def check_bills(world: World, *sessions: Session) -> None:
    """The ledgers of these sessions are what the simulator charged, in every bucket and to the last digit."""
    usage, cost = Usage(), Decimal(0)
    for session in sessions:
        bill = await session.cost()
        usage, cost = usage + bill.usage, cost + bill.total
    assert buckets(usage) == buckets(world.engine.bill().usage)
    assert cost == world.engine.bill().cost


@everywhere
async def test_branches_cost_half_and_write_the_shared_history_once(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    async with world.manager(tend=False) as manager:
        session = await create(manager)
        await session.send("I like colors.")
        head = session.head
        replies = await turned(world, 25 * MINUTE, lambda: session.batch(COLORS))
        assert [reply.text for reply in replies] == [f"re: {color}" for color in COLORS]
        assert session.head == head
        assert [words(reply.session)[-1] for reply in replies] == COLORS
        written = [one.usage.cache_write_1h for one in items(world)]
        assert [one > 0 for one in written] == [True, False, False, False]
        assert len({one.usage.cache_read for one in items(world)[1:]}) == 1
        assert all(marks(one.body) == marks(items(world)[0].body) for one in items(world))
        assert {ttl for _, ttl in marks(items(world)[0].body)} == {"1h"}
        assert batches(world) == 2
        assert [one.kind for reply in replies for one in reply.calls] == ["batch"] * 4
        for reply, exchange in zip(replies, items(world), strict=True):
            assert reply.cost == exchange.cost
        await check_bills(world, session, *(reply.session for reply in replies))
        again = await manager.open(replies[2].session.id)
        assert (await again.send("And then?")).text == "re: And then?"
        assert await again.verify() is None
        assert await manager.recover() == {}
    world.check()


@everywhere
async def test_what_a_batch_costs_beside_map(tmp_path: Path) -> None:
    async def bill(*, at_once: bool) -> Decimal:
        world = World(echo, url="sqlite://", latency=SLOW)
        async with world.manager(tend=False) as manager:
            session = await create(manager)
            await session.send("I like colors.")
            await world.clock.advance(2 * MINUTE * MINUTE)
            before = world.engine.bill().cost
            contents = [f"color {number}" for number in range(20)]
            work = session.map if at_once else session.batch
            await turned(world, 60 * MINUTE, lambda: work(contents))
            after = world.engine.bill().cost
            assert before is not None
            assert after is not None
            return after - before

    batched, mapped = await bill(at_once=False), await bill(at_once=True)
    assert batched < mapped * Decimal("0.6")


@everywhere
async def test_expected_usage_is_what_comes(tmp_path: Path) -> None:
    world = World(echo, url=tmp_path / "a.db", latency=SLOW)
    async with world.manager(tend=False) as manager:
        session = await create(manager)
        await session.send("I like colors.")
        replies = await turned(world, 25 * MINUTE, lambda: session.batch(COLORS))
        for reply in replies[1:]:
            (made,) = reply.calls
            assert made.expected is not None
            assert made.usage.cache_read == made.expected.cache_read > 0
            assert made.request_id in world.engine.batches


async def test_nothing_and_one() -> None:
    world = World(echo)
    async with world.manager() as manager:
        session = await create(manager)
        assert await session.batch([]) == []
        (reply,) = await session.batch(["red"])
        assert reply.text == "re: red"
        assert batches(world) == 1
        with pytest.raises(ValueError, match="poll"):
            await session.batch(["red"], poll=0)
        with pytest.raises(ConfigurationError):
            await session.batch(["red", ""])
        assert len(await manager.list(branches=True)) == 2


@everywhere
async def test_a_prefix_below_the_minimum_needs_no_first_one() -> None:
    world = World(echo, latency=SLOW)
    async with world.manager() as manager:
        session = await create(manager, system="Short.")
        replies = await turned(world, 15 * MINUTE, lambda: session.batch(COLORS))
        assert [reply.text for reply in replies] == [f"re: {color}" for color in COLORS]
        assert batches(world) == 1


@everywhere
async def test_one_that_fails_keeps_the_others_and_is_sent_again_alone(tmp_path: Path) -> None:
    bad = {"green": Fault.http(529), "gray": Fault("expired")}

    def script(request: Request) -> Any:
        return bad.pop(request.text, None) or echo(request)

    world = World(script, url=tmp_path / "a.db", latency=SLOW)
    async with world.manager() as manager:
        session = await create(manager)

        def send() -> Any:
            return session.batch(COLORS, idempotency_key="k")

        with pytest.raises(BatchIncomplete, match="2 of 4") as caught:
            await turned(world, 25 * MINUTE, send)
        kinds = [type(one) for one in caught.value.results]
        assert kinds == [Reply, ModelError, Reply, ModelError]
        assert caught.value.retryable
        assert "overloaded_error" in str(caught.value)
        assert "24 hours" in str(caught.value.results[3])
        replies = await turned(world, 25 * MINUTE, send)
        assert [reply.text for reply in replies] == [f"re: {color}" for color in COLORS]
        assert len(items(world)) == 6
        ledger = [one.status for one in await replies[1].session.calls()]
        assert ledger == ["error", "ok"]
        await check_bills(world, *(reply.session for reply in replies))
        assert [one.text for one in await send()] == [one.text for one in replies]
        assert (len(items(world)), batches(world)) == (6, 3)
    world.check()


@everywhere
async def test_a_branch_that_failed_can_be_asked_in_real_time() -> None:
    bad = {"red": Fault.http(500)}

    def script(request: Request) -> Any:
        return bad.pop(request.text, None) or echo(request)

    world = World(script)
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(BatchIncomplete) as caught:
            await session.batch(["red", "green"], idempotency_key="k")
        name = str(caught.value.results[0]).partition("(session ")[2].partition(" ")[0]
        branch = await manager.open(name)
        reply = await branch.resume()
        assert reply is not None
        assert reply.text == "re: red"
        assert [one.text for one in await session.batch(["red", "green"], idempotency_key="k")] == [
            "re: red",
            "re: green",
        ]
        assert [one.kind for one in await branch.calls()] == ["batch", "turn"]


@everywhere
async def test_content_that_the_api_refuses_leaves_the_chain() -> None:
    world = World(echo)
    async with world.manager() as manager:
        session = await create(manager)
        strange = [{"type": "odd", "text": "nobody knows this block"}]
        with pytest.raises(BatchIncomplete, match="invalid_request_error") as caught:
            await session.batch([strange, "fine"])
        bad, good = caught.value.results
        assert not bad.retryable
        assert good.text == "re: fine"
        infos = {one.id: one.head for one in await manager.list(branches=True)}
        assert sorted(head is None for head in infos.values()) == [False, True, True]


@everywhere
async def test_a_refusal_is_a_reply() -> None:
    world = World(lambda _: Scripted("", stop_reason="refusal"))
    async with world.manager() as manager:
        (reply,) = await (await create(manager)).batch(["red"])
        assert (reply.stop_reason, reply.text, reply.session.head) == ("refusal", "", None)


@everywhere
async def test_a_reply_that_calls_tools_is_resumed_by_the_branch() -> None:
    ran: list[str] = []

    @tool
    async def paint(color: str) -> str:
        """Paints."""
        ran.append(color)
        return f"painted {color}"

    def script(request: Request) -> Any:
        return "done" if request.results else [call("paint", color=request.text)]

    world = World(script)
    async with world.manager(tools=[paint]) as manager:
        session = await create(manager, tools=[paint])
        replies = await session.batch(["red", "blue"], idempotency_key="k")
        assert [reply.stop_reason for reply in replies] == ["tool_use"] * 2
        assert ran == []
        await world.clock.advance(60)
        assert await manager.recover() == {}
        finished = await replies[0].session.resume()
        assert finished is not None
        assert finished.text == "done"
        assert [one.kind for one in finished.calls] == ["batch", "turn"]
        assert ran == ["red"]
        later = await session.batch(["red", "blue"], idempotency_key="k")
        assert [reply.stop_reason for reply in later] == ["end_turn", "tool_use"]
        await replies[1].session.send("never mind")
        assert "was not run" in str(replies[1].session.messages)
    world.check()


@everywhere
async def test_a_call_cut_short_is_an_error_that_was_paid() -> None:
    tools = [{"name": "paint", "input_schema": {"type": "object"}}]
    world = World(lambda _: [call("paint", color="x" * 4000)])
    async with world.manager() as manager:
        session = await create(manager, tools=tools, max_tokens=50)
        with pytest.raises(BatchIncomplete, match="max_tokens"):
            await session.batch(["red"], idempotency_key="k")
        branch = await manager.open(next(one.id for one in await manager.list(branches=True) if one.calls))
        assert (await branch.calls())[0].usage.output == 50
        await check_bills(world, branch)


async def test_a_branch_whose_words_exceed_the_window_is_compacted_before_they_are_sent(tmp_path: Path) -> None:
    small = replace(profile_for(MODEL), window=12_000)
    world = World(echo, url=tmp_path / "a.db", latency=SLOW, profile=small)
    async with world.manager(profile=small, tend=False) as manager:
        session = await create(manager, compact="auto")
        await session.send(f"one {filler(3000)}")
        await session.send("two")
        (reply,) = await turned(world, 25 * MINUTE, lambda: session.batch([f"three {filler(5000)}"]))
        assert reply.text.startswith("re: three")
        assert reply.session.entries[0].stop_reason == "compaction"
        assert len(words(reply.session)) == 1
        again = await session.fork(at=session.entries[-1].id)
        assert again.entries[0].role == "user"
        await check_bills(world, session, reply.session)
    world.check()

"""Budgets: nothing is sent for which there is no room, whoever sends it, and what is kept back goes on later."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import Budget, BudgetExceeded, ConfigurationError, Session, SessionManager, simulator, tool
from sessions.simulator import Fault, Latency, Scripted
from storage.sql import SQLStore
from storage.sqlite.database import SQLiteDatabase
from storage.threads import outcome
from storage.transactions import Database
from tests.sessions.test_batch import turned
from tests.sessions.world import World, call, create, everywhere, words

HOUR = 3600.0


async def costs_of(*contents: str, script: Any = None, **given: Any) -> list[Decimal]:
    """What the calls of such a conversation cost where nothing limits them."""
    async with World(script).manager(tend=False) as manager:
        session = await create(manager, **given)
        for content in contents:
            await session.send(content)
        return [made.cost or Decimal(0) for made in await session.calls()]


@everywhere
async def test_a_request_without_room_is_not_sent_and_its_words_are_kept() -> None:
    [one] = await costs_of("one")
    world, budget = World(), Budget(one * 3 / 2, per="session", window=HOUR)
    async with world.manager(budgets=[budget], tend=False) as manager:
        session = await create(manager)
        began = world.clock.now()
        assert (await session.send("one")).cost == one
        await world.clock.advance(400.0)  # what was cached has lapsed
        with pytest.raises(BudgetExceeded, match=r"the budget of \$0.0\d+ for each session in 1:00:00 has") as refused:
            await session.send("two")
        error = refused.value
        assert (error.budget, error.left, error.frees) == (budget, one / 2, began + HOUR)
        assert "it frees in 3,200 seconds" in str(error)
        assert (words(session), session.state, len(world.requests)) == (["one", "two"], "interrupted", 1)
        with pytest.raises(BudgetExceeded):
            await session.resume()
        await world.clock.advance(HOUR - 400.0)
        resumed = await session.resume()
        assert resumed is not None
        assert (words(session), len(await session.calls())) == (["one", "two"], 2)
    world.check()


@everywhere
async def test_results_of_tools_are_kept_and_no_tool_runs_twice(tmp_path: Path) -> None:
    ran: list[str] = []

    @tool
    def look(key: str) -> str:
        """Looks."""
        ran.append(key)
        return "seen " * 8000

    def script(request: Any) -> Any:
        return "done" if request.results else [call("look", key="a")]

    [one, _] = await costs_of("go", script=script, tools=[look])
    ran.clear()
    world = World(script, url=tmp_path / "a.db")
    async with world.manager(budgets=[Budget(one * 4, window=HOUR)], tend=False) as manager:
        session = await create(manager, tools=[look])
        with pytest.raises(BudgetExceeded):
            await session.send("go")
        assert (ran, len(world.requests)) == (["a"], 1)
    async with world.manager(tend=False) as manager:
        again = await manager.open(session.id, tools=[look])
        assert [message["role"] for message in again.messages] == ["user", "assistant", "user"]
        reply = await again.resume()
        assert reply is not None
        assert (reply.text, ran) == ("done", ["a"])
    world.check()


@everywhere
async def test_a_budget_is_the_owners_the_sessions_or_everybodys(tmp_path: Path) -> None:
    [one] = await costs_of("one")
    for per, sent in (("owner", [True, False, True, True, False]), ("session", [True] * 5), ("manager", [True])):
        world = World(url=tmp_path / f"{per}.db")
        budgets = [Budget(one * 3 / 2, per=per, window=HOUR)]  # type: ignore[arg-type]
        async with (
            world.manager(budgets=budgets, tend=False) as manager,
            world.manager(budgets=budgets, tend=False) as other,
        ):
            went = []
            for number, owner in enumerate(("a", "a", "b", None, None)):
                session = await create([manager, other][number % 2], owner=owner, system=simulator.filler(600 + number))
                try:
                    await session.send("one")
                    went.append(True)
                except BudgetExceeded as error:
                    assert error.budget == budgets[0]
                    went.append(False)
            assert went == [*sent, *[False] * (5 - len(sent))], per
        world.check()


@everywhere
async def test_an_idle_conversation_is_not_kept_warm_without_room(caplog: pytest.LogCaptureFixture) -> None:
    reply = simulator.filler(150)

    async def idle(budgets: list[Budget]) -> list[str]:
        world = World(lambda request: Scripted(reply, output_tokens=600))
        async with world.manager(budgets=budgets) as manager:
            given = {"model": "claude-opus-5", "max_tokens": 1000, "system": simulator.filler(2883)}
            session = await manager.create(**given)
            with caplog.at_level(logging.INFO, "sessions"):
                sent = await session.send("hello")
                await world.clock.advance(300.0)
            costs.append(sent.cost or Decimal(0))
            world.check()
            return [made.kind for made in await session.calls()]

    costs: list[Decimal] = []
    assert await idle([]) == ["turn", "park"]
    assert await idle([Budget(1)]) == ["turn", "park"]
    assert await idle([Budget(costs[0] + Decimal("0.000001"))]) == ["turn"]
    assert "is not kept warm: the budget of" in caplog.text
    assert "could not be kept warm" not in caplog.text


@everywhere
async def test_nothing_else_is_sent_without_room() -> None:
    world = World()
    async with world.manager(budgets=[Budget(0.000001)], tend=False) as manager:
        session = await create(manager)
        with pytest.raises(BudgetExceeded, match="raise the budget"):
            await session.prewarm()
        with pytest.raises(BudgetExceeded):
            await manager.prewarm(model="claude-sonnet-5-5", max_tokens=100, system=simulator.filler(600))
        await session.append([{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}])
        with pytest.raises(BudgetExceeded):
            await session.compact()
        with pytest.raises(BudgetExceeded) as refused:
            await session.map(["a", "b"])
        assert refused.value.frees is None
        with pytest.raises(BudgetExceeded):
            await session.batch(["a", "b"])
        turn = await session.begin("two")
        with pytest.raises(BudgetExceeded):
            await turn.reply()
        assert (turn.state, len(await session.calls())) == ("interrupted", 0)
        async with session.stream("three") as stream:
            with pytest.raises(BudgetExceeded):
                await stream.get_final_reply()
        with pytest.raises(BudgetExceeded):
            async for _ in session.run("four"):
                pass
        assert words(session) == ["one", "two", "three", "four"]
    assert world.requests == []


@everywhere
async def test_those_that_may_cost_too_much_together_go_one_after_the_other() -> None:
    """The most that those under way may cost would be too much: the others wait until it is known what they cost."""
    world = World(latency=Latency(first_event=1.0))
    async with world.manager(budgets=[Budget(0.1)], tend=False) as manager:
        session = await create(manager)  # 4,000 tokens of output: $0.04
        await turned(world, 5.0, lambda: session.send("zero"))
        replies = await turned(world, 60.0, lambda: session.map(["a", "b", "c", "d", "e", "f"]))
        assert len(replies) == 6
        calls = [reply.calls[0] for reply in replies]
        together = [sum(other.started <= each.started < (other.ended or 0.0) for other in calls) for each in calls]
        assert max(together) == 3
        bill = world.engine.bill().cost
        assert bill is not None
        assert bill < Decimal("0.1")
    world.check()


def opening(world: World, manager: SessionManager, took: list[Session]) -> Callable[[], Awaitable[None]]:
    async def take() -> None:
        took.append(await create(manager))
        await took[-1].send("first")

    return take


@everywhere
@pytest.mark.parametrize("how", ["stop", "cancel", "late"])
async def test_who_waits_for_room_may_leave(how: str) -> None:
    world = World(latency=Latency(first_event=100.0))
    async with world.manager(budgets=[Budget(0.05)], tend=False) as manager:
        took: list[Session] = []
        waiting = await create(manager, system=simulator.filler(4000))
        async with anyio.create_task_group() as group:
            group.start_soon(opening(world, manager, took))
            await world.clock.advance(1.0)
            errors: list[BaseException] = []
            stream = waiting.stream("second")

            async def second(scope: anyio.CancelScope) -> None:
                with scope:
                    try:
                        async with stream:
                            await stream.get_final_reply()
                    except Exception as error:
                        errors.append(error)

            scope = anyio.CancelScope()
            group.start_soon(second, scope)
            await world.clock.advance(5.0)
            assert (len(world.requests), words(waiting)) == (1, ["second"])
            if how == "stop":
                stream.stop()
            elif how == "cancel":
                scope.cancel()
            else:  # a minute is the longest wait
                await world.clock.advance(60.0)
            await world.clock.advance(1.0)
            assert [type(error) for error in errors] == ([BudgetExceeded] if how == "late" else [])
            again = await manager.open(waiting.id)
            assert (words(again), again.state) == (["second"], "idle" if how == "stop" else "interrupted")
            await world.clock.advance(100.0)
        assert len(world.requests) == 1
        resumed = await turned(world, 200.0, waiting.resume)
        assert (resumed is None) == (how == "stop")
    world.check()


@everywhere
async def test_a_batch_is_sent_as_far_as_there_is_room_and_goes_on_later(tmp_path: Path) -> None:
    """At half the price; what was announced and could not be sent gives its room back."""
    world = World(url=tmp_path / "a.db", latency=Latency(batch=600.0))
    async with world.manager(budgets=[Budget(0.05, window=HOUR)], tend=False) as manager:
        session = await create(manager)
        replies = await turned(world, 3 * HOUR, lambda: session.batch(["a", "b", "c", "d", "e"]))
        assert len(replies) == 5
        assert len(world.engine.batches) > 2
        for reply in replies:
            assert reply.calls[0].kind == "batch"
    world.check()


@everywhere
async def test_a_request_outside_of_turns_waits_for_room_too() -> None:
    world = World(latency=Latency(first_event=20.0))
    async with world.manager(budgets=[Budget(0.05)], tend=False) as manager:
        took: list[Session] = []
        other = await create(manager, system=simulator.filler(4000))
        async with anyio.create_task_group() as group:
            group.start_soon(opening(world, manager, took))
            await world.clock.advance(1.0)
            usage = await turned(world, 60.0, other.prewarm)
        assert usage.cache_write > 0
        [first], [warmed] = await took[0].calls(), await other.calls()
        assert first.ended is not None
        assert first.started < first.ended <= warmed.started
    world.check()


@everywhere
async def test_a_batch_that_was_not_made_gives_its_room_back(tmp_path: Path) -> None:
    faults = {0: Fault.http(529)}
    world = World(url=tmp_path / "a.db", latency=Latency(batch=60.0), faults=faults)
    async with world.manager(budgets=[Budget(0.0215, window=HOUR)], tend=False) as manager:
        session = await create(manager)
        assert len(await turned(world, HOUR, lambda: session.batch(["a"]))) == 1
        assert len(world.engine.batches) == 1
    world.check()


@everywhere
async def test_a_batch_that_finds_no_room_goes_on_with_its_key(tmp_path: Path) -> None:
    [one] = await costs_of("a")
    world = World(url=tmp_path / "a.db", latency=Latency(batch=60.0))
    async with world.manager(budgets=[Budget(one * 3 / 4, window=HOUR)], tend=False) as manager:
        session = await create(manager, max_tokens=60)
        other = await create(manager, max_tokens=60, system=simulator.filler(580))
        assert len(await turned(world, 200.0, lambda: session.batch(["a"]))) == 1
        with pytest.raises(BudgetExceeded):
            await turned(world, 200.0, lambda: other.batch(["b"], idempotency_key="k"))
        assert len(world.engine.batches) == 1
        assert await turned(world, 200.0, manager.recover) == {}
        await world.clock.advance(HOUR)
        assert len(await turned(world, 200.0, lambda: other.batch(["b"], idempotency_key="k"))) == 1
    world.check()


@everywhere
async def test_a_turn_takes_one_statement_more_and_without_budgets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One request in 64, by its random id, tidies up besides.
    monkeypatch.setattr("storage.transactions.spending.SWEEP_EACH", 2**64)
    counts = {}
    for name, budgets in (("none", ()), ("three", (Budget(9), Budget(9, "session"), Budget(9, "manager")))):
        store = SQLStore(f"sqlite:///{tmp_path}/{name}.db")
        seen: list[str] = []

        def listen(db: Database, seen: list[str] = seen) -> None:
            assert isinstance(db, SQLiteDatabase)
            db.raw.set_trace_callback(seen.append)

        async with World().manager(store=store, budgets=budgets, tend=False) as manager:
            session = await create(manager)
            await session.send("one")
            await outcome(store.dialect.write(listen))
            seen.clear()
            await session.send("two")
            said = [statement for statement in seen if statement.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")]
            counts[name] = len(said), sum("spending" in statement for statement in said)
    assert counts["none"][1] == 0
    assert counts["three"] == (counts["none"][0] + 1, 1)


async def test_what_a_turn_may_cost_can_be_said_with_each() -> None:
    world = World()
    async with world.manager(tend=False) as manager:
        session = await create(manager)
        with pytest.raises(BudgetExceeded, match=r"more than max_cost") as refused:
            await session.send("one", max_cost=0.000001)
        assert (refused.value.budget, refused.value.left, refused.value.frees) == (None, Decimal("0.000001"), None)
        async with session.stream("two", max_cost=Decimal("0.000001")) as stream:
            with pytest.raises(BudgetExceeded):
                await stream.get_final_reply()
        with pytest.raises(BudgetExceeded):
            async for _ in session.run("three", max_cost=0.000001):
                pass
        with pytest.raises(ConfigurationError, match="max_cost must be a number of USD above zero"):
            await session.send("four", max_cost=-1)
        assert (await session.send("five", max_cost=1)).text
        assert words(session) == ["one", "two", "three", "five"]


def test_a_budget_is_a_value_that_is_checked() -> None:
    assert Budget(5) == Budget(Decimal(5), "owner", timedelta(days=1))
    assert Budget(0.1).usd == Decimal("0.1")
    assert str(Budget(5, "manager", 3600)) == "$5 for all sessions in 1:00:00"
    for given, what in (
        ((0,), "usd must be a number of USD above zero"),
        ((None,), "usd must be a number of USD, at most"),
        ((2_000_000,), "usd must be a number of USD, at most"),
        ((1, "model"), "per must be one of owner, session, manager"),
        ((1, "owner", 0), "window must be more than 0 seconds"),
        ((1, "owner", -1), "window must be"),
    ):
        with pytest.raises(ConfigurationError, match=what):
            Budget(*given)  # type: ignore[arg-type]
    for wrong in ([5], 5, Budget(5)):
        with pytest.raises(ConfigurationError, match="budgets must be"):
            World().manager(budgets=wrong)

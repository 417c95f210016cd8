"""The public interface as a user's program sees it: checked by mypy --strict, never run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal, assert_type

from anthropic import AsyncAnthropic
from anthropic.types import Message

from sessions import (
    Budget,
    Call,
    ClearedResults,
    Clearing,
    Compaction,
    Cost,
    CostForecast,
    Entry,
    ExpectedCost,
    Fixed,
    Miss,
    Outlook,
    OwnedManager,
    PendingCall,
    Reply,
    Session,
    SessionInfo,
    SessionManager,
    SessionsError,
    Shortening,
    Step,
    Tool,
    ToolContext,
    Turn,
    TurnEvent,
    TurnInfo,
    Usage,
    simulator,
    tool,
)
from sessions.testing import ManualClock, simulated_manager
from storage import open_store


@tool
def plain(city: str) -> str:
    return city


@tool(name="other", idempotent=True, timeout=5.0)
async def decorated(number: int) -> list[dict[str, str]]:
    return [{"type": "text", "text": str(number)}]


@tool(needs_approval=True)
def pay(amount: int, ctx: ToolContext) -> str:
    ctx.progress("asking the bank")
    assert_type(ctx.call_id, str)
    assert_type(ctx.owner, str | None)
    assert_type(ctx.metadata, dict[str, Any])
    return str(amount)


async def above(given: dict[str, Any], context: ToolContext) -> bool:
    return bool(given["amount"] > 10)


def tools_of(owner: str | None, metadata: dict[str, Any]) -> list[Tool]:
    return [
        tool(pay, needs_approval=lambda given, context: owner is None),
        tool(pay, name="more", needs_approval=above),
    ]


class Always:
    """A user's own policy needs no base class."""

    def choose(self, outlook: Outlook) -> Literal["5m", "1h"]:
        return "1h" if "1h" in outlook.options else "5m"


async def manage() -> None:
    assert_type(plain, Tool)
    assert_type(decorated, Tool)
    async with SessionManager("sqlite://", client=AsyncAnthropic(), ttl=Fixed("1h"), clock=ManualClock()) as manager:
        assert_type(manager, SessionManager)
        session = await manager.create(
            model="claude-sonnet-5-5",
            max_tokens=1024,
            system="You are terse.",
            tools=[plain, decorated, {"type": "web_search_20250305", "name": "web_search"}],
            thinking={"type": "adaptive"},
            context=[{"type": "text", "text": "A document."}],
            metadata={"shop": 7},
        )
        assert_type(session, Session)
        assert_type(await manager.open(session.id, owner="user-42", tools=[plain]), Session)
        assert_type(await manager.list(owner=None, limit=10), list[SessionInfo])
        assert_type(await manager.costs("owner"), dict[str | None, Cost])
        await manager.delete(session.id)
    async with SessionManager("sqlite://", client=AsyncAnthropic(), recover=True, tools=[plain, decorated]) as manager:
        assert_type(await manager.recover(in_doubt="rerun"), dict[str, Reply | SessionsError])
    async with SessionManager("sqlite://", client=AsyncAnthropic(), tools=tools_of) as manager:
        assert_type(pay, Tool)


async def talk(session: Session) -> None:
    reply = await session.send("Hello", expected_gap=timedelta(minutes=8), idempotency_key="k", timeout=30.0)
    assert_type(reply, Reply)
    assert_type(reply.text, str)
    assert_type(reply.stop_reason, str | None)
    assert_type(reply.message, Message)
    assert_type(reply.usage, Usage)
    assert_type(reply.usage.hit_rate, float)
    assert_type(reply.cost, Decimal | None)
    assert_type(reply.session, Session)
    async with session.stream([{"type": "text", "text": "And then?"}], expected_gap=60) as stream:
        async for text in stream.text_stream:
            assert_type(text, str)
        await stream.cancel()
        assert_type(await stream.get_final_reply(), Reply)
    async for step in session.run("Go on"):
        assert_type(step, Step)
    assert_type(await session.resume(in_doubt="rerun"), Reply | None)
    async with session.resume_stream() as stream:
        assert_type(await stream.get_final_reply(), Reply)


async def spend(manager: SessionManager) -> None:
    budget = Budget(20.0, per="owner", window=timedelta(days=1))
    async with SessionManager("sqlite://", client=AsyncAnthropic(), budgets=[budget], prior="gaps.json") as limited:
        session = await limited.create(
            model="claude-sonnet-5-5", max_tokens=1024, compact="cheapest", clear_tool_results=True
        )
    forecast = await session.forecast()
    assert_type(forecast, CostForecast)
    assert_type(forecast.now.cost, Decimal | None)
    assert_type(forecast.waiting_five_minutes, Decimal | None)
    assert_type(forecast.compaction, Shortening | None)
    assert_type(forecast.clearing, Clearing | None)
    assert_type(await session.compactions(), list[Compaction])
    assert_type(await session.clearings(), list[ClearedResults])


async def follow(manager: SessionManager, session: Session) -> None:
    turn = await session.begin("Hello", idempotency_key="k", timeout=30.0, while_running="interrupt")
    assert_type(turn, Turn)
    async for event in turn.follow(after=None):
        assert_type(event, TurnEvent)
        assert_type(event.to_json(), str)
    assert_type(await turn.reply(), Reply)
    await turn.stop()
    assert_type(turn.ended, float | None)
    assert_type(await manager.turn(session.id), Turn | None)
    assert_type(await session.turns(), list[TurnInfo])
    assert_type(session.state, Literal["idle", "running", "waiting", "interrupted"])
    assert_type(session.pending, tuple[PendingCall, ...])
    await session.approve(session.pending[0].call_id, input={"amount": 1})
    await session.deny("call", reason="too much")
    await session.refresh()
    mine = manager.for_owner("ada")
    assert_type(mine, OwnedManager)
    assert_type(await mine.list(state="waiting", parent=session.id, branches=True), list[SessionInfo])
    assert_type(await session.cost(branches=True), Cost)


async def branch(session: Session) -> None:
    assert_type(await session.map(["a", "b"], limit=2), list[Reply])
    assert_type(await session.batch(["a", "b"], idempotency_key="k", poll=60, timeout=3600), list[Reply])
    assert_type(await session.fork(at=session.head), Session)
    await session.rewind(session.entries[0].id)
    await session.append([{"role": "user", "content": "Hello"}])
    await session.update(title="A title")
    await session.update(model="claude-opus-5-5", rebase=True)
    await session.instruct("Answer briefly.")
    assert_type(await session.compact(), Call)
    assert_type(session.entries, list[Entry])
    assert_type(await session.entries_before(), list[Entry])
    assert_type(await session.export(), list[dict[str, Any]])
    if (damage := await session.verify()) is not None:
        assert_type(damage.entry, str)
        assert_type(damage.sentence, str)
    assert_type(await session.prewarm(), Usage | None)
    assert_type(await session.calls(), list[Call])
    assert_type(await session.cost(), Cost)
    assert_type((await session.calls())[0].miss, Miss | None)
    await session.delete()


async def test_double() -> None:
    clock = ManualClock(start=0.0)
    async with simulated_manager(script=lambda request: f"You said {request.text}", clock=clock) as manager:
        assert_type(manager, SessionManager)
        await clock.advance(300)
    SessionManager(open_store("sqlite:///chat.db"), client=simulator.client(), ttl=ExpectedCost())
    SessionManager(ttl=Always())


def words(entries: Sequence[Entry]) -> list[str]:
    return [block["text"] for entry in entries for block in entry.content if block["type"] == "text"]

"""Idle conversations are parked and refreshed: when it pays, once, for as long as it shows that it works."""

from __future__ import annotations

import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import ConfigurationError, Fixed, Option, Outlook, Session, simulator, tool
from sessions.core.gaps import NEVER
from sessions.core.idle_limits import LOST_OF_ONE, LOST_SHARE
from sessions.simulator import Fault, Latency, Scripted
from tests.sessions.world import World, buckets, call, everywhere, marks

OPUS, FABLE = "claude-opus-5", "claude-fable-5-2"
REPLY = simulator.filler(150)


def world(**given: Any) -> World:
    return World(lambda request: Scripted(REPLY, output_tokens=150), **given)


class Parks:
    """Parks every conversation, however few have come back."""

    def choose(self, outlook: Outlook) -> Option:
        return "park" if "park" in outlook.options else "5m"


async def chat(manager: Any, **given: Any) -> Session:
    return await manager.create(**{"model": OPUS, "max_tokens": 1000, "system": simulator.filler(2883), **given})


async def talk(session: Session, at: World, *gaps: float) -> None:
    for number in range(len(gaps) + 1):
        await session.send(simulator.filler(80))
        if number < len(gaps):
            await at.clock.advance(gaps[number])


def price(at: World, read: float) -> float:
    usage = at.engine.bill().usage
    return usage.input + usage.cache_read * read + usage.cache_write_5m * 1.25 + usage.cache_write_1h * 2


def uncached(at: World) -> int:
    asked = (one for one in at.requests if (one.body or {})["max_tokens"])
    return sum(one.prompt.total for one in asked if one.prompt)


async def kinds(session: Session) -> list[str]:
    return [one.kind for one in await session.calls()]


@everywhere
async def test_a_chat_with_eight_minutes_between_turns_costs_what_was_promised() -> None:
    """At most .46 of uncached up to the last request, .49 with what is spent waiting; every peer: 1.25."""
    for model, read in ((OPUS, 0.1), ("claude-sonnet-5-5", 0.05), (FABLE, 0.025)):
        at = world()
        async with at.manager() as manager:
            session = await chat(manager, model=model)
            await talk(session, at, *[480.0] * 5)
            assert price(at, read) <= 0.46 * uncached(at)
            await at.clock.advance(3 * 3600.0)
            assert price(at, read) <= 0.49 * uncached(at)
            assert (await session.cost()).usage == at.engine.bill().usage
            assert (await session.cost()).total == at.engine.bill().cost
        at.check()


async def test_a_chat_with_two_minutes_between_turns_costs_no_more_than_with_5m() -> None:
    totals = []
    for policy in ({}, {"ttl": Fixed("5m")}):
        at = world()
        async with at.manager(**policy) as manager:
            await talk(await chat(manager), at, *[120.0] * 5)
            totals.append(at.engine.bill().cost)
    assert totals[0] == totals[1]


@everywhere
async def test_a_park_reads_the_warm_prefix_and_writes_the_reply_for_an_hour() -> None:
    at = world()
    async with at.manager() as manager:
        session = await chat(manager)
        await session.send("hello")
        await at.clock.advance(269.0)
        assert await kinds(session) == ["turn"]
        await at.clock.advance(2.0)
        turn, park = await session.calls()
        assert (park.kind, park.status, park.started - turn.started) == ("park", "ok", 270.0)
        assert park.usage.cache_read == turn.usage.cache_write_5m
        assert 0 < park.usage.cache_write_1h < 200
        assert (park.usage.cache_write_5m, park.usage.output) == (0, 0)
        assert park.cost is not None
        assert park.cost < Decimal("0.01")
        body = at.bodies[-1]
        assert body["max_tokens"] == 0
        assert "stream" not in body
        assert marks(body) == [("messages", "1h")]
        assert body["messages"][-1] == {"role": "user", "content": [{"type": "text", "text": "."}]}
        assert len(session.messages) == 2, "nothing of it is stored"
        await at.clock.advance(3000.0)
        reply = await session.send("again")
        assert reply.usage.cache_read == park.usage.cache_read + park.usage.cache_write_1h
        assert all(one.miss is None for one in await session.calls())
    at.check()


async def test_the_users_return_cancels_it() -> None:
    at = world()
    async with at.manager() as manager:
        session = await chat(manager)
        await talk(session, at, *[200.0] * 4)
        assert await kinds(session) == ["turn"] * 5
        await at.clock.advance(71.0)
        assert await kinds(session) == ["turn"] * 5, "the new turn counts, not the first"
        await at.clock.advance(200.0)
        assert await kinds(session) == ["turn"] * 5 + ["park"]
    at.check()


async def test_what_is_told_decides() -> None:
    for gap, want in ((60, 0), (7200, 0), (NEVER, 0), (1500, 1)):
        at = world()
        async with at.manager() as manager:
            session = await chat(manager)
            await session.send("hello", expected_gap=gap)
            await at.clock.advance(1200.0)
            assert (await kinds(session)).count("park") == want, gap
        at.check()


@everywhere
async def test_a_conversation_waiting_for_its_own_tool_is_parked() -> None:
    at = World()
    replies = iter([Scripted([call("wait")]), Scripted("done")])
    at.engine.script = lambda request: next(replies)

    @tool
    async def wait() -> str:
        """Takes twenty minutes."""
        await at.clock.sleep(1200.0)
        return "waited"

    async with at.manager() as manager:
        session = await chat(manager, tools=[wait])
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "go")
            await at.clock.advance(1300.0)
        first, park, last = await session.calls()
        assert [first.kind, park.kind, last.kind] == ["turn", "park", "turn"]
        assert at.bodies[1]["messages"][-1]["content"][0]["type"] == "tool_result"
        assert last.usage.cache_read == park.usage.cache_read + park.usage.cache_write_1h
        assert last.usage.cache_write < 100
    at.check()


@pytest.mark.parametrize("asks", [True, False])
async def test_waiting_for_an_approval_is_waiting_for_a_human(asks: bool) -> None:
    """A tool that runs long is sure to end: its prefix is kept. Who said that they are gone is not waited for."""
    at = World()
    at.engine.script = lambda request: Scripted("done" if request.results else [call("book")])

    async def book() -> str:
        """Books, in twenty minutes."""
        await at.clock.sleep(1200.0)
        return "booked"

    async with at.manager() as manager:
        session = await chat(manager, tools=[tool(book, needs_approval=asks)])
        turn = await session.begin("go", expected_gap=30 * 24 * 3600.0)
        await at.clock.advance(600.0)
        assert (turn.state, "park" in await kinds(session)) == (("waiting", False) if asks else ("running", True))
        if asks:
            await session.approve(session.pending[0].call_id)
        await at.clock.advance(1300.0)
        assert (turn.state, session.state) == ("finished", "idle")
    at.check()


async def test_at_a_low_price_a_park_is_refreshed_and_then_left() -> None:
    at = world()
    async with at.manager() as manager:
        session = await chat(manager, model=FABLE)
        await session.send("hello")
        await at.clock.advance(24 * 3600.0)
        calls = await session.calls()
        idle = [one.kind for one in calls[1:]]
        assert idle[:2] == ["park", "refresh"]
        assert len(idle) <= 4, "the chance of a return falls with the hours"
        refresh = calls[2]
        assert refresh.usage.cache_read == calls[1].usage.cache_read + calls[1].usage.cache_write_1h
        assert refresh.usage.cache_write == 0
        spent = sum(float(one.cost or 0) for one in calls[1:])
        assert spent < 1.25 * float(calls[0].cost or 0), "waiting never costs more than writing anew"
    at.check()


async def test_parks_that_do_not_survive_stop(caplog: pytest.LogCaptureFixture) -> None:
    at = world(parks_survive=False)
    with caplog.at_level(logging.WARNING, logger="sessions"):
        async with at.manager() as manager:
            session = await chat(manager)
            await talk(session, at, *[900.0] * 12)
            found = await kinds(session)
            assert 1 <= found.count("park") <= 3
            assert found[-6:] == ["turn"] * 6
            late = [one for one in await session.calls() if one.kind == "turn"][-4:]
            assert all(one.usage.cache_read for one in late), "now it is written for an hour"
            assert (await session.cost()).usage == at.engine.bill().usage
    assert len([one for one in caplog.records if "parked entries of" in one.getMessage()]) == 1, "it says so once"
    at.check()


async def test_where_parks_do_not_survive_it_ends_with_the_cost_of_the_best_policy_without() -> None:
    """Two rewrites show it; from then on sessions cost within 2 % of the best policy that does not park."""
    totals: dict[str, Decimal] = {}
    for name, options in {"ours": {}, "1h": {"ttl": Fixed("1h")}, "5m": {"ttl": Fixed("5m")}}.items():
        at = world(parks_survive=False)
        async with at.manager(**options) as manager:
            await talk(await chat(manager), at, *[900.0] * 9)
            learnt = at.engine.bill().cost or Decimal(0)
            await talk(await chat(manager, system=simulator.filler(3000)), at, *[900.0] * 30)
            totals[name] = (at.engine.bill().cost or Decimal(0)) - learnt
    assert totals["ours"] <= Decimal("1.02") * min(totals["1h"], totals["5m"]), totals


async def test_a_ping_that_writes_what_it_was_to_read_is_doubted() -> None:
    at = world()
    async with at.manager() as manager:
        for number in range(4):
            session = await chat(manager, system=simulator.filler(2883) + str(number))
            await session.send("hello")
            await at.clock.advance(200.0)
            at.engine.evict()
            await at.clock.advance(100.0)
        parks = [one for one in at.requests if (one.body or {})["max_tokens"] == 0]
        assert len(parks) == 2
    at.check()


async def test_sessions_left_after_one_turn_cost_one_park_each_and_at_most_three(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sessions.core.idle_limits.LOST_OF_ONE", 10.0)
    at = world()
    async with at.manager() as manager:
        sessions = []
        for number in range(6):
            # Nothing in common: what they shared would be kept once for all of them.
            sessions.append(await chat(manager, owner="u", system=f"{number} {simulator.filler(2883)}"))
            await sessions[-1].send("hello")
            await at.clock.advance(2 * 3600.0)
        found = [(await kinds(one)).count("park") for one in sessions]
        assert found[:2] == [1, 1]
        assert found[2] <= 1, "two who have not come back in hours may be enough"
        assert found[3:] == [0, 0, 0]
        other = await chat(manager, owner="v", system=simulator.filler(40_000))
        await other.send("hello")
        await at.clock.advance(1200.0)
        assert await kinds(other) == ["turn", "park"], "another owner has done nothing, and there is much to lose"
        await talk(sessions[5], at, 900.0)
        await at.clock.advance(1000.0)
        assert (await kinds(sessions[5])).count("park") == 1, "it came back in time once: parking is worth it again"
    at.check()


async def test_what_nobody_came_back_for_stays_a_small_share_of_the_bill() -> None:
    """Customers of whom none returns: the three in a row are each owner's own, this limit is the manager's."""
    at = world()
    async with at.manager() as manager:
        for number in range(40):
            session = await chat(manager, owner=f"u{number}", system=f"{number} {simulator.filler(2883)}")
            await session.send("hello")
            await at.clock.advance(30.0)
        await at.clock.advance(2 * 3600.0)
        costs = await manager.costs("kind")
    spent, earned = float(costs["park"].total), float(costs["turn"].total)
    assert 2 <= costs["park"].calls < 20
    assert spent < (LOST_SHARE + LOST_OF_ONE / 40) * earned + spent / costs["park"].calls
    at.check()


async def test_whoever_says_when_they_come_back_is_waited_for_whatever_others_did() -> None:
    at = world()
    async with at.manager(ttl=Parks()) as manager:
        for gap in (None, 1500.0):
            sessions = [await chat(manager, system=f"{gap}{n} {simulator.filler(2883)}") for n in range(20)]
            for session in sessions:
                await session.send("hello", expected_gap=gap)
            await at.clock.advance(400.0)
            parked = [(await kinds(session)).count("park") for session in sessions]
            assert sum(parked) == 20 if gap else 1 <= sum(parked) < 10
    at.check()


async def test_who_comes_back_makes_room_for_the_next() -> None:
    at = world()
    async with at.manager(ttl=Parks()) as manager:
        session = await chat(manager)
        await talk(session, at, *[900.0] * 12)
        assert (await kinds(session)).count("park") == 12, "more than may be lost, had nobody come back"
        await at.clock.advance(10 * 3600.0)
        lost = manager.runtime.forecaster.balance.lost
        assert lost < 0.0, "all together they have saved more than they cost"
    at.check()


async def test_spending_in_one_hour_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessions.core.idle_limits.FREE_PER_HOUR", 700.0)
    monkeypatch.setattr("sessions.core.idle_limits.SHARE_PER_HOUR", 0.0)
    at = world()
    async with at.manager() as manager:
        sessions = [await chat(manager) for _ in range(4)]
        for session in sessions:
            await session.send("hello")
        await at.clock.advance(600.0)
        assert sum([(await kinds(one)).count("park") for one in sessions]) == 1


@pytest.mark.filterwarnings("ignore:.* is deprecated")  # newer SDKs say so of older models
async def test_what_cannot_be_parked_is_not(tmp_path: Path) -> None:
    enabled = {"type": "enabled", "budget_tokens": 1024}
    for given, options in (
        ({"model": "claude-opus-4-5", "thinking": enabled, "max_tokens": 4000, "system": simulator.filler(9000)}, {}),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, {}),
        ({}, {"tend": False}),
        ({}, {"ttl": Fixed("5m")}),
        ({"system": simulator.filler(100)}, {}),
    ):
        at = world()
        async with at.manager(**options) as manager:
            session = await chat(manager, **given)
            await session.send("hello")
            await at.clock.advance(7200.0)
            assert await kinds(session) == ["turn"], given
        at.check()


async def test_a_park_that_fails_is_a_row_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    at = world(faults={1: Fault.http(529)})
    async with at.manager() as manager:
        session = await chat(manager)
        await session.send("hello")
        with caplog.at_level(logging.WARNING, logger="sessions"):
            await at.clock.advance(400.0)
        assert [(one.kind, one.status) for one in await session.calls()] == [("turn", "ok"), ("park", "error")]
        assert "could not be kept warm" in caplog.text
        assert manager.runtime.forecaster.balance.lost == 0.0, "what was not answered was not billed"
        await session.send("again")
        await at.clock.advance(400.0)
        assert (await kinds(session))[-1] == "park"


async def test_a_deleted_session_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    at = world()
    async with at.manager() as manager:
        session = await chat(manager)
        await session.send("hello")
        await session.delete()
        await at.clock.advance(900.0)
        assert len(at.requests) == 1
    assert not caplog.records


async def test_a_dead_workers_park_is_taken_up_once(tmp_path: Path) -> None:
    """The worker that had the turn is gone; two others live, and one of them parks."""
    at = world(url=tmp_path / "shared.db")
    gone = at.manager()
    await gone.__aenter__()
    session = await chat(gone)
    await session.send("hello")
    await gone.__aexit__(None, None, None)
    async with at.manager() as one, at.manager() as two:
        for manager in (one, two):
            await (await manager.create(model=OPUS, max_tokens=10)).send("in use")
        await at.clock.advance(310.0)
        found = await (await one.open(session.id)).calls()
        assert [call.kind for call in found] == ["turn", "park"]
        assert 270.0 <= found[1].started - found[0].started < 300.0
    at.check()


async def test_a_late_look_drops_the_park(tmp_path: Path) -> None:
    """Nobody lived when it was due: five minutes after the start nothing is left to park."""
    at = world(url=tmp_path / "shared.db")
    async with at.manager() as manager:
        session = await chat(manager)
        await session.send("hello")
    await at.clock.advance(301.0)
    async with at.manager() as manager:
        await (await manager.create(model=OPUS, max_tokens=10)).send("in use")
        await at.clock.advance(60.0)
        assert await kinds(await manager.open(session.id)) == ["turn"]
    at.check()


async def test_a_long_answer_is_parked_as_soon_as_it_is_there() -> None:
    for seconds, want in ((280.0, ["turn", "park"]), (320.0, ["turn"])):
        at = world(latency=Latency(first_event=seconds))
        async with at.manager() as manager:
            session = await chat(manager)
            async with anyio.create_task_group() as group:
                group.start_soon(session.send, "hello")
                await at.clock.advance(900.0)
            calls = await session.calls()
            assert [one.kind for one in calls] == want, "what was read has lapsed while it was answered"
            assert all(one.started < calls[0].started + 300 for one in calls)
        at.check()


async def test_what_an_owner_does_is_learnt_from_the_other_sessions(tmp_path: Path) -> None:
    at = world(url=tmp_path / "owners.db")
    async with at.manager() as manager:
        for _ in range(3):
            await talk(await chat(manager, owner="quick"), at, *[30.0] * 8)
            await at.clock.advance(30 * 3600.0)
    async with at.manager() as manager:
        session = await chat(manager, owner="quick")
        await session.send("hello")
        forecaster = manager.runtime.forecaster
        quick = forecaster.circumstances(session.conversation, at.clock.now()).forecast
        stranger = forecaster.circumstances((await chat(manager)).conversation, at.clock.now()).forecast
        assert quick.within(60) > stranger.within(60)


async def test_the_ledger_holds_a_row_for_each() -> None:
    at = world()
    async with at.manager() as manager:
        session = await chat(manager, model=FABLE)
        await session.prewarm()
        await talk(session, at, 900.0)
        await at.clock.advance(5000.0)
        cost = await session.cost()
        assert set(cost.by_kind) == {"prewarm", "turn", "park", "refresh"}
        assert buckets(cost.usage) == buckets(at.engine.bill().usage)
        assert cost.total == at.engine.bill().cost
    at.check()


# -- pre-warming what does not exist yet ---------------------------------------------------------------------------


@tool
def look() -> str:
    """Looks."""
    return "seen"


@everywhere
async def test_a_prefix_is_warmed_before_any_session_exists() -> None:
    at = world()
    settings: dict[str, Any] = {"model": OPUS, "max_tokens": 1000, "system": simulator.filler(2000), "tools": [look]}
    pinned = [{"type": "text", "text": simulator.filler(900)}]
    for context, least in (((), 2000), (pinned, 2900)):
        async with at.manager() as manager:
            used = await manager.prewarm(**settings, context=context)
            assert used is not None
            assert used.cache_read + used.cache_write >= least
            assert used.output == 0
            assert await manager.prewarm(**settings, context=context) is None, "it is warm"
            session = await manager.create(**settings, context=context)
            reply = await session.send("hello")
            assert reply.usage.cache_read == used.cache_read + used.cache_write
            assert reply.calls[0].miss is None
            rows = [one for one in await manager.list() if one.id.startswith("prewarm-")]
            assert [(one.calls, one.turns) for one in rows] == [(1, 0)]
            assert (await (await manager.open(rows[0].id)).calls())[0].kind == "prewarm"
            await at.clock.advance(4000.0)
    at.check()


async def test_what_is_too_short_or_wrong_is_not_warmed() -> None:
    at = world()
    async with at.manager() as manager:
        assert await manager.prewarm(model=OPUS, max_tokens=10, system="short") is None
        with pytest.raises(ConfigurationError, match="max_tokens"):
            await manager.prewarm(model=OPUS, max_tokens=-1)
        with pytest.raises(ConfigurationError, match="leave out id"):
            await manager.prewarm(model=OPUS, max_tokens=10, id="mine")
    assert not at.requests

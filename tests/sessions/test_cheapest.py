"""`compact="cheapest"`: a new turn begins behind a summary where carrying on costs more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sessions import Budget, BudgetExceeded, Call, ConfigurationError, ModelError, PrefixChange, Session, tool
from sessions.core.profiles import profile_for
from sessions.core.prompt import COMPACTION_BETA
from sessions.simulator import Fault, Latency, Request, Scripted, filler
from tests.sessions.test_batch import turned
from tests.sessions.world import MODEL, World, call, create, everywhere, marks, words

PROFILE = replace(profile_for(MODEL), characters_per_token=4.0)
"""What the simulator counts, so that a history that nobody has measured has its size."""
TURNS = 110


@tool(idempotent=True)
def look(where: str) -> str:
    """Looks somewhere."""
    return f"seen {where} {filler(4000)}"


def script(request: Request) -> Any:
    """Looks where it is asked to, then answers; thinks every time."""
    if "look" in request.text and not request.results:
        return Scripted([call("look", where="there")], thinking="I look.")
    return Scripted(f"answer to {request.text[:20]}", thinking="I think about it.")


def kinds(calls: Sequence[Call]) -> list[str]:
    return [one.kind for one in calls]


async def grown(manager: Any, turns: int = TURNS, **given: Any) -> Session:
    """A session with a history of so many turns, a thousand tokens each, and one that it has had itself."""
    session: Session = await create(manager, **{"compact": "cheapest", "tools": [look], **given})
    history: list[dict[str, Any]] = []
    for number in range(turns):
        history += [
            {"role": "user", "content": f"note {number}: {filler(700)}"},
            {"role": "assistant", "content": f"noted: {filler(250)}"},
        ]
    await session.append(history)
    return session


@everywhere
async def test_a_new_turn_begins_behind_a_summary(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await grown(manager, 98)
        await session.send("look")
        assert (await session.forecast()).compaction is None  # too short
        await session.send("look")
        assert kinds(await session.calls()) == ["turn"] * 4
    async with world.manager(profile=PROFILE) as manager:
        session = await manager.open(session.id, tools=[look])
        assert session.settings.compact == "cheapest"
        foreseen = (await session.forecast()).compaction
        assert foreseen is not None
        assert foreseen.saves > 0
        before = [entry.id for entry in session.entries]
        await session.send("And now?")
        assert kinds(await session.calls())[-2:] == ["compact", "turn"]
        assert [entry.id for entry in await session.entries_before()] == before
        assert words(session) == ["And now?"]
        assert await session.verify() is None
        made = (await session.calls())[-2]
        assert made.usage.cache_read > 100_000
        assert made.usage.cache_write == 0
        assert made.saves is not None
        assert made.saves == pytest.approx(foreseen.saves, rel=Decimal("0.25"))  # words of another length
        assert made.summarized == foreseen.tokens
        assert (await session.cost()).total == world.engine.bill().cost
        assert (await session.send("look")).usage.cache_read > 0
        assert [one.miss for one in await session.calls()] == [None] * len(await session.calls())
        assert len([block for entry in session.entries for block in entry.content if block["type"] == "thinking"]) > 2
    world.check()
    assert all(len(marks(body)) <= 4 for body in world.bodies)


@everywhere
async def test_the_ledger_says_what_it_saved() -> None:
    world = World(script, profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await grown(manager)
        assert await session.compactions() == []
        await session.send("on")
        (first,) = await session.compactions()
        assert first.requests == 1
        assert first.call.cost is not None
        price = Decimal("0.1") / 1_000_000  # claude-sonnet-5-5 reads a cached token for 0.05 of 2 USD a million
        assert first.saved == first.left_out * price - first.call.cost
        assert first.left_out == first.call.summarized - first.call.usage.output > 90_000
        await session.send("please look")
        (after,) = await session.compactions()
        assert after.requests == 3
        assert after.saved == 3 * first.left_out * price - first.call.cost
        await session.compact()
        _, second = await session.compactions()
        assert (second.requests, second.call.saves) == (0, None)
        assert second.call.cost is not None
        assert second.saved == -second.call.cost
    world.check()


async def test_without_a_published_price_nobody_knows_what_was_saved() -> None:
    unpriced = replace(PROFILE, price_as=None)
    world = World(script, profile=unpriced)
    async with world.manager(profile=unpriced) as manager:
        session = await grown(manager)
        await session.send("on")
        assert kinds(await session.calls()) == ["turn"]
        await session.compact()
        await session.send("on")
        (made,) = await session.compactions()
        assert (made.requests, made.saved) == (1, None)
    world.check()


@everywhere
async def test_never_inside_a_turn(tmp_path: Path) -> None:
    """A turn that grows too long goes on as it is, after a restart too; the next one begins shorter."""
    world = World(script, url=tmp_path / "a.db", profile=PROFILE, faults={1: Fault.http(529)})
    async with world.manager(profile=PROFILE) as manager:
        session = await grown(manager, 101)
        with pytest.raises(ModelError):
            await session.send("look")
    async with world.manager(profile=PROFILE) as manager:
        session = await manager.open(session.id, tools=[look])
        assert await session.resume() is not None
        assert "compact" not in kinds(await session.calls())
        await session.send("next")
        assert kinds(await session.calls())[-2:] == ["compact", "turn"]
        assert await session.verify() is None
        assert (await session.send("look")).text


@everywhere
async def test_a_summary_that_fails_fails_no_turn_and_is_not_asked_for_again_soon(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=PROFILE, faults={0: Fault.http(529)})
    async with world.manager(profile=PROFILE) as manager:
        session = await grown(manager)
        assert (await session.send("on")).text
        assert [(one.kind, one.status) for one in await session.calls()] == [("compact", "error"), ("turn", "ok")]
        await session.send("and on")
        assert kinds(await session.calls())[1:] == ["turn", "turn"]
    async with world.manager(profile=PROFILE) as manager:
        session = await manager.open(session.id, tools=[look])
        await session.send("again")
        assert kinds(await session.calls())[1:] == ["turn"] * 3
        await world.clock.advance(3700)
        await session.send("an hour later")
        assert kinds(await session.calls())[-2:] == ["compact", "turn"]


async def test_it_is_not_made_where_it_is_more_than_the_turn_may_cost() -> None:
    world = World(script, profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await grown(manager, 98)
        for _ in range(2):
            await session.send("look")
        foreseen = (await session.forecast()).compaction
        assert foreseen is not None
        await session.send("on", max_cost=foreseen.price * Decimal("0.9"))
        assert "compact" not in kinds(await session.calls())
        await session.send("on", max_cost=foreseen.price * 2)
        assert kinds(await session.calls())[-2:] == ["compact", "turn"]
    world.check()


@everywhere
async def test_without_room_in_the_budget_neither_is_sent(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await grown(manager)
    async with world.manager(
        profile=PROFILE, budgets=[Budget(Decimal("0.05"), per="session", window=86400)]
    ) as manager:
        session = await manager.open(session.id, tools=[look])
        with pytest.raises(BudgetExceeded):
            await session.send("on")
        assert words(session)[-1] == "on"
    assert world.requests == []


async def test_branches_are_not_shortened_one_by_one() -> None:
    world = World(script, profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await grown(manager)
        replies = await session.map(["one", "two"])
        assert [reply.stop_reason for reply in replies] == ["end_turn"] * 2
        assert all("compaction" not in body for body in world.bodies)
    world.check()


@pytest.mark.parametrize(
    "params", [{"context_management": {"edits": []}, "betas": ["context-management-2025-06-27"]}, None]
)
async def test_where_it_cannot_be_the_turn_goes_on(params: dict[str, Any] | None) -> None:
    profile = PROFILE if params else replace(PROFILE, compaction=False)
    world = World(script, profile=profile)
    async with world.manager(profile=profile) as manager:
        session = await grown(manager, params=params)
        assert (await session.send("on")).text
        assert kinds(await session.calls()) == ["turn"]
        assert (await session.forecast()).compaction is None


async def test_it_makes_room_as_auto_does() -> None:
    small = replace(PROFILE, window=12_000, price_as=None)
    world = World(script, profile=small)
    async with world.manager(profile=small) as manager:
        session = await grown(manager, 5)
        await session.send(f"a long one {filler(5000)}")
        assert kinds(await session.calls()) == ["compact", "turn"]
        assert (await session.calls())[0].saves is None
    world.check()


async def test_other_values_are_refused() -> None:
    async with World(script).manager() as manager:
        with pytest.raises(ConfigurationError, match="compact must be None, 'auto' or 'cheapest', not 'always'"):
            await create(manager, compact="always")
        session = await create(manager)
        await session.update(compact="cheapest")
        assert session.settings.compact == "cheapest"


async def test_a_change_to_it_is_a_change_of_the_prefix() -> None:
    """From then on each request has the beta of compactions, which what is in the cache was written without."""
    world = World(script, profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await create(manager)
        await session.send("one")
        await session.update(compact="auto")
        with pytest.raises(PrefixChange, match="compact"):
            await session.update(compact="cheapest")
        await session.update(compact="cheapest", rebase=True)
        reply = await session.send("two")
        assert COMPACTION_BETA in world.requests[-1].betas
        assert reply.calls[0].expected is not None
        assert reply.calls[0].expected.cache_read == pytest.approx(reply.usage.cache_read, abs=8)
    world.check()


@everywhere
async def test_stopped_or_cancelled_while_it_is_summarized(tmp_path: Path) -> None:
    """The words are kept, nothing is lost, and the conversation goes on."""
    world = World(script, url=tmp_path / "a.db", profile=PROFILE, latency=Latency(first_event=2.0))
    async with world.manager(profile=PROFILE) as manager:
        session = await grown(manager)
        before = len(session.entries)
        with pytest.raises(TimeoutError):
            await turned(world, 3.0, lambda: session.send("on", timeout=1.0))
        assert [(one.kind, one.status) for one in await session.calls()] == [("compact", "cancelled")]
        assert len(session.entries) == before + 1
        assert await session.verify() is None
    async with world.manager(profile=PROFILE) as manager:
        session = await manager.open(session.id, tools=[look])
        await world.clock.advance(3700)
        assert await turned(world, 30.0, session.resume) is not None
        assert kinds(await session.calls()) == ["compact", "compact", "turn"]
        assert words(session) == ["on"]

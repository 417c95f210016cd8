"""Every planted miss is named with its right cause, through real sessions on the simulator."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import Call, Fixed, Miss, PromptWarning, Session, tool
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage
from sessions.simulator import Latency, filler
from tests.sessions.world import MODEL, World, answers, call, create, everywhere

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}


@tool
def weather(city: str) -> str:
    """Today's weather in a city."""
    return f"{city}: sunny. {filler(60, city)}"


@tool
def trains(city: str) -> str:
    """The next trains to a city."""
    return f"{city}: at seven"


def fickle(note: str) -> Any:
    @tool
    def weather(city: str) -> str:
        return f"{city}: {note}"

    weather.definition["description"] = f"Today's weather in a city. {note}"
    return weather


async def last_call(session: Session) -> Call:
    return (await session.calls())[-1]


async def missed(session: Session, cause: str, *, least: int = 500) -> Miss:
    """The last call's miss, which has this cause; no call before it missed anything."""
    *earlier, last = await session.calls()
    assert [one.miss for one in earlier] == [None] * len(earlier)
    assert last.miss is not None
    assert last.miss.cause == cause, last.miss
    assert last.miss.tokens > least
    assert f"{last.miss.tokens:,} cached tokens" in last.miss.sentence
    return last.miss


def extra(usage: Usage, tokens: int) -> Decimal:
    """USD that these tokens cost as 5-minute writes above what reading them costs, on the model of these tests."""
    assert usage.cache_write_5m >= tokens
    return tokens * (Decimal("2.5") - Decimal("0.1")) / 1_000_000


@everywhere
async def test_tools_in_another_order() -> None:
    world = World()
    async with world.manager(diagnostics=False) as manager:
        session = await create(manager, tools=[weather, trains])
        await session.send("Hello")
        before = await last_call(session)
        with pytest.warns(PromptWarning, match="another order"):
            await session.update(tools=[trains, weather], rebase=True)
        await session.send("And now?")
        miss = await missed(session, "tools_changed")
        assert miss.place == "tools[0]"
        assert (miss.before, miss.after) == ("weather, trains", "trains, weather")
        assert miss.tokens == before.usage.cache_read + before.usage.cache_write
        assert miss.cost == extra((await last_call(session)).usage, miss.tokens)


@everywhere
async def test_a_tool_that_describes_itself_otherwise() -> None:
    async with World().manager() as manager:
        session = await create(manager, tools=[trains, fickle("It is Monday.")])
        await session.send("Hello")
        await session.update(tools=[trains, fickle("It is Tuesday.")], rebase=True)
        await session.send("And now?")
        miss = await missed(session, "tools_changed")
        assert miss.place == "tools[1].description, character 34"
        assert "'weather'" in miss.sentence
        assert miss.before is not None
        assert miss.after is not None
        assert ("Monday" in miss.before, "Tuesday" in miss.after) == (True, True)
        assert "Monday" not in miss.sentence


@everywhere
async def test_an_edited_system_prompt() -> None:
    async with World().manager() as manager:
        session = await create(manager, system=f"Today is the first. {filler(600)}")
        await session.send("Hello")
        await session.update(system=f"Today is the second. {filler(600)}", rebase=True)
        await session.send("And now?")
        miss = await missed(session, "system_changed")
        assert miss.place == "system[0].text, character 14"


@everywhere
async def test_another_effort() -> None:
    async with World().manager() as manager:
        session = await create(manager, system="Be short.")
        await session.send(filler(700, "words"))
        await session.update(output_config={"effort": "low"}, rebase=True)
        await session.send("And now?")
        miss = await missed(session, "messages_changed")
        assert miss.place == "output_config.effort"
        assert "effort" in miss.sentence


@everywhere
async def test_another_model(tmp_path: Path) -> None:
    world = World(url=tmp_path / "s.db")
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("Hello")
    async with world.manager() as manager:  # after a restart too: the settings of the earlier call are stored
        session = await manager.open(session.id)
        await session.update(model="claude-opus-5", rebase=True)
    async with world.manager() as manager:
        session = await manager.open(session.id)
        await session.send("And now?")
        miss = await missed(session, "model_changed")
        assert (miss.before, miss.after) == (MODEL, "claude-opus-5")


async def test_what_cannot_be_judged_costs_no_reply(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(url=tmp_path / "s.db")
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("Hello")
        await session.update(system=filler(700, "other"), rebase=True)
    raw = sqlite3.connect(tmp_path / "s.db")
    raw.execute("""UPDATE prompts SET settings = '{"model": "m", "max_tokens": 1, "tools": ["damaged"]}'""")
    raw.commit()
    raw.close()
    async with world.manager() as manager:
        session = await manager.open(session.id)
        assert (await session.send("And now?")).text
        assert (await last_call(session)).miss is None
    assert "could not be judged" in caplog.text


@everywhere
async def test_the_first_image() -> None:
    async with World().manager() as manager:
        session = await create(manager, system="Be short.")
        await session.send(filler(700, "words"))
        await session.send([IMAGE, {"type": "text", "text": "What is this?"}])
        miss = await missed(session, "messages_changed")
        assert miss.place == "messages[2].content[0]"
        assert "image" in miss.sentence
        await session.send([IMAGE, {"type": "text", "text": "And this?"}])
        assert (await last_call(session)).miss is None


@pytest.mark.parametrize(
    ("ttl", "gap", "says"),
    [
        ("5m", 420, "7 minutes"),
        ("5m", 301, "expected_gap=301"),
        ("1h", 3660, "refreshing it all the while"),
        ("5m", 3000, "A 1h entry"),
    ],
)
async def test_a_lifetime_that_has_passed(ttl: Any, gap: int, says: str) -> None:
    world = World()
    async with world.manager(ttl=Fixed(ttl), tend=False) as manager:
        session = await create(manager)
        await session.send("Hello")
        await world.clock.advance(gap)
        await session.send("And now?")
        assert says in (await missed(session, "expired")).sentence


async def test_tools_that_outlast_the_cache() -> None:
    world = World(answers([call("slow")], "done"))

    @tool
    async def slow() -> str:
        """Takes six minutes."""
        await world.clock.sleep(360)
        return "done"

    async with world.manager(ttl=Fixed("5m"), tend=False) as manager, anyio.create_task_group() as group:
        session = await create(manager, tools=[slow])
        group.start_soon(session.send, "Please")
        await world.clock.advance(400)
        assert "the turn itself waited for 6 minutes" in (await missed(session, "expired")).sentence


@everywhere
async def test_an_endpoint_that_looks_back_less_far() -> None:
    many = [{"type": "text", "text": f"Part {n}."} for n in range(14)]
    world = World(answers(many), profile=replace(profile_for(MODEL), lookback=10))
    async with world.manager() as manager:
        session = await create(manager)
        await session.send(filler(700, "words"))
        await session.send("And now?")
        assert "warmline probe" in (await missed(session, "lookback")).sentence


@everywhere
async def test_an_endpoint_that_counts_each_tool_block() -> None:
    calls = [call("weather", city=f"City {n}") for n in range(25)]
    world = World(answers(calls, "fine"), profile=replace(profile_for(MODEL), collapses_tools=False))
    async with world.manager() as manager:
        session = await create(manager, tools=[weather])
        await session.send(filler(700, "words"))
        assert "looks back less far" in (await missed(session, "lookback")).sentence


@everywhere
async def test_an_endpoint_with_a_higher_minimum() -> None:
    world = World(profile=replace(profile_for(MODEL), minimum_tokens=4096))
    async with world.manager() as manager:
        session = await create(manager)
        await session.send(filler(700, "words"))
        await session.send("And now?")
        assert "though 512 should be enough" in (await missed(session, "below_minimum")).sentence


@everywhere
async def test_a_prefix_that_somebody_else_was_writing() -> None:
    world = World(latency=Latency(first_event=1.0))
    async with world.manager(warmup=False) as manager:
        sessions = [await create(manager) for _ in range(3)]
        async with anyio.create_task_group() as group:
            for session in sessions:
                group.start_soon(session.send, "Hello")
            await world.clock.advance(60)
        found = [(await last_call(session)).miss for session in sessions]
        assert sorted(miss.cause if miss else "" for miss in found) == ["", "concurrent_write", "concurrent_write"]
        assert all(miss.tokens > 500 for miss in found if miss)


@everywhere
async def test_an_entry_that_was_dropped_early() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("Hello")
        before = await last_call(session)
        await world.clock.advance(60)
        world.engine.evict()
        await session.send("And now?")
        miss = await missed(session, "evicted")
        assert "1 minute of its 5 minutes" in miss.sentence
        assert miss.tokens == before.usage.cache_write + before.usage.cache_read


async def test_thinking_that_the_model_strips() -> None:
    thought = [{"type": "thinking", "thinking": filler(900, "deep")}, call("weather", city="Rome")]
    world = World(answers(thought, "Sunny.", "Fine."))
    async with world.manager() as manager:
        thinking = {"type": "enabled", "budget_tokens": 1024}
        model, system = "claude-haiku-4-5", filler(4000)
        session = await create(manager, model=model, thinking=thinking, system=system, tools=[weather])
        await session.send("The weather?")
        await session.send("And now?")
        miss = await missed(session, "thinking_stripped", least=50)
        assert miss.place == "messages[1].content[0]"

"""Ten thousand healthy turns, of every kind that sessions are made of, and not one miss among them."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import anyio

from sessions import Call, ExpectedCost, Fixed, ModelError, PromptWarning, Session, SessionManager, tool
from sessions.simulator import Fault, Request, Scripted, filler
from tests.sessions.world import World

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
TURNS = 10_000
BREAKS = "The line is bad. "
"""Words whose every other answer breaks off half-way."""
MODELS = ("claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5", "claude-opus-4-8")
LIFETIMES: dict[str, float] = {"5m": 290.0, "1h": 3590.0}


@tool
async def look(place: str) -> str:
    """Looks somewhere."""
    return f"{place}: {filler(len(place) * 7 % 90 + 1, place)}"


def script(request: Request) -> Any:
    """Thinks, calls up to eight tools at once, answers at length or briefly: the same for the same words."""
    chance = random.Random(f"{request.text} {len(request.messages)}")
    if request.text.startswith(BREAKS) and request.index % 2:
        return Scripted(filler(9, "half"), fault=Fault.cut(4))
    thought = filler(chance.randrange(1, 60), "hm") if request.thinking and chance.random() < 0.5 else None
    if not request.results and "look" in request.tools and chance.random() < 0.3:
        places = [f"place {chance.randrange(1000)}" for _ in range(chance.choice((1, 1, 2, 8)))]
        calls = [{"type": "tool_use", "name": "look", "input": {"place": place}} for place in places]
        return Scripted([{"type": "text", "text": "Let me look."}, *calls], thinking=thought)
    return Scripted(
        filler(chance.choice((3, 3, 3, 30) if chance.random() < 0.9 else (300,)), "answer"), thinking=thought
    )


@dataclass
class Day:
    """What happens to one session after the other, decided by a seeded generator."""

    world: World
    managers: dict[str, SessionManager]
    chance: random.Random
    turns: int = 0

    async def conversation(self) -> list[Call]:
        """One session and its branches; every gap is shorter than the lifetime that was written."""
        ttl = self.chance.choice(tuple(self.managers))
        manager = self.managers[ttl]
        pictured = self.chance.random() < 0.3
        session = await manager.create(
            model=self.chance.choice(MODELS),
            max_tokens=2000,
            system=self.chance.choice((None, "Be brief.", filler(600), filler(1500))),
            tools=[look] if self.chance.random() < 0.6 else (),
            context=[IMAGE] if pictured else (),
        )
        if self.chance.random() < 0.2:
            await session.prewarm()
        for _ in range(self.chance.randrange(1, 14)):
            await self._turn(session, pictured)
            await self.world.clock.advance(self.chance.choice((self.chance.random(), 1.0)) * LIFETIMES.get(ttl, 290.0))
            if self.chance.random() < 0.1:
                await session.update(max_tokens=self.chance.randrange(1000, 3000))
            if self.chance.random() < 0.05:
                await session.instruct("Be kind.")
        return await session.calls() + await self._branches(session, pictured)

    async def _turn(self, session: Session, pictured: bool) -> None:
        sign = BREAKS if self.chance.random() < 0.05 else ""
        words = f"{sign}{self.chance.random()} {filler(self.chance.choice((1, 20, 200, 700)), 'word')}"
        content = [IMAGE, {"type": "text", "text": words}] if pictured and self.chance.random() < 0.3 else words
        try:
            await session.send(content)
        except ModelError:
            await self._mend(session)
        self.turns += 1
        if self.chance.random() < 0.05:
            await self._again(session)
        elif self.chance.random() < 0.05:
            async with session.stream("Tell me more.") as stream:
                async for _ in stream:
                    break
                await stream.cancel()

    async def _mend(self, session: Session) -> None:
        """Resumes until no answer breaks off."""
        for _ in range(50):
            try:
                await session.resume()
            except ModelError:
                continue
            return

    async def _again(self, session: Session) -> None:
        """The user takes the last words back and says something else."""
        spoken = [n for n, entry in enumerate(session.entries) if any(b["type"] == "text" for b in entry.content)]
        user = [n for n in spoken if session.entries[n].role == "user"]
        await session.rewind(session.entries[user[-1]].parent)
        await self._turn(session, pictured=False)

    async def _branches(self, session: Session, pictured: bool) -> list[Call]:
        if self.chance.random() > 0.2:
            return []
        replies = [one.session for one in await session.map([f"branch {number}" for number in range(3)])]
        middle = self.chance.choice([entry.id for entry in session.entries if entry.role == "assistant"])
        fork = await session.fork(at=middle)
        for one in (*replies, fork):
            await self._turn(one, pictured)
        self.turns += len(replies)
        return [call for one in (*replies, fork) for call in await one.calls()]


@dataclass(frozen=True)
class Found:
    """How many turns there were, the misses that calls told, how many calls read the cache, and their kinds."""

    turns: int
    misses: list[str]
    reads: Counter[bool]
    kinds: Counter[str]


async def days(seed: int, turns: int, tend: bool) -> Found:
    """Healthy turns until there are so many."""
    world = World(script, keep=10, keep_messages=1000)
    policies = {"5m": Fixed("5m"), "1h": Fixed("1h"), "chosen": ExpectedCost()}
    misses: list[str] = []
    reads, kinds = Counter[bool](), Counter[str]()
    async with AsyncExitStack() as stack:
        managers = {
            name: await stack.enter_async_context(world.manager(ttl=policy, tend=tend))
            for name, policy in policies.items()
        }
        day = Day(world, managers, random.Random(seed))
        while day.turns < turns:
            found = await day.conversation()
            misses += [one.miss.sentence for one in found if one.miss]
            reads.update(bool(one.usage.cache_read) for one in found)
            kinds.update(one.kind for one in found)
    world.check()
    return Found(day.turns, misses, reads, kinds)


def run(seed: int, turns: int, tend: bool = False) -> Found:
    warnings.simplefilter("ignore", PromptWarning)  # some prefixes are meant to be just too short
    return anyio.run(days, seed, turns, tend)


def test_ten_thousand_healthy_turns(unmeasured: None) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:  # a minute and a half of one core
        halves = [pool.submit(run, seed, TURNS // 2) for seed in (4, 5)]
        results = [half.result() for half in halves]
    assert sum(found.turns for found in results) >= TURNS
    assert [miss for found in results for miss in found.misses] == []
    for found in results:
        assert found.reads[True] > found.reads[False] > 0


def test_parks_and_refreshes_miss_nothing(unmeasured: None) -> None:
    found = run(6, 300, tend=True)
    assert found.misses == []
    assert found.kinds["park"] > 0

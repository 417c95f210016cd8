"""`clear_tool_results=True`: old tool results leave the prompt where that is cheaper, and the cache stays warm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import Call, ConfigurationError, ModelError, PrefixChange, Session, tool
from sessions.cli import main
from sessions.core.cleared import CLEARING_BETA, EDIT
from sessions.core.profiles import profile_for
from sessions.simulator import Engine, Fault, Request, Scripted, filler
from tests.sessions.world import MODEL, World, buckets, call, create, everywhere

PROFILE = replace(profile_for(MODEL), characters_per_token=4.0)
"""What the simulator counts."""


@tool(idempotent=True)
def look(where: str) -> str:
    """Looks somewhere."""
    return f"seen {where} {filler(5000)}"


def script(request: Request) -> Any:
    """Looks as often as the words say, one look a request; thinks every time."""
    said, looks = "", 0
    for message in request.body["messages"]:
        kinds = [block["type"] for block in message["content"]]
        if message["role"] == "user" and "text" in kinds:
            said, looks = message["content"][-1]["text"], 0
        looks += kinds.count("tool_result")
    wanted = int(said.split()[1]) if said.startswith("look") else 0
    if looks < wanted:
        return Scripted([call("look", where=f"place {looks}")], thinking="I look.")
    return Scripted(f"seen {looks}", thinking="I have looked.")


async def opened(manager: Any, **given: Any) -> Session:
    session: Session = await create(manager, **{"clear_tool_results": True, "tools": [look], **given})
    return session


def edits(world: World) -> list[dict[str, Any] | None]:
    """The edit of each request."""
    return [body.get("context_management") for body in world.bodies]


def cleared(world: World) -> list[int]:
    """How many tool uses each request has cleared, by what it asks for."""
    counts = []
    for body in world.bodies:
        uses = sum(block["type"] == "tool_use" for message in body["messages"] for block in message["content"])
        asked = body.get("context_management")
        counts.append(uses - asked["edits"][0]["keep"]["value"] if asked else 0)
    return counts


async def is_paid(session: Session, world: World, calls: Sequence[Call] | None = None) -> None:
    """The ledger is the simulator's bill, and nothing was lost of the cache."""
    calls = await session.calls() if calls is None else calls
    bill = world.engine.bill()
    assert (await session.cost()).total == bill.cost
    assert buckets((await session.cost()).usage) == buckets(bill.usage)
    assert [one.miss for one in calls] == [None] * len(calls)
    world.check()


@everywhere
async def test_what_is_cleared_stays_the_same_until_more_is(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        await session.send("look 50")
        calls = await session.calls()
        counts = cleared(world)
        assert counts[0] == 0
        assert counts == sorted(counts)
        assert len(set(counts)) == 3  # cleared twice
        assert [one.cleared for one in calls] == counts
        changed = [number for number in range(1, len(counts)) if counts[number] != counts[number - 1]]
        assert [number for number, one in enumerate(calls) if one.clearing] == changed
        for number, (before, after) in enumerate(pairwise(calls), start=1):
            if number not in changed:
                assert after.usage.cache_read == before.usage.cache_read + before.usage.cache_write
            assert after.expected is not None
            assert after.expected.cache_read == pytest.approx(after.usage.cache_read, abs=200)
        assert max(one.usage.total_input for one in calls) < 200_000
        await is_paid(session, world)


@everywhere
async def test_the_history_is_sent_word_for_word(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        await session.send("look 40")
        await session.send("And now?")
        sent = [
            {
                **message,
                "content": [{k: v for k, v in block.items() if k != "cache_control"} for block in message["content"]],
            }
            for message in world.bodies[-1]["messages"]
        ]
        assert sent == session.messages[:-1]
        assert sum(block["type"] == "thinking" for message in sent for block in message["content"]) == 41
        assert world.bodies[-1]["context_management"] is not None
        assert all(CLEARING_BETA in one.betas for one in world.requests)
        assert await session.verify() is None


@everywhere
async def test_another_process_clears_the_same(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        await session.send("look 28")
    count = cleared(world)[-1]
    assert count > 10
    async with world.manager(profile=PROFILE) as one, world.manager(profile=PROFILE) as other:
        first = await one.open(session.id, tools=[look])
        second = await other.open(session.id, tools=[look])
        for session in (first, second, first):
            await session.send("look 1")
        assert cleared(world)[-6:] == [count] * 6
        await second.send("look 30")
        more = cleared(world)[-1]
        assert more > count
        await first.send("look 1")
        assert cleared(world)[-1] == more
        await is_paid(first, world)


@everywhere
async def test_taken_back_behind_what_was_cleared(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        await session.send("look 3")
        early = session.head
        await session.send("look 40")
        late = session.head
        count = cleared(world)[-1]
        await session.send("look 1")
        await session.rewind(late)
        await session.send("look 2")
        assert cleared(world)[-1] == count
        await session.rewind(early)
        await session.send("look 2")
        assert cleared(world)[-3:] == [0, 0, 0]
        assert await session.verify() is None
        assert (await session.cost()).total == world.engine.bill().cost
    world.check()


async def test_never_less_than_the_newest_are_kept() -> None:
    world = World(script, profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        await session.send("look 50")
        assert min(edit["edits"][0]["keep"]["value"] for edit in edits(world) if edit) >= 3


async def test_the_ledger_says_what_it_saved(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        assert await session.clearings() == []
        await session.send("look 50")
        first, second = await session.clearings()
        assert first.call.saves is not None
        assert first.call.price is not None
        assert first.call.saves > 0
        assert first.requests > second.requests > 0
        assert first.left_out == first.call.cleared_tokens > 50_000
        assert second.left_out == second.call.cleared_tokens - first.left_out
        read = Decimal("0.1") / 1_000_000  # claude-sonnet-5-5 reads a cached token for 0.05 of 2 USD a million
        assert first.saved == first.requests * first.left_out * read - first.call.price
        foreseen = (await session.forecast()).clearing
        assert foreseen is not None
        assert foreseen.saves < 0  # as much again must be there first
    async with world.manager(profile=PROFILE) as manager:
        again = await (await manager.open(session.id, tools=[look])).clearings()
        assert again == [first, second]


def test_the_command_line_tells_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def had() -> None:
        world = World(script, url=tmp_path / "a.db")
        async with world.manager() as manager:
            await (await opened(manager, id="one")).send("look 60")

    anyio.run(had)
    for more in ([], ["--forecast"], ["--json"]):
        with pytest.raises(SystemExit):
            main(["cost", "one", "--store", f"sqlite:///{tmp_path / 'a.db'}", *more])
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Clearing \d+ results has left [\d,]+ tokens out of \d+ requests since, and saved \$", told)
    assert re.search(r"Clearing \d+ tool results would add \$-?0\.\d+ to it and save \$", told)
    assert '"clearings"' in told


async def test_it_is_cheaper() -> None:
    costs = []
    for clears in (False, True):
        world = World(script, profile=PROFILE)
        async with world.manager(profile=PROFILE) as manager:
            session = await opened(manager, clear_tool_results=clears)
            await session.send("look 90")
            costs.append(world.engine.bill().cost)
    assert costs[1] < costs[0]


REFUSAL = "context_management: Extra inputs are not permitted"
NO_BETA = "Unexpected value(s) `context-management-2025-06-27` for the `anthropic-beta` header"


def bare(world: World, start: int = 0) -> bool:
    """Whether no request from this one on had anything to do with clearing."""
    betas = any(CLEARING_BETA in one.betas for one in world.requests[start:])
    return not betas and not any(edits(world)[start:])


@everywhere
async def test_an_endpoint_that_refuses_gets_requests_without_it(caplog: pytest.LogCaptureFixture) -> None:
    """At the first request, and where it begins to later; whoever waits sees nothing of it."""
    for refusal, at in ((NO_BETA, 0), (REFUSAL, 30)):
        caplog.clear()
        world = World(script, profile=PROFILE, faults={at: Fault.http(400, message=refusal)})
        async with world.manager(profile=PROFILE) as manager:
            session = await opened(manager)
            assert (await session.send("look 40")).text == "seen 40"
            assert cleared(world)[at] == (0 if at == 0 else 19)
            assert bare(world, at + 1)
            assert [one.status for one in await session.calls()] == ["ok"] * 41
            assert sum("clear tool results" in message for message in caplog.messages) == 1
            assert (await session.forecast()).clearing is None
            other = await opened(manager)
            await other.send("look 1")
            assert bare(world, at + 1)
            assert (await session.cost()).total is not None
            total = (await session.cost()).total + (await other.cost()).total
            assert total == world.engine.bill().cost


class Deaf(Engine):
    """Takes the edit, and clears something else, or nothing, from this request on."""

    told: Any = None

    def _head(self, exchange: Any, prompt: Any, checked: Any) -> dict[str, Any]:
        head = super()._head(exchange, prompt, checked)
        if head.get("context_management", {}).get("applied_edits") and self.told is not None:
            head["context_management"] = self.told
        return head


class Wordy(Engine):
    """Caches by what the edit says, too."""

    def measure(self, exchange: Any, body: Any, profile: Any) -> Any:
        return super().measure(
            exchange,
            {**body, "context_management": exchange.body["context_management"]}
            if "context_management" in exchange.body
            else body,
            profile,
        )


@pytest.mark.parametrize(
    "told",
    [
        {"applied_edits": []},
        {"applied_edits": [{"type": EDIT, "cleared_tool_uses": 5, "cleared_input_tokens": 9}]},
        {"applied_edits": [{"type": EDIT, "cleared_tool_uses": None}, 7]},
        {"applied_edits": "none"},
        {},
    ],
)
@everywhere
async def test_one_that_clears_otherwise_is_not_asked_again(told: Any, caplog: pytest.LogCaptureFixture) -> None:
    world = World(script, profile=PROFILE)
    world.engine = Deaf(script, profile=PROFILE)
    world.engine.told = told
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        assert (await session.send("look 40")).text == "seen 40"
        first = next(number for number, edit in enumerate(edits(world)) if edit)
        assert bare(world, first + 1)
        assert sum("clear tool results" in message for message in caplog.messages) == 1
        assert (await session.cost()).total == world.engine.bill().cost
    world.check()


@everywhere
async def test_one_that_caches_by_the_words_of_the_edit_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """Whether these are part of what it is cached by is not documented: then each request would write all anew."""
    world = World(script, profile=PROFILE)
    world.engine = Wordy(script, profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        await session.send("look 40")
        first = next(number for number, edit in enumerate(edits(world)) if edit)
        assert bare(world, first + 2)
        assert [number for number, one in enumerate(await session.calls()) if one.miss] == [first + 1, first + 2]
        assert sum("clear tool results" in message for message in caplog.messages) == 1
        assert (await session.cost()).total == world.engine.bill().cost
    world.check()


async def test_where_nothing_can_be_cleared_nothing_is_asked_for() -> None:
    without = replace(PROFILE, context_editing=False)
    world = World(script, profile=without)
    async with world.manager(profile=without) as manager:
        session = await opened(manager)
        await session.send("look 40")
        assert bare(world)
        assert (await session.forecast()).clearing is None
    world.check()


@everywhere
async def test_idle_requests_clear_the_same(tmp_path: Path) -> None:
    """A park or a refresh reads what turns have written, and so does the next turn."""
    world = World(script, url=tmp_path / "a.db", profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        await session.send("look 28")
        for _ in range(30):
            await world.clock.advance(120)
        await session.refresh()
        idle = [one for one in await session.calls() if one.kind != "turn"]
        assert idle
        assert all(one.usage.cache_read > 40_000 and one.usage.cache_write < 10_000 for one in idle)
        await session.prewarm()
        await session.send("look 1")
        assert all(one.miss is None for one in await session.calls())
        costs = await manager.costs("kind")  # a probe for parks is a request of the manager's own
        assert sum(cost.total for cost in costs.values()) == world.engine.bill().cost
    world.check()


@everywhere
async def test_branches_share_what_is_cleared() -> None:
    world = World(script, profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        await session.send("look 28")
        count = cleared(world)[-1]
        replies = await session.map(["one", "two"])
        assert cleared(world)[-2:] == [count] * 2
        assert all(reply.usage.cache_read > 40_000 for reply in replies)
        fork = await session.fork()
        await fork.send("three")
        assert cleared(world)[-1] == count
    world.check()


async def test_a_request_that_is_not_answered_is_asked_again_with_the_same_cleared(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=PROFILE, faults={22: Fault.http(529)})
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        with pytest.raises(ModelError):
            await session.send("look 40")
        assert cleared(world)[-2:] == [0, 19]
    async with world.manager(profile=PROFILE) as manager:
        session = await manager.open(session.id, tools=[look])
        await session.resume()
        assert cleared(world)[23] == 19
        assert all(one.miss is None for one in await session.calls())
        assert (await session.cost()).total == world.engine.bill().cost


async def test_not_with_what_the_api_does_not_take_beside_it() -> None:
    world = World(script, profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        for given in (
            {"compact": "auto"},
            {"compact": "cheapest"},
            {"params": {"context_management": {"edits": []}}},
            {"clear_tool_results": "yes"},
        ):
            with pytest.raises(ConfigurationError, match="clear_tool_results"):
                await opened(manager, **given)
        session = await opened(manager)
        await session.send("look 1")
        with pytest.raises(ConfigurationError, match="clear_tool_results"):
            await session.compact()
        with pytest.raises(ConfigurationError, match="clear_tool_results"):
            await session.update(compact="auto", rebase=True)


@everywhere
async def test_a_change_to_it_is_a_change_of_the_prefix() -> None:
    world = World(script, profile=PROFILE)
    async with world.manager(profile=PROFILE) as manager:
        session = await opened(manager)
        await session.send("look 40")
        assert session.settings.cleared
        with pytest.raises(PrefixChange, match="clear_tool_results"):
            await session.update(clear_tool_results=False)
        await session.update(max_tokens=5000)
        assert session.settings.cleared
        await session.update(clear_tool_results=False, rebase=True)
        await session.send("on")
        assert "context_management" not in world.bodies[-1]
        assert CLEARING_BETA not in world.requests[-1].betas
        await session.compact()
        await session.update(clear_tool_results=True, rebase=True)
        await session.send("look 2")
        assert cleared(world)[-1] == 0
    world.check()

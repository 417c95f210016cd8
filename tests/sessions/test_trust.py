"""Whether parks live is found out before they are relied on, kept in the store, and believed by all that share it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sessions import Budget, ConfigurationError, Fixed, Session, SessionManager, Usage, profile_for, simulator
from sessions.core.evidence import FORGOTTEN, START
from sessions.core.profiles import MODELS
from sessions.simulator import Fault, Scripted
from sessions.testing import ManualClock
from sessions.upkeep.self_probe import CLAIM
from storage import TrustRecord
from storage.sql import SQLStore
from tests.sessions.world import World, buckets, everywhere, marks

OPUS = "claude-opus-5"
REPLY = simulator.filler(150)
SIMULATOR = "simulator"


def world(**given: Any) -> World:
    return World(lambda request: Scripted(REPLY, output_tokens=150), **given)


async def chat(manager: Any, number: int = 0, **given: Any) -> Session:
    system = f"{number} {simulator.filler(2883)}"
    return await manager.create(**{"model": OPUS, "max_tokens": 1000, "system": system, **given})


async def talk(session: Session, at: World, *gaps: float) -> None:
    for number in range(len(gaps) + 1):
        await session.send(simulator.filler(80))
        if number < len(gaps):
            await at.clock.advance(gaps[number])


async def kinds(session: Session) -> list[str]:
    return [one.kind for one in await session.calls()]


def probed(at: World) -> list[Any]:
    """The requests of the probe: those for no tokens that are no conversation's."""
    return [one for one in at.requests if (one.body or {})["max_tokens"] == 0 and not (one.body or {}).get("system")]


async def verdict(manager: SessionManager, model: str = OPUS) -> TrustRecord | None:
    """What the store says, once what a turn showed has been written down behind it."""
    clock = manager.runtime.clock
    assert isinstance(clock, ManualClock)
    await clock.advance(0.0)
    return await manager.runtime.store.trust(SIMULATOR, model)


@everywhere
async def test_it_is_found_out_before_anything_is_parked() -> None:
    """Three requests in six minutes, begun by the first conversation that could have been parked."""
    at = world()
    async with at.manager(trust="probe") as manager:
        first = await chat(manager)
        await first.send("hello")
        began = at.clock.now()
        await at.clock.advance(269.0)
        assert probed(at) == []
        await at.clock.advance(2.0)
        assert [one.started - began for one in probed(at)] == [270.0]
        assert await verdict(manager) == TrustRecord(SIMULATOR, OPUS, None, began + 270.0)
        await at.clock.advance(300.0)
        assert (await chat(manager)).conversation.prompt.profile.parks
        assert await kinds(first) == ["turn"]
        await at.clock.advance(100.0)
        assert [one.started - began for one in probed(at)] == [270.0, 275.0, 630.0]
        assert [marks(dict(one.body)) for one in probed(at)] == [
            [("messages", "5m")],
            [("messages", "1h")],
            [("messages", "5m")],
        ]
        assert await verdict(manager) == TrustRecord(SIMULATOR, OPUS, START, began + 630.0)
        second = await chat(manager, 2)
        await second.send("hello")
        await at.clock.advance(3600.0)
        assert await kinds(second) == ["turn", "park"]
        assert len(probed(at)) == 3, "once"
    at.check()


async def test_a_probe_for_which_the_budget_has_no_room_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    costs: list[Decimal] = []
    for has_budget in (False, True):
        budgets = [Budget(costs[0] + Decimal("0.000001"))] if has_budget else []
        at = World(lambda request: Scripted(REPLY, output_tokens=600))
        async with at.manager(trust="probe", budgets=budgets) as manager:
            sent = await (await chat(manager, system=simulator.filler(2883))).send("hello")
            costs.append(sent.cost or Decimal(0))
            await at.clock.advance(300.0)
            assert len(probed(at)) == (0 if has_budget else 2)
        at.check()
    assert "could not be found out: the budget of" in caplog.text
    assert "a background task failed" not in caplog.text


async def test_a_manager_whose_conversations_are_never_idle_sends_nothing() -> None:
    at = world()
    async with at.manager(trust="probe") as manager:
        await talk(await chat(manager), at, *[200.0] * 10)
        assert probed(at) == []
        assert await verdict(manager) is None
    at.check()


@pytest.mark.parametrize("model", [name for name in MODELS if MODELS[name].minimum_tokens in (512, 1024)])
@pytest.mark.filterwarnings("ignore:.* is deprecated")  # newer SDKs say so of older models
async def test_its_requests_are_rows_of_the_ledger_and_cost_less_than_a_cent(model: str) -> None:
    at = world()
    async with at.manager(trust="probe") as manager:
        await (await chat(manager, model=model)).send("hello")
        await at.clock.advance(700.0)
        costs = await manager.costs("kind")
        assert costs["probe"].calls == 3
        assert costs["probe"].total < Decimal("0.01")
        assert buckets(sum((cost.usage for cost in costs.values()), start=Usage())) == buckets(at.engine.bill().usage)
        assert sum(cost.total for cost in costs.values()) == at.engine.bill().cost
        (session,) = [one for one in await manager.list(branches=True) if one.id.startswith("probe-")]
        (shown,) = await manager.list(limit=1)
        assert shown.turns == 1, "a page is as long as it was asked for, without what nobody has said anything in"
        assert await manager.list() == [shown]
        assert (session.owner, session.metadata, session.turns) == (None, {"purpose": "probe"}, 0)
        calls = await (await manager.open(session.id)).calls()
        assert [one.usage.cache_write_1h > 0 for one in calls] == [False, True, False]
        assert calls[2].usage.cache_read == calls[1].usage.cache_read + calls[1].usage.cache_write_1h
    at.check()


async def test_where_parks_do_not_live_none_is_ever_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    at = world(parks_survive=False, url=tmp_path / "shared.db")
    for number in range(3):
        async with at.manager(trust="probe") as manager:
            session = await chat(manager, number)
            await talk(session, at, *[900.0] * 4)
            assert "park" not in await kinds(session)
            found = await verdict(manager)
            assert found is not None
            assert found.points == 0
    assert len(probed(at)) == 3, "once for all of them"
    assert "do not live as they should" in caplog.text
    at.check()


async def test_one_worker_of_many_finds_out(tmp_path: Path) -> None:
    at = world(url=tmp_path / "shared.db")
    async with at.manager(trust="probe") as one, at.manager(trust="probe") as two:
        for number, manager in enumerate((one, two, one, two)):
            await (await chat(manager, number)).send("hello")
        await at.clock.advance(700.0)
        assert len(probed(at)) == 3
        for number, manager in enumerate((one, two)):
            await talk(await chat(manager, 7 + number), at, 700.0)
            session = await chat(manager, 9 + number)
            await session.send("hello")
            await at.clock.advance(400.0)
            assert await kinds(session) == ["turn", "park"], "who did not probe knows it too, after ten minutes"
    at.check()


async def test_closed_in_the_middle_it_is_left_until_the_claim_is_over(tmp_path: Path) -> None:
    at = world(url=tmp_path / "shared.db")
    async with at.manager(trust="probe") as manager:
        await (await chat(manager)).send("hello")
        await at.clock.advance(400.0)
        assert len(probed(at)) == 2
    async with at.manager(trust="probe") as manager:
        await (await chat(manager, 1)).send("hello")
        await at.clock.advance(CLAIM - 500.0)
        assert len(probed(at)) == 2, "the one that has begun may still be about it"
        await at.clock.advance(500.0)
        await (await chat(manager, 2)).send("hello")
        await at.clock.advance(700.0)
        assert len(probed(at)) == 5
        found = await verdict(manager)
        assert found is not None
        assert found.points == START
    at.check()


async def test_a_probe_that_says_nothing_settles_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An entry that was not there from the start, a request that failed: the next hour shows it."""
    for fault in (None, Fault.http(529)):
        at = world(faults=lambda index, fault=fault: fault if index == 1 else None)
        async with at.manager(trust="probe") as manager:
            await (await chat(manager)).send("hello")
            await at.clock.advance(272.0)
            at.engine.evict()
            await at.clock.advance(500.0)
            found = await verdict(manager)
            assert found is not None
            assert found.points is None
            assert len(probed(at)) == (2 if fault is None else 1)
            await at.clock.advance(CLAIM)
            await (await chat(manager, 1)).send("hello")
            await at.clock.advance(700.0)
            found = await verdict(manager)
            assert found is not None
            assert found.points == START
    assert "could not be found out" in caplog.text


async def test_a_prefix_that_was_too_short_is_made_longer() -> None:
    """How many characters make a token is a guess, until the first request is counted."""
    at = world()
    api = simulator.client(engine=at.engine, clock=at.clock).with_options(max_retries=0)  # tells no sizes
    guess = replace(profile_for(OPUS), characters_per_token=1.5)
    async with SessionManager("sqlite://", client=api, clock=at.clock, profile=guess) as manager:
        await (await chat(manager)).send("hello")
        await at.clock.advance(700.0)
        asked = probed(at)
        assert [one.usage.cache_write > 0 for one in asked] == [False, True, True, False]
        found = await manager.runtime.store.trust("https://api.anthropic.com", OPUS)
        assert found is not None
        assert found.points == START
    at.check()


# -- what requests show ------------------------------------------------------------------------------------------------


async def test_parks_that_fail_in_one_process_are_not_tried_by_the_next(tmp_path: Path) -> None:
    at = world(parks_survive=False, url=tmp_path / "shared.db")
    found = []
    for number in range(5):
        async with at.manager() as manager:  # the simulator's own: assumed
            session = await chat(manager, number)
            await talk(session, at, *[900.0] * 5)
            found.append((await kinds(session)).count("park"))
    assert found[0] <= START
    assert found[1:] == [0] * 4
    at.check()


async def test_failures_that_several_processes_see_add_up(tmp_path: Path) -> None:
    at = world(parks_survive=False, url=tmp_path / "shared.db")
    found = []
    for number in range(4):
        async with at.manager() as manager:
            session = await chat(manager, number)
            await talk(session, at, 900.0)
            found.append((await kinds(session)).count("park"))
            stored = await verdict(manager)
            assert stored is not None
            assert stored.points == max(0, START - number - 1)
    assert found == [1, 1, 0, 0]


async def test_who_lives_on_hears_of_it_within_ten_minutes(tmp_path: Path) -> None:
    at = world(url=tmp_path / "shared.db")
    async with at.manager() as manager:
        await (await chat(manager)).send("hello")
        await at.clock.advance(400.0)
        await manager.runtime.store.weigh_trust(
            SIMULATOR, OPUS, 0, first=0, most=4, now=at.clock.now(), forget=FORGOTTEN
        )
        await at.clock.advance(200.0)
        session = await chat(manager, 1)
        await session.send("hello")
        await at.clock.advance(400.0)
        assert await kinds(session) == ["turn"]
        stored = await verdict(manager)
        assert stored is not None
    at.clock.step(FORGOTTEN)
    async with at.manager() as manager:
        late = await chat(manager, 2)
        await late.send("hello")
        await at.clock.advance(400.0)
        assert await kinds(late) == ["turn", "park"], "it is forgotten by then"


async def test_what_is_known_for_certain_is_not_written_again(tmp_path: Path) -> None:
    """And it is read once: a turn asks the store nothing more."""
    asked: list[str] = []

    class Counting(SQLStore):
        async def trust(self, endpoint: str, model: str) -> TrustRecord | None:
            asked.append("read")
            return await super().trust(endpoint, model)

        async def weigh_trust(self, *given: Any, **more: Any) -> TrustRecord:
            asked.append("write")
            return await super().weigh_trust(*given, **more)

    at = world()
    async with at.manager(store=Counting(f"sqlite:///{tmp_path}/counted.db")) as manager:
        session = await chat(manager)
        await talk(session, at, *[100.0] * 5)
        assert asked == ["read"]
        session = await chat(manager, 1)
        await talk(session, at, *[700.0] * 6)
        stored = await verdict(manager)
        assert (await kinds(session)).count("park") >= 2
        assert asked.count("write") == 2, "from two points to four"
        assert asked.count("read") <= 2 + 4700 / 600
        assert stored == TrustRecord(SIMULATOR, OPUS, 4, pytest.approx(at.clock.now(), abs=4000.0))


# -- the argument ------------------------------------------------------------------------------------------------------


async def test_never_is_never() -> None:
    at = world()
    async with at.manager(trust="never") as manager:
        session = await chat(manager)
        await talk(session, at, *[900.0] * 5)
        assert "park" not in await kinds(session)
        assert await verdict(manager) is None
        assert probed(at) == []
    at.check()


@pytest.mark.parametrize("wrong", ["always", "", True, 1, ["probe"]])
def test_another_word_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="trust must be one of probe, assume, never"):
        SessionManager("sqlite://", trust=wrong)


def test_what_it_is_where_nothing_is_said(tmp_path: Path) -> None:
    """Found out where idle conversations are tended at an endpoint that nobody has measured."""

    def mode(**given: Any) -> str:
        at = world()
        api = simulator.client(engine=at.engine, clock=at.clock)
        given = {"client": api.with_options(max_retries=0), **given}
        return SessionManager("sqlite://", **given).runtime.forecaster.trust.mode

    assert mode() == "probe"
    assert mode(tend=False) == mode(ttl=Fixed("1h")) == "assume"
    assert mode(client=simulator.client()) == "assume"
    assert mode(client=simulator.client(), trust="probe") == "probe"
    assert mode(trust="assume") == "assume"


async def test_what_the_simulator_shows_is_not_said_of_the_api(tmp_path: Path) -> None:
    """Both have one address: their verdicts are apart."""
    at = world(url=tmp_path / "shared.db")
    async with at.manager() as manager:
        await talk(await chat(manager), at, 900.0)
        assert await verdict(manager) is not None
        api = simulator.client(engine=at.engine, clock=at.clock).with_options(
            base_url="https://user:secret@gateway.example/anthropic/", max_retries=0
        )
        other = SessionManager(at.url, client=api, clock=at.clock)
        assert manager.runtime.endpoint.name == SIMULATOR
        assert other.runtime.endpoint.name == "https://gateway.example/anthropic"
        assert SessionManager(at.url).runtime.endpoint.name == "https://api.anthropic.com"


# -- what it costs -----------------------------------------------------------------------------------------------------


async def test_while_it_is_found_out_nothing_is_chosen_for_good() -> None:
    """Users who have not come back yet: an hour would pay only if they did, again and again."""
    for trust, ttl in (("probe", "5m"), ("never", "1h")):
        at = world()
        async with at.manager(trust=trust, tend=True) as manager:
            await (await chat(manager)).send("hello")
        assert {mark for body in at.bodies for _, mark in marks(body)} == {ttl}


@pytest.mark.parametrize("gap", [60.0, 480.0])
@pytest.mark.parametrize("trust", ["assume", "probe"])
async def test_where_parks_end_early_it_costs_no_more_than_the_better_lifetime(
    trust: Any, gap: float, tmp_path: Path
) -> None:
    """A process for each conversation, on one store: what the first two learn, the others need not."""
    totals: dict[str, Decimal] = {}
    ways: dict[str, dict[str, Any]] = {"5m": {"ttl": Fixed("5m")}, "1h": {"ttl": Fixed("1h")}, "ours": {"trust": trust}}
    for name, options in ways.items():
        at = world(parks_survive=False, url=tmp_path / f"{name}.db")
        learnt = Decimal(0)
        for number in range(6):
            if number == 2:
                learnt = at.engine.bill().cost or learnt
            async with at.manager(**options) as manager:
                await talk(await chat(manager, number, owner="u"), at, *[gap] * 6)
        totals[name] = (at.engine.bill().cost or Decimal(0)) - learnt
        at.check()
    assert totals["ours"] <= Decimal("1.03") * min(totals["5m"], totals["1h"]), totals

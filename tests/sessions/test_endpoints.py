"""What a process learns of the endpoint that it talks to: what that refuses, how long it keeps things, what it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from sessions import (
    BatchIncomplete,
    ConfigurationError,
    ExpectedCost,
    Fixed,
    ModelError,
    Profile,
    SessionManager,
    profile_for,
    simulator,
    tool,
)
from sessions.core.incoming import Incoming
from sessions.core.plan import Plan
from sessions.core.usage import Usage
from sessions.model.client import ModelClient
from sessions.model.endpoint import Endpoint
from sessions.simulator import Engine, Fault, Request
from sessions.simulator.doors.client import client_over
from sessions.testing import ManualClock
from tests.sessions.world import MODEL, World, answers, call, create, everywhere, marks

GATEWAY = "https://gateway.example"
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com"
LONG = simulator.filler(3000)


class Elsewhere(World):
    """A world at another address."""

    def __init__(self, script: Any = None, *, at: str = GATEWAY, **given: Any) -> None:
        super().__init__(script, **given)
        self.at = at

    def manager(self, *, clock: ManualClock | None = None, **given: Any) -> SessionManager:  # type: ignore[override]
        client = simulator.client(engine=self.engine, clock=self.clock, base_url=self.at, max_retries=0)
        return SessionManager(self.url, client=client, clock=self.clock, **given)

    @property
    def refused(self) -> list[str]:
        return [str(one.error) for one in self.engine.requests if one.state == "refused"]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What is logged about the endpoint."""
    found: list[str] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if " at " in (text := record.getMessage()):
                found.append(text)

    log, heard = logging.getLogger("sessions"), Heard()
    level = log.level
    log.addHandler(heard)
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(heard)
    log.setLevel(level)


def hours(at: World) -> list[bool]:
    """Of each request, whether it asked for an hour."""
    return [any(ttl == "1h" for _, ttl in marks(body)) for body in at.bodies]


@tool
def look(place: str) -> str:
    """Looks somewhere."""
    return simulator.filler(200)


# -- a lifetime that is refused -------------------------------------------------------------------------------------


@everywhere
async def test_a_refused_lifetime_is_asked_for_once() -> None:
    at = World(profile=replace(profile_for(MODEL), ttls=("5m",)))
    async with at.manager(ttl=Fixed("1h"), tend=False) as manager:
        one = await create(manager)
        reply = await one.send("Hello")
        assert hours(at) == [True, False]
        assert (reply.usage.cache_write_1h, reply.usage.cache_write_5m > 0) == (0, True)
        (row,) = await one.calls()
        assert {ttl for _, _, ttl, _ in row.points} == {"5m"}
        assert row.expected is not None
        assert (row.status, row.expected.cache_write_1h, row.expected.cache_write_5m > 0) == ("ok", 0, True)
        # Every other session of the process knows.
        assert (await (await create(manager)).send("Hello")).usage.cache_read > 0
        await one.send("And?")
        assert hours(at) == [True, False, False, False]


async def test_a_turn_with_tools_goes_on_where_its_second_request_is_refused(said: list[str]) -> None:
    """A Bedrock that refuses the field: the tool has run, and its result must reach the model."""
    at = Elsewhere(answers([call("look", place="here")], "so it is"), profile=replace(profile_for(MODEL), ttls=("5m",)))
    at.at = BEDROCK
    async with at.manager(
        ttl=_SecondTime(), profile=replace(profile_for(MODEL, BEDROCK), ttls=("5m", "1h"))
    ) as manager:
        session = await create(manager, tools=[look])
        reply = await session.send("Look")
        assert (reply.text, reply.stop_reason) == ("so it is", "end_turn")
        assert hours(at) == [False, True, False]
        assert [row.status for row in await session.calls()] == ["ok", "ok"]
        assert len(session.entries) == 4
        (text,) = said
        assert text.startswith(f"{MODEL} at {BEDROCK}")
        assert "does not take a lifetime of an hour" in text


class _SecondTime(ExpectedCost):
    """An hour, but for a first request."""

    asked = 0

    def choose(self, outlook: Any) -> Any:
        type(self).asked += 1
        return "5m" if type(self).asked == 1 else "1h"


async def test_requests_under_way_at_the_same_time_are_all_asked_again() -> None:
    at = World(profile=replace(profile_for(MODEL), ttls=("5m",)))
    async with at.manager(ttl=Fixed("1h"), tend=False, warmup=False) as manager:
        sessions = [await create(manager, system=simulator.filler(600, str(n))) for n in range(6)]
        async with anyio.create_task_group() as group:
            for session in sessions:
                group.start_soon(session.send, "Hello")
        assert [len(session.messages) for session in sessions] == [2] * 6


async def test_a_batch_that_is_refused_its_hour_is_resumed_for_five_minutes() -> None:
    at = World(profile=replace(profile_for(MODEL), ttls=("5m",)), latency=simulator.Latency(batch=60))
    async with at.manager(tend=False) as manager:
        session = await create(manager)
        failed: list[BatchIncomplete] = []

        async def send() -> None:
            try:
                await session.batch(["red", "green"])
            except BatchIncomplete as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await at.clock.advance(600)
        assert len(failed) == 1
        first, second = failed[0].results
        assert isinstance(first, ModelError)
        assert first.retryable
        assert second.text  # sent after the first one, without the hour
        (branch,) = await manager.list(parent=session.id, state="interrupted")
        opened = await manager.open(branch.id)
        assert await opened.resume() is not None
        assert len(opened.messages) == 2
        assert {ttl for _, ttl in marks(at.bodies[-1])} == {"5m"}


@pytest.mark.parametrize("way", ["stream", "prewarm", "compact"])
async def test_every_request_passes_where_a_refused_lifetime_is_asked_again(way: str) -> None:
    at = World(profile=replace(profile_for(MODEL), ttls=("5m",)))
    async with at.manager(ttl=Fixed("1h"), tend=False) as manager:
        session = await create(manager, system=LONG)
        if way == "stream":
            async with session.stream("Hello") as stream:
                assert [event async for event in stream]
        elif way == "prewarm":
            assert await session.prewarm() is not None
        else:
            await session.append([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
            await session.compact()
        assert hours(at) == [True, False]


async def test_what_else_is_refused_is_refused() -> None:
    at = World(faults={0: Fault.http(400, "system: Input should be a valid string")})
    async with at.manager(ttl=Fixed("1h"), tend=False) as manager:
        session = await create(manager)
        with pytest.raises(Exception, match="Input should be"):
            await session.send("Hello")
        await session.send("Hello")
        assert hours(at) == [True, True]


async def test_a_refused_field_of_diagnostics_is_left_out() -> None:
    at = World(faults={0: Fault.http(400, "diagnostics: Extra inputs are not permitted")})
    async with at.manager(tend=False) as manager:
        session = await create(manager)
        await session.send("Hello")
        await session.send("And?")
        assert ["diagnostics" in body for body in at.bodies] == [True, False, False]


# -- requests for no tokens that are refused ------------------------------------------------------------------------

VLLM = replace(profile_for(MODEL), prewarms=False)
"""An engine that honours marks, and refuses `max_tokens: 0`."""


@everywhere
async def test_refused_parks_end_for_all_sessions_and_plans_do_not_count_on_them() -> None:
    at = World(profile=VLLM)
    async with at.manager() as manager:
        sessions = [await create(manager, system=simulator.filler(3000, str(n))) for n in range(3)]
        for session in sessions:
            await session.send(LONG, expected_gap=None)
        assert not any(hours(at))  # what can be parked is written for five minutes
        await at.clock.advance(280)
        parks = [body for body in at.bodies if body["max_tokens"] == 0]
        assert 1 <= len(parks) <= 3  # those under way at the same time
        await at.clock.advance(3600)
        assert [body for body in at.bodies if body["max_tokens"] == 0] == parks
        conversation = sessions[0].conversation
        assert not manager.runtime.forecaster.can_park(conversation)
        assert not manager.runtime.forecaster.circumstances(conversation, at.clock.now()).parks
        await sessions[0].send(LONG, expected_gap=1800)
        assert hours(at)[-1]


async def _eight_minutes_apart(at: World, *, tools: bool, each: bool = False, **how: Any) -> float:
    """What twenty turns cost, in plain input tokens. `each`: every turn has a process of its own."""
    given, id = {"tools": [look]} if tools else {}, ""
    async with AsyncExitStack() as stack:
        for _ in range(20):
            if each or not id:
                await stack.aclose()
                manager = await stack.enter_async_context(at.manager(**how))
                opened = manager.open(id, **given) if id else create(manager, system=simulator.filler(20_000), **given)
                session = await opened
                id = session.id
            await session.send(LONG)
            if each:
                await stack.aclose()
            await at.clock.advance(480)
    usage = at.engine.bill().usage
    return usage.input + 0.1 * usage.cache_read + 1.25 * usage.cache_write_5m + 2 * usage.cache_write_1h


@pytest.mark.parametrize("tools", [False, True], ids=["bare", "tools"])
@pytest.mark.parametrize("way", ["untended", "refused", "process for each turn"])
async def test_where_nothing_is_parked_an_hour_is_soon_written(way: str, tools: bool, tmp_path: Path) -> None:
    """Eight minutes between turns, for which nobody does anything: five minutes would be written anew each time."""
    cost = {}
    for name in ("ours", "5m", "1h"):
        refuses = {"profile": VLLM} if way == "refused" else {}
        at, how = World(url=tmp_path / f"{name}.db", **refuses), {} if name == "ours" else {"ttl": Fixed(name)}
        given = {"tend": False} if way == "untended" and name == "ours" else {}
        cost[name] = await _eight_minutes_apart(at, tools=tools, each=way.startswith("process"), **how, **given)
    assert cost["ours"] < 0.42 * cost["5m"]
    assert cost["ours"] < 2.7 * cost["1h"], "a few turns are written anew until it is known"


async def test_the_end_of_parks_is_said_in_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    at = World(profile=VLLM)
    async with at.manager() as manager:
        for n in range(5):
            await (await create(manager, system=simulator.filler(3000, str(n)))).send(LONG)
            await at.clock.advance(10)
        await at.clock.advance(7200)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1, warned
    assert "refuses requests for no tokens" in warned[0]


async def test_a_refused_prewarm_is_none_and_not_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    at = World(profile=VLLM)
    async with at.manager() as manager:
        session = await create(manager)
        assert await session.prewarm() is None
        with pytest.warns(UserWarning, match="prewarm\\(\\) does nothing"):
            assert await session.prewarm() is None
        with pytest.warns(UserWarning, match="prewarm\\(\\) does nothing"):
            assert await manager.prewarm(model=MODEL, max_tokens=9, system=LONG) is None
        assert len(at.requests) == 1
        assert [row.status for row in await session.calls()] == ["error"]


@pytest.mark.parametrize("status", [401, 404, 429, 500])
async def test_a_failure_that_says_nothing_of_zero_tokens_ends_nothing(status: int) -> None:
    at = World(faults={0: Fault.http(status)})
    async with at.manager() as manager:
        session = await create(manager)
        with pytest.raises(Exception, match=str(status)):
            await session.prewarm()
        assert (await session.prewarm()) is not None


async def test_a_park_that_is_refused_its_hour_is_not_sent_for_five_minutes() -> None:
    at = World(profile=replace(profile_for(MODEL), ttls=("5m",)))
    async with at.manager() as manager:
        session = await create(manager, system=LONG)
        await session.send(LONG)
        await at.clock.advance(3000)
        assert [body["max_tokens"] for body in at.bodies].count(0) == 1
        assert (await session.prewarm()) is not None  # these are taken


# -- lifetimes that are not kept ------------------------------------------------------------------------------------


@everywhere
async def test_an_answer_of_five_minutes_is_believed() -> None:
    """A quota for an hour is used up: nothing is planned on what does not live that long."""
    at = World(grants_hours=False)
    async with at.manager(ttl=Fixed("1h"), tend=False) as manager:
        session = await create(manager)
        await session.send("Hello")
        await at.clock.advance(600)
        await session.send("And?")
        first, second = await session.calls()
        assert (first.usage.cache_write_1h, first.usage.cache_write_5m > 0) == (0, True)
        assert second.expected is not None
        assert second.expected.cache_read == second.usage.cache_read == 0
        assert second.miss is not None
        assert second.miss.cause == "expired"
        # And it is asked for again: the quota may be there again.
        assert hours(at) == [True, True]
        at.engine.grants_hours = True
        await at.clock.advance(600)
        assert (await session.send("So?")).usage.cache_write_1h > 0


async def test_who_answers_parks_with_five_minutes_is_sent_one() -> None:
    at = World(grants_hours=False)
    async with at.manager() as manager:
        session = await create(manager, system=LONG)
        for _ in range(4):
            await session.send(LONG)
            await at.clock.advance(400)
        assert [body["max_tokens"] for body in at.bodies].count(0) == 1


# -- endpoints that cache by themselves -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deepseek", "moonshot", "zai", "vllm", "llama.cpp"])
async def test_six_cold_branches_follow_one(name: str) -> None:
    facts = profile_for("some-model", name)
    at = World(profile=facts, latency=simulator.Latency(first_event=1.0))
    async with at.manager(profile=facts, tend=False) as manager:
        session = await manager.create(model="some-model", max_tokens=100, system=simulator.filler(8000))
        async with anyio.create_task_group() as group:
            group.start_soon(session.map, [f"Question {n}" for n in range(6)])
            await anyio.lowlevel.checkpoint()
            await at.clock.advance(20)
        billed = at.engine.bill().usage
        assert len(at.requests) == 6
        assert "cache_control" not in str(at.bodies)
        assert billed.input < 1.2 * 8000
        assert billed.cache_read > 4.8 * 8000


@pytest.mark.parametrize("name", ["deepseek", "moonshot", "zai", "vllm", "llama.cpp"])
async def test_prewarm_asks_for_one_token(name: str) -> None:
    facts = profile_for("some-model", name)
    at = World(profile=facts)
    async with at.manager(profile=facts) as manager:
        session = await manager.create(model="some-model", max_tokens=100, system=simulator.filler(2000))
        assert await session.prewarm() is not None
        assert await session.prewarm() is None  # it is warm
        reply = await session.send("Hello")
        assert [body["max_tokens"] for body in at.bodies] == [1, 100]
        assert at.requests[1].usage is not None
        assert at.requests[1].usage.cache_read > 1900
        _, turn = await session.calls()
        assert turn.expected is not None
        assert turn.expected.cache_read >= 1900
        assert reply.calls[0].miss is None
        # Nothing of it is looked after: there is nothing to be kept.
        await at.clock.advance(7200)
        assert len(at.requests) == 2


async def test_what_an_engine_has_forgotten_is_no_miss() -> None:
    facts = profile_for("some-model", "llama.cpp")
    at = World(profile=facts)
    async with at.manager(profile=facts) as manager:
        session = await manager.create(model="some-model", max_tokens=100, system=simulator.filler(2000))
        for _ in range(3):
            at.engine.evict()
            await session.send("Hello")
        assert [row.miss for row in await session.calls()] == [None] * 3


async def test_small_turns_ask_no_store_who_goes_first() -> None:
    facts = profile_for("some-model", "moonshot")
    assert (facts.minimum_tokens, facts.worth_waiting_for) == (0, 512)
    assert profile_for("claude-opus-4-6").worth_waiting_for == 4096


# -- a gateway in front of the API ----------------------------------------------------------------------------------


async def test_a_gateway_is_recognised_by_its_answers_step_by_step(said: list[str]) -> None:
    at = Elsewhere()
    async with at.manager() as manager:
        session, api = await create(manager), profile_for(MODEL)
        careful = _known(manager)
        assert (careful.ttls, careful.parks, careful.prewarms, careful.diagnostics) == (("5m",), False, False, False)
        await session.send("Hello")
        first = _known(manager)
        assert (first.ttls, first.parks, first.prewarms, first.counters) == (("5m", "1h"), True, True, True)
        assert (first.collapses_tools, first.diagnostics, first.compaction) == (False, False, False)
        await session.send("And?")
        assert _known(manager) == replace(api, name=MODEL)
        assert session.conversation.prompt.profile is _known(manager)
        await session.send("So?", expected_gap=1800)
        assert hours(at)[-1]
        assert not at.refused
    assert said == [f"{MODEL} at {GATEWAY} answers as the Claude API does, and is treated as that"]


def _known(manager: SessionManager, model: str = MODEL) -> Profile:
    return manager.runtime.endpoint.profile_of(model)


async def test_the_first_answer_that_is_another_takes_all_of_it_back(said: list[str]) -> None:
    at = Elsewhere()
    async with at.manager() as manager:
        session, careful = await create(manager), _known(manager)
        await session.send("Hello")
        at.engine.new_id = lambda kind: f"{kind}_bdrk_01{len(at.requests)}"  # type: ignore[method-assign]
        await session.send("And?")
        assert _known(manager) == careful
        del at.engine.new_id  # type: ignore[attr-defined]
        for _ in range(3):
            await session.send("So?")
        assert _known(manager) == careful  # a mixture of backends is not tried again
    assert len(said) == 2
    assert "otherwise than the Claude API" in said[1]


class _Plain(simulator.Transport):
    """A gateway that keeps the API's headers for itself."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        del response.headers["anthropic-organization-id"]
        return response


class _Renaming(_Plain):
    """LiteLLM's proxy: what it has received has another name, and its own id stands in place of the API's."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await simulator.Transport.handle_async_request(self, request)
        for name in ("request-id", "anthropic-organization-id"):
            response.headers[f"llm_provider-{name}"] = response.headers.pop(name)
        response.headers["x-request-id"] = "8f14e45f"
        return response


@pytest.mark.parametrize("other", ["request id", "counters", "message id", "organization", "nothing"])
async def test_one_thing_that_is_missing_keeps_the_care(other: str) -> None:
    engine = Engine(profile=replace(profile_for(MODEL), counters=other != "counters"))
    kind, new_id = {"request id": "req", "message id": "msg"}.get(other), engine.new_id
    engine.new_id = lambda name: "chatcmpl-1" if name == kind else new_id(name)  # type: ignore[method-assign]
    transport = (_Plain if other == "organization" else _Renaming)(engine)
    client = client_over(transport, base_url=GATEWAY)
    async with SessionManager("sqlite://", client=client, tend=False) as manager:
        session, careful = await create(manager), _known(manager)
        for _ in range(3):
            await session.send("Hello")
        assert (_known(manager) == careful) == (other != "nothing")
        assert not [one.error for one in engine.requests if one.state == "refused"]


async def test_each_step_is_undone_by_what_contradicts_it() -> None:
    there = replace(profile_for(MODEL), ttls=("5m",), prewarms=False, compaction=True)
    at = Elsewhere(profile=there)
    async with at.manager(ttl=Fixed("1h")) as manager:
        session = await create(manager, system=LONG)
        await session.send("Hello")
        assert _known(manager).ttls == ("5m", "1h")
        await session.send("And?")
        assert (_known(manager).ttls, _known(manager).parks, _known(manager).prewarms) == (("5m",), False, True)
        other = await create(manager, system=simulator.filler(2000, "other"))
        assert await other.prewarm() is None
        assert not _known(manager).prewarms
        assert _known(manager).diagnostics


async def test_a_refused_compaction_is_asked_for_once() -> None:
    at = Elsewhere()
    async with at.manager(tend=False) as manager:
        session = await create(manager)
        await session.send("Hello")
        await session.send("And?")
        at.engine.faults = {2: Fault.http(400, "compaction: Extra inputs are not permitted")}
        with pytest.raises(ModelError, match="Extra inputs"):
            await session.compact()
        assert not _known(manager).compaction
        with pytest.raises(ConfigurationError, match="no on-demand compaction"):
            await session.compact()
        assert len(at.requests) == 3


async def test_the_api_itself_may_refuse_to_compact_one_conversation() -> None:
    at = World(faults={1: Fault.http(400, "compaction: this one cannot be summarized")})
    async with at.manager(tend=False) as manager:
        session = await create(manager)
        await session.send("Hello")
        with pytest.raises(ModelError, match="cannot be summarized"):
            await session.compact()
        await session.compact()


async def test_a_shorter_look_back_is_learnt_from_a_miss() -> None:
    """Behind the gateway each tool block counts: the first miss that shows it ends the API's way of counting."""
    facts = replace(profile_for(MODEL), collapses_tools=False)
    at = Elsewhere(_many_calls, profile=facts)
    async with at.manager(tend=False) as manager:
        session = await create(manager, tools=[look], system=LONG)
        await session.send("One")
        await session.send(simulator.filler(1500))
        assert _known(manager).collapses_tools
        await session.send("many")
        missed = [row.miss.cause for row in await session.calls() if row.miss is not None]
        assert missed == ["lookback"]
        assert not _known(manager).collapses_tools
        await session.send("many")
        assert len([row for row in await session.calls() if row.miss is not None]) == 1


def _many_calls(request: Request) -> Any:
    last = request.messages[-1]["content"]
    if any(block["type"] == "tool_result" for block in last) or "many" not in str(last):
        return "fine"
    return [call("look", place=f"{n}") for n in range(24)]


async def test_who_names_the_profile_has_settled_it() -> None:
    given = profile_for(MODEL, GATEWAY)
    at = Elsewhere()
    async with at.manager(profile=given) as manager:
        session = await create(manager)
        for _ in range(3):
            await session.send("Hello")
        assert _known(manager) == given


def test_an_answer_for_an_hour_gives_bedrock_the_lifetime() -> None:
    """Its rows say five minutes for all but the 4.5 models; what is answered counts for more."""
    endpoint = Endpoint(ModelClient(simulator.client(base_url=BEDROCK)), None)
    assert endpoint.profile_of("anthropic.claude-opus-5").ttls == ("5m",)
    incoming = Incoming()
    incoming.merge_usage({"cache_creation": {"ephemeral_1h_input_tokens": 900, "ephemeral_5m_input_tokens": 0}})
    endpoint.learn_answer("turn", "anthropic.claude-opus-5", Plan((), Usage()), incoming, None)
    assert endpoint.profile_of("anthropic.claude-opus-5").ttls == ("5m", "1h")
    assert endpoint.profile_of("anthropic.claude-opus-4-8").ttls == ("5m",)


# -- names of one's own ---------------------------------------------------------------------------------------------

ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"


async def test_a_name_of_ones_own_takes_the_facts_of_its_model() -> None:
    at = Elsewhere(profile=profile_for("claude-sonnet-4-6"), at=BEDROCK)
    names = {ARN: "us.anthropic.claude-sonnet-4-6-v1:0"}
    async with at.manager(model_names=names) as manager:
        session = await manager.create(model=ARN, max_tokens=100, system=simulator.filler(2000))
        known = _known(manager, ARN)
        assert (known.name, known.minimum_tokens, known.known) == (ARN, 1024, True)
        reply = await session.send("Hello")
        assert at.bodies[0]["model"] == ARN
        assert reply.cost is not None
        assert float(reply.cost) == pytest.approx(1.1 * float(at.engine.requests[0].cost or 0))


@pytest.mark.parametrize("names", [{"mine": "claude-sonet-5-5"}, {"mine": 5}, ["mine"], {5: MODEL}])
async def test_names_that_say_nothing_are_refused(names: Any) -> None:
    with pytest.raises(ConfigurationError, match="model_names"):
        SessionManager("sqlite://", client=simulator.client(), model_names=names)


async def test_a_model_that_nobody_knows_is_told_at_the_line_that_names_it() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        with pytest.warns(UserWarning, match="nothing is known about the model 'claude-sonet-9'") as caught:
            await session.update(model="claude-sonet-9")
        assert [one.filename for one in caught] == [__file__]

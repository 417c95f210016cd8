"""The probe against simulators that do as documented, and against some that do not."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import anyio
import pytest

from sessions import ModelError, SessionManager, simulator, tool
from sessions.core.profiles import MODELS, Profile, profile_for
from sessions.probe import RULES, Probe, Rule, Watcher
from sessions.probe.simulated import estimate, simulated_probe
from sessions.simulator import Engine, Fault, Request
from sessions.simulator.checks.refusal import Refusal
from sessions.testing import ManualClock
from tests.sessions.world import MODEL, call, everywhere

OTHER = "claude-haiku-5-5"
FACTS = profile_for(MODEL)


async def probed(engine: Engine | None = None, model: str = MODEL, **given: Any) -> Probe:
    """A whole probe of a simulator."""
    probe = simulated_probe(model, engine=engine, **{"other": OTHER, **given})
    await probe.run()
    return probe


def verdicts(probe: Probe) -> dict[str, str]:
    """What was said of each rule."""
    return {one.rule.name: one.finding.verdict for one in probe.results if one.finding is not None}


def planted(**facts: Any) -> Engine:
    """A simulator that deviates."""
    return Engine(profile=replace(FACTS, **facts))


@everywhere
async def test_a_healthy_simulator_agrees_in_everything() -> None:
    engine = Engine()
    probe = await probed(engine)
    assert set(verdicts(probe).values()) == {"agrees"}
    assert len(probe.results) == len(RULES) == 24
    assert probe.known == FACTS
    bill = engine.bill()
    assert (probe.usage, probe.spent) == (bill.usage, bill.cost)
    assert bill.cost is not None
    assert bill.cost < Decimal("0.10")
    assert probe.measured().complete


@pytest.mark.filterwarnings("ignore:.* is deprecated")
@pytest.mark.parametrize("model", sorted(set(MODELS) - {MODEL}))
async def test_every_model_agrees_with_its_own_page(model: str) -> None:
    probe = await probed(model=model, other=MODEL)
    odd = {name: verdict for name, verdict in verdicts(probe).items() if verdict != "agrees"}
    assert odd == ({} if MODELS[model].keeps_thinking else {"thinking": "cannot tell"})
    assert probe.known == profile_for(model)


DEVIATIONS: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    # what is planted, what else the profile then says, the rules that differ
    ({"lookback": 10}, {}, {"look-back"}),
    ({"lookback": 4}, {}, {"look-back"}),
    ({"lookback": 33}, {}, {"look-back"}),
    ({"collapses_tools": False}, {}, {"tool runs"}),
    ({"counts_thinking": True}, {}, {"thinking"}),
    ({"ttls": ("5m",)}, {"parks": False}, {"ttl"}),
    (
        {"automatic": True, "markers": False},
        {"parks": False},
        {"unasked", "markers", "top level"},
    ),
    ({"minimum_tokens": 4096}, {}, {"minimum"}),
    ({"minimum_tokens": 1024}, {}, {"minimum"}),
    ({"minimum_tokens": 64}, {}, {"minimum"}),
    ({"counters": False}, {}, {"counters"}),
    ({"parks": False}, {}, {"parks"}),
    ({"prewarms": False}, {"prewarms": True, "prewarm_max_tokens": 1}, {"zero tokens"}),
    ({"prewarm_max_tokens": 1}, {}, {"zero tokens"}),
    ({"diagnostics": False}, {}, {"diagnostics"}),
    ({"system_messages": False}, {}, {"system messages"}),
    ({"lookback": 10, "collapses_tools": False, "minimum_tokens": 2048}, {}, {"look-back", "tool runs", "minimum"}),
]


def named(one: Any) -> str:
    """A set has no order of its own, and an id must be the same in every process."""
    return str(sorted(one) if isinstance(one, set) else one)[:60]


@pytest.mark.parametrize(("facts", "also", "differ"), DEVIATIONS, ids=named)
async def test_a_planted_deviation_is_found(facts: dict[str, Any], also: dict[str, Any], differ: set[str]) -> None:
    probe = await probed(planted(**facts))
    found = verdicts(probe)
    assert {name for name, verdict in found.items() if verdict == "differs"} == differ
    assert probe.known == replace(FACTS, **{**facts, **also})


async def test_reads_that_renew_no_shorter_prefix_are_told() -> None:
    probe = await probed(Engine(refreshes_shorter=False))
    assert {name for name, verdict in verdicts(probe).items() if verdict != "agrees"} == {"shorter prefixes"}
    assert probe.known == FACTS


@pytest.mark.parametrize("minimum", [0, 50, 300, 700, 1500, 3000, 5000, 8000])
async def test_a_minimum_of_any_size_is_enclosed(minimum: int) -> None:
    probe = await probed(planted(minimum_tokens=minimum), rules=RULES[:4])
    least = probe.known.minimum_tokens
    assert math.isclose(least, max(minimum, 32), rel_tol=0.16), least


async def test_an_endpoint_that_never_caches() -> None:
    probe = await probed(planted(minimum_tokens=10**6))
    assert verdicts(probe)["markers"] == "differs"
    assert not probe.known.markers


async def test_markers_that_are_refused_are_not_sent_again() -> None:
    probe = await probed(_Strict(profile=FACTS))
    assert verdicts(probe)["markers"] == "differs"
    assert not probe.known.markers


class _Strict(Engine):
    """A server whose schema has no `cache_control`."""

    def receive(self, body: Any, headers: Any, now: float, *, path: str = "/v1/messages") -> Any:
        if "cache_control" in str(body):
            return self.reject(Refusal("cache_control: Extra inputs are not permitted"), path, now)
        return super().receive(body, headers, now, path=path)


# -- what the profile is for ---------------------------------------------------------------------------------------


@tool
def look(at: str) -> str:
    """Looks at something."""
    return f"{at}: " + "seen " * 20


def busy(request: Request) -> Any:
    """Twelve calls at once, then six one after the other, then an answer."""
    if not request.results:
        return [call("look", at=f"thing {n} {len(request.words)}") for n in range(12)]
    rounds = 0
    for message in reversed(request.body["messages"]):
        if message["role"] == "user" and all(block["type"] != "tool_result" for block in message["content"]):
            break
        rounds += message["role"] == "user"
    return [call("look", at=f"more {rounds} {len(request.words)}")] if rounds < 6 else "Done. " * 10


async def work(engine_facts: Profile, profile: Any, parks: bool = True) -> Decimal:
    """What a chat with tools costs there with this profile: short and long gaps, told and untold; two sessions."""
    clock = ManualClock()
    engine = Engine(busy, profile=engine_facts, parks_survive=parks)
    client = simulator.client(engine=engine, clock=clock, max_retries=0)
    async with SessionManager("sqlite://", client=client, clock=clock, profile=profile, tend=False) as manager:
        for system in ("a", "b"):
            session = await manager.create(
                model=MODEL, max_tokens=900, system=simulator.filler(5000, system), tools=[look]
            )
            for gap, told in ((100, None), (480, 480), (200, None))[: 3 if system == "a" else 1]:
                await session.send("Look at all of it.", expected_gap=told)
                await clock.advance(gap)
    cost = engine.bill().cost
    assert cost is not None
    assert not [one.error for one in engine.requests if one.state == "refused"]
    return cost


@pytest.mark.parametrize(("facts", "also", "differ"), DEVIATIONS, ids=named)
async def test_sessions_with_the_measured_profile_lose_nothing(
    facts: Any, also: Any, differ: Any, tmp_path: Any
) -> None:
    there = replace(FACTS, **facts)
    probe = await probed(planted(**facts))
    file = tmp_path / "there.json"
    probe.measured().write(file)
    assert await work(there, file) == await work(there, there)


async def test_the_measured_profile_is_worth_something() -> None:
    there = replace(FACTS, lookback=10, collapses_tools=False)
    probe = await probed(Engine(profile=there))
    assert await work(there, probe.known) < Decimal("0.9") * await work(there, FACTS)


# -- what cannot be told -------------------------------------------------------------------------------------------


class _Forgetful(Engine):
    """Loses all entries at certain times (seconds after the first request)."""

    def __init__(self, *times: float, **given: Any) -> None:
        super().__init__(**given)
        self._times, self._first = list(times), 0.0

    def receive(self, body: Any, headers: Any, now: float, *, path: str = "/v1/messages") -> Any:
        self._first = self._first or now
        while self._times and now - self._first >= self._times[0]:
            self._times.pop(0)
            self.evict()
        return super().receive(body, headers, now, path=path)


async def test_lost_entries_are_no_finding_about_short_ones() -> None:
    """All entries are lost once, while the rules wait: nothing that hangs on an absence alone is guessed."""
    probe = await probed(_Forgetful(150.0))
    found = verdicts(probe)
    assert found["renewal"] == found["shorter prefixes"] == "cannot tell"
    assert found["look-back"] == found["tool runs"] == "agrees"


@pytest.mark.parametrize("every", [2, 3, 5])
async def test_an_endpoint_that_forgets_all_the_time(every: int) -> None:
    """Every second (third, fifth) request finds nothing: the profile may only change to the cautious side."""

    class Leaky(Engine):
        def receive(self, body: Any, headers: Any, now: float, *, path: str = "/v1/messages") -> Any:
            if len(self.requests) % every == 0:
                self.evict()
            return super().receive(body, headers, now, path=path)

    probe = await probed(Leaky())
    known = probe.known
    assert known.counters
    assert known.markers
    assert not known.automatic
    assert known.minimum_tokens == 512
    assert known.lookback <= 20
    assert "cannot tell" in verdicts(probe).values()


async def test_requests_that_fail_settle_nothing() -> None:
    failing = {index: Fault("status", status=529) for index in range(20, 200)}
    engine = Engine(faults=failing)
    probe = simulated_probe(MODEL, engine=engine, other=OTHER)
    await probe.run()
    found = verdicts(probe)
    assert [found[name] for name in ("counters", "unasked", "markers", "minimum", "ttl")] == ["agrees"] * 5
    assert found["look-back"] == found["tool runs"] == found["models"] == "cannot tell"
    assert "differs" not in found.values()
    assert (probe.known.lookback, probe.known.collapses_tools, probe.known.parks) == (20, False, False)


async def test_an_endpoint_that_refuses_the_key_ends_the_run() -> None:
    probe = simulated_probe(MODEL, engine=Engine(faults={0: Fault("status", status=401)}))
    with pytest.raises(ModelError, match="401"):
        await probe.run()


async def test_a_model_that_is_not_there_ends_the_run() -> None:
    probe = simulated_probe("claude-sonnet-9", engine=Engine())
    with pytest.raises(ModelError, match="404"):
        await probe.run()


class _Silent(Engine):
    """Answers so many requests, and no more."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self._answers = answers

    def ask(self, exchange: Any) -> Any:
        return super().ask(exchange) if len(self.requests) <= self._answers else anyio.sleep_forever()


async def _with_time(probe: Any, clock: ManualClock) -> None:
    """Time goes on beside it: who waits for an answer waits on the clock."""
    failed: list[ModelError] = []
    async with anyio.create_task_group() as group:

        async def go_on() -> None:
            while True:
                await clock.advance(10)

        group.start_soon(go_on)
        try:
            await probe.run()
        except ModelError as error:  # raised below: outside the group, which would wrap it
            failed.append(error)
        group.cancel_scope.cancel()
    for error in failed:
        raise error


async def test_a_request_without_an_answer_settles_nothing_and_holds_nobody_up() -> None:
    clock = ManualClock()
    client = simulator.client(engine=_Silent(4), clock=clock, max_retries=0)
    probe = Probe(client, MODEL, endpoint="there", base=FACTS, quick=True, timeout=30, clock=clock)
    began = clock.now()
    await _with_time(probe, clock)
    found = verdicts(probe)
    assert (found["counters"], found["unasked"]) == ("agrees", "agrees")
    assert found["markers"] == found["zero tokens"] == "cannot tell"
    (text,) = [one.finding.sentence for one in probe.results if one.rule.name == "markers" and one.finding]
    assert "no answer came within 30 seconds" in text
    assert clock.now() - began < 30 * len(RULES) + 60


async def test_an_endpoint_that_never_answers_ends_the_run() -> None:
    clock = ManualClock()
    client = simulator.client(engine=_Silent(0), clock=clock, max_retries=0)
    probe = Probe(client, MODEL, endpoint="http://there", base=FACTS, timeout=30, clock=clock)
    with pytest.raises(ModelError, match="no answer came within 30 seconds: is http://there there"):
        await _with_time(probe, clock)


@pytest.mark.parametrize("name", ["vllm", "llama.cpp"])
async def test_an_engine_that_ignores_marks_is_not_said_to_honour_them(name: str) -> None:
    """Found from the careful profile of an endpoint that nobody knows."""
    there = profile_for(MODEL, name)
    base = profile_for(MODEL, "http://localhost:8000")
    assert (base.markers, base.prewarms) == (True, False)
    probe = await probed(Engine(profile=there), base=base, quick=True)
    assert (probe.known.markers, probe.known.parks) == (False, False)
    assert (probe.known.prewarms, probe.known.prewarm_max_tokens) == (True, 1)


# -- quick, interrupted, limited -----------------------------------------------------------------------------------


async def test_quick_leaves_out_what_must_wait() -> None:
    probe = await probed(quick=True)
    skipped = {name for name, verdict in verdicts(probe).items() if verdict == "skipped"}
    assert skipped == {rule.name for rule in RULES if rule.waits}
    assert probe.known == FACTS
    assert not probe.measured().complete


@everywhere
async def test_what_was_paid_for_is_kept_when_it_is_interrupted() -> None:
    engine = Engine()
    asked = 0
    with anyio.CancelScope() as scope:

        def stop(rule: Rule, ask: Any) -> None:
            nonlocal asked
            asked += 1
            if asked == 25:
                scope.cancel()

        probe = simulated_probe(MODEL, engine=engine, other=OTHER, watcher=Watcher(asking=stop))
        await probe.run()
    assert scope.cancelled_caught
    assert probe.requests == 24
    measured = probe.measured()
    assert not measured.complete
    assert sum(len(one["requests"]) for one in measured.evidence) == 24
    assert "interrupted after" in str([one["found"] for one in measured.evidence])
    assert measured.profile.minimum_tokens == 512


async def test_it_stops_at_its_limit() -> None:
    engine = Engine()
    probe = await probed(engine, limit=Decimal("0.02"))
    spent = engine.bill().cost
    assert spent is not None
    assert Decimal("0.02") < spent < Decimal("0.04")
    assert list(verdicts(probe).values()).count("skipped") > 5
    assert len(probe.results) == len(RULES)
    assert "limit of $0.02" in str([one.finding for one in probe.results])


async def test_the_estimate_is_the_bill_of_a_healthy_endpoint() -> None:
    engine = Engine()
    probe = await probed(engine)
    expected = await estimate(MODEL, other=OTHER, quick=False)
    assert (expected.requests, expected.usage, expected.cost) == (probe.requests, probe.usage, engine.bill().cost)
    quick = await estimate(MODEL, other=OTHER, quick=True)
    assert quick.requests < expected.requests
    longer = await estimate(MODEL, other=OTHER, quick=False, minimum=4096)
    assert longer.cost is not None
    assert longer.cost == (await probed(planted(minimum_tokens=4096))).spent
    unknown = await estimate("qwen-4", other=None, quick=True)
    assert unknown.cost is None


async def test_rules_that_wait_wait_together() -> None:
    waits: list[float] = []
    settled: list[str] = []
    watcher = Watcher(
        waiting=lambda seconds, rules: waits.append(seconds), settled=lambda result: settled.append(result.rule.name)
    )
    probe = await probed(watcher=watcher)
    began = min(seen.started for result in probe.results for seen in result.exchanges)
    ended = max(seen.ended for result in probe.results for seen in result.exchanges)
    assert ended - began < 400
    assert waits
    assert settled[-1] in {rule.name for rule in RULES if rule.waits}
    assert sorted(settled) == sorted(rule.name for rule in RULES)


def test_every_rule_has_a_name_of_its_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)

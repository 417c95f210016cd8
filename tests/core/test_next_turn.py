"""What the next turn will cost: the request as it would be planned at each moment, priced."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from sessions.core.next_turn import MOMENTS, CostForecast, TurnCost, alike, forecast_costs, next_words, usual_answer
from sessions.core.plan import make_plan
from sessions.core.prices import cost
from sessions.core.profiles import MODELS, profile_for
from sessions.core.prompt import Prompt
from sessions.core.usage import Usage
from sessions.core.warmth import Warmth
from tests.core.strategies import assistant, call, image, result, user
from tests.core.world import MODEL, circumstances, entries_of, settings_of

BASE = {"model": MODEL, "max_tokens": 100, "system": "Be brief. " * 400}
TALK = [user("Hello there."), assistant("Yes?"), user("And?")]


def talked(warmth: Warmth, now: float, **fields: Any) -> tuple[Prompt, Usage]:
    """A prompt whose last request started at `now`."""
    prompt = Prompt(settings_of({**BASE, **fields}), profile_for(fields.get("model", MODEL)))
    prompt.extend(entries_of(TALK))
    plan = make_plan(prompt, warmth, circumstances(prompt, now))
    warmth.learn(plan.marks, plan.hit, plan.expected, now)
    return prompt, plan.expected


def forecast(prompt: Prompt, warmth: Warmth, now: float, **given: Any) -> CostForecast:
    return forecast_costs(prompt, warmth, circumstances(prompt, now), answer=100, **given)


def test_it_reads_what_is_warm_and_pays_again_for_what_has_lapsed() -> None:
    warmth = Warmth()
    prompt, first = talked(warmth, 0.0)
    before = dict(warmth.points)
    found = forecast(prompt, warmth, 10.0, waited=Decimal("0.5"), models=alike(prompt.profile, prompt.total, 10.0))
    assert [turn.seconds for turn in (found.now, found.in_five_minutes, found.in_an_hour)] == list(MOMENTS)
    assert found.now.usage == Usage(cache_read=first.cache_write, input=found.now.usage.input, output=100)
    assert (found.in_five_minutes.usage.cache_read, found.in_an_hour.usage.cache_read) == (0, 0)
    for turn in (found.now, found.in_five_minutes, found.in_an_hour):
        assert turn.cost == cost(turn.usage, prompt.profile)
        assert turn.kept == 0
    assert found.now.cost is not None
    assert found.in_an_hour.cost is not None
    assert found.waiting_an_hour == found.in_an_hour.cost - found.now.cost
    assert found.waiting_five_minutes == found.waiting_an_hour
    assert found.waiting_an_hour > 0
    assert (found.model, found.waited, warmth.points) == (MODEL, Decimal("0.5"), before)
    assert [other.warm for other in found.models] == sorted(other.warm for other in found.models)
    assert all(other.switching > other.warm for other in found.models)
    assert MODEL not in [other.model for other in found.models]


def test_what_will_be_sent_meanwhile_is_in_it() -> None:
    warmth = Warmth()
    prompt, first = talked(warmth, 0.0)
    marks = tuple(replace(mark, ttl="1h") for mark in make_plan(prompt, warmth, circumstances(prompt, 1.0)).marks)
    park = replace(make_plan(prompt, warmth, circumstances(prompt, 1.0)), marks=marks)
    park = replace(park, expected=Usage(cache_read=first.cache_write - 10, cache_write_1h=10))
    found = forecast(prompt, warmth, 10.0, idle=(270.0, park))
    price = cost(park.expected, prompt.profile)
    assert [found.now.kept, found.in_five_minutes.kept, found.in_an_hour.kept] == [0, price, price]
    assert found.in_an_hour.usage.cache_read > 0
    assert found.waiting_an_hour is not None
    assert price is not None
    assert found.waiting_an_hour < forecast(prompt, warmth, 10.0).waiting_an_hour  # type: ignore[operator]


def test_where_no_price_is_published_nothing_is_said() -> None:
    warmth = Warmth()
    prompt, _ = talked(warmth, 0.0, model="claude-mythos-preview")
    names = ["claude-mythos-preview", "claude-opus-5"]
    found = forecast(prompt, warmth, 1.0, models=names)
    assert (found.now.cost, found.now.kept, found.waiting_an_hour) == (None, None, None)
    assert [other.model for other in found.models] == ["claude-opus-5"]
    known = TurnCost(0.0, Usage(), Decimal(1), Decimal(0))
    later = replace(known, cost=None)
    assert CostForecast("m", known, replace(known, kept=None), later, None).waiting_five_minutes is None
    assert CostForecast("m", known, known, later, None).waiting_an_hour is None


def test_models_of_the_same_kind_count_tokens_alike_and_go_on() -> None:
    new = alike(profile_for("claude-sonnet-5-5"), 1000, 1_700_000_000.0)
    assert {"claude-opus-5", "claude-haiku-5-5"} <= set(new)
    assert not {"claude-sonnet-5-5", "claude-opus-4-6", "claude-sonnet-4-5"} & set(new)
    old = profile_for("us.anthropic.claude-opus-4-6-v1", "bedrock")
    before, after = (alike(old, 1000, now) for now in (1_790_000_000.0, 1_801_000_000.0))
    assert set(before) - set(after) == {"claude-sonnet-4-5", "claude-opus-4-5"} & set(before)
    assert "claude-sonnet-4-5" in before
    assert "claude-haiku-4-5" not in alike(old, 500_000, 0.0)
    assert alike(profile_for("nobodys-model"), 1000, 0.0) == []
    assert all(not name[-8:].isdigit() for name in before)


def test_the_next_words_are_as_long_as_those_before() -> None:
    talk = entries_of([user("abcd"), assistant("Yes?"), user("abcdefgh", image()), assistant("So.")])
    assert next_words(talk, []) == [{"type": "text", "text": "x" * 6}]
    assert next_words(talk[:3], []) == []
    (words,) = next_words([], [])
    assert len(words["text"]) == 200
    opening = next_words([], [{"type": "text", "text": "A paper."}])
    assert [block["text"][:3] for block in opening] == ["A p", "xxx"]
    calls = entries_of([user("go"), assistant(call("a"), call("b"))])
    assert [block["tool_use_id"] for block in next_words(calls, [])] == ["a", "b"]
    results = entries_of([user("go"), assistant(call("a")), user(result("a", "r")), assistant("Done.")])
    assert next_words(results, []) == [{"type": "text", "text": "xx"}]


def test_an_answer_is_as_long_as_those_before() -> None:
    one, two = entries_of([assistant("a"), assistant("b")])
    assert usual_answer([]) == usual_answer([one]) == 500
    assert usual_answer([replace(one, output_tokens=10), replace(two, output_tokens=21)]) == 16


def test_every_last_day_is_one() -> None:
    ends = {name: profile.ends for name, profile in MODELS.items() if profile.ends}
    assert set(ends.values()) == {"2026-11-30", "2027-01-22"}
    assert {name for name in ends if ends[name] == "2026-11-30"} == {"claude-sonnet-4-5", "claude-sonnet-4-5-20250929"}
    sonnet = MODELS["claude-sonnet-4-5"]
    assert not sonnet.has_ended(1_796_083_199.0)  # the last second of 30 November 2026
    assert sonnet.has_ended(1_796_083_200.0)
    assert not MODELS["claude-opus-5"].has_ended(9e9)
    assert profile_for("anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock").ends is None


def test_it_says_what_a_compaction_would_change() -> None:
    words = "word " * 1200
    talk = [message for _ in range(80) for message in (user(words), assistant(words))]
    prompt = Prompt(settings_of(BASE), profile_for(MODEL))
    prompt.extend(entries_of([*talk, user("And now?")]))
    assert forecast(prompt, Warmth(), 0.0).compaction is None
    found = forecast(prompt, Warmth(), 0.0, closed=len(talk)).compaction
    assert found is not None
    assert found.tokens == prompt.tokens_of(len(talk))

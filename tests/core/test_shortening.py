"""Whether a summary pays: what it costs now, beside what later requests are spared."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings

from sessions.core.cache import Where
from sessions.core.gaps import NEVER
from sessions.core.plan import Plan, make_plan
from sessions.core.prices import prices_for
from sessions.core.profiles import Profile, profile_for
from sessions.core.prompt import Prompt
from sessions.core.shortening import (
    LEAST,
    READ_AGAIN,
    SUMMARY,
    Shortening,
    closed_entries,
    is_closed,
    shortening,
    summary_plan,
)
from sessions.core.transcript import Entry
from sessions.core.ttl import Fixed
from sessions.core.usage import Usage
from sessions.core.warmth import Alive, Warmth
from tests.core.strategies import assistant, call, profiles, requests, result, text, user
from tests.core.world import MODEL, circumstances, entries_of, prompt_of, settings_of

HEAD = [text("Be brief. " * 1200)]
TOOLS = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}]
SUMMED = {"type": "compaction", "content": "All of it. " * 300, "signature": "s", "tool_changes": []}


def body(*messages: dict[str, Any], model: str = MODEL, **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 9, "system": HEAD, "tools": TOOLS, "messages": list(messages), **fields}


def talk(turns: int = 40, tokens: int = 3000) -> list[dict[str, Any]]:
    """Finished turns of about so many tokens each."""
    said: list[dict[str, Any]] = []
    for number in range(turns):
        said += [user(f"{number} " + "word " * (tokens // 4)), assistant(f"{number} " + "word " * (tokens // 4))]
    return said


def warm(prompt: Prompt, now: float) -> Warmth:
    """A request of this prompt at `now` has left its entries."""
    plan = make_plan(prompt, Warmth(), circumstances(prompt, now))
    found = Warmth()
    found.learn(plan.marks, plan.hit, plan.expected, now)
    return found


def decided(
    messages: list[dict[str, Any]],
    *,
    now: float = 60.0,
    closed: int | None = None,
    profile: Profile | None = None,
    expected_gap: float | None = None,
    cold: bool = False,
    **fields: Any,
) -> tuple[Prompt, Plan, Shortening | None]:
    """The decision at new words, one minute after the last request of the talk."""
    before = prompt_of(body(*messages[:-1], **fields), profile)
    prompt = prompt_of(body(*messages, **fields), profile)
    at = circumstances(prompt, now, expected_gap=expected_gap)
    plan = make_plan(prompt, Warmth() if cold else warm(before, 0.0), at)
    return prompt, plan, shortening(prompt, plan, len(messages) - 1 if closed is None else closed, at)


def test_a_long_history_costs_more_than_its_summary() -> None:
    prompt, _, found = decided([*talk(), user("And now?")])
    assert prompt.total > LEAST
    assert found is not None
    assert found.saves > 0
    assert found.tokens == prompt.tokens_of(80)
    assert found.shorter == found.tokens - SUMMARY - READ_AGAIN


def test_the_figures_add_up() -> None:
    """Paid now: the request for the summary, the first one behind it, what is read again, less what would be paid."""
    prompt, plan, found = decided([*talk(), user("And now?")])
    assert found is not None
    at = circumstances(prompt, 60.0)
    assert at.prices is not None
    head, words = (
        prompt.tokens(prompt.head_points),
        prompt.total - prompt.tokens_of(80) - prompt.tokens(prompt.head_points),
    )
    read = plan.expected.cache_read
    asked = Usage(input=head + found.tokens - read, cache_read=read, output=SUMMARY)
    behind = Usage(cache_read=head, cache_write_5m=SUMMARY + words + READ_AGAIN)
    price = at.prices.of(asked) + at.prices.of(behind) - at.prices.of(plan.expected)
    assert found.price == price
    growth = (prompt.total - head) / 40
    ever, most = at.forecast.ever, found.shorter / growth
    assert found.requests == pytest.approx(sum(ever**number for number in range(1, int(most) + 1)), rel=0.05)
    alive = at.forecast.within(3600) / at.forecast.ever
    each = alive * at.prices.read + (1 - alive) * at.prices.write_5m
    spared = found.requests * found.shorter * each * float(at.prices.input) / 1e6
    assert float(found.saves) == pytest.approx(spared - float(price))


def test_it_does_not_pay_where_nobody_will_ask_again() -> None:
    _, _, found = decided([*talk(), user("And now?")], expected_gap=NEVER)
    assert found is not None
    with_tools = found.requests
    _, _, alone = decided([*talk(), user("And now?")], expected_gap=NEVER, tools=[])
    assert alone is not None
    assert with_tools > alone.requests == 0.0
    assert alone.saves == -alone.price < 0


def test_how_much_is_counted_on_has_a_limit() -> None:
    """Somebody who is sure to come back comes 200 times at most, and until the prompt is as long again."""
    _, _, found = decided([*talk(2, 80_000), user("And now?")], expected_gap=60.0)
    assert found is not None
    assert found.requests < 3
    _, _, many = decided([*talk(400, 300), user("And now?")], expected_gap=60.0)
    assert many is not None
    assert many.requests == 200.0


def test_cheap_reads_put_it_off() -> None:
    saved = {}
    for model in ("claude-opus-5", MODEL, "claude-fable-5-2"):
        prompt, _, found = decided([*talk(), user("And now?")], model=model)
        at = circumstances(prompt)
        assert found is not None
        assert at.prices is not None
        saved[at.prices.read] = found.saves / at.prices.input
    assert sorted(saved) == [0.025, 0.05, 0.1]
    assert saved[0.1] > saved[0.05] > saved[0.025]


def test_a_model_that_charges_less_for_a_short_prompt_is_brought_back_below_that() -> None:
    """claude-haiku-5-5 costs a fifth up to 100,000 tokens (docs/provider.md, 4)."""
    _, _, haiku = decided([*talk(), user("And now?")], model="claude-haiku-5-5")
    _, _, sonnet = decided([*talk(), user("And now?")])
    assert haiku is not None
    assert sonnet is not None
    prices = prices_for(profile_for("claude-haiku-5-5"), 110_000)
    assert prices is not None
    sonnets = prices_for(profile_for(MODEL))
    assert sonnets is not None
    assert haiku.saves / prices.input > Decimal("1.2") * sonnet.saves / sonnets.input


def test_what_has_lapsed_is_written_shorter() -> None:
    _, _, kept = decided([*talk(), user("And now?")])
    _, _, lapsed = decided([*talk(), user("And now?")], cold=True)
    assert kept is not None
    assert lapsed is not None
    assert lapsed.price < kept.price


@pytest.mark.parametrize(
    ("messages", "closed"),
    [
        (talk(2), 4),
        ([*talk(), user("look"), assistant(call("1")), user(result("1"))], 80),
        ([*talk(), user("And now?")], 0),
    ],
    ids=["short", "a turn is under way", "nothing is closed"],
)
def test_nothing_to_decide(messages: list[dict[str, Any]], closed: int) -> None:
    assert decided(messages, closed=closed)[2] is None


def test_no_price_is_no_reason() -> None:
    unpriced = replace(profile_for(MODEL), price_as=None)
    assert decided([*talk(), user("And now?")], profile=unpriced)[2] is None


def test_half_a_small_window_is_enough() -> None:
    small = replace(profile_for(MODEL), window=12_000)
    prompt, _, found = decided([*talk(5, 1500), user("And now?")], profile=small)
    assert 6000 < prompt.total < LEAST
    assert found is not None
    assert found.shorter == found.tokens - found.tokens // 4 - min(SUMMARY, found.tokens // 4)


def test_pinned_context_is_not_summarized_away() -> None:
    pinned = [text("A page. " * 100)]
    said = talk()
    said[0]["content"] = [*pinned, *said[0]["content"]]
    entries = entries_of([*said, user("And now?")])
    prompt = Prompt(settings_of(body(), context=pinned), profile_for(MODEL))
    prompt.extend(entries)
    at = circumstances(prompt)
    assert shortening(prompt, make_plan(prompt, Warmth(), at), 80, at) is None
    behind = Prompt(settings_of(body(), context=pinned), profile_for(MODEL), compacted=True)
    behind.extend(entries_of([{"role": "assistant", "content": [SUMMED]}, user("On."), *said[1:], user("And now?")]))
    assert shortening(behind, make_plan(behind, Warmth(), at), 81, at) is not None


def test_the_size_of_the_last_summary_is_that_of_the_next() -> None:
    _, _, found = decided([{"role": "assistant", "content": [SUMMED]}, user("On."), *talk()[1:], user("And now?")])
    assert found is not None
    own = found.tokens - found.shorter - READ_AGAIN
    assert 0 < own < SUMMARY


def test_an_endpoint_without_an_hour_writes_again_sooner() -> None:
    bare = replace(profile_for(MODEL), ttls=("5m",), parks=False)
    _, _, hour = decided([*talk(), user("And now?")])
    _, _, short = decided([*talk(), user("And now?")], profile=bare)
    assert hour is not None
    assert short is not None
    assert short.saves > hour.saves


def test_where_a_turn_has_ended() -> None:
    said = entries_of([*talk(1), user("look"), assistant(call("1")), user(result("1"))])
    assert closed_entries(said) == 2
    assert closed_entries(said[2:]) == 0
    assert not is_closed(Entry("a", None, "assistant", [text("…")], 0.0, stop_reason="pause_turn"))


class TestSummaryPlan:
    """The request for a summary reads what is warm and writes the head alone."""

    def test_what_lies_behind_the_warm_part_is_sent_once(self) -> None:
        said = talk(4)
        before = prompt_of(body(*said[:7]))
        prompt = prompt_of(body(*said))
        plan = summary_plan(prompt, warm(before, 0.0), circumstances(prompt, 60.0))
        assert plan.expected.cache_read == before.total
        assert plan.expected.cache_write == 0
        assert plan.expected.input == prompt.total - before.total
        assert plan.marks[-1].tokens == before.total

    def test_a_cold_one_writes_the_head(self) -> None:
        prompt = prompt_of(body(*talk(4)))
        plan = summary_plan(prompt, Warmth(), circumstances(prompt))
        assert [mark.slot for mark in plan.marks] == ["shared"]
        assert plan.expected.cache_write == prompt.tokens(prompt.head_points)

    def test_unmarked_where_the_endpoint_caches_by_itself(self) -> None:
        profile = profile_for(MODEL, "vllm")
        prompt = prompt_of(body(*talk(4)), profile)
        assert summary_plan(prompt, Warmth(), circumstances(prompt)) == make_plan(
            prompt, Warmth(), circumstances(prompt)
        )

    @pytest.mark.parametrize("lived", [60.0, 400.0])
    def test_a_head_of_an_hour_stands_before_what_is_read(self, lived: float) -> None:
        """What is alive is a point inside the tools; the head's mark behind it is one of an hour, so its is too."""
        prompt = prompt_of(body(*talk(4)))
        first = prompt.points[0]
        warmth = Warmth({first.digest: Alive("5m", lived)})
        at = replace(circumstances(prompt, 10.0), policy=Fixed("1h"))
        assert first.where == Where("tools", 0, 0)
        plan = summary_plan(prompt, warmth, at)
        assert {mark.ttl for mark in plan.marks} == {"1h"}

    @settings(max_examples=60, deadline=None)
    @given(request=requests(), profile=profiles)
    def test_never_more_than_the_plan_of_a_turn(self, request: dict[str, Any], profile: Profile) -> None:
        prompt = prompt_of(request, profile)
        at = circumstances(prompt, 10.0)
        known = warm(prompt_of({**request, "messages": request["messages"][:1]}, profile), 0.0)
        turn, plan = make_plan(prompt, known, at), summary_plan(prompt, known, at)
        assert len(plan.marks) <= 4
        assert plan.expected.total_input == turn.expected.total_input
        assert plan.expected.cache_read == turn.expected.cache_read
        assert plan.expected.cache_write <= turn.expected.cache_write
        hours = [mark.ttl for mark in plan.marks]
        assert hours == sorted(hours, key=["1h", "5m"].index)

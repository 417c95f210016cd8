"""Clearing old tool results: which, how big the prompt is then, and whether it pays."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from sessions.core.asked_again import without_clearing
from sessions.core.cache import chain
from sessions.core.cleared import (
    CLEARING_BETA,
    EDIT,
    KEEP,
    NOTHING,
    PLACEHOLDER,
    Cleared,
    Clearing,
    applied,
    cleared_in,
    clearing_edit,
    decided,
    uses_in,
)
from sessions.core.clearing import LEAST_CLEARED, clearing
from sessions.core.gaps import NEVER
from sessions.core.plan import Plan, make_plan, render
from sessions.core.profiles import Profile, profile_for
from sessions.core.prompt import Prompt
from sessions.core.shortening import READ_AGAIN
from sessions.core.ttl import Fixed
from sessions.core.usage import Usage
from sessions.core.warmth import Warmth
from tests.core.strategies import assistant, call, result, text, thinking, user
from tests.core.world import MODEL, circumstances, entries_of, settings_of

HEAD = [text("Be brief. " * 1200)]
TOOLS = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}]
PROFILE = profile_for(MODEL)


def looks(count: int, tokens: int = 3000, *, each: int = 1) -> list[dict[str, Any]]:
    """Words, then so many rounds of `each` looks, results of about so many tokens; the last one is not answered."""
    said: list[dict[str, Any]] = [user("look around")]
    for number in range(count):
        names = [f"{number}-{at}" for at in range(each)]
        said.append(assistant(thinking(f"hm {number}"), *map(call, names)))
        said.append(user(*(result(name, f"{name} " + "word " * (tokens // 2)) for name in names)))
    return said


def body(messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 9, "system": HEAD, "tools": TOOLS, "messages": messages, **fields}


def prompt_of(
    messages: list[dict[str, Any]], cleared: Cleared = NOTHING, profile: Profile = PROFILE, **fields: Any
) -> Prompt:
    settings = replace(settings_of(body(messages, **fields)), clear_tool_results=True)
    prompt = Prompt(settings, profile, cleared=cleared)
    prompt.extend(entries_of(messages))
    return prompt


def warm(prompt: Prompt, now: float = 0.0) -> Warmth:
    """A request of this prompt at `now` has left its entries."""
    plan = make_plan(prompt, Warmth(), circumstances(prompt, now))
    found = Warmth()
    found.learn(plan.marks, plan.hit, plan.expected, now)
    return found


def found(
    messages: list[dict[str, Any]], cleared: Cleared = NOTHING, *, profile: Profile = PROFILE, cold: bool = False,
    **options: Any,
) -> tuple[Prompt, Plan, Clearing | None]:  # fmt: skip
    """The decision a minute after the request before."""
    prompt, before = prompt_of(messages, cleared, profile), prompt_of(messages[:-2], cleared, profile)
    warmth = Warmth() if cold else warm(before)
    at = circumstances(prompt, 60.0, **options)
    plan = make_plan(prompt, warmth, at)
    return prompt, plan, clearing(prompt, plan, warmth, at)


def test_a_cleared_result_is_small_and_all_behind_it_another_prefix() -> None:
    messages = looks(6)
    whole, less = prompt_of(messages), prompt_of(messages, Cleared(((9, 2),)))
    assert (whole.cleared, less.cleared) == (0, 2)
    assert len(whole.points) == len(less.points)
    same = [one.digest == other.digest for one, other in zip(whole.points, less.points, strict=True)]
    first = whole.start_of(2)
    assert same == [True] * first + [False] * (len(same) - first)
    assert whole.total - less.total > 2 * 2000
    gone = [block for message in (2, 4) for block in [less.chain.messages[message]["content"][0]]]
    assert [block["content"] for block in gone] == [PLACEHOLDER] * 2
    assert [less.markable[less.start_of(number)] for number in (2, 4, 6)] == [False, False, True]
    assert less.messages == whole.messages == messages


def test_the_request_holds_the_whole_history_and_says_what_is_kept() -> None:
    messages = looks(6)
    prompt = prompt_of(messages, Cleared(((9, 2),)))
    plan = make_plan(prompt, Warmth(), circumstances(prompt))
    sent = render(prompt, plan.marks)
    assert plan.cleared == 2
    assert sent["context_management"] == clearing_edit(6, 2) == {
        "edits": [
            {"type": EDIT, "trigger": {"type": "tool_uses", "value": 1}, "keep": {"type": "tool_uses", "value": 4}}
        ]
    }  # fmt: skip
    assert sent["betas"] == [CLEARING_BETA]
    assert uses_in(sent["messages"]) == 6
    none = render(prompt_of(messages), plan.marks)
    assert "context_management" not in none
    assert none["betas"] == [CLEARING_BETA]
    # What is cached does not depend on how it is said.
    assert prompt.chain.knobs == prompt_of(messages).chain.knobs
    assert chain({**none, "messages": []}, PROFILE) == list(prompt.points[: prompt.head_points])


def test_without_the_option_or_where_there_is_none_nothing_changes() -> None:
    messages = looks(6)
    settings = settings_of(body(messages))
    for prompt in (
        Prompt(settings, PROFILE, cleared=Cleared(((9, 2),))),
        Prompt(replace(settings, clear_tool_results=True), replace(PROFILE, context_editing=False)),
    ):
        prompt.extend(entries_of(messages))
        plan = make_plan(prompt, Warmth(), circumstances(prompt))
        assert (prompt.cleared, plan.cleared) == (None, None)
        assert not {"betas", "context_management"} & set(render(prompt, plan.marks))
        assert clearing(prompt, plan, Warmth(), circumstances(prompt)) is None
    own = replace(settings, clear_tool_results=True, params={"betas": [CLEARING_BETA, "other"]})
    assert Prompt(own, PROFILE).request["betas"] == [CLEARING_BETA, "other"]


def test_what_was_decided_holds_for_the_chain_it_was_decided_on() -> None:
    messages = looks(9)
    settings = replace(settings_of(body(messages)), clear_tool_results=True)
    entries = entries_of(messages)
    assert cleared_in(settings, entries) is NOTHING
    once = replace(settings, cleared=decided(settings, entries[:11], 2))
    assert once.cleared == (("9", 2),)
    twice = replace(once, cleared=decided(once, entries, 5))
    assert twice.cleared == (("9", 2), ("17", 5))
    assert cleared_in(twice, entries) == Cleared(((10, 2), (18, 5)))
    assert [cleared_in(twice, entries).at(number) for number in (9, 10, 17, 18)] == [0, 2, 2, 5]
    back = cleared_in(twice, entries[:15])
    assert (back.count, back) == (2, Cleared(((10, 2),)))
    assert cleared_in(twice, entries[:4]).count == 0
    # Decided anew from there: what does not hold any more goes; twice behind one reply counts once.
    assert decided(twice, entries[:13], 4) == (("9", 2), ("11", 4))
    assert decided(once, entries[:10], 3) == (("9", 3),)


def test_sizes_that_were_measured_before_are_made_smaller() -> None:
    messages = looks(12)
    whole = prompt_of(messages)
    entries = [
        replace(entry, model=MODEL, prompt_tokens=round(1.3 * whole.tokens(whole.start_of(number))))
        if entry.role == "assistant" else entry
        for number, entry in enumerate(entries_of(messages))
    ]  # fmt: skip
    settings = replace(settings_of(body(messages)), clear_tool_results=True)
    exact = Prompt(settings, PROFILE)
    exact.extend(entries)
    part = prompt_of(messages, Cleared(((16, 5),)))
    partly = [
        replace(entry, prompt_tokens=round(1.3 * part.tokens(part.start_of(number))))
        if entry.role == "assistant" and number >= 16 else entry
        for number, entry in enumerate(entries)
    ]  # fmt: skip
    for steps, stored in ((((24, 8),), entries), (((16, 5), (24, 8)), partly)):
        prompt = Prompt(settings, PROFILE, cleared=Cleared(steps))
        prompt.extend(stored)
        assert prompt.tokens(prompt.start_of(1)) == exact.tokens(exact.start_of(1))
        less = prompt_of(messages, Cleared(steps)).total
        assert prompt.total == pytest.approx(1.3 * less, rel=0.1)
        assert prompt.total < 0.5 * exact.total
    measured = [replace(entry, prompt_tokens=9999) if entry.id == "23" else entry for entry in entries]
    now = Prompt(settings, PROFILE, cleared=Cleared(((22, 8),)))
    now.extend(measured)
    assert now.tokens(now.start_of(23)) == 9999  # measured with as much cleared
    assert prompt_of([], Cleared(((1, 1),))).tokens_per_weight > 0
    bare = Prompt(replace(settings, system=(), tools=()), PROFILE)
    assert bare.tokens_per_weight == 1.0


def test_many_results_are_cleared_where_that_is_cheaper() -> None:
    prompt, plan, decision = found(looks(60))
    assert decision is not None
    assert decision.saves > 0
    assert (decision.results, decision.count) == (60 - KEEP, 60 - KEEP)
    after = prompt_of(looks(60), Cleared(((120, decision.count),)))
    assert prompt.total - after.total == pytest.approx(decision.tokens, rel=0.02)
    at = circumstances(prompt, 60.0)
    assert at.prices is not None
    again = make_plan(after, warm(prompt_of(looks(59))), at)
    paid = at.prices.of(again.expected) + at.prices.of(Usage(cache_write_5m=READ_AGAIN)) - at.prices.of(plan.expected)
    assert float(decision.price) == pytest.approx(float(paid), rel=0.15)
    spared = decision.requests * (decision.tokens - READ_AGAIN) * at.prices.read * float(at.prices.input) / 1e6
    assert float(decision.saves + decision.price) == pytest.approx(spared, rel=0.2)


def test_then_it_waits_until_as_much_is_to_be_cleared_again() -> None:
    """A clearing that came with every request would write the rest of the prompt with every request."""
    count, times = 0, []
    for number in range(8, 100):
        steps = ((2 * number, count),) if count else ()
        _, _, decision = found(looks(number), Cleared(steps))
        if decision is not None and decision.saves > 0:
            count = decision.count
            times.append(number)
    assert 2 <= len(times) <= 5
    assert min(after - before for before, after in pairwise(times)) > 10


def test_below_the_floor_and_without_a_price_nothing_is_decided() -> None:
    assert found(looks(8))[2] is None
    assert found(looks(60), profile=replace(PROFILE, price_as=None))[2] is None
    assert found([user("hello")])[2] is None
    prompt, _, small = found(looks(14))
    assert small is not None
    assert LEAST_CLEARED <= small.tokens < prompt.total
    assert small.saves < 0


def test_it_does_not_pay_where_nobody_will_ask_again() -> None:
    plain = found(looks(60))[2]
    last = found(looks(60), expected_gap=NEVER)[2]
    assert plain is not None
    assert last is not None
    assert last.requests <= plain.requests
    assert last.saves < plain.saves


def test_what_has_lapsed_is_written_anew_in_any_case() -> None:
    _, plan, decision = found(looks(20), cold=True)
    assert plan.expected.cache_read == 0
    assert decision is not None
    assert decision.price < 0 < decision.saves


def test_what_is_written_for_an_hour_costs_more() -> None:
    short, long = (found(looks(60), policy=Fixed(ttl))[2] for ttl in ("5m", "1h"))  # type: ignore[arg-type]
    assert short is not None
    assert long is not None
    assert long.price > short.price


def test_a_round_is_cleared_as_a_whole_and_the_newest_are_kept() -> None:
    for each, kept in ((1, 3), (2, 4), (3, 3), (5, 5)):
        results = prompt_of(looks(10, each=each)).results
        assert results is not None
        assert results.uses - results.clearable == kept
    results = prompt_of(looks(1, each=9)).results
    assert results is not None
    assert results.clearable == 0


@pytest.mark.parametrize(
    "first",
    [
        [user("a"), assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})],
        [{"role": "assistant", "content": [{"type": "compaction", "content": "All.", "signature": "s"}]}],
    ],
)
def test_where_it_is_not_known_what_counts_nothing_is_cleared(first: list[dict[str, Any]]) -> None:
    assert found([*first, *looks(60)])[2] is None


def test_a_result_of_an_unknown_call_is_left_alone() -> None:
    prompt = prompt_of([user(result("nobody", "word " * 50)), *looks(5)[1:]], Cleared(((9, 2),)))
    assert prompt.cleared == 2
    assert prompt.chain.messages[0] is prompt.messages[0]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, (0, 0)),
        ({"context_management": None}, (0, 0)),
        ({"context_management": {"applied_edits": None}}, (0, 0)),
        ({"context_management": {"applied_edits": [7, {"type": "clear_thinking_20251015"}]}}, (0, 0)),
        ({"context_management": {"applied_edits": [{"type": EDIT, "cleared_tool_uses": 4}]}}, (4, 0)),
        (
            {"context_management": {"applied_edits": [
                {"type": EDIT, "cleared_tool_uses": 4, "cleared_input_tokens": 90}]}},
            (4, 90),
        ),
    ],
)  # fmt: skip
def test_what_the_api_says_to_have_cleared(told: dict[str, Any], expected: tuple[int, int]) -> None:
    assert applied(told) == expected


def test_a_refused_request_is_sent_again_with_all_results() -> None:
    prompt = prompt_of(looks(6), Cleared(((9, 2),)))
    plan = make_plan(prompt, Warmth(), circumstances(prompt))
    sent = render(prompt, plan.marks)
    again, bare = without_clearing(plan, sent)
    assert {**bare, "context_management": 0, "betas": 0} == {**sent, "context_management": 0, "betas": 0}
    assert not {"context_management", "betas"} & set(bare)
    assert (again.cleared, again.clearing, again.marks) == (None, None, plan.marks)
    assert without_clearing(plan, {**sent, "betas": ["other", CLEARING_BETA]})[1]["betas"] == ["other"]


def test_settings_keep_what_was_decided() -> None:
    settings = replace(settings_of(body(looks(2))), clear_tool_results=True, cleared=(("e1", 2), ("e9", 7)))
    assert type(settings).from_json(settings.to_json()) == settings

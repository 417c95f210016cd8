"""Whether a call lost cached tokens, and why, from values alone: no session, no clock, no store."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.core.cache import SECONDS
from sessions.core.diagnosis import KEPT, Asked, Miss, Past, Trail, diagnose, duration, reason_of, was_edited
from sessions.core.prices import cost
from sessions.core.profiles import profile_for
from sessions.core.prompt import Prompt
from sessions.core.usage import Usage
from tests.core.strategies import assistant, user
from tests.core.world import MODEL, entries_of, prompt_of, settings_of

NOW = 1_000_000.0
BODY: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 100,
    "system": "x" * 3000,
    "messages": [user("Hello"), assistant("Hello."), user("More")],
}
PROMPT = prompt_of(BODY)
TAIL, SHARED = PROMPT.points[-1].digest, PROMPT.points[0].digest
LAST_WRITTEN = PROMPT.points[1].digest


def past(**fields: Any) -> Past:
    """A call that left 1,000 tokens, up to the first user message, a minute ago."""
    start = NOW - 60
    return replace(Past("p", "turn", start, start + 1, 1000, 1000, LAST_WRITTEN, "5m", "e", "t", "s"), **fields)


def asked(read: int = 1000, written: int = 100, **fields: Any) -> Asked:
    """The call behind it, whose mark is at its end."""
    usage = Usage(cache_read=read, cache_write_5m=written)
    return replace(Asked(PROMPT, (SHARED, TAIL), usage, NOW, NOW + 1, "u"), **fields)


def judged(call: Asked, before: Past | None = None, earlier: Prompt | None = PROMPT) -> Miss | None:
    return diagnose(call, before, lambda _: earlier)


def cause(call: Asked, before: Past | None = None, earlier: Prompt | None = PROMPT) -> str | None:
    miss = judged(call, before or past(), earlier)
    return miss and miss.cause


def test_what_is_no_miss() -> None:
    assert judged(asked()) is None
    assert judged(asked(read=0, written=1100)) is None  # the first call
    assert cause(asked()) is None
    assert cause(asked(read=970, written=130)) is None  # noise
    assert cause(asked(read=0, written=0, usage=Usage(input=1100, counters=False))) is None
    assert cause(asked(read=0, written=0, usage=Usage(input=900)), past(covered=0, hoped=100)) is None
    shorter = asked(points=(SHARED,), usage=Usage(cache_read=700, input=300))
    assert cause(shorter, past(deepest=TAIL)) is None  # it marked nothing where more could have been read


def test_tokens_and_cost_are_those_that_were_billed_again() -> None:
    usage = Usage(input=50, cache_read=100, cache_write_5m=300, cache_write_1h=400, output=9)
    miss = judged(asked(usage=usage), past(covered=820))
    assert miss is not None
    assert miss.tokens == 720
    read = Usage(input=30, cache_read=820, cache_write_5m=0, cache_write_1h=0, output=9)
    profile = profile_for(MODEL)
    whole, less = cost(usage, profile), cost(read, profile)
    assert whole is not None
    assert less is not None
    assert miss.cost == whole - less


def test_a_smaller_prompt_cannot_lose_more_than_it_holds() -> None:
    miss = judged(asked(read=0, written=600), past(deepest="of another model", covered=1000))
    assert miss is not None
    assert miss.tokens == 600


def test_the_first_difference_is_the_reason() -> None:
    old = prompt_of({**BODY, "system": "y" * 3000})
    miss = judged(asked(read=0, written=1100), past(deepest=old.points[1].digest), old)
    assert miss is not None
    assert (miss.cause, miss.place) == ("system_changed", "system[0].text, character 1")
    late = judged(asked(read=0, written=1100), past(deepest=old.points[1].digest, started=NOW - 900), old)
    assert late is not None
    assert late.cause == "system_changed"
    assert "its lifetime had passed as well" in late.sentence


def test_what_is_not_known_of_the_call_before() -> None:
    assert cause(asked(read=0, written=1100), past(deepest="?"), None) == "system_changed"
    assert cause(asked(read=0, written=1100), past(deepest="?"), PROMPT) == "model_changed"  # another endpoint


@pytest.mark.parametrize("reason", ["model_changed", "tools_changed", "system_changed", "messages_changed"])
def test_the_apis_own_reason_is_taken_where_it_names_one(reason: str) -> None:
    miss = judged(asked(read=0, written=1100, reason=reason), past())
    assert miss is not None
    assert miss.cause == reason
    assert "by the API's own comparison" in miss.sentence
    old = prompt_of({**BODY, "system": "y" * 3000})
    miss = judged(asked(read=0, written=1100, reason=reason), past(deepest=old.points[1].digest), old)
    assert miss is not None
    assert miss.cause == reason
    assert (miss.place is not None) == (reason == "system_changed")


@pytest.mark.parametrize("reason", [None, "unavailable", "previous_message_not_found", "something_new"])
def test_a_reason_that_says_nothing_is_left(reason: str | None) -> None:
    assert cause(asked(read=0, written=1100, reason=reason)) == "evicted"


def test_reading_the_apis_reason() -> None:
    assert reason_of({}) is None
    assert reason_of({"diagnostics": None}) is None
    assert reason_of({"diagnostics": {"cache_miss_reason": None}}) is None
    assert reason_of({"diagnostics": {"cache_miss_reason": {"type": "tools_changed"}}}) == "tools_changed"
    assert not was_edited({})
    assert not was_edited({"context_management": {"applied_edits": []}})
    assert was_edited({"context_management": {"applied_edits": [{"type": "clear_tool_uses_20250919"}]}})


@pytest.mark.parametrize(
    ("gap", "ttl", "turn", "says"),
    [
        (301, "5m", "u", "the user was away for 5 minutes"),
        (298, "5m", "u", "A 1h entry would have kept it"),  # within the slack of two clocks
        (1800, "5m", "t", "the turn itself waited for 30 minutes"),
        (3600, "1h", "u", "No lifetime is that long"),
        (86_400, "5m", "u", "away for 1 day "),
        (7 * 3600, "5m", "u", "away for 7 hours"),
    ],
)
def test_a_lapse_says_how_long_and_what_would_have_kept_it(gap: float, ttl: Any, turn: str, says: str) -> None:
    miss = judged(asked(read=0, written=1100, turn=turn), past(started=NOW - gap, ttl=ttl))
    assert miss is not None
    assert miss.cause == "expired"
    assert says in miss.sentence


def test_an_endpoint_with_one_lifetime_can_only_refresh() -> None:
    profile = replace(profile_for(MODEL), ttls=("5m",))
    prompt = Prompt(settings_of(BODY), profile)
    prompt.extend(entries_of(BODY["messages"]))
    miss = judged(asked(read=0, written=1100, prompt=prompt), past(started=NOW - 600))
    assert miss is not None
    assert "Only a refresh while idle" in miss.sentence


def test_a_lapse_behind_turns_that_were_taken_back() -> None:
    miss = judged(asked(read=0, written=1100, latest=NOW - 100), past(started=NOW - 400))
    assert miss is not None
    assert "taken back" in miss.sentence


def test_a_slow_first_event_may_mean_a_late_start() -> None:
    assert cause(asked(read=0, written=1100, first_event=NOW + 250)) == "expired"


def test_context_editing() -> None:
    assert cause(asked(read=0, written=1100, edited=True)) == "messages_changed"


@pytest.mark.parametrize(
    ("kind", "says"), [("turn", "best effort"), ("park", "kept by a park"), ("refresh", "a refresh")]
)
def test_an_entry_that_was_dropped(kind: str, says: str) -> None:
    miss = judged(asked(read=0, written=1100), past(kind=kind))
    assert miss is not None
    assert miss.cause == "evicted"
    assert says in miss.sentence


def long_prompt(blocks: list[dict[str, Any]], **facts: Any) -> Prompt:
    profile = replace(profile_for(MODEL), **facts)
    prompt = Prompt(settings_of(BODY), profile)
    prompt.extend(entries_of([user("Hello"), {"role": "assistant", "content": blocks}]))
    return prompt


def reach(blocks: list[dict[str, Any]], read: int = 500, **facts: Any) -> str | None:
    prompt = long_prompt(blocks, **facts)
    left, mark = prompt.points[1].digest, prompt.points[-1].digest
    call = asked(read=read, written=1000, prompt=prompt, points=(prompt.points[0].digest, mark))
    return cause(call, past(deepest=left))


def test_reach() -> None:
    parts = [{"type": "text", "text": str(n)} for n in range(40)]
    tools = [{"type": "tool_use", "id": f"t{n}", "name": "look", "input": {}} for n in range(40)]
    assert reach(parts[:20]) == "lookback"  # by the documented rule
    assert reach(parts[:12]) == "lookback"  # by half of it, where a shorter entry was read
    assert reach(parts[:12], read=0) == "evicted"
    assert reach(parts[:5]) == "evicted"
    assert reach(tools) == "lookback"  # each block counted
    assert reach(tools[:5]) == "evicted"
    assert reach(tools, collapses_tools=False) == "lookback"
    assert reach(parts[:5], lookback=3) == "lookback"
    prompt = long_prompt(parts[:30])
    behind = asked(read=500, written=1000, prompt=prompt, points=(prompt.points[0].digest,))
    assert cause(behind, past(deepest=prompt.points[-1].digest, covered=1600)) == "evicted"


def test_an_endpoint_that_keeps_nothing() -> None:
    nothing = asked(usage=Usage(input=1100))
    miss = judged(nothing, past(covered=0, hoped=1000))
    assert miss is not None
    assert (miss.cause, miss.tokens) == ("below_minimum", 1000)
    assert cause(nothing, past(covered=0, hoped=600)) is None  # too near the minimum to be sure
    assert cause(asked(), past(covered=0, hoped=1000)) is None


def test_a_prefix_that_is_written_twice() -> None:
    cold = asked(read=0, written=1100)
    assert judged(replace(cold, beside=((SHARED,),))) is not None
    assert judged(replace(cold, beside=(("another", "prompt"),))) is None
    assert judged(asked(read=1100, written=0, beside=((SHARED, TAIL),))) is None
    small = asked(read=1000, written=100, beside=((TAIL,),))
    assert judged(small) is None  # not worth waiting for
    miss = judged(replace(cold, points=(SHARED, "of no block"), beside=((SHARED,),)))
    assert miss is not None
    assert miss.cause == "concurrent_write"
    assert miss.tokens == PROMPT.tokens(1)


def test_a_miss_is_stored_and_read_back() -> None:
    for miss in (Miss("evicted", "Gone.", 7, Decimal("0.10")), Miss("a", "b", 1, None, "c", "d", "e")):
        assert Miss.from_json(miss.to_json()) == miss


def test_a_trail_keeps_the_newest_calls_once() -> None:
    trail = Trail()
    for number in range(KEPT + 5):
        for _ in range(2):
            trail.add(past(id=str(number)), Usage(cache_write_5m=1))
    assert [one.id for one in trail.calls] == [str(number) for number in range(5, KEPT + 5)]


def test_what_is_only_read_keeps_its_lifetime() -> None:
    trail = Trail()
    trail.add(past(id="a", ttl="1h"), Usage(cache_write_1h=1000))
    trail.add(past(id="b", ttl="5m"), Usage(cache_read=1000))
    trail.add(past(id="c", ttl="5m", deepest="unknown"), Usage(cache_read=1000))
    assert [one.ttl for one in trail.calls] == ["1h", "1h", "5m"]
    assert trail.calls[1].until == NOW - 60 + SECONDS["1h"]


def test_which_call_is_judged_against() -> None:
    trail = Trail()

    def before(*chain: str | None) -> str | None:
        found = trail.before(PROMPT, NOW, lambda entry: entry in chain)
        return found.id if found else None

    assert before("e") is None
    trail.add(past(id="long ago", entry="a", started=NOW - 900, covered=5000), Usage(cache_write_5m=1))
    assert before("b") is None
    assert before("a") == "long ago"
    trail.add(past(id="alive", entry="b", covered=900), Usage(cache_write_5m=1))
    assert before("a") == "long ago"
    assert before("a", "b") == "alive"
    assert before() == "alive"  # whatever entry it had: the prompt begins with what it left
    trail.add(past(id="elsewhere", entry="c", deepest="?", covered=800), Usage(cache_write_5m=1))
    assert before("c") == "alive"
    trail.add(past(id="under way", entry="c", readable=NOW + 1, covered=9999), Usage(cache_write_5m=1))
    assert before("c") == "alive"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 seconds"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (90, "1.5 minutes"),
        (7200, "2 hours"),
        (2e5, "2.3 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


figures = st.integers(0, 5000)


@given(figures, figures, figures, figures, figures, st.floats(0, 10_000))
def test_a_miss_is_never_more_than_was_left_or_was_billed(
    read: int, five: int, hour: int, plain: int, covered: int, gap: float
) -> None:
    usage = Usage(plain, read, five, hour)
    miss = judged(asked(usage=usage), past(covered=covered, hoped=covered, started=NOW - gap))
    if miss is None:
        assert read >= min(covered, usage.total_input) * 0.99 - 32
        return
    assert 0 < miss.tokens <= covered - read
    assert miss.tokens <= usage.total_input - usage.cache_read
    assert miss.cost is not None
    assert miss.cost > 0

"""How long entries live is read from what was billed, by the rule that bills it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sessions.core.asked_again import without_hours
from sessions.core.cache import SECONDS, Where, bill
from sessions.core.lifetimes import written_for
from sessions.core.plan import Plan, render
from sessions.core.usage import Usage
from sessions.core.warmth import Alive, Mark, Warmth
from tests.core.strategies import assistant, text, tool, user
from tests.core.world import MODEL, prompt_of


def mark(point: str, tokens: int, ttl: str) -> Mark:
    return Mark("tail", Where("messages", 0, 0), ttl, point, tokens)  # type: ignore[arg-type]


def test_five_minutes_are_believed_where_an_hour_was_asked_for() -> None:
    warmth, marks = Warmth(), [mark("head", 1000, "1h"), mark("tail", 1500, "1h")]
    warmth.learn(marks, None, Usage(cache_write_5m=1490, input=9), 100.0)
    assert warmth.points == {"head": Alive("5m", 400.0), "tail": Alive("5m", 400.0)}
    warmth.learn([mark("later", 1800, "1h")], "tail", Usage(cache_read=1490, cache_write_1h=300), 200.0)
    assert warmth.find("later") == Alive("1h", 200.0 + SECONDS["1h"])
    assert warmth.find("tail") == Alive("5m", 500.0)


def test_an_hour_is_believed_where_five_minutes_were_asked_for() -> None:
    warmth = Warmth()
    warmth.learn([mark("a", 1000, "5m")], None, Usage(cache_write_1h=1000), 100.0)
    assert warmth.find("a") == Alive("1h", 3700.0)


def test_without_counters_there_is_only_the_mark() -> None:
    assert written_for([1000], ["1h"], Usage(input=1000, counters=False)) == ["1h"]
    assert written_for([1000], ["1h"], Usage(cache_read=1000)) == ["1h"]
    assert written_for([], [], Usage(cache_write_5m=10, cache_write_1h=10)) == []


def test_of_several_marks_some_may_be_written_for_an_hour() -> None:
    sizes, asked = [1000, 2000, 2400], ["1h", "1h", "5m"]
    assert written_for(sizes, asked, Usage(cache_write_1h=2000, cache_write_5m=400)) == asked  # type: ignore[arg-type]
    # As planned, although the sizes were estimated a tenth too high.
    assert written_for(sizes, asked, Usage(cache_write_1h=1750, cache_write_5m=400)) == asked  # type: ignore[arg-type]
    # The endpoint gave an hour to the first one only.
    part = Usage(cache_write_1h=1000, cache_write_5m=1400)
    assert written_for(sizes, asked, part) == ["1h", "5m", "5m"]  # type: ignore[arg-type]
    # What stands before the 5-minute part was read.
    assert written_for(sizes, asked, Usage(cache_read=1000, cache_write_1h=1000, cache_write_5m=400)) == asked  # type: ignore[arg-type]


@given(
    st.lists(st.integers(600, 3000), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(0, 4),
    st.integers(0, 3),
    st.floats(0.5, 2.0),
)
def test_the_billing_rule_is_read_backwards(
    steps: list[int], asked: int, granted: int, read: int, estimate: float
) -> None:
    """Whatever lifetimes an endpoint grants, and however sizes were estimated: its bill tells them."""
    sizes = [sum(steps[: n + 1]) for n in range(len(steps))]
    granted, asked = min(granted, len(sizes)), min(asked, len(sizes))
    marks = [(n, "1h" if n < granted else "5m") for n in range(len(sizes))]
    hit = read - 1 if 0 < read < len(sizes) else None
    billed = bill(sizes, sizes[-1] + 50, marks, hit, 0)  # type: ignore[arg-type]
    usage = Usage(billed.input, billed.read, billed.write_5m, billed.write_1h)
    planned = [round(size * estimate) for size in sizes]
    found = written_for(planned, ["1h" if n < asked else "5m" for n in range(len(sizes))], usage)  # type: ignore[arg-type]
    behind = range((hit + 1) if hit is not None else 0, len(sizes))
    if billed.write_1h and billed.write_5m and asked != granted:
        # Near enough to what was planned the plan is believed: estimates are not exact.
        off = abs(sizes[asked - 1] - sizes[granted - 1]) if asked else sizes[-1]
        if off <= 0.21 * (billed.write_1h + billed.write_5m):
            return
    assert [found[n] for n in behind] == [marks[n][1] for n in behind]


def test_a_refused_hour_is_asked_for_as_five_minutes_and_nothing_else_changes() -> None:
    messages = [user("a"), assistant("b"), user("c")]
    prompt = prompt_of(
        {"model": MODEL, "max_tokens": 9, "tools": [tool()], "system": [text("s")], "messages": messages}
    )
    places = [Where("tools", 0, 0), Where("system", 0, 0), Where("messages", 1, 0), Where("messages", 2, 0)]
    marks = tuple(
        Mark("user", where, "5m" if number == 3 else "1h", prompt.points[0].digest, 1000 + number)
        for number, where in enumerate(places)
    )
    plan = Plan(marks, Usage(1, 2, 3, 4), "hit")
    body = {**render(prompt, plan.marks), "diagnostics": None}
    before = str(body)
    again, changed = without_hours(plan, body)
    assert {mark.ttl for mark in again.marks} == {"5m"}
    assert [mark.where for mark in again.marks] == places
    assert (again.expected, again.hit) == (Usage(1, 2, 7, 0), "hit")
    assert changed == {**render(prompt, again.marks), "diagnostics": None}
    assert str(body) == before

"""Where the marks go and what is believed warm, case by case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sessions.core.cache import SECONDS, Where, chain, find
from sessions.core.gaps import Forecast
from sessions.core.plan import Plan, make_plan, plan_request, render
from sessions.core.profiles import profile_for
from sessions.core.prompt import Prompt
from sessions.core.transcript import Malformed
from sessions.core.ttl import Fixed
from sessions.core.usage import Usage
from sessions.core.warmth import Alive, Mark, Warmth
from tests.core.strategies import assistant, call, result, text, thinking, tool, user
from tests.core.world import MODEL, circumstances, entries_of, planned, prompt_of, settings_of

PROFILE = profile_for(MODEL)
LONG = "Be brief. " * 400
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "system": [text(LONG)], "tools": [tool()]}
MARK = {"cache_control": {"type": "ephemeral"}}


def slots(plan: Plan) -> dict[str, Where]:
    return {mark.slot: mark.where for mark in plan.marks}


def request(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**BODY, "messages": list(messages), **fields}


def test_four_slots_in_prompt_order() -> None:
    settings = settings_of(BODY, context=[text(LONG)])
    prompt = Prompt(settings, PROFILE)
    prompt.extend(entries_of([user(LONG, "a"), assistant("b"), user("c")]))
    plan = make_plan(prompt, Warmth(), circumstances(prompt))
    assert list(slots(plan)) == ["shared", "context", "assistant", "tail"]
    assert slots(plan)["context"] == Where("messages", 0, 0)


def test_context_that_is_not_there_has_no_slot() -> None:
    settings = settings_of(BODY, context=[text(LONG)])
    for messages in ([], [user("other")], [user("other", "blocks")]):
        prompt = Prompt(settings, PROFILE)
        prompt.extend(entries_of(messages))
        assert "context" not in slots(make_plan(prompt, Warmth(), circumstances(prompt)))


def test_the_mark_stays_on_the_turn_before_where_a_turn_has_no_place_for_it() -> None:
    body = request(user("a"), assistant("b"), user("c"), assistant(thinking(), {"type": "holo"}), user("d"))
    assert slots(planned(body, PROFILE)[1])["assistant"] == Where("messages", 1, 0)


def test_calls_and_results_carry_marks() -> None:
    body = request(user("a"), assistant("b", call("t"), call("u")), user(result("t"), result("u")))
    found = slots(planned(body, PROFILE)[1])
    assert found["assistant"] == Where("messages", 1, 2)
    assert found["tail"] == Where("messages", 2, 1)


def test_short_prefixes_are_left_out_but_for_the_assistant() -> None:
    body = {"model": "claude-opus-4-6", "max_tokens": 9, "messages": [user("a"), assistant("b"), user("c")]}
    assert list(slots(planned(body, profile_for("claude-opus-4-6"))[1])) == ["assistant"]


def test_endpoints_that_ignore_markers_are_sent_none() -> None:
    profile = profile_for(MODEL, "vllm")
    prompt, plan = planned(request(user("a")), profile)
    assert [mark.slot for mark in plan.marks] == ["shared", "tail"]
    assert (plan.expected, plan.hit) == (Usage(input=prompt.total, counters=False), None)
    assert render(prompt, plan.marks) == {**prompt.request, "messages": [user("a")]}


@pytest.mark.parametrize("name", ["vllm", "moonshot"])
def test_what_an_endpoint_that_caches_by_itself_has_seen_is_to_be_read(name: str) -> None:
    """Wherever it ends, also out of any mark's reach: it was not written at a mark."""
    profile, warmth = profile_for(MODEL, name), Warmth()
    messages = [user(LONG), assistant("b"), user("c")]
    prompt, plan = planned(request(*messages), profile, warmth)
    usage = Usage(input=prompt.total, counters=profile.counters)
    warmth.learn(plan.marks, plan.hit, usage, 0.0, unasked=profile.caches_unasked)
    many = [assistant(*(f"{n}" for n in range(30))), user("d")]
    longer, then = planned(request(*messages, *many), profile, warmth, 60.0)
    known = longer.tokens(longer.index[plan.marks[-1].point] + 1)
    assert then.hit == plan.marks[-1].point
    assert then.expected == Usage(input=longer.total - known, cache_read=known, counters=profile.counters)
    # Another session with the same head meets it there.
    shared = Warmth()
    other, met = planned(request(user("else")), profile, Warmth(shared=shared))
    assert met.hit is None
    shared.points.update(warmth.points)
    other, met = planned(request(user("else")), profile, Warmth(shared=shared))
    assert met.expected.cache_read == other.tokens(other.head_points)


def test_a_lifetime_that_the_endpoint_lacks_is_never_asked_for() -> None:
    class Stubborn:
        def choose(self, outlook: Any) -> Any:
            return "1h"

    profile = profile_for(MODEL, "minimax")
    _, plan = planned(request(user("a")), profile, policy=Stubborn())
    assert {mark.ttl for mark in plan.marks} == {"5m"}


def test_only_the_long_lifetime_is_spelled_out() -> None:
    for ttl, control in (("5m", {"type": "ephemeral"}), ("1h", {"type": "ephemeral", "ttl": "1h"})):
        body, _ = plan_request(request(user("a")), now=0.0, policy=Fixed(ttl))  # type: ignore[arg-type]
        assert body["messages"][-1]["content"][-1]["cache_control"] == control


def test_users_own_marks_get_free_slots_only_the_latest_first() -> None:
    first = user({**text(LONG), **MARK}, {**text("b"), **MARK}, {**thinking(), **MARK}, "c")
    _, plan = plan_request(request(first), now=0.0)
    assert [mark.where[1:] for mark in plan.marks if mark.slot == "user"] == [(0, 0), (0, 1)]
    _, plan = plan_request(request(first, assistant("d"), user("e")), now=0.0)
    assert [mark.where[1:] for mark in plan.marks if mark.slot == "user"] == [(0, 1)]
    tools = [{**tool(), **MARK}, tool("find", description="x" * 6000)]
    body = request(user("a"), tools=tools, system=[{**text(LONG), **MARK}, text("s")])
    _, plan = plan_request(body, now=0.0)
    assert Where("system", 0, 0) in [mark.where for mark in plan.marks if mark.slot == "user"]


def test_a_mark_of_the_users_at_a_place_that_is_gone_is_ignored() -> None:
    prompt, _ = planned(request(user("a")), PROFILE)
    at = circumstances(prompt, own=[Where("messages", 7, 0)])
    assert "user" not in slots(make_plan(prompt, Warmth(), at))


def test_the_anchor_takes_the_users_slot_before_any_other() -> None:
    profile = replace(PROFILE, collapses_tools=False)
    messages = [user({**text(LONG), **MARK}, "look")]
    warmth = Warmth()
    _, plan = plan_request(request(*messages), now=0.0, warmth=warmth, profile=profile)
    warmth.learn(plan.marks, plan.hit, plan.expected, 0.0)
    names = [f"t{n}" for n in range(30)]
    messages += [assistant(*map(call, names)), user(*map(result, names))]
    _, plan = plan_request(request(*messages), now=1.0, warmth=warmth, profile=profile)
    assert [mark.slot for mark in plan.marks] == ["shared", "anchor", "assistant", "tail"]


@pytest.mark.parametrize("fields", [{"clear_at": "next_user_message"}, {"output_config": {"effort": "low"}}])
def test_the_planner_drops_nothing_in_silence(fields: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="nothing else"):
        plan_request(request({**user("a"), **fields}), now=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"cache_control": MARK["cache_control"]}, "may not hold cache_control"), ({"model": None}, "model must be")],
)
def test_the_planner_refuses_what_it_cannot_plan(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Malformed, match=message):
        plan_request({**request(user("a")), **change}, now=0.0)


def test_a_request_without_messages_has_its_shared_mark() -> None:
    _, plan = plan_request(BODY, now=0.0)
    assert list(slots(plan)) == ["shared"]


# -- the tail --------------------------------------------------------------------------------------------------------


def test_a_tail_that_nobody_will_read_is_not_written() -> None:
    body = request(user("a"), assistant("b"), user("c"), tools=[])
    assert "tail" in slots(planned(body, PROFILE, expected_gap=10.0)[1])
    assert "tail" not in slots(planned(body, PROFILE, expected_gap=9999.0)[1])


@pytest.mark.parametrize(("chance", "marked"), [(0.18, True), (0.14, True), (0.12, False)])
def test_a_tail_is_left_unmarked_only_where_that_is_far_from_paying(chance: float, marked: bool) -> None:
    """It pays from .217 on (.25 / 1.15). A forecast is an estimate: where it is near, the write is the smaller loss."""
    body = request(user("a"), assistant("b"), user("c"), tools=[])
    prompt = prompt_of(body, PROFILE)
    at = replace(circumstances(prompt), forecast=Forecast(((0.0, 0.0), (60.0, chance))))
    assert ("tail" in slots(make_plan(prompt, Warmth(), at))) is marked


def test_a_warm_tail_is_read_even_if_nobody_will_read_it_again() -> None:
    """A retry, or the same words resumed: the entry is there, a mark costs nothing."""
    body, warmth = request(user("a"), assistant("b"), user("c"), tools=[]), Warmth()
    _, first = planned(body, PROFILE, warmth)
    warmth.learn(first.marks, first.hit, first.expected, 0.0)
    _, again = planned(body, PROFILE, warmth, 10.0, expected_gap=float("inf"))
    assert again.expected.cache_read == first.expected.cache_write
    assert again.expected.cache_write == 0


def test_a_warm_point_before_an_unmarked_tail_is_anchored() -> None:
    """More words behind a warm tail: the tail does not pay, what is warm is read all the same."""
    warmth = Warmth()
    _, first = planned(request(user("a"), assistant("b"), user("c"), tools=[]), PROFILE, warmth)
    warmth.learn(first.marks, first.hit, first.expected, 0.0)
    longer = request(user("a"), assistant("b"), user("c"), user("d " * 90), tools=[])
    _, plan = planned(longer, PROFILE, warmth, 10.0, expected_gap=float("inf"))
    assert slots(plan)["anchor"] == Where("messages", 2, 0)
    assert "tail" not in slots(plan)
    assert plan.expected.cache_read == first.expected.cache_write


# -- what is warm ----------------------------------------------------------------------------------------------------


def mark(name: str, tokens: int, ttl: Any = "5m") -> Mark:
    return Mark("tail", Where("messages", 0, 0), ttl, name, tokens)


def test_what_was_written_lives_from_the_start_of_the_call() -> None:
    warmth = Warmth()
    warmth.learn([mark("a", 100, "1h"), mark("b", 200)], None, Usage(cache_write_5m=100, cache_write_1h=100), 1000.0)
    assert warmth.points == {"a": Alive("1h", 4600.0), "b": Alive("5m", 1300.0)}
    assert warmth.is_alive("b", 1299.0)
    assert not warmth.is_alive("b", 1300.0)
    assert not warmth.is_alive("c", 0.0)


def test_what_was_read_is_refreshed_in_its_own_class() -> None:
    warmth = Warmth({"a": Alive("1h", 3600.0), "b": Alive("5m", 300.0)})
    warmth.learn([mark("a", 100), mark("c", 300)], "b", Usage(cache_read=200, cache_write_5m=100), 50.0)
    assert warmth.points == {"a": Alive("1h", 3650.0), "b": Alive("5m", 350.0), "c": Alive("5m", 350.0)}
    warmth.learn([mark("a", 100), mark("c", 300)], "c", Usage(cache_read=300), 60.0)
    assert warmth.points["c"] == Alive("5m", 60.0 + SECONDS["5m"])
    warmth.learn([mark("a", 100)], "a", Usage(cache_read=100), 70.0)
    assert warmth.points["a"] == Alive("1h", 3670.0)


def test_a_call_that_cached_nothing_teaches_nothing() -> None:
    warmth = Warmth()
    warmth.learn([mark("a", 100)], None, Usage(input=100), 0.0)
    assert not warmth.points
    warmth.learn([mark("a", 100)], None, Usage(input=100, counters=False), 0.0)  # no counters: believed
    assert "a" in warmth.points
    warmth.learn([], None, Usage(cache_read=5), 0.0)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_estimates_that_are_far_off_do_not_hide_what_was_written(factor: float) -> None:
    warmth = Warmth({"a": Alive("5m", 300.0)})
    usage = Usage(cache_read=int(1000 * factor), cache_write_5m=int(500 * factor))
    warmth.learn([mark("s", 200), mark("b", 1200), mark("c", 1500)], "a", usage, 10.0)
    assert set(warmth.points) == {"a", "b", "c"}


def test_a_hit_that_missed_was_written_anew() -> None:
    warmth = Warmth({"b": Alive("1h", 3600.0)})
    warmth.learn([mark("a", 100), mark("b", 1000)], "b", Usage(cache_read=100, cache_write_5m=900), 0.0)
    assert warmth.points["b"] == Alive("5m", 300.0)


def test_an_entry_below_the_minimum_is_not_expected_to_be_read() -> None:
    """It was marked, since its size was only guessed; it was never written."""
    body = {"model": MODEL, "max_tokens": 9, "messages": [user("x" * 1000)]}
    prompt, plan = planned(body, PROFILE)
    assert len(plan.marks) == 1
    assert plan.expected == Usage(input=prompt.total)
    warmth = Warmth({plan.marks[0].point: Alive("5m", 300.0)})
    _, again = planned(body, PROFILE, warmth, 10.0)
    assert again.hit is None
    assert again.expected == plan.expected


def test_an_anchor_is_never_put_where_no_mark_may_stand() -> None:
    body = request(user("a"), assistant("b"), user({"type": "holo"}, *(f"c{n}" for n in range(30))))
    prompt, _ = planned(body, PROFILE)
    hidden = next(p for p in prompt.points if p.where == Where("messages", 2, 0))
    _, plan = planned(body, PROFILE, Warmth({hidden.digest: Alive("5m", 300.0)}))
    assert "anchor" not in slots(plan)


def test_find_looks_from_the_last_mark_to_the_first() -> None:
    points = chain({"model": MODEL, "messages": [user(*(str(n) for n in range(50)))]}, PROFILE)
    alive = {points[5].digest, points[30].digest}
    assert find(points, [20, 49], alive.__contains__, 20) == 30
    assert find(points, [20, 49], {points[5].digest}.__contains__, 20) == 5
    assert find(points, [30, 49], {points[5].digest}.__contains__, 20) is None
    assert find(points, [], alive.__contains__, 20) is None

"""What is done while nobody talks: what the policy wishes, and whether evidence and this hour's limit allow it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sessions.core.evidence import IN_A_ROW, Asked
from sessions.core.gaps import NONE, Gaps
from sessions.core.idle import (
    Ask,
    Evidence,
    Facts,
    Rest,
    allowed,
    waits_for_server_tools,
    why_no_zero_token,
    wish,
)
from sessions.core.idle_limits import FREE_PER_HOUR, LOST_OF_ONE, LOST_SHARE, SHARE_PER_HOUR, Balance, HourLimit
from sessions.core.profiles import profile_for
from sessions.core.settings import make_settings
from sessions.core.transcript import Entry
from sessions.core.ttl import PARK_AFTER, ExpectedCost, Option, Outlook
from sessions.core.usage import Usage
from sessions.core.warmth import Warmth
from tests.core.test_plan_idle import in_talk, seen
from tests.core.world import MODEL

NOW = PARK_AFTER


class Always:
    """A policy that wants the same of every conversation, where it can be had."""

    def __init__(self, option: Option) -> None:
        self.option = option

    def choose(self, outlook: Outlook) -> Option:
        return self.option


def facts(**other: Any) -> Facts:
    prompt, warmth = in_talk()
    known = Facts(
        now=NOW,
        waited=PARK_AFTER,
        prompt=prompt,
        warmth=warmth,
        policy=Always("park"),
        last=Entry("e", None, "assistant", [{"type": "text", "text": "b"}], 0.0, "end_turn"),
        local_tools=(),
        gaps=NONE,
        owner_gaps=NONE,
        can_park=True,
    )
    return replace(known, **other)


def asked(**other: Any) -> Ask:
    wished = wish(facts(**other))
    assert isinstance(wished, Ask)
    return wished


def test_a_warm_conversation_is_parked_at_the_price_of_a_read_and_a_small_write() -> None:
    wished = asked()
    prompt, warmth = in_talk()
    _, plan = seen(prompt, warmth)
    assert (wished.kind, wished.plan) == ("park", plan)
    assert wished.price == plan.expected.cache_read * 0.05 + plan.expected.cache_write_1h * 2.0
    assert wished.otherwise == Rest(None)


def test_what_is_cold_or_not_worth_it_rests() -> None:
    assert wish(facts(warmth=Warmth())) == Rest(None)
    assert wish(facts(policy=Always("lapse"))) == Rest(None)
    assert wish(facts(can_park=False)) == Rest(None)


def test_an_hour_that_is_kept_is_looked_at_again_before_it_lapses() -> None:
    prompt, warmth = in_talk()
    _, parked = seen(prompt, warmth)
    warmth.learn(parked.marks, parked.hit, parked.expected, PARK_AFTER)
    later = facts(prompt=prompt, warmth=warmth, now=PARK_AFTER + 3500.0, waited=PARK_AFTER + 3500.0)
    refreshed = wish(replace(later, policy=Always("refresh")))
    assert isinstance(refreshed, Ask)
    assert refreshed.kind == "refresh"


def test_waiting_never_costs_more_than_the_rewrite_that_it_saves() -> None:
    prompt, _ = in_talk()
    spent = Usage(cache_read=prompt.total)
    rewrite = prompt.total * 1.25
    rounds = int((rewrite - asked().price) / (spent.cache_read * 0.05))
    assert isinstance(wish(facts(spent=[spent] * rounds)), Ask)
    assert wish(facts(spent=[spent] * (rounds + 1))) == Rest(None)


def test_the_forecast_is_of_the_tools_of_the_user_or_of_who_told_it() -> None:
    """Under the policy of least cost: a tool of ours comes back soon, somebody who said so comes back when he said."""
    call = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    policy = ExpectedCost()
    open_call = Entry("e", None, "assistant", [call], 0.0, "tool_use")
    told = replace(NONE, told=1200.0)
    never = replace(NONE, told=7 * 24 * 3600.0)
    assert isinstance(wish(facts(policy=policy, gaps=told)), Ask), "back in twenty minutes: parked"
    assert wish(facts(policy=policy, gaps=never)) == Rest(None), "back in a week: let go"
    assert wish(facts(policy=policy, last=open_call, local_tools={"look"}, gaps=never)) != Rest(None)
    assert wish(facts(policy=policy, last=open_call, local_tools={"other"}, gaps=never)) == Rest(None)
    assert wish(facts(policy=policy, last=None, gaps=never)) == Rest(None)


def test_gaps_of_the_owner_count_where_nothing_is_told() -> None:
    quick = Gaps()
    for _ in range(40):
        quick = quick.plus(600.0)
    slow = Gaps()
    for _ in range(40):
        slow = slow.plus(100 * 3600.0)
    assert isinstance(wish(facts(policy=ExpectedCost(), owner_gaps=quick, gaps=quick)), Ask)
    assert wish(facts(policy=ExpectedCost(), owner_gaps=slow, gaps=slow)) == Rest(None)


def evidence(for_nothing: int) -> Evidence:
    """So many idle periods, each in a session of its own, after which nobody came back."""
    requests = [
        Asked(f"s{n}", started, idle) for n in range(for_nothing) for started, idle in ((0.0, False), (270.0, True))
    ]
    return Evidence(10_000.0, requests)


def test_people_who_never_come_back_are_waited_for_no_more() -> None:
    budget = HourLimit()
    assert allowed(asked(), evidence(IN_A_ROW - 1), budget, Balance())
    assert not allowed(asked(), evidence(IN_A_ROW), budget, Balance())


def test_an_hour_has_a_limit_and_asking_about_it_changes_nothing() -> None:
    budget, price = HourLimit(), FREE_PER_HOUR / 4
    wished = replace(asked(), price=price)
    at = Evidence(1000.0, [])
    for _ in range(4):
        assert allowed(wished, at, budget, Balance())
        assert allowed(wished, at, budget, Balance()), "the question costs nothing"
        budget.spend(1000.0, price)
    assert not allowed(wished, at, budget, Balance())
    budget.earn(1000.0, price / SHARE_PER_HOUR)
    assert allowed(wished, at, budget, Balance()), "what turns cost makes room"
    assert budget.has_room(1000.0 + 3601.0, FREE_PER_HOUR), "an hour later all of it is free again"
    assert not budget.has_room(1000.0 + 3601.0, FREE_PER_HOUR + 1)
    budget.spend(1000.0 + 3601.0, 1.0)
    assert (len(budget.spent), len(budget.earned)) == (1, 0), "what is older is forgotten"


def test_requests_that_save_nothing_stay_a_small_share_of_what_turns_cost() -> None:
    balance, now, month = Balance(), 1000.0, 30 * 24 * 3600.0
    wished = replace(asked(), price=500.0, saves=3 * 500.0 / LOST_OF_ONE)

    def sent() -> int:
        number = 0
        while allowed(wished, Evidence(now, []), HourLimit(), balance):
            balance.spend(now, 500.0)
            number += 1
        return number

    assert sent() == 4, "some may be tried whatever turns cost"
    balance.earn(now, 10 * 500.0 / LOST_SHARE)
    assert sent() == 10
    balance.save(now, 3 * 500.0)
    assert sent() == 3, "what a return has saved can be spent again"
    assert balance.has_room(now, 2 * wished.saves), "where more is to be saved, more may be tried"
    balance.earn(now - month, 0.0)
    assert sent() == 0, "a clock that was set back forgets nothing"
    assert allowed(replace(wished, told=True), Evidence(now, []), HourLimit(), balance), "the caller knows better"
    now += 2 * month
    assert sent() == 4, "what was lost long ago counts no more"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "output_config"),
    ],
)
def test_why_a_zero_token_request_would_be_refused(settings: dict[str, Any], why: str | None) -> None:
    made = make_settings(model=MODEL, max_tokens=2000, **settings)
    found = why_no_zero_token(made, profile_for(MODEL))
    assert (found or "").partition(".")[0].partition(" ")[0] == (why or "")
    assert why_no_zero_token(made, replace(profile_for(MODEL), prewarms=False)) == (
        "the endpoint has no zero-token requests"
    )


def test_a_paused_reply_waits_for_its_server_tools() -> None:
    assert waits_for_server_tools(Entry("e", None, "assistant", [], 0.0, "pause_turn"))
    assert not waits_for_server_tools(Entry("e", None, "assistant", [], 0.0, "end_turn"))
    assert not waits_for_server_tools(None)

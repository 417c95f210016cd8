"""What can be done for a conversation that nobody talks to: which entry is kept, at what price, with which marks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from sessions.core.cache import SECONDS, Where
from sessions.core.idle import plan_idle
from sessions.core.plan import Plan, make_plan, render
from sessions.core.profiles import Profile, profile_for
from sessions.core.prompt import Prompt
from sessions.core.ttl import PARK_AFTER, Outlook
from sessions.core.usage import Usage
from sessions.core.warmth import Alive, Warmth
from tests.core.strategies import assistant, profiles, requests, text, thinking, user
from tests.core.world import MODEL, circumstances, entries_of, planned, prompt_of

PROFILE = profile_for(MODEL)
HOUR = SECONDS["1h"]
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "system": [text("Be brief. " * 400)]}
ASKED = [user("a " * 500)]
REPLY = assistant("b " * 500)


def answered(body: dict[str, Any], profile: Profile = PROFILE) -> tuple[Prompt, Warmth]:
    """A conversation whose request at second 0 left 5-minute entries, as it stands once its reply is there."""
    warmth = Warmth()
    prompt, plan = planned(body, profile, warmth, expected_gap=10.0)
    warmth.learn(plan.marks, plan.hit, plan.expected, 0.0)
    return prompt, warmth


def idle(prompt: Prompt, warmth: Warmth, waited: float = PARK_AFTER) -> tuple[Outlook, Plan] | None:
    return plan_idle(prompt, warmth, circumstances(prompt, waited), waited)


def seen(prompt: Prompt, warmth: Warmth, waited: float = PARK_AFTER) -> tuple[Outlook, Plan]:
    found = idle(prompt, warmth, waited)
    assert found is not None
    return found


def in_talk() -> tuple[Prompt, Warmth]:
    prompt, warmth = answered({**BODY, "messages": ASKED})
    prompt.extend(entries_of([REPLY]))
    return prompt, warmth


def test_a_warm_prefix_is_parked_at_the_latest_reply() -> None:
    """It is read, and only the reply behind it is written for an hour: the price of a read (docs/provider.md, 2)."""
    prompt, warmth = in_talk()
    outlook, plan = seen(prompt, warmth)
    before, whole = prompt.tokens(len(prompt.points) - 1), prompt.total
    assert [(mark.slot, mark.where, mark.ttl) for mark in plan.marks] == [
        ("assistant", Where("messages", 1, 0), "1h")
    ]  # fmt: skip
    assert plan.expected == Usage(cache_read=before, cache_write_1h=whole - before)
    assert outlook.options == ("lapse", "park")
    assert (outlook.prefix, outlook.new, outlook.waited) == (whole, whole - before, PARK_AFTER)
    assert (outlook.kept, outlook.kept_until) == (0, 0.0)


def test_what_the_prices_of_the_model_are_is_told_to_the_policy() -> None:
    prompt, warmth = in_talk()
    outlook, _ = seen(prompt, warmth)
    assert (outlook.read, outlook.write_5m, outlook.write_1h) == (0.05, 1.25, 2.0)


def test_an_hour_is_refreshed_by_reading_it() -> None:
    prompt, warmth = in_talk()
    _, parked = seen(prompt, warmth)
    warmth.learn(parked.marks, parked.hit, parked.expected, PARK_AFTER)
    now = PARK_AFTER + HOUR - 60.0
    outlook, plan = seen(prompt, warmth, now)
    assert outlook.options == ("lapse", "refresh")
    assert plan.expected == Usage(cache_read=prompt.total)
    assert outlook.kept == prompt.total
    assert outlook.kept_until == PARK_AFTER + HOUR, "counted from the start of the last request, like everything"


def test_a_shorter_hour_is_known_to_live_on_when_more_could_be_parked() -> None:
    """Parked, then read by a turn at second 400 that wrote more: it lowers what the next park can save."""
    prompt, warmth = in_talk()
    _, parked = seen(prompt, warmth)
    warmth.learn(parked.marks, parked.hit, parked.expected, PARK_AFTER)
    kept = prompt.total
    prompt.extend(entries_of([user("c " * 500)]))
    plan = make_plan(prompt, warmth, circumstances(prompt, 400.0, expected_gap=10.0))
    assert (plan.expected.cache_read, plan.expected.cache_write_5m) == (kept, prompt.total - kept)
    warmth.learn(plan.marks, plan.hit, plan.expected, 400.0)
    prompt.extend(entries_of([REPLY]))
    found = plan_idle(prompt, warmth, circumstances(prompt, 400.0 + PARK_AFTER), PARK_AFTER)
    assert found is not None
    outlook, _ = found
    assert outlook.options == ("lapse", "park")
    assert (outlook.kept, outlook.kept_until) == (kept, HOUR), "the turn read it, and so it lives from then on"
    assert outlook.cost("lapse") < replace(outlook, kept=0, kept_until=0.0).cost("lapse")


@pytest.mark.parametrize(
    "more", [[], [assistant(thinking())], [REPLY, user("c " * 500)]], ids=["no reply", "thinking alone", "newer words"]
)
def test_where_no_reply_lies_behind_what_is_warm_nothing_is_done(more: list[dict[str, Any]]) -> None:
    prompt, warmth = answered({**BODY, "messages": ASKED})
    prompt.extend(entries_of(more))
    if len(more) == 2:
        warmth.know(prompt.points[-1].digest, Alive("5m", SECONDS["5m"]))
    assert idle(prompt, warmth) is None


def test_what_has_lapsed_is_not_written_anew() -> None:
    prompt, warmth = in_talk()
    assert idle(prompt, warmth, SECONDS["5m"] - 1.0) is not None
    assert idle(prompt, warmth, SECONDS["5m"]) is None
    assert idle(prompt, Warmth()) is None


def test_what_is_too_short_to_have_been_written_is_not_kept() -> None:
    """Believed alive since its size was only guessed; a park would write all of it at the price of an hour."""
    prompt = prompt_of({"model": MODEL, "max_tokens": 9, "messages": [user("a"), assistant("b")]})
    assert idle(prompt, Warmth({prompt.points[0].digest: Alive("5m", SECONDS["5m"])})) is None


def test_a_long_reply_is_parked_with_an_anchor_before_it() -> None:
    """A read that begins at the reply would look back 20 positions and not find what is warm (docs/provider.md, 2)."""
    prompt, warmth = answered({**BODY, "messages": ASKED})
    prompt.extend(entries_of([assistant(*(f"b{number}" for number in range(30)))]))
    outlook, plan = seen(prompt, warmth)
    assert [(mark.slot, mark.ttl) for mark in plan.marks] == [("anchor", "1h"), ("assistant", "1h")]
    assert plan.expected.cache_read == plan.marks[0].tokens, "behind the hit the anchor costs nothing"
    assert plan.expected.cache_write_1h == outlook.new


@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(requests(), profiles)
def test_whatever_the_conversation_it_pays_a_read_and_an_hour_for_the_rest(
    body: dict[str, Any], profile: Profile
) -> None:
    prompt, warmth = answered({**body, **BODY}, profile)
    prompt.extend(entries_of([REPLY]))
    found = idle(prompt, warmth)
    assume(found is not None)
    assert found is not None
    outlook, plan = found
    sent = render(prompt, plan.marks)
    assert {mark.ttl for mark in plan.marks} == {"1h"}
    assert len(plan.marks) <= 4
    assert sent["messages"][-1]["content"][-1]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert plan.expected.cache_write_5m == plan.expected.input == 0
    assert plan.expected.cache_read > 0
    assert plan.expected.total_input == outlook.prefix == prompt.total
    assert outlook.new == plan.expected.cache_write_1h


def test_what_lies_behind_the_last_mark_of_an_hour_is_not_sent() -> None:
    """Parked early, then the talk went on with five-minute entries that have lapsed: only the old hour is read."""
    prompt, warmth = in_talk()
    _, parked = seen(prompt, warmth)
    warmth.learn(parked.marks, parked.hit, parked.expected, PARK_AFTER)
    kept = prompt.total
    prompt.extend(entries_of([user("c " * 5000), REPLY]))
    _, plan = seen(prompt, warmth, PARK_AFTER + HOUR - 60.0)
    assert plan.expected == Usage(cache_read=kept)

"""Whether a prefix that many sessions use is read again while none of them asks, and what such a request sends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.core.circumstances import Circumstances
from sessions.core.experience import Experience, Others, Seen
from sessions.core.gaps import Forecast, known
from sessions.core.heads import ends_with, is_worth_keeping, kept_slots, settings_of, wish_for_all
from sessions.core.idle import Ask, Rest
from sessions.core.keeping import MOST_REFRESHES, REFRESH_BEFORE, costs, lives_for, refreshes
from sessions.core.profiles import Profile, profile_for
from sessions.core.prompt import Prompt
from sessions.core.settings import Settings, make_settings
from sessions.core.shared import shared_places, shared_ttl, staying
from sessions.core.ttl import ExpectedCost, Fixed, Outlook
from sessions.core.usage import Usage
from sessions.core.warmth import Alive, Warmth
from tests.core.strategies import assistant, text, user
from tests.core.world import MODEL, circumstances, entries_of

READ, WRITE = 0.1, 2.0
MINUTE, HOUR = 60.0, 3600.0
LONG = "Be brief. " * 2000
PROFILE = profile_for(MODEL)


def uses(*minutes: float, now: float | None = None) -> Others:
    """Uses by others so many minutes after each other, the first one at 0."""
    starts = [0.0]
    for gap in minutes:
        starts.append(starts[-1] + gap * MINUTE)
    return Others(tuple(starts), tuple(starts), starts[-1] if now is None else now)


NOW_AND_THEN = (50, 75, 40, 85, 60, 70, 45, 80)


# -- what it costs --


def test_the_next_use_is_read_if_it_comes_before_the_last_refresh_lapses() -> None:
    assert costs(known(1800.0), HOUR, READ, WRITE) == [READ]
    assert costs(known(5400.0), HOUR, READ, WRITE) == [WRITE, pytest.approx(2 * READ)]
    assert costs(known(9000.0), HOUR, READ, WRITE)[2] == pytest.approx(3 * READ)
    assert costs(known(float("inf")), HOUR, READ, WRITE) == [0.0], "nobody comes"


def test_a_prefix_is_kept_for_as_long_as_its_uses_pay() -> None:
    assert refreshes(known(1800.0), READ, WRITE) == 0
    assert refreshes(known(5400.0), READ, WRITE) == 1
    assert refreshes(known(18 * HOUR), READ, WRITE) == 18, "1.9 for .1 each"
    assert refreshes(known(20 * HOUR), READ, WRITE) == 0
    assert refreshes(known(20 * HOUR), 0.025, WRITE) == 20
    assert refreshes(known(25 * HOUR), 0.0, WRITE) == 0, "uses are known for a day"
    rarely = Forecast(((1800.0, 0.0), (1800.0, 0.96), (5400.0, 0.96), (5400.0, 1.0)))
    assert refreshes(rarely, READ, WRITE) == 1, "one in 25 comes later: it saves 1.9, and .1 is paid for it alone"


def test_every_refresh_lets_it_live_on() -> None:
    assert [lives_for(number) for number in (0, 1, 2)] == [HOUR, 2 * HOUR - REFRESH_BEFORE, 3 * HOUR - 120.0]
    assert len(costs(Forecast(((HOUR, 0.0), (1e9, 1.0))), HOUR, READ, WRITE)) == MOST_REFRESHES + 1


@given(st.lists(st.floats(1.0, 90_000.0), min_size=1, max_size=20), st.floats(0.0, 1.0), st.floats(1.0, 3.0))
def test_nothing_that_is_chosen_costs_more_than_doing_nothing(gaps: list[float], read: float, write: float) -> None:
    starts = tuple(sum(sorted(gaps)[:number]) for number in range(len(gaps) + 1))
    forecast = Others(starts, starts, starts[-1]).forecast
    each = costs(forecast, HOUR, read, write)
    assert each[refreshes(forecast, read, write)] <= each[0]
    assert all(cost >= forecast.ever * min(read, write) - 1e-9 for cost in each)


def outlook(forecast: Forecast, options: Any, **fields: Any) -> Outlook:
    return replace(Outlook(options, 10_000, 10_000, READ, 1.25, WRITE, forecast, recurs=True), **fields)


def test_an_hour_is_chosen_where_a_keeper_makes_it_cheaper() -> None:
    late = known(5400.0)
    assert ExpectedCost().choose(outlook(late, ("5m", "1h"))) == "5m"
    assert ExpectedCost().choose(outlook(late, ("5m", "1h"), keeps=True)) == "1h"
    assert ExpectedCost().choose(outlook(known(20 * HOUR), ("5m", "1h"), keeps=True)) == "5m"
    assert outlook(late, (), keeps=True).cost("1h") == pytest.approx(10_000 * 2 * READ)


def test_when_idle_a_refresh_is_set_against_the_next_write() -> None:
    waits: Any = ("lapse", "refresh")
    at = {"waited": HOUR - REFRESH_BEFORE, "kept_until": HOUR}
    late = outlook(known(5400.0), waits, **at)
    assert late.cost("lapse") == pytest.approx(10_000 * WRITE)
    assert late.cost("refresh") == pytest.approx(10_000 * 2 * READ)
    assert ExpectedCost().choose(late) == "refresh"
    nobody = outlook(known(1800.0), waits, **at)
    assert (nobody.cost("lapse"), nobody.cost("refresh")) == (0.0, pytest.approx(10_000 * READ))
    assert ExpectedCost().choose(nobody) == "lapse"
    assert Fixed("1h").choose(late) == "lapse"


def test_who_has_waited_longer_than_ever_is_sure_of_nothing() -> None:
    forecast = uses(10, 20, 30).forecast
    assert forecast.ever == pytest.approx(4 / 5)
    assert forecast.within(20 * MINUTE) == pytest.approx(3 / 5)


def test_an_entry_lives_on_with_each_use_that_finds_it() -> None:
    assert Alive("1h", HOUR).used([]) == Alive("1h", HOUR)
    assert Alive("1h", HOUR).used([3000.0, 6000.0]) == Alive("1h", 9600.0)
    assert Alive("1h", HOUR).used([9000.0, 1000.0]) == Alive("1h", 4600.0)
    assert Alive("5m", HOUR).used([3500.0]) == Alive("5m", 3800.0)
    assert Alive("1h", HOUR).used([-5000.0]) == Alive("1h", HOUR)


def test_others_and_their_keeper_keep_it_alive() -> None:
    others = uses(120, 120, 120, 120)
    assert others.alive("1h") == pytest.approx(4 * HOUR / (8 * HOUR + HOUR))
    assert others.alive("1h", 1) == pytest.approx((8 * HOUR - 4 * 60.0) / (9 * HOUR))
    assert others.alive("1h", 2) == pytest.approx(8 / 9)
    assert others.alive("5m", 2) == others.alive("5m")


def test_the_users_of_a_prefix_are_known_the_last_one_first() -> None:
    experience = Experience()
    for at, session in ((3.0, "a"), (1.0, "b"), (2.0, "a"), (2.5, "c")):
        experience.take_in([Seen(session, f"{at}", "s", at, ("p",))])
    assert experience.users("p") == ["a", "c", "b"]
    assert experience.users("q") == []


# -- what a session counts on --


def talk(**fields: Any) -> Prompt:
    settings = make_settings(model=MODEL, max_tokens=9, system=[text(LONG)], **fields)
    prompt = Prompt(settings, PROFILE)
    pinned = [LONG] if settings.context else []
    prompt.extend(entries_of([user(*pinned, "a"), assistant("b"), user("c")]))
    return prompt


def beside(prompt: Prompt, others: Others, *keeps: Any, **fields: Any) -> Circumstances:
    return replace(circumstances(prompt, others.now), others=lambda point: others, keeps=keeps, **fields)


def test_what_is_kept_for_all_is_written_for_an_hour() -> None:
    others = uses(*[90.0] * 8)
    for context in (None, [text(LONG)]):
        prompt = talk(context=context)
        places = shared_places(prompt)
        assert [slot for slot, _ in places] == (["shared", "context"] if context else ["shared"])
        for slot, index in places:
            assert shared_ttl(prompt, index, slot, beside(prompt, others)) == "5m"
            assert shared_ttl(prompt, index, slot, beside(prompt, others, slot)) == "1h"
            assert shared_ttl(prompt, index, slot, beside(prompt, others, "anchor")) == "5m"


def test_what_is_kept_for_all_is_not_lost_with_one_session() -> None:
    prompt, others = talk(), uses(*[90.0] * 8)
    head = prompt.tokens(prompt.head_points)
    assert staying(prompt, Warmth(), beside(prompt, others)) == (head, round(head * 8 * 300 / (12 * HOUR + 300)))
    assert staying(prompt, Warmth(), beside(prompt, others, "shared")) == (head, round(head * 12 / 13))


# -- the request --

THINKING = {"type": "enabled", "budget_tokens": 1024}
FORCED = {"type": "any"}


def made(**fields: Any) -> Settings:
    return make_settings(model=MODEL, max_tokens=9, system=[text(LONG)], **fields)


def head_of(settings: Settings) -> str:
    prompt = Prompt(settings, PROFILE)
    return prompt.points[prompt.head_points - 1].digest


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking": THINKING},
        {"tool_choice": FORCED, "tools": [{"name": "t", "input_schema": {"type": "object"}}]},
        {"output_config": {"format": {"type": "json_schema"}, "effort": "low"}},
        {"context": [{**text(LONG), "cache_control": {"type": "ephemeral"}}]},
        {"params": {"speed": "fast"}, "compact": "auto", "local_tools": ["t"]},
    ],
)
def test_the_head_alone_has_the_same_point_and_nothing_that_is_refused(fields: dict[str, Any]) -> None:
    settings = made(**fields)
    bare = settings_of(settings, "shared")
    assert head_of(bare) == head_of(settings)
    assert bare.thinking is bare.tool_choice is bare.compact is None
    assert "format" not in (bare.output_config or {})
    assert (bare.context, bare.marks, bare.local_tools, bare.params) == ((), (), (), settings.params)
    assert kept_slots(bare, PROFILE) == ("shared", "context")


def test_a_prefix_ends_at_the_place_of_its_slot_only() -> None:
    longer = Prompt(make_settings(model=MODEL, max_tokens=9, system=[text(LONG), text("More.")]), PROFILE)
    assert head_of(made()) in longer.index
    assert not ends_with(longer, "shared", head_of(made()))
    assert ends_with(Prompt(made(), PROFILE), "shared", head_of(made()))
    assert not ends_with(Prompt(made(), PROFILE), "context", head_of(made()))
    assert not ends_with(Prompt(made(), PROFILE), "shared", "unknown")


def test_of_output_settings_that_are_all_refused_nothing_is_left() -> None:
    assert settings_of(made(output_config={"format": {"type": "json_schema"}}), "shared").output_config is None
    assert settings_of(made(output_config={"effort": "low"}), "shared").output_config == {"effort": "low"}
    assert settings_of(made(), "shared").output_config is None


def test_pinned_context_is_kept_with_all_that_it_depends_on_or_not_at_all() -> None:
    settings = made(thinking=THINKING, context=[text(LONG)])
    assert settings_of(settings, "context") == settings
    assert kept_slots(settings, PROFILE) == ("shared",)
    assert kept_slots(replace(settings, thinking=None), PROFILE) == ("shared", "context")


@pytest.mark.parametrize("lacks", [{"prewarms": False}, {"markers": False}, {"ttls": ("5m",)}])
def test_an_endpoint_without_what_it_takes_keeps_nothing(lacks: dict[str, Any]) -> None:
    profile: Profile = replace(PROFILE, **lacks)
    assert kept_slots(made(), profile) == ()


def test_a_prefix_is_worth_keeping_if_uses_come_after_an_hour() -> None:
    prompt = talk()
    index = prompt.head_points - 1
    for minutes, worth in ((NOW_AND_THEN, True), ((10, 20, 30), False), ((1500, 1500, 1500), False)):
        others = uses(*minutes)
        assert is_worth_keeping(prompt, index, others, beside(prompt, others)) is worth
    others = uses(*NOW_AND_THEN)
    assert not is_worth_keeping(prompt, index, others, beside(prompt, others, policy=Fixed("1h")))


def alone(settings: Settings | None = None) -> tuple[Prompt, str]:
    prompt = Prompt(settings_of(settings or made(), "context"), PROFILE)
    if settings is not None and settings.context:
        prompt.extend(entries_of([user(LONG, ".")]))
    return prompt, prompt.points[shared_places(prompt)[-1][1]].digest


def wished(after: float, entry: Alive | None, *minutes: float, settings: Settings | None = None) -> Rest | Ask:
    """So many seconds after the last use."""
    prompt, point = alone(settings)
    others = uses(*minutes)
    now = others.all[-1] + after
    others = replace(others, now=now)
    at = replace(beside(prompt, others), now=now)
    warmth = Warmth({} if entry is None else {point: replace(entry, until=others.all[-1] + entry.until)})
    return wish_for_all(prompt, point, warmth, others, at)


def test_just_before_it_lapses_it_is_read_and_nothing_else() -> None:
    ask = wished(3540.0, Alive("1h", HOUR), *NOW_AND_THEN)
    assert isinstance(ask, Ask)
    assert [(mark.slot, mark.ttl) for mark in ask.plan.marks] == [("shared", "1h")]
    (mark,) = ask.plan.marks
    assert ask.plan.expected == Usage(cache_read=mark.tokens, counters=True)
    assert ask.price == pytest.approx(mark.tokens * 0.05)
    assert ask.otherwise == Rest()


def test_with_a_pinned_document_the_head_before_it_is_read_too() -> None:
    ask = wished(3540.0, Alive("1h", HOUR), *NOW_AND_THEN, settings=made(context=[text(LONG)]))
    assert isinstance(ask, Ask)
    assert [mark.slot for mark in ask.plan.marks] == ["shared", "context"]
    assert ask.plan.expected.cache_read == ask.plan.marks[-1].tokens


def test_before_that_it_is_waited_for() -> None:
    assert wished(1000.0, Alive("1h", HOUR), *NOW_AND_THEN) == Rest(2540.0)
    assert wished(3540.0, Alive("1h", 2 * HOUR), *NOW_AND_THEN) == Rest(HOUR), "it was refreshed meanwhile"


@pytest.mark.parametrize("entry", [None, Alive("5m", HOUR), Alive("1h", 3540.0)])
def test_what_is_not_alive_for_an_hour_is_left(entry: Alive | None) -> None:
    assert wished(3540.0, entry, *NOW_AND_THEN) == Rest()


def test_it_ends_where_nobody_is_expected() -> None:
    assert wished(3540.0, Alive("1h", HOUR), 10, 20, 30) == Rest(), "nobody ever came so late"
    assert wished(2 * HOUR, Alive("1h", 2 * HOUR + 60.0), *NOW_AND_THEN) == Rest()
    prompt, point = alone()
    nobody = replace(beside(prompt, uses(1)), now=3540.0)
    assert wish_for_all(prompt, point, Warmth({point: Alive("1h", HOUR)}), Others(now=3540.0), nobody) == Rest()


def test_a_prefix_that_is_too_short_to_be_cached_is_left() -> None:
    assert isinstance(wished(3540.0, Alive("1h", HOUR), *NOW_AND_THEN, settings=made()), Ask)
    short = make_settings(model=MODEL, max_tokens=9, system="Be brief.")
    assert wished(3540.0, Alive("1h", HOUR), *NOW_AND_THEN, settings=short) == Rest()

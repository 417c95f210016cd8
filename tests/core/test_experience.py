"""What the ledger teaches of gaps and of shared prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.core.circumstances import Circumstances
from sessions.core.experience import (
    ENOUGH,
    PREFIXES,
    REMEMBERED,
    STALE,
    USES,
    Experience,
    Others,
    Seen,
    foreseen,
    nobody,
    survived,
)
from sessions.core.gap_prior import EDGES, HUMAN_SHARES
from sessions.core.gaps import NONE, Forecast, Prior, forecast, human
from sessions.core.plan import make_plan
from sessions.core.profiles import Ttl, profile_for
from sessions.core.prompt import Prompt
from sessions.core.shared import staying
from sessions.core.ttl import ExpectedCost, Fixed, Outlook, Policy
from sessions.core.warmth import Alive, Warmth
from tests.core.strategies import assistant, text, user
from tests.core.world import MODEL, circumstances, entries_of, settings_of

HOUR, DAY = 3600.0, 86_400.0
LONG = "Be brief. " * 4000


def within_the_hour(prior: Prior) -> float:
    return human(prior=prior).within(HOUR)


def visit(session: str, *starts: float, settings: str = "s", shared: tuple[str, ...] = ()) -> list[Seen]:
    return [Seen(session, f"{session}{number}", settings, at, shared) for number, at in enumerate(starts)]


def test_without_anything_seen_the_shipped_prior_stands() -> None:
    assert Experience().prior("s", 1, 0.0).shares == pytest.approx(HUMAN_SHARES)
    assert sum(HUMAN_SHARES) == pytest.approx(1.0, abs=1e-3)


def test_shares_of_what_was_seen_alone_are_those_of_kaplan_and_meier() -> None:
    bins = len(HUMAN_SHARES)
    ended = [1.0, 0.0, 1.0, *[0.0] * (bins - 3)]
    exposed = [4.0, 3.0, 2.0, *[1.0] * (bins - 3)]  # one left before the third bin, one goes on for ever
    found = survived([0.0] * bins, 0.0, ended, exposed)
    assert found[:3] == pytest.approx([0.25, 0.0, 0.375])
    assert sum(found) == pytest.approx(1.0)
    assert found[-1] == pytest.approx(0.375)


def test_without_anything_seen_what_is_expected_is_what_was_known() -> None:
    nothing = [0.0] * len(HUMAN_SHARES)
    assert foreseen(HUMAN_SHARES, 10.0, nothing, nothing) == pytest.approx(HUMAN_SHARES, abs=1e-3)


def later(seen: Sequence[float]) -> float:
    """The share of those away for ten minutes who come back within the hour."""
    ten, hour = EDGES.index(600) + 1, EDGES.index(3600) + 1
    return sum(seen[ten:hour]) / sum(seen[ten:])


def test_minutes_in_which_few_come_back_tell_of_the_hour() -> None:
    """Sixty have waited for ten minutes, and two are back: of the hour itself nothing has been seen."""
    bins = len(HUMAN_SHARES)
    exposed = [60.0 if edge <= 600 else 0.0 for edge in EDGES] + [0.0]
    few, many, quick = [0.0] * bins, [0.0] * bins, [0.0] * bins
    few[5], many[9], quick[0] = 2.0, 50.0, 200.0
    known = later(HUMAN_SHARES)
    assert later(foreseen(HUMAN_SHARES, 10.0, few, exposed)) < 0.4 * known
    assert later(foreseen(HUMAN_SHARES, 10.0, many, exposed)) == pytest.approx(known, rel=0.01)
    # Those who came back at once are no sign of those who did not.
    assert later(foreseen(HUMAN_SHARES, 10.0, quick, [260.0, *exposed[1:]])) < 0.4 * known


@given(st.data())
def test_what_is_expected_adds_up(data: st.DataObject) -> None:
    some = st.lists(st.floats(0, 100), min_size=len(HUMAN_SHARES), max_size=len(HUMAN_SHARES))
    drawn = data.draw(some)
    shares = [share / sum(drawn) for share in drawn] if sum(drawn) > 1e-6 else HUMAN_SHARES
    found = foreseen(shares, 10.0, data.draw(some), data.draw(some))
    assert sum(found) == pytest.approx(1.0, abs=2e-3)
    assert all(share >= 0.0 for share in found)


def test_users_who_do_not_come_back_are_believed_long_before_a_day_is_over() -> None:
    experience = Experience()
    for number in range(60):
        experience.take_in(visit(f"v{number}", 60.0 * number))
    before, after = (
        within_the_hour(Experience().prior("s", 1, 0.0)),
        within_the_hour(experience.prior("s", 1, 2 * HOUR)),
    )
    assert before > 0.7
    assert after < 0.2


def test_somebody_who_has_waited_for_a_moment_says_nothing_yet() -> None:
    experience = Experience()
    for number in range(60):
        experience.take_in(visit(f"v{number}", 1000.0))
    assert within_the_hour(experience.prior("s", 1, 1000.0)) == pytest.approx(within_the_hour(Prior()))


def test_how_often_a_request_is_its_turns_last_is_learnt_by_settings() -> None:
    """Most sessions that have tools call them seldom; an agent calls them ten times a turn."""
    experience = Experience()
    for number in range(60):
        at = 1000.0 * number
        experience.take_in(visit(f"chat{number}", at, at + 60.0, at + 120.0, settings="chat"))
        turns = [(turn, at + 100.0 * turn + 5.0 * step) for turn in range(3) for step in range(10)]
        experience.take_in(Seen(f"agent{number}", f"{number} {turn}", "agent", start) for turn, start in turns)
    now = 1000.0 * 60
    chat, agent = experience.prior("chat", 1, now), experience.prior("agent", 1, now)
    assert Prior().last_of_turn == Experience().prior("chat", 1, now).last_of_turn < 0.2
    assert chat.last_of_turn > 0.9
    assert 0.08 < agent.last_of_turn < 0.15
    told = [forecast(NONE, NONE, expected_gap=None, tools=True, prior=prior).within(30.0) for prior in (chat, agent)]
    assert told[0] < 0.5 < told[1]


def test_what_was_seen_of_turns_long_ago_counts_less() -> None:
    experience, now = Experience(), 0.0
    for number in range(5 * REMEMBERED):
        steps = 10 if number < REMEMBERED else 1
        turn = [Seen("s", f"{number}", "s", now + step) for step in range(steps)]
        experience.take_in(turn)
        now += 100.0
    assert experience.prior("s", 9, now).last_of_turn > 0.8


def test_gaps_are_told_apart_by_settings_and_by_the_number_of_turns() -> None:
    experience = Experience()
    for number in range(80):
        at = 10.0 * number
        experience.take_in(visit(f"fast{number}", *(at + 30.0 * turn for turn in range(4)), settings="fast"))
        experience.take_in(visit(f"slow{number}", at, at + 1200.0, settings="slow"))
    now = 10.0 * 80 + 4 * HOUR
    fast, slow = experience.prior("fast", 1, now), experience.prior("slow", 1, now)
    assert human(prior=fast).within(60.0) > 0.8 > 0.2 > human(prior=slow).within(60.0)
    assert human(prior=slow).within(1800.0) > 0.8
    # After its second turn nobody came back to a slow one.
    assert within_the_hour(experience.prior("slow", 2, now)) < 0.3
    # One with settings of its own is told of by all of them together.
    assert 0.3 < human(prior=experience.prior("other", 1, now)).within(60.0) < 0.9


def test_requests_of_one_turn_are_no_gaps() -> None:
    experience = Experience()
    for number in range(40):
        at = 100.0 * number
        steps = [Seen(f"v{number}", "one", "s", at + step) for step in (0.0, 5.0, 9.0)]
        experience.take_in([*steps, Seen(f"v{number}", "two", "s", at + 9.0 + 700.0)])
    prior = experience.prior("s", 1, 100.0 * 40 + DAY)
    assert human(prior=prior).within(10.0) < 0.1
    assert human(prior=prior).within(900.0) > 0.8


def test_a_clock_that_is_set_back_brings_nobody_back() -> None:
    experience = Experience()
    for number in range(30):
        experience.take_in(visit(f"v{number}", 10_000.0))
    before = experience.prior("s", 1, 10_000.0)
    after = experience.prior("s", 1, 10_000.0 - HOUR)
    assert after.shares == pytest.approx(before.shares), "and it is worked out anew"
    others = Others((10_000.0, 10_001.0, 10_002.0), (10_000.0, 10_001.0, 10_002.0), 6400.0)
    assert 0.0 <= others.alive("5m") <= 1.0
    assert others.forecast.knots[0][0] == 0.0


def test_turns_that_other_workers_ran_are_counted() -> None:
    """Two workers answer by turns: each sees every second turn itself, and reads of the others later."""
    experience = Experience()
    for number in range(80):
        at = 1000.0 * number
        turns = [
            Seen(f"v{number}", str(turn), "s", at + 100.0 * turn, (), turn, at + 100.0 * (turn - 1)) for turn in (1, 3)
        ]
        experience.take_in([*turns, Seen(f"v{number}", "2", "s", at + 200.0)])
    gap = human(prior=experience.prior("s", 1, 1000.0 * 80 + DAY))
    assert gap.within(90.0) < 0.2 < 0.8 < gap.within(120.0)
    third = human(prior=experience.prior("s", 3, 1000.0 * 80 + DAY))
    assert third.within(120.0) < 0.5, "nobody came after a third turn"


def test_kinds_of_sessions_are_forgotten_with_them() -> None:
    experience = Experience()
    experience.take_in(visit("first", 0.0, 5.0, settings="first"))
    assert experience.prior("first", 1, DAY) != experience.prior("never", 1, DAY)
    for number in range(2 * REMEMBERED):
        experience.take_in(visit(f"v{number}", DAY + number, settings=f"s{number}"))
    assert experience.prior("first", 1, 3 * DAY) == experience.prior("never", 1, 3 * DAY)
    # All that are remembered go on where they were.
    for number in range(REMEMBERED, 2 * REMEMBERED):
        experience.take_in(visit(f"v{number}", 3 * DAY + number, settings=f"s{number}"))


def test_what_was_worked_out_is_good_for_a_minute() -> None:
    experience = Experience()
    first = experience.prior("s", 1, 0.0)
    experience.take_in(visit("v", 0.0, 20.0))
    assert experience.prior("s", 1, STALE - 1) is first
    assert experience.prior("s", 1, STALE) is not first


def test_old_gaps_and_sessions_are_forgotten() -> None:
    experience = Experience()
    for number in range(REMEMBERED + 200):
        experience.take_in(visit(f"v{number}", 40.0 * number, 40.0 * number + 20.0))
    for number in range(REMEMBERED):
        experience.take_in(visit(f"w{number}", 1e6 + 40.0 * number, 1e6 + 40.0 * number + 800.0))
    prior = experience.prior("s", 1, 1e6 + 40.0 * REMEMBERED + DAY)
    assert human(prior=prior).within(30.0) < 0.1, "none of the short ones is among the newest"


def test_what_was_worked_out_does_not_grow_without_end() -> None:
    experience = Experience()
    experience.take_in(visit("v", 0.0, 20.0))
    kept = experience.prior("s0", 1, 0.0)
    for number in range(1, PREFIXES + 3):
        experience.prior(f"s{number}", 1, 0.0)
    assert experience.prior("s0", 1, 0.0) is not kept


def test_uses_of_a_prefix_by_others_within_a_day() -> None:
    experience = Experience()
    experience.take_in(visit("old", 0.0, shared=("p",)))
    for number in range(5):
        experience.take_in(visit(f"v{number}", DAY + 100.0 * number, shared=("p", "q")))
    others = experience.others("p", "v4", DAY + 450.0)
    assert others.others == tuple(DAY + 100.0 * number for number in range(4))
    assert len(others.all) == 5
    assert others.tell
    assert not experience.others("unknown", "v4", DAY).tell
    for number in range(USES + 5):
        experience.take_in(visit("many", DAY + number, shared=("p",)))
    assert len(experience.others("p", "-", DAY + 1000.0).all) == USES


def test_prefixes_used_long_ago_are_forgotten() -> None:
    experience = Experience()
    for number in range(PREFIXES + 1):
        experience.take_in(visit("v", float(number), shared=(f"p{number}",)))
    assert experience.others("p0", "-", 1.0).all == ()
    assert experience.others("p1", "-", 1.0).all == (1.0,)


def test_how_long_others_keep_a_prefix_alive() -> None:
    every_ten_minutes = Others(tuple(600.0 * number for number in range(20)), (), 12_000.0)
    assert every_ten_minutes.alive("5m") == pytest.approx(20 * 300.0 / (12_000.0 + 300.0))
    assert every_ten_minutes.alive("1h") == pytest.approx(12_000.0 / (12_000.0 + 3600.0))
    a_burst = Others(tuple(map(float, range(50))), (), 270.0)
    assert a_burst.alive("5m") == pytest.approx(270.0 / 570.0)
    assert Others((0.0,) * (ENOUGH - 1), (), 1.0).alive("1h") == 0.0
    assert not nobody("p").tell


def talk(**fields: Any) -> Prompt:
    return Prompt(settings_of({"model": MODEL, "max_tokens": 9, "system": [text(LONG)]}, **fields), profile_for(MODEL))


def plan_beside(others: Others, policy: Policy | None = None, *, context: bool = False) -> list[tuple[str, Ttl]]:
    prompt = talk(context=[text(LONG)]) if context else talk()
    prompt.extend(entries_of([user(*([LONG] if context else []), "a"), assistant("b"), user("c")]))
    at = replace(circumstances(prompt, others.now, policy=policy, expected_gap=60.0), others=lambda point: others)
    return [(mark.slot, mark.ttl) for mark in make_plan(prompt, Warmth(), at).marks]


def uses(every: float, many: int = 12) -> Others:
    starts = tuple(every * number for number in range(many))
    return Others(starts, starts, every * many)


def test_a_prefix_that_others_use_now_and_then_is_kept_for_an_hour() -> None:
    own: list[tuple[str, Ttl]] = [("assistant", "5m"), ("tail", "5m")]
    assert plan_beside(uses(900.0)) == [("shared", "1h"), *own]
    assert plan_beside(uses(60.0)) == [("shared", "5m"), *own]
    assert plan_beside(uses(4 * HOUR)) == [("shared", "5m"), *own]
    assert plan_beside(uses(900.0), context=True) == [("shared", "1h"), ("context", "1h"), *own]
    assert plan_beside(uses(900.0, many=2)) == [("shared", "5m"), *own]


def test_a_fixed_lifetime_is_that_of_every_mark() -> None:
    assert {ttl for _, ttl in plan_beside(uses(900.0), policy=Fixed("5m"))} == {"5m"}
    assert {ttl for _, ttl in plan_beside(uses(60.0), policy=Fixed("1h"))} == {"1h"}


def test_a_pinned_document_for_an_hour_takes_the_head_before_it_along() -> None:
    prompt = talk(context=[text(LONG)])
    prompt.extend(entries_of([user(LONG, "a"), assistant("b"), user("c")]))
    head = prompt.points[prompt.head_points - 1].digest
    at = replace(
        circumstances(prompt, expected_gap=60.0), others=lambda point: uses(30.0) if point == head else uses(900.0)
    )
    assert [mark.ttl for mark in make_plan(prompt, Warmth(), at).marks] == ["1h", "1h", "5m", "5m"]


def test_what_others_keep_alive_is_not_lost() -> None:
    prompt = talk()
    prompt.extend(entries_of([user("a"), assistant("b"), user("c")]))
    at: Circumstances = replace(circumstances(prompt), others=lambda point: uses(900.0))
    head = prompt.tokens(prompt.head_points)
    assert staying(prompt, Warmth(), at) == (head, round(head * 3 / 4))
    five = Warmth({prompt.points[prompt.head_points - 1].digest: Alive("5m", 100.0)})
    assert staying(prompt, five, at) == (head, round(head * 12 * 300 / (12 * 900 + 300)))
    assert staying(prompt, Warmth(), circumstances(prompt)) == (0, 0)


def test_a_lapse_costs_only_what_others_do_not_keep() -> None:
    gone = human(prior=Prior())
    outlook = Outlook(("lapse", "park"), 10_000, 100, 0.1, 1.25, 2.0, gone, waited=270.0)
    assert ExpectedCost().choose(outlook) == "park"
    assert ExpectedCost().choose(replace(outlook, stays=9_000)) == "lapse"


def plainly(uses: list[tuple[float, str]], session: str, now: float) -> Others:
    """What `others` and `forecast` stand for, as it would be written without a thought for time."""
    counted = sorted(sorted(uses)[-USES:])
    starts = [at for at, _ in counted if at > now - DAY]
    others = [at for at, who in counted if at > now - DAY and who != session]
    return Others(tuple(others), tuple(starts), now)


def drawn_curve(others: Others) -> Forecast:
    gaps = sorted([after - before for before, after in pairwise(others.all)] + [max(0.0, others.now - others.all[-1])])
    knots: list[tuple[float, float]] = []
    many = len(gaps) + 1  # and one after which nobody came
    for number, gap in enumerate(gaps):
        knots += [(gap, number / many), (gap, (number + 1) / many)]
    return Forecast(tuple(knots))


@given(
    st.lists(st.tuples(st.floats(0, 2 * DAY), st.sampled_from("abc")), max_size=30),
    st.integers(0, USES),
    st.floats(0, 3 * DAY),
    st.floats(0, 2 * DAY),
)
def test_what_others_do_is_told_quickly_and_the_same(
    uses: list[tuple[float, str]], more: int, now: float, seconds: float
) -> None:
    uses = uses + [(100.0 * number, "abc"[number % 3]) for number in range(more)]
    experience = Experience()
    experience.take_in(Seen(who, f"{number}", "s", at, ("p",)) for number, (at, who) in enumerate(uses))
    found = experience.others("p", "a", now)
    assert found == plainly(uses, "a", now)
    if found.all:
        curve, drawn = found.forecast, drawn_curve(found)
        assert curve.knots == drawn.knots
        assert curve.ever == drawn.ever
        for moment in (0.0, seconds, 300.0, HOUR, *(at for at, _ in drawn.knots)):
            assert curve.within(moment) == drawn.within(moment)
        assert curve.after(seconds) == drawn.after(seconds) or not drawn.within(seconds)
        assert curve.mixed(drawn, 0.5).knots == drawn.mixed(drawn, 0.5).knots

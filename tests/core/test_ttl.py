"""The choice of a lifetime and of what to do while idle: expected costs, in plain input tokens."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.core.evidence import Asked, Trust, unreturned
from sessions.core.gaps import NEVER, Forecast, human, known
from sessions.core.ttl import ExpectedCost, Fixed, Outlook, Policy, chosen

WRITE: Any = ("5m", "1h")
PARK: Any = ("lapse", "park")
REFRESH: Any = ("lapse", "refresh")


def outlook(forecast: Forecast, **fields: Any) -> Outlook:
    return replace(Outlook(WRITE, 10_000, 1_000, 0.1, 1.25, 2.0, forecast), **fields)


def step(within_5m: float, within_1h: float, ever: float) -> Forecast:
    return Forecast(((60.0, 0.0), (60.0, within_5m), (900.0, within_5m), (900.0, within_1h), (9000.0, ever)))


GAPS = [(10, "5m"), (300, "5m"), (301, "1h"), (3600, "1h"), (3601, "5m"), (NEVER, "5m")]


@pytest.mark.parametrize(("gap", "ttl"), GAPS)
def test_a_known_gap_chooses_the_lifetime(gap: float, ttl: str) -> None:
    """docs/provider.md, 8: under 5 minutes 5m, up to an hour 1h, longer neither (then the cheaper write)."""
    assert ExpectedCost().choose(outlook(known(gap))) == ttl


def test_a_new_prefix_is_parked_rather_than_written_for_an_hour() -> None:
    """A new prefix: 1h costs .75 of it more, a park .1 and a small write. Behind a warm prefix it is the other way."""
    told = known(480)
    assert ExpectedCost().choose(outlook(told, new=10_000, parks=True, told=True)) == "5m"
    assert ExpectedCost().choose(outlook(told, new=10_000)) == "1h"
    assert ExpectedCost().choose(outlook(told, new=200, parks=True, told=True)) == "1h"


def test_an_hour_for_a_small_addition_costs_less_than_the_park_that_it_spares() -> None:
    """A third are late. An hour costs .75 of what is added more, a park a tenth of the whole prefix."""
    late = step(0.6, 0.93, 0.95)
    chat, document = outlook(late, prefix=3_000, new=300, parks=True), outlook(late, prefix=50_000, new=300, parks=True)
    assert ExpectedCost().choose(chat) == "5m"
    assert ExpectedCost().choose(document) == "1h"


def test_an_endpoint_without_long_entries_gets_short_ones() -> None:
    short = outlook(known(900), options=("5m",))
    assert chosen(ExpectedCost(), short) == chosen(Fixed("1h"), short) == "5m"
    assert chosen(Fixed("1h"), outlook(known(10))) == "1h"


def test_a_fixed_policy_lets_idle_prefixes_lapse() -> None:
    for ttl in ("5m", "1h"):
        assert chosen(Fixed(ttl), outlook(known(900), options=PARK, waited=270.0)) == "lapse"  # type: ignore[arg-type]


def test_an_option_that_is_not_open_is_the_least_to_do() -> None:
    class Always:
        def choose(self, outlook: Outlook) -> Any:
            return "1h"

    assert chosen(Always(), outlook(known(900))) == "1h"
    assert chosen(Always(), outlook(known(900), options=PARK, waited=270.0)) == "lapse"


@pytest.mark.parametrize("answer", [None, "1hr", 3600, ["1h"]])
def test_what_is_no_option_at_all_names_the_policy(answer: Any) -> None:
    class Rubbish:
        def choose(self, outlook: Outlook) -> Any:
            return answer

    with pytest.raises(ValueError, match=f"Rubbish.choose returned {re.escape(repr(answer))}: .*'5m', '1h'"):
        chosen(Rubbish(), outlook(known(900)))


@pytest.mark.parametrize("read", [0.1, 0.05, 0.025])
def test_a_park_is_worth_its_price_or_not(read: float) -> None:
    """It pays where the chance of a return × the saving is above its price (docs/provider.md, 4)."""
    for chance in (0.01, 0.02, 0.04, 0.06, 0.09, 0.2, 0.5):
        told = Forecast(((0.0, 0.0), (270.0, 0.5), (600.0, 0.5), (600.0, 0.5 + chance / 2)))
        seen = outlook(told, options=PARK, prefix=10_000, new=0, read=read, waited=270.0)
        pays = chance * (1.25 - read) > read
        assert ExpectedCost().choose(seen) == ("park" if pays else "lapse")


def test_what_lives_on_lowers_what_a_park_can_save() -> None:
    seen = outlook(known(900), options=PARK, new=100, waited=270.0)
    assert ExpectedCost().choose(seen) == "park"
    assert ExpectedCost().choose(replace(seen, kept=9_900, kept_until=3000.0)) == "lapse"
    assert ExpectedCost().choose(replace(seen, kept=9_900, kept_until=800.0)) == "park"


def test_a_refresh_reads_the_hour_for_another() -> None:
    seen = outlook(known(5000), options=REFRESH, kept=10_000, kept_until=3870.0, waited=3810.0)
    assert ExpectedCost().choose(seen) == "refresh"
    assert ExpectedCost().choose(replace(seen, forecast=known(9000))) == "lapse"
    idle = replace(seen, forecast=human())
    assert ExpectedCost().choose(idle) == "lapse", "at a tenth of the price too few return in the second hour"
    assert ExpectedCost().choose(replace(idle, read=0.025)) == "refresh"


def test_where_nothing_is_done_while_idle_what_lapses_is_written_for_an_hour_the_next_time() -> None:
    """All of it is new: 1h costs .75 of it more; whoever comes in between pays 2.0 then, where .1 would have done."""
    between = 0.75 / (2.0 - 0.1)
    for chance, chosen_there in ((between - 0.01, "5m"), (between + 0.01, "1h")):
        cold = outlook(step(0.3, 0.3 + chance, 0.3 + chance), new=10_000)
        assert ExpectedCost().choose(cold) == "5m", "looked after, it can still be parked"
        assert ExpectedCost().choose(replace(cold, tended=False)) == chosen_there
    kept_by_others = outlook(step(0.3, 0.8, 0.8), new=10_000, stays=10_000, tended=False)
    assert ExpectedCost().choose(kept_by_others) == "5m"


def test_where_a_prefix_keeps_its_first_lifetime_all_returns_to_come_are_counted() -> None:
    """Parks were seen to die, so an hour behind 5 minutes dies too: what is chosen now is paid for at every return."""
    seldom_late = outlook(step(0.7, 1.0, 1.0), prefix=1_000, new=1_000)
    assert ExpectedCost().choose(seldom_late) == "5m", "it pays for the next return alone"
    assert ExpectedCost().choose(replace(seldom_late, lasting=False)) == "1h", (
        "three of ten returns are late, each time"
    )


@pytest.mark.parametrize(("gap", "ttl"), GAPS)
def test_a_known_gap_chooses_the_lifetime_for_good(gap: float, ttl: str) -> None:
    assert ExpectedCost().choose(outlook(known(gap), lasting=False)) == ttl


def test_who_never_returns_is_charged_for_the_write_alone() -> None:
    gone = outlook(known(NEVER), lasting=False)
    assert (gone.cost("5m"), gone.cost("1h")) == (1_250, 2_000)


chances = st.floats(0, 1)
reads = st.sampled_from([0.1, 0.05, 0.025])
sizes = st.integers(0, 10**6)


@given(chances, chances, chances, reads, sizes, sizes, st.booleans(), st.sampled_from([WRITE, PARK, REFRESH]))
def test_the_choice_is_the_cheapest(
    a: float, b: float, c: float, read: float, prefix: int, new: int, parks: bool, options: Any
) -> None:
    told = step(*sorted((a, b, c)))
    waited = {"park": 270.0, "refresh": 3500.0}.get(options[1], 0.0)
    seen = outlook(told, options=options, prefix=max(prefix, new), new=new, read=read, parks=parks, waited=waited)
    costs = [seen.cost(option) for option in options]
    assert seen.cost(ExpectedCost().choose(seen)) == min(costs)
    assert all(cost >= 0 for cost in costs)


@given(chances, chances, reads, sizes)
def test_being_able_to_park_never_makes_it_dearer(a: float, b: float, read: float, prefix: int) -> None:
    seen = outlook(step(*sorted((a, b)), 1.0), prefix=prefix, new=prefix, read=read)
    assert replace(seen, parks=True).cost("5m") <= seen.cost("5m") + 1e-6


def test_policies_are_values() -> None:
    assert isinstance(Fixed("5m"), Policy)
    assert isinstance(ExpectedCost(), Policy)
    assert ExpectedCost() == ExpectedCost()
    with pytest.raises(ValueError, match="5m"):
        Fixed("2h")  # type: ignore[arg-type]


# -- evidence ------------------------------------------------------------------------------------------------------


def test_two_failures_at_the_start_end_it_and_four_late_ones() -> None:
    for before, failures in ((0, 2), (1, 3), (9, 4)):
        trust = Trust()
        for _ in range(before):
            trust.saw(alive=True)
        for number in range(failures):
            assert not trust.is_gone, (before, number)
            trust.saw(alive=False)
        assert trust.is_gone
        trust.saw(alive=True)
        assert trust.is_gone, "what is gone does not come back"


def asked(*what: tuple[str, float, str]) -> list[Asked]:
    return [Asked(session, at, kind != "turn") for session, at, kind in what]


def test_parks_without_a_return_are_counted() -> None:
    one = asked(("a", 0, "turn"), ("a", 270, "park"))
    assert unreturned(one, 300) == 0, "the user may still come"
    assert unreturned(one, 3871) == 1
    moved_on = asked(("b", 300, "turn"))
    assert unreturned([*one, *moved_on], 400) == 1, "the user asks elsewhere now"
    assert unreturned([*one, *asked(("a", 900, "turn"))], 10_000) == 0


def test_one_idle_period_counts_once() -> None:
    hours = asked(("a", 0, "turn"), ("a", 270, "park"), ("a", 3810, "refresh"))
    assert unreturned(hours, 20_000) == 1
    assert unreturned([*hours, *asked(("a", 5000, "turn"))], 20_000) == 0, "it returned within the refreshed hour"
    twice = [*hours, *asked(("a", 15_000, "turn"), ("a", 15_270, "park"))]
    assert unreturned(twice, 40_000) == 2


def test_a_return_that_a_park_would_have_paid_for_ends_the_count() -> None:
    gone = asked(*[(name, number * 9000.0 + at, kind) for number, name in enumerate("abc")
                   for at, kind in ((0, "turn"), (270, "park"))])  # fmt: skip
    again = asked(("d", 40_000, "turn"), ("d", 40_600, "turn"))
    assert unreturned([*gone, *again], 41_000) == 0
    soon = asked(("d", 40_000, "turn"), ("d", 40_200, "turn"))
    assert unreturned([*gone, *soon], 41_000) == 3


def test_a_return_that_paid_ends_the_count() -> None:
    gone = asked(*[(name, at, kind) for number, name in enumerate("abc")
                   for at, kind in ((number * 9000.0, "turn"), (number * 9000.0 + 270, "park"))])  # fmt: skip
    assert unreturned(gone, 40_000) == 3
    assert unreturned([*gone, *asked(("c", 19_000, "turn"))], 40_000) == 0
    assert unreturned([*gone, *asked(("c", 18_300, "turn"))], 40_000) == 0, "while the short entry still lived, too"


def test_without_trust_a_lifetime_is_for_all_returns_to_come() -> None:
    """Whoever never returns is written for the least; one gap of half an hour after the other pays an hour."""
    for gap, want in ((NEVER, "5m"), (60.0, "5m"), (1800.0, "1h")):
        seen = Outlook(
            options=("5m", "1h"), prefix=10_000, new=10_000, read=0.1, write_5m=1.25, write_1h=2.0,
            forecast=known(gap), lasting=False,
        )  # fmt: skip
        assert ExpectedCost().choose(seen) == want

"""What `fit` makes of a ledger: counts, what plans go by, and how the older part forecasts the newer one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.core.experience import Experience, Seen, kinds
from sessions.core.fitting import ENOUGH, SHIPPED, TURNS, Fit, Gap, Row, Shares, fit, gaps_of
from sessions.core.gap_prior import EDGES, HUMAN_SHARES
from sessions.core.gaps import FITTED, Prior

HOUR, DAY = 3600.0, 86_400.0


def visit(session: str, *starts: float, settings: str = "s") -> list[Seen]:
    return [Seen(session, f"{session}{number}", settings, at) for number, at in enumerate(starts)]


def in_order(*visits: list[Seen]) -> list[Seen]:
    return sorted((request for requests in visits for request in requests), key=lambda request: request.started)


def row(found: Fit, settings: str | None, turns: int | None = None) -> Row:
    return next(one for one in found.rows if (one.settings, one.turns) == (settings, turns))


def test_gaps_lie_between_turns_and_begin_with_a_turns_last_request() -> None:
    requests = [
        Seen("v", "one", "s", 0.0),
        Seen("v", "one", "t", 5.0),
        Seen("v", "one", "t", 3.0),  # late news
        Seen("w", "other", "s", 6.0),
        Seen("v", "two", "t", 65.0),
    ]
    assert gaps_of(requests) == [Gap("t", 1, 5.0, 65.0), Gap("t", 2, 65.0), Gap("s", 1, 6.0)]


def test_an_outcome_is_known_once_the_time_has_passed_for_those_who_are_back_too() -> None:
    quick, slow, away = Gap("s", 1, 0.0, 10.0), Gap("s", 1, 0.0, 900.0), Gap("s", 1, 0.0)
    assert [gap.returned(300.0, 299.0) for gap in (quick, slow, away)] == [None, None, None]
    assert [gap.returned(300.0, 300.0) for gap in (quick, slow, away)] == [True, False, False]
    assert [gap.returned(HOUR, DAY) for gap in (quick, slow, away)] == [True, True, False]


def test_nothing_seen_gives_the_shipped_prior_and_nothing_to_write() -> None:
    found = fit([], 0.0)
    assert (found.sessions, found.requests, found.since, found.few) == (0, 0, None, 0)
    assert [one.settings for one in found.rows] == [None]
    assert not found.rows[0].enough
    assert found.rows[0].seen == Shares(None, None, None)
    assert found.rows[0].used == SHIPPED
    assert (found.judged, found.priors) == ((), {})


def test_what_was_seen_stands_beside_what_plans_go_by() -> None:
    visits = [visit(f"a{n}", 10.0 * n, 10.0 * n + 60.0, settings="a") for n in range(40)]
    visits += [visit(f"b{n}", 10.0 * n, settings="b") for n in range(40)]
    visits += [visit("c", 0.0, 50.0, settings="c")]
    found = fit(in_order(*visits), 10 * DAY)
    assert (found.sessions, found.requests, found.since, found.few) == (81, 122, 0.0, 1)
    assert row(found, None).gaps == 122
    assert row(found, None).seen.soon == pytest.approx(41 / 122)
    assert row(found, None, 1).seen.hour == pytest.approx(41 / 81)
    assert row(found, None, 1).used is None, "of all settings together plans tell no turns apart"
    assert row(found, "a", 1).seen == Shares(1.0, 1.0, 0.0)
    assert row(found, "a", 2).seen == Shares(0.0, 0.0, 1.0)
    assert row(found, "b").seen == Shares(0.0, 0.0, 1.0)
    first, second, nobody = (row(found, *which).used for which in (("a", 1), ("a", 2), ("b", None)))
    assert first is not None
    assert first.soon is not None
    assert first.soon > 0.8
    assert second is not None
    assert second.hour is not None
    assert second.hour < 0.3
    assert nobody is not None
    assert nobody.never is not None
    assert nobody.never > 0.8
    assert {one.settings for one in found.rows} == {None, "a", "b"}
    assert {one.turns for one in found.rows} <= {None, *TURNS}


def test_gaps_that_are_not_over_yet_are_told_as_unknown() -> None:
    found = fit(in_order(*(visit(f"v{n}", 0.0, 60.0) for n in range(ENOUGH))), 400.0)
    assert row(found, None).gaps == 0, "no hour has passed"
    assert row(found, None).seen == Shares(0.5, None, None)
    assert found.few == 1


def test_every_kind_with_enough_gaps_can_be_written_and_is_what_plans_go_by() -> None:
    requests = in_order(*(visit(f"v{n}", 10.0 * n, *([10.0 * n + 60.0] if n < 5 else [])) for n in range(ENOUGH)))
    found, now = fit(requests, 2 * DAY), 2 * DAY
    assert {kind: gaps for kind, (gaps, _) in found.priors.items()} == {
        ("", 0): ENOUGH + 5,
        ("s", 0): ENOUGH + 5,
        ("s", 1): ENOUGH,
    }
    experience = Experience()
    experience.take_in(requests)
    assert found.priors["", 0][1] == experience.prior(None, None, now)
    assert found.priors["s", 0][1] == experience.prior("s", None, now)
    assert found.priors["s", 1][1] == experience.prior("s", 1, now)
    assert experience.prior("s", 1, now) != experience.prior("s", None, now) != experience.prior(None, None, now)


def test_what_was_given_is_where_another_deployment_begins() -> None:
    here = fit(in_order(*(visit(f"v{n}", 10.0 * n) for n in range(60))), 2 * DAY)
    given = {kind: prior for kind, (_, prior) in here.priors.items()}
    there = Experience(given)
    for kind, turns in (("s", 1), ("s", None), (None, None)):
        assert there.prior(kind, turns, 0.0) == given[kinds(kind, turns)[-1]]
    assert there.prior("other", 1, 0.0) == given["", 0], "of what it does not have, all sessions tell"
    # And it gives way to what is seen there.
    there.take_in(in_order(*(visit(f"w{n}", 10.0 * n, 10.0 * n + 60.0) for n in range(60))))
    soon = Shares.of(there.prior("s", 1, 2 * DAY)).soon
    assert soon is not None
    assert soon > 0.8


def drawn(seed: int, chance: float, many: int) -> list[list[Seen]]:
    """Sessions of two turns or one: who comes back does so within five minutes."""
    draw = random.Random(seed)
    return [
        visit(f"v{n}", 1000.0 * n, *([1000.0 * n + draw.uniform(20, 280)] if draw.random() < chance else []))
        for n in range(many)
    ]


def test_the_older_part_of_the_ledger_forecasts_the_newer_one() -> None:
    found = fit(in_order(*drawn(1, 0.3, 400)), 1000 * DAY)
    assert [one.seconds for one in found.judged] == [300.0, HOUR]
    for judged in found.judged:
        assert judged.learnt < judged.shipped - 0.05
        assert judged.gaps == sum(one.gaps for one in judged.bins)
        for one in judged.bins:
            assert one.told == pytest.approx(one.happened, abs=0.08)
    # It is no look at what it is judged by: what changes at the end is not foreseen.
    changed = [*drawn(1, 0.9, 280), *(visit(f"w{n}", 280_000.0 + 1000.0 * n) for n in range(120))]
    late = fit(in_order(*changed), 1000 * DAY).judged[0]
    assert late.learnt > late.shipped + 0.1
    assert late.bins[-1].told > 0.8 > 0.4 > late.bins[-1].happened


def test_too_few_newer_gaps_are_not_judged() -> None:
    assert fit(in_order(*drawn(1, 0.0, ENOUGH - 1)), 1000 * DAY).judged == ()
    assert fit(in_order(*drawn(1, 0.0, ENOUGH)), 1000 * DAY).judged == ()
    requests = in_order(*drawn(1, 0.0, 60))
    within_minutes = fit(requests, requests[-1].started + 300.0).judged
    assert [one.seconds for one in within_minutes] == [300.0, HOUR]
    assert within_minutes[1].gaps < within_minutes[0].gaps


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.floats(0, 1e5)), max_size=40))
def test_counts_are_those_that_plans_go_by(drawn: list[tuple[int, int, float]]) -> None:
    requests = [
        Seen(f"v{session}", f"turn{number // 2}", f"s{settings}", at)
        for number, (session, settings, at) in enumerate(sorted(drawn, key=lambda one: one[2]))
    ]
    now = 1e7
    found = fit(requests, now)
    experience = Experience()
    experience.take_in(requests)
    assert found.rows[0].gaps == len(gaps_of(requests))
    assert found.rows[0].used == Shares.of(experience.prior(None, None, now))
    for gap in gaps_of(requests):
        assert sum(experience.prior(gap.settings, gap.number, now).shares) == pytest.approx(1.0, abs=1e-3)


def test_shares_of_the_shipped_prior() -> None:
    assert Shares.of(FITTED) == SHIPPED
    assert SHIPPED.soon == pytest.approx(sum(HUMAN_SHARES[: EDGES.index(300) + 1]))
    assert SHIPPED.never == pytest.approx(HUMAN_SHARES[-1], abs=1e-3)
    assert Shares.of(Prior((0.0,) * len(EDGES) + (1.0,))) == Shares(0.0, 0.0, 1.0)

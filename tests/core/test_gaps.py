"""The gap forecast: a survival function, however it was made, and what shifts it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.core import gap_prior
from sessions.core.gap_prior import EDGES, HUMAN_SHARES, TOOL_SHARES
from sessions.core.gaps import NEVER, NONE, TOOLS, Forecast, Gaps, curve, forecast, human, known
from tests.benchmarks import fit_gaps

times = st.floats(0, 200_000)
shares = st.lists(st.floats(0.01, 1), min_size=len(EDGES) + 1, max_size=len(EDGES) + 1).map(
    lambda weights: [weight / sum(weights) for weight in weights]
)
forecasts = st.one_of(
    shares.map(curve),
    st.one_of(times, st.just(NEVER)).map(known),
    st.builds(lambda one, two, share: curve(one).mixed(known(two), share), shares, times, st.floats(0, 1)),
)


@given(forecasts, st.lists(times, min_size=2).map(sorted))
def test_a_chance_rises_with_time(told: Forecast, moments: list[float]) -> None:
    chances = [told.within(moment) for moment in moments]
    assert chances == sorted(chances)
    assert all(0.0 <= chance <= told.ever <= 1.0 + 1e-9 for chance in chances)
    assert told.within(NEVER) == told.ever


@given(forecasts, times, times)
def test_waiting_is_conditioning(told: Forecast, waited: float, more: float) -> None:
    gone = told.within(waited)
    later = told.after(waited)
    assert later.within(waited) in (0.0, pytest.approx(gone if gone == 0.0 else 0.0))
    if gone < 0.999:
        for moment in (moment for moment, _ in told.knots if moment > waited):
            assert later.within(moment) == pytest.approx((told.within(moment) - gone) / (1 - gone), abs=1e-6)
    assert later.within(waited + more) <= 1.0 + 1e-9


@given(shares, times, st.floats(0, 1))
def test_a_mixture_lies_between(one: list[float], two: float, share: float) -> None:
    mixed = curve(one).mixed(known(two), share)
    for moment in (*EDGES, two):
        want = (1 - share) * curve(one).within(moment) + share * known(two).within(moment)
        assert mixed.within(moment) == pytest.approx(want, abs=1e-6)


def test_what_a_caller_knows() -> None:
    assert known(480).within(479.9) == 0.0
    assert known(480).within(480) == known(480).ever == 1.0
    assert known(NEVER).ever == 0.0
    assert known(480).after(500).ever == 0.0, "late: nothing is known any more"
    assert forecast(NONE, NONE, expected_gap=480, tools=True) == known(480)
    late = forecast(NONE, NONE, expected_gap=7200, tools=True)
    assert late.within(3600) == pytest.approx(0.9 * TOOLS.within(3600), abs=0.01)
    assert late.ever == pytest.approx(1.0, abs=0.01)


def test_what_recordings_say() -> None:
    """The recordings: 72 % of the gaps that end are under 5 minutes, 24 % up to an hour (peers, November 2026)."""
    user = human()
    assert user.within(300) / user.ever == pytest.approx(0.72, abs=0.03)
    assert (user.within(3600) - user.within(300)) / user.ever == pytest.approx(0.24, abs=0.02)
    assert sum(HUMAN_SHARES) == pytest.approx(1.0, abs=0.001)
    assert sum(TOOL_SHARES) == pytest.approx(1.0, abs=0.001)
    assert TOOLS.within(60) > 0.9
    assert forecast(NONE, NONE, expected_gap=None, tools=False) == user
    assert user.within(300) < forecast(NONE, NONE, expected_gap=None, tools=True).within(300) < TOOLS.within(300)


def test_the_past_shifts_but_does_not_decide() -> None:
    five = Gaps()
    for _ in range(5):
        five = five.plus(480)
    chances = [human(session).within(600) - human(session).within(300) for session in (NONE, five)]
    assert chances[0] < chances[1] < 0.6
    assert human(five).ever == pytest.approx(human().ever), "a session that goes on says nothing of its end"
    gone = NONE.together([Gaps().plus(NEVER)] * 5)
    assert human(owner=gone).ever < human().ever
    assert human(owner=five).within(480) > human().within(480) * 0.9


gap_lists = st.lists(st.one_of(st.floats(0, 10**6), st.just(NEVER)), max_size=9)


@given(gap_lists, st.one_of(st.none(), st.floats(0, 10**6), st.just(NEVER)))
def test_gaps_come_back_as_stored(gaps: list[float], told: float | None) -> None:
    kept = Gaps(told=told)
    for gap in gaps:
        kept = kept.plus(gap)
    assert Gaps.read(kept.text) == kept
    assert sum(kept.counts) == len(gaps)
    assert NONE.together([kept, kept]).counts == tuple(2 * count for count in kept.counts)


def test_gaps_of_another_version_count_as_nothing() -> None:
    assert Gaps.read("{}") == NONE == Gaps.read('{"counts": [1, 2]}')
    assert Gaps.read('{"counts": [1], "told": 7}') == Gaps(told=7)


def test_a_gap_at_an_edge_belongs_to_the_bin_that_ends_there() -> None:
    assert Gaps().plus(300).counts[EDGES.index(300)] == 1
    assert Gaps().plus(300.1).counts[EDGES.index(300) + 1] == 1
    assert Gaps().plus(EDGES[-1] + 1).counts[-1] == 1


TRACES = Path(os.environ.get("WARMLINE_DATA", ".")) / "traces" / "agent_sessions.jsonl.gz"


@pytest.mark.skipif(not TRACES.exists(), reason="the recordings lie outside the repository: set WARMLINE_DATA")
def test_the_prior_is_what_the_script_fits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sessions = fit_gaps.read(TRACES)
    weights = fit_gaps.report(sessions)
    shown = capsys.readouterr().out
    fit_gaps.write(sessions, weights, tmp_path / "prior.py")
    fitted: dict[str, Any] = {}
    exec((tmp_path / "prior.py").read_text(), fitted)
    for name in ("EDGES", "HUMAN_SHARES", "TOOL_SHARES", "LAST_OF_TURN", "SESSION_WEIGHT", "OWNER_WEIGHT"):
        assert fitted[name] == getattr(gap_prior, name), name
    lines = {line[:34].strip(): line[34:].split() for line in shown.splitlines() if line[34:35] == " "}
    best = lines[f"by session ({weights[0]}) and owner ({weights[1]})"]
    for column in range(3):
        assert float(best[column]) < float(lines["constant"][column]), "the past earns its place in every score"
    assert float(lines["by length of the turn"][2]) > float(lines["constant"][2]), "and the length of the turn does not"
    assert math.isfinite(float(best[0]))

"""The cost benchmark counts right: its bound is one, its scenarios cost what the rules say, peers get our words."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from xml.etree.ElementTree import parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.core.usage import Usage
from sessions.replay.meter import Metered
from tests.benchmarks.cost import __main__ as main
from tests.benchmarks.cost import ours
from tests.benchmarks.cost.bound import bound
from tests.benchmarks.cost.conversations import Listener
from tests.benchmarks.cost.scenarios import HEAD, SCENARIOS, second_session
from tests.benchmarks.cost.small import SECOND, Small, jobs
from tests.benchmarks.cost.spent import MODELS, Spent, price
from tests.benchmarks.cost.table import OURS, Results, markdown, text
from tests.benchmarks.cost.traces import _spread, sample

READS = sorted(MODELS)
GAPS = st.sampled_from([1.0, 299.0, 300.0, 301.0, 3599.0, 3600.0, 3601.0, 90_000.0])


def sent(run: list[tuple[float, int]], session: int = 0) -> list[Metered]:
    """Requests of one session: (start, prompt tokens)."""
    return [Metered(index, session, at, total) for index, (at, total) in enumerate(run)]


def fixed(run: list[tuple[float, int]], ttl: str) -> Usage:
    """What a growing prompt costs that is written whole with one lifetime."""
    seconds, total = (300.0 if ttl == "5m" else 3600.0), Usage()
    for number, (at, size) in enumerate(run):
        known = run[number - 1][1] if number and at - run[number - 1][0] < seconds else 0
        written = {f"cache_write_{ttl}": size - known}
        total += Usage(cache_read=known, **written)
    return total


def test_the_bound_by_hand() -> None:
    requests = [*sent([(0.0, 100), (200.0, 150), (1200.0, 200), (9000.0, 300)]), *sent([(9100.0, 50)], session=1)]
    #         100 at 5m           50 at 1h             50 plain: nobody reads them     300 and 50 plain
    assert bound(requests) == Usage(input=50 + 300 + 50, cache_read=100 + 150, cache_write_5m=100, cache_write_1h=50)


def test_the_bound_counts_no_request_while_idle_and_none_refused() -> None:
    asked = sent([(0.0, 100), (200.0, 150)])
    idle, refused = Metered(7, 0, 270.0, 150, idle=True), Metered(8, 0, 280.0, refused=True)
    assert bound([*asked, idle, refused]) == bound(asked)


@given(st.lists(st.tuples(GAPS, st.integers(1, 5000)), min_size=1, max_size=12))
def test_no_fixed_lifetime_is_cheaper_than_the_bound(steps: list[tuple[float, int]]) -> None:
    run, at, size = [], 0.0, 0
    for gap, more in steps:
        at, size = at + gap, size + more
        run.append((at, size))
    for read in READS:
        least = price(bound(sent(run)), read)
        assert all(least <= price(fixed(run, ttl), read) + 1e-6 for ttl in ("5m", "1h"))


@pytest.mark.parametrize(("read", "one_hour"), [(read, 2.0) for read in READS])
def test_prices_are_the_model_s(read: float, one_hour: float) -> None:
    assert [price(Usage(**{name: 1000}), read) for name in ("input", "cache_read", "cache_write_1h")] == [
        1000.0,
        pytest.approx(1000 * read),
        1000 * one_hour,
    ]


def test_chats_with_fixed_lifetimes_cost_what_the_rules_say() -> None:
    """Eight minutes: with 5m everything is written each time. Two minutes: written once, read ever after."""
    scenario = next(one for one in SCENARIOS if one.name == "chat, 8-minute gaps")
    slow = ours.rows(ours.play(scenario.recordings(), 0.1, "u", **ours.POLICIES['Fixed("5m")']), "slow")
    assert slow["slow"].price(0.1) == pytest.approx(1.25 * slow["slow"].sent)
    scenario = next(one for one in SCENARIOS if one.name == "chat, 2-minute gaps")
    quick = ours.rows(ours.play(scenario.recordings(), 0.1, "u", **ours.POLICIES['Fixed("5m")']), "quick")
    sizes = [HEAD + 80 + turn * (80 + 150) for turn in range(6)]
    assert quick["quick"].sent == sum(sizes)
    assert quick["quick"].price(0.1) == pytest.approx(1.25 * sizes[-1] + 0.1 * sum(sizes[:-1]))
    assert quick[ours.TOP_5M].usage == quick["quick"].usage


def test_peers_are_given_every_request_of_ours() -> None:
    listener = Listener()
    series = ours.play(second_session(), 0.1, "u", listener, **ours.POLICIES['Fixed("5m")'])
    first, second = series.replays[0].requests
    assert [(asked.at, asked.count, asked.tokens) for _, asked in listener.asked] == [
        (first.started, 1, HEAD + 80),
        (second.started, 1, HEAD + 80),
    ]
    (one, _), (other, _) = listener.asked
    assert (one.system, one.tools) == (other.system, other.tools)
    assert one.messages != other.messages
    assert "cache_control" not in str([one, other])
    assert second.usage.cache_read == HEAD


def test_a_table_of_results() -> None:
    results = Results({"a": 8, "b": 7})
    for user in results.sessions:
        for read in MODELS:
            for name, usage in {
                ours.UNCACHED: Usage(input=1000),
                ours.TOP_5M: Usage(cache_write_5m=400, cache_read=600),
                ours.TOP_1H: Usage(cache_write_1h=400, cache_read=600),
                OURS + 'Fixed("5m")': Usage(cache_write_5m=400, cache_read=600),
                OURS + 'Fixed("1h")': Usage(cache_write_1h=400, cache_read=600),
                OURS + "ExpectedCost()": Usage(cache_write_5m=200, cache_read=800),
                ours.BOUND: Usage(input=100, cache_read=900),
            }.items():
                results.add(name, read, user, Spent(usage, 1000, 1))
    assert results.share(ours.TOP_5M, 0.1) == pytest.approx(0.56)
    assert results.best_peer(0.1) == ours.TOP_5M
    assert list(results.by_user(0.1)) == [("a", pytest.approx(0.33 / 0.56))], "b has too few sessions"
    assert any("41.1% less than the best of the others" in line for line in text(results))
    assert "| **warmline ExpectedCost()** | **0.330** | **0.290** | **0.270** |" in list(markdown(results))
    assert Decimal(str(results.to_json()["rows"][ours.BOUND]["0.1"]["share"])).quantize(Decimal("0.001")) == Decimal(
        "0.190"
    )


def test_a_table_of_scenarios_has_one_column_for_peers_of_one_lifetime() -> None:
    figures = {"one 1.0, 5m": "0.324", "two 2.0, 5m": "0.323", "two 2.0, 1h": "0.468", ours.TOP_5M: "0.323"}
    found = Small({(name, SCENARIOS[3].name): text for name, text in figures.items()})
    found.cells |= {(name, SECOND): text for name, text in zip(figures, ["2,898", "966", "", "0"], strict=True)}
    found.cells[OURS + "ExpectedCost()", SCENARIOS[3].name] = "0.357 (0.323 by the last request)"
    lines = list(found.markdown())
    libraries = "four libraries, 5m | four libraries, 1h"
    assert lines[0] == f"| | top-level cache_control 5m | {libraries} | **warmline ExpectedCost()** |"
    ours_here = "0.357 (0.323 by the last request)"
    assert f"| chat, 2-minute gaps | 0.323 | 0.323 to 0.324 | 0.468 | {ours_here} |" in lines
    assert f"| {SECOND} | 0 | 966 to 2,898 |  |  |" in lines


def test_every_scenario_is_played_with_every_policy() -> None:
    """No peer is needed: the cells are ours and the API's own."""
    number = [one.name for one in SCENARIOS].index("chat, 8-minute gaps")
    cells, problems = jobs(list(ours.POLICIES), peers=False)[number]()
    assert problems == []
    assert cells[OURS + 'Fixed("5m")', "chat, 8-minute gaps"] == cells[ours.TOP_5M, "chat, 8-minute gaps"] == "1.250"
    assert len(cells) == 2 + len(ours.POLICIES)


@pytest.mark.skipif("WARMLINE_DATA" not in os.environ, reason="the recordings lie outside the repository")
def test_two_recordings_from_the_file_to_the_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unmeasured: None
) -> None:
    whole = {name for names in sample(None).values() for name in names}
    assert len(whole) == 272
    few = {"ue816e1": sorted(whole)[-4:-2], "ub798ac": sorted(whole)[-2:-1]}
    monkeypatch.setattr(main, "sample", lambda count: few)
    given = ["cost", "--ours", "--no-scenarios", "--no-workloads", "--processes", "1", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*given, "--policy", 'Fixed("5m")', "--policy", 'Fixed("1h")'])
    main.main()
    rows = json.loads((tmp_path / "cost.json").read_text())["rows"]
    assert len({row[read]["requests"] for row in rows.values() for read in row}) == 1
    assert rows[main.OURS + 'Fixed("1h")']["0.05"]["cache_write_5m"] == 0
    assert 'warmline Fixed("1h")' in set(parse(tmp_path / "cost.svg").getroot().itertext())
    assert "| bound |" in (tmp_path / "cost.md").read_text()


def test_a_sample_is_spread_over_all_sizes() -> None:
    assert _spread([str(number) for number in range(100)], 4) == ["12", "37", "62", "87"]

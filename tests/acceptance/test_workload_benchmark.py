"""The workloads of the cost benchmark: ours is billed as the ledger says, others as the rules say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sessions.core.cache import Point, Where
from sessions.core.profiles import profile_for
from sessions.core.usage import Usage
from tests.benchmarks.cost import schemes, timeline, work, worktable
from tests.benchmarks.cost.conversations import Listener
from tests.benchmarks.cost.ours import POLICIES
from tests.benchmarks.cost.spent import MODELS, price
from tests.benchmarks.cost.timeline import How, Measured, Played
from tests.benchmarks.cost.workloads import KINDS, Step, Turn, Visit, Workload, workload

PROFILE = profile_for(MODELS[0.1])
HEAD, ANSWER = 3000, Step(150, 4.0)
CALL = Step(60, 2.0, result=400, takes=1.5)


def tiny() -> Workload:
    """Three visits: one that calls a tool and pauses for ten minutes, one that comes while it pauses, and two turns
    with a document that a third visitor asks as well."""
    first = Visit("one", "ann", (Turn(0.0, 90, (CALL, ANSWER)), Turn(620.0, 60, (ANSWER,))))
    second = Visit("two", "bob", (Turn(400.0, 80, (ANSWER,)),))
    third = Visit("three", "cy", (Turn(30.0, 50, (ANSWER,)), Turn(60.0, 50, (ANSWER,))), ("handbook", 5000))
    fourth = Visit("four", "di", (Turn(90.0, 50, (ANSWER,)),), ("handbook", 5000))
    return Workload("tiny", "by hand", HEAD, (first, second, third, fourth))


def played(policy: str) -> Played:
    return timeline.play(tiny(), 0.1, How(POLICIES[policy]))


def asked(at: float, *blocks: tuple[str, int], session: int = 0) -> Measured:
    """A request by hand: its first block is the head, and each block a digest with tokens."""
    points = [Point(name, at + 1, Where("messages" if at else "system", 0, at)) for at, (name, _) in enumerate(blocks)]
    sizes = [sum(size for _, size in blocks[: at + 1]) for at in range(len(blocks))]
    return Measured(session, at, points, sizes, documents=0, latest_reply=None)


def test_ours_is_billed_what_the_ledger_says_in_every_bucket() -> None:
    tended = played("ExpectedCost()")
    assert tended.problems == ()
    for bucket in ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output"):
        assert getattr(tended.ledger, bucket) == getattr(tended.usage, bucket)
    assert tended.kinds["turn"] == len(tended.requests) == 7
    assert sum(tended.kinds.values()) > len(tended.requests), "somebody pauses, and what is done then is in the bill"
    assert tended.idle.total_input > 0


def test_every_request_has_the_size_that_the_workload_says() -> None:
    sizes = {(sent.session, sent.started - 1_700_000_000.0): sent.total for sent in played('Fixed("5m")').requests}
    assert sizes[0, 0.0] == HEAD + 90
    assert sizes[0, 3.5] == pytest.approx(HEAD + 90 + 60 + 400, abs=25), "a call's JSON is no exact number of tokens"
    assert sizes[2, 60.0] == HEAD + 5000 + 50 + 150 + 50
    assert sizes[1, 400.0] == HEAD + 80


@pytest.mark.parametrize("ttl", ["5m", "1h"])
def test_a_scheme_of_one_lifetime_pays_what_our_own_pays(ttl: str) -> None:
    """The schemes' player and real sessions agree to the token: also on what visits read of one another."""
    fixed = played(f'Fixed("{ttl}")')
    assert schemes.play(schemes.FIXED[ttl], fixed.requests, fixed.profile) == replace(fixed.usage, output=0)
    at = {(sent.session, sent.started): sent for sent in fixed.requests}
    assert len(at) == len(fixed.requests)


def test_a_shared_head_for_an_hour_outlives_its_visits() -> None:
    requests = [asked(0.0, ("head", 2000), ("a", 100)), asked(400.0, ("head", 2000), ("b", 100), session=1)]
    assert schemes.play(schemes.FIXED["head 1h, tail 5m"], requests, PROFILE) == Usage(
        cache_write_1h=2000, cache_write_5m=200, cache_read=2000
    )
    assert schemes.play(schemes.FIXED["5m"], requests, PROFILE) == Usage(cache_write_5m=4200)
    assert schemes.play(schemes.FIXED["top-level 1h"], requests, PROFILE) == Usage(cache_write_1h=4200)


def test_pings_read_the_prefix_again_and_stop() -> None:
    left = [asked(0.0, ("head", 2000), ("a", 100))]
    assert schemes.play(schemes.FIXED["5m, 2 pings"], left, PROFILE) == Usage(cache_write_5m=2100, cache_read=2 * 2100)
    back = [*left, asked(800.0, ("head", 2000), ("a", 100), ("b", 50))]
    assert schemes.play(schemes.FIXED["5m, 2 pings"], back, PROFILE) == Usage(
        cache_write_5m=2150, cache_read=(2 + 1) * 2100 + 2 * 2150
    )
    late = [*left, asked(900.0, ("head", 2000), ("a", 100), ("b", 50))]
    lapsed = schemes.play(schemes.FIXED["5m, 2 pings"], late, PROFILE)
    assert lapsed == Usage(cache_write_5m=2100 + 2150, cache_read=2 * 2100 + 2 * 2150)
    assert schemes.play(schemes.FIXED["5m, 3 pings"], late, PROFILE).cache_write_5m == 2150


def test_what_is_written_cannot_be_read_before_the_answer_begins() -> None:
    together = [asked(0.0, ("head", 2000), ("a", 100)), asked(0.5, ("head", 2000), ("b", 100), session=1)]
    assert schemes.play(schemes.FIXED["5m"], together, PROFILE) == Usage(cache_write_5m=4200)


def test_the_bound_knows_who_else_uses_a_block() -> None:
    requests = [
        asked(0.0, ("head", 2000), ("a", 100)),
        asked(400.0, ("head", 2000), ("b", 100), session=1),
        asked(600.0, ("head", 2000), ("b", 100), ("c", 10), session=1),
        asked(9000.0, ("head", 2000), ("d", 100), session=2),
    ]
    # The head for 5 minutes, parked, read twice, kept twice until the fourth comes; a and d plain, b for 5 minutes and
    # read, c plain.
    head, rest = 1.25 + 0.1 + 0.1 + 0.1 + 2 * 0.1 + 0.1, 1 + 1 + 1.25 + 0.1
    assert schemes.bound(requests, PROFILE) == pytest.approx(2000 * head + 100 * rest + 10)


def test_the_bound_lets_go_what_is_dearer_to_keep() -> None:
    days = [asked(0.0, ("head", 2000)), asked(86_400.0, ("head", 2000))]
    assert schemes.bound(days, PROFILE) == 2 * 2000
    assert schemes.bound(days[:1], PROFILE) == 2000


def test_nobody_is_below_the_bound() -> None:
    for name in ("direct", "support-5"):
        played = timeline.play(workload(name, 3, 0.03), 0.1, How(POLICIES["ExpectedCost()"]))
        least = schemes.bound(played.requests, PROFILE)
        assert least <= price(played.usage, 0.1)
        for scheme in schemes.FIXED.values():
            assert least <= price(schemes.play(scheme, played.requests, PROFILE), 0.1)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_draw_is_the_same_for_the_same_seed(name: str) -> None:
    drawn = workload(name, 5, 0.1)
    assert drawn == workload(name, 5, 0.1)
    assert drawn != workload(name, 6, 0.1)
    assert 2 <= len(drawn.visits) < len(workload(name, 5, 0.5).visits)
    assert len({visit.name for visit in drawn.visits}) == len(drawn.visits)
    for visit in drawn.visits:
        ends = [turn.at + turn.seconds for turn in visit.turns]
        assert all(end <= turn.at for end, turn in zip(ends, visit.turns[1:], strict=False))
        assert all(turn.steps[-1].result == 0 for turn in visit.turns)


def test_the_shapes_are_those_that_the_sources_tell() -> None:
    chat = workload("chat", 1).visits
    assert sum(len(visit.turns) == 1 for visit in chat) / len(chat) == pytest.approx(0.75, abs=0.06)
    support = [visit for seed in range(3) for visit in workload("support-5", seed).visits]
    assert sum(len(visit.turns) for visit in support) / len(support) == pytest.approx(6, abs=0.6)
    gaps = [
        then.at - turn.at - turn.seconds
        for visit in workload("direct", 1).visits
        for turn, then in zip(visit.turns, visit.turns[1:], strict=False)
    ]
    assert sum(gap <= 300 for gap in gaps) / len(gaps) == pytest.approx(0.40, abs=0.06)
    assert sum(300 < gap < 3600 for gap in gaps) / len(gaps) == pytest.approx(0.15, abs=0.06)


def test_a_manager_for_each_visit_on_one_store() -> None:
    how = How(POLICIES["ExpectedCost()"], apart=True, parks_survive=False)
    apart = timeline.play(tiny(), 0.1, how)
    assert (apart.ledger, apart.problems) == (apart.usage, ())
    together = timeline.play(tiny(), 0.1, replace(how, apart=False))
    assert len(apart.requests) == len(together.requests)


def test_others_are_told_of_the_requests_in_their_order() -> None:
    listener = Listener()
    sent = timeline.play(tiny(), 0.1, How(POLICIES['Fixed("5m")'], sent=listener)).requests
    assert [one.at for _, one in listener.asked] == [one.started for one in sent]
    assert len({id(conversation) for conversation, _ in listener.asked}) == len(tiny().visits)
    assert [one.tokens for _, one in listener.asked] == [one.total for one in sent]


def test_a_table_of_workloads() -> None:
    policies = ('Fixed("5m")', 'Fixed("1h")', "ExpectedCost()")
    row = work.row("voice", 0.1, work.Asked(seed=1, scale=0.02, policies=policies))
    assert {"5m", "1h"}.isdisjoint(row.usages), "ours of a fixed lifetime stands for the scheme"
    library = {"one 1.0, 5m": Usage(input=10), "two 2.0, 5m": Usage(input=20), "two 2.0, 1h": Usage(input=30)}
    row = replace(row, usages={**row.usages, **library}, bound=5.0)
    assert row.best == "one 1.0, 5m"
    assert schemes.UNCACHED not in row.fixed
    head, rule, line = worktable.markdown([row])
    assert head.count("|") == rule.count("|") == line.count("|")
    assert "| four libraries, 5m | four libraries, 1h | warmline Fixed(" in head
    assert "**warmline ExpectedCost()**" in head
    assert line.startswith("| voice | 0.1 | ")
    shown = list(worktable.text([row]))
    assert "at most .95 in 0 of 1 rows, above 1.05 in 1" in shown[-1]
    assert sorted(replace(row, apart=True).fixed) == ['warmline Fixed("1h")', 'warmline Fixed("5m")']


def test_a_request_that_is_nobody_s_turn_is_paid_for_and_compared_with_nobody() -> None:
    till = timeline.Till(tiny())
    body = {"model": MODELS[0.1], "max_tokens": 5, "messages": [{"role": "user", "content": "Still there?"}]}
    exchange = till.receive(body, {"x-api-key": "k", "anthropic-version": "2026-10-21"}, 0.0)
    assert exchange.request is not None
    assert till.replies(exchange.request).content == "Yes."
    assert (till.sent, till.problems, till.idle) == ([], [], Usage(input=6))


def test_a_refused_request_is_a_problem() -> None:
    till = timeline.Till(tiny())
    till.receive({"model": "nobody's"}, {"x-api-key": "k", "anthropic-version": "2026-10-21"}, 0.0)
    assert len(till.problems) == 1
    assert till.problems[0].startswith("refused: ")

"""The rules as values: driven by whatever an endpoint might answer, they end, and never guess."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions import Profile, Usage, profile_for
from sessions.probe import RULES, Ask, Bench, Finding, Rule, Seen, Unclear
from tests.sessions.world import MODEL

FACTS = profile_for(MODEL)
BENCH = Bench(MODEL, FACTS, FACTS, "label", (4.0, 3.0), "claude-haiku-5-5")
NAMED = {rule.name: rule for rule in RULES}
Answer = Callable[[Ask], Seen]


def seen(ask: Ask, read: int = 0, write_5m: int = 0, write_1h: int = 0, plain: int = 9, **other: Any) -> Seen:
    """An accepted request with this usage, at the time it asked for."""
    fields: dict[str, Any] = {
        "input_tokens": plain,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": write_5m + write_1h,
        "cache_creation": {"ephemeral_5m_input_tokens": write_5m, "ephemeral_1h_input_tokens": write_1h},
    }
    usage = Usage(plain, read, write_5m, write_1h)
    during = seen(ask.during, read, write_5m) if ask.during else None
    return replace(Seen(ask, 1000 + ask.at, 1001 + ask.at, 200, None, usage, fields, during=during), **other)


def refused(ask: Ask) -> Seen:
    """A request that was not taken."""
    return Seen(ask, 1000 + ask.at, 1001 + ask.at, 400, "no")


def drive(rule: Rule, answer: Answer, bench: Bench = BENCH, most: int = 60) -> tuple[Finding | str, list[Ask]]:
    """A whole rule: its finding, or why it is unclear; and what it asked."""
    steps, asked = rule.steps(bench), []
    try:
        ask = next(steps)
        while True:
            asked.append(ask)
            assert len(asked) <= most, "it does not end"
            ask = steps.send(answer(ask))
    except StopIteration as end:
        finding: Finding = end.value
        return finding, asked
    except Unclear as unclear:
        return str(unclear), asked


tokens = st.sampled_from([0, 0, 1, 60, 240, 480, 500, 600, 653, 713, 1000, 5000])
kinds = st.lists(st.sampled_from(["text", "thinking", "tool_use"]), max_size=30).map(
    lambda found: tuple({"type": kind} for kind in found)
)
told = st.sampled_from(
    [None, {}, {"cache_miss_reason": None}, {"cache_miss_reason": {"type": "system_changed"}}, "odd"]
)


@st.composite
def benches(draw: Any) -> Bench:
    facts: dict[str, Any] = {
        "lookback": draw(st.integers(1, 100)),
        "minimum_tokens": draw(st.integers(0, 9000)),
        "automatic": draw(st.booleans()),
        "counters": draw(st.booleans()),
        "keeps_thinking": draw(st.booleans()),
        "thinking_types": draw(st.sampled_from([("adaptive",), ("enabled", "disabled")])),
        "forced_tool_choice": draw(st.booleans()),
    }
    documented = replace(FACTS, **{**facts, "lookback": 20})
    return replace(BENCH, known=replace(FACTS, **facts), documented=documented, other=draw(st.none() | st.just("x")))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@settings(max_examples=50, deadline=None)
@given(st.data(), benches())
def test_whatever_is_answered_a_rule_ends(rule: Rule, data: Any, bench: Bench) -> None:
    def answer(ask: Ask) -> Seen:
        if data.draw(st.integers(0, 9)) == 0:
            return refused(ask)
        one = seen(ask, *(data.draw(tokens) for _ in range(4)), content=data.draw(kinds))
        message = {"id": "msg_1", "stop_reason": data.draw(st.sampled_from(["end_turn", "max_tokens"]))}
        fields = one.fields if data.draw(st.booleans()) else {"input_tokens": 5}
        return replace(one, message=message | {"diagnostics": data.draw(told)}, fields=fields)

    finding, asked = drive(rule, answer, bench)
    assert asked or isinstance(finding, str)
    assert all(ask.body["model"] in (MODEL, "x") and ask.body["messages"] for ask in asked)
    if isinstance(finding, Finding):
        assert finding.verdict in ("agrees", "differs")
        assert finding.sentence
        made: Profile = replace(FACTS, **finding.changes)
        assert made.lookback >= 1
        assert made.minimum_tokens >= 0


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_an_endpoint_that_refuses_everything_is_not_judged_by_silence(rule: Rule) -> None:
    finding, asked = drive(rule, refused)
    assert len(asked) <= 3
    if isinstance(finding, Finding):
        assert finding.verdict == "differs"
        assert finding.sentence


def always(**usage: int) -> Answer:
    """The same usage for every request."""
    return lambda ask: seen(ask, **usage)


def in_turn(*answers: Any) -> Answer:
    """These usages one after the other, the last one for ever. A dict is `seen`'s arguments, None a refusal."""
    left = list(answers)

    def answer(ask: Ask) -> Seen:
        one = left.pop(0) if len(left) > 1 else left[0]
        return refused(ask) if one is None else seen(ask, **one)

    return answer


W, R, NOTHING = {"write_5m": 653}, {"read": 653}, {"plain": 653}
HOUR, PARK = {"write_1h": 653}, {"read": 653, "write_1h": 120}
JUDGED: list[tuple[str, Answer, str]] = [
    ("five minutes", in_turn(W, R), "differs"),
    ("one hour", in_turn(HOUR, HOUR, NOTHING, R), "unclear"),
    ("one hour", in_turn(HOUR, HOUR, NOTHING), "differs"),
    ("renewal", in_turn(W, R, NOTHING), "differs"),
    ("renewal", in_turn(W, NOTHING), "unclear"),
    ("parks", in_turn(W, {"read": 653, "write_5m": 120}), "unclear"),  # the park was billed for five minutes
    (
        "parks",
        in_turn(W, PARK, W, PARK, R, {"read": 773}),
        "unclear",
    ),
    (
        "parks",
        in_turn(W, PARK, W, PARK, {"read": 773}, R),
        "unclear",
    ),
    ("parks", in_turn(W, PARK, W, PARK, W), "differs"),
    ("another lifetime", in_turn(W, HOUR), "differs"),
    ("another lifetime", in_turn(W, R, R), "differs"),
    ("another lifetime", in_turn(W, NOTHING), "unclear"),
    ("mixed lifetimes", in_turn(W, {"read": 0, "write_1h": 893, "write_5m": 480}), "unclear"),
    ("mixed lifetimes", in_turn(W, {"read": 653, "write_5m": 720, "plain": 60}), "differs"),
    ("look-back", in_turn(W, R, NOTHING), "unclear"),  # found far and not near
    ("look-back", in_turn(W, NOTHING), "unclear"),  # gone
    ("look-back", in_turn(W, R), "differs"),  # as far as was looked
    ("tool runs", in_turn(W, NOTHING), "unclear"),
    ("four marks", always(), "differs"),
    ("order of marks", always(), "differs"),
    ("at once", always(read=653, write_5m=0), "differs"),
    ("at once", always(), "unclear"),
    ("first event", always(write_5m=653), "unclear"),
    ("models", in_turn(W, R), "differs"),
    ("models", in_turn(W, W, NOTHING), "unclear"),
    ("top level", in_turn(NOTHING), "differs"),
    ("top level", in_turn(W, W), "unclear"),
    ("ttl", in_turn(W, None), "differs"),
    ("zero tokens", in_turn(W, NOTHING), "differs"),
    ("markers", in_turn(None, NOTHING), "differs"),
    ("markers", in_turn({"write_5m": 713}, {"read": 713}, R), "differs"),
    ("markers", in_turn({"write_5m": 713}, NOTHING), "unclear"),
    ("minimum", always(), "unclear"),
    ("unasked", in_turn({"plain": 2260}, {"read": 2200}), "differs"),
]


@pytest.mark.parametrize(("name", "answer", "verdict"), JUDGED, ids=[f"{name}-{what}" for name, _, what in JUDGED])
def test_what_is_ambiguous_is_unclear(name: str, answer: Answer, verdict: str) -> None:
    finding, _ = drive(NAMED[name], answer)
    assert (finding.verdict if isinstance(finding, Finding) else "unclear") == verdict, finding


def test_lifetimes_that_the_counters_do_not_tell_apart() -> None:
    whole = {"cache_creation_input_tokens": 653, "cache_read_input_tokens": 0}
    answers = iter([lambda ask: seen(ask, write_5m=653, fields=whole), refused])
    finding, _ = drive(NAMED["ttl"], lambda ask: next(answers)(ask))
    assert finding == "an hour is accepted; the counters do not tell lifetimes apart"


def test_answers_that_come_too_late_settle_nothing() -> None:
    """The read in between came when the entry had ended and something else had written it again."""
    late = {200.0: 1301.0}
    answers = iter([W, R, R])
    finding, _ = drive(
        NAMED["renewal"], lambda ask: seen(ask, **next(answers), started=late.get(ask.at, 1000 + ask.at))
    )
    assert finding == "the prefix could not be read in between"


def test_only_one_counter() -> None:
    finding, _ = drive(NAMED["counters"], lambda ask: seen(ask, fields={"cache_read_input_tokens": 0}))
    assert isinstance(finding, Finding)
    assert (finding.verdict, finding.changes) == ("differs", {"counters": True})


def test_a_reply_without_thinking_tells_nothing_of_thinking() -> None:
    finding, asked = drive(
        NAMED["thinking"], lambda ask: seen(ask, write_5m=653, content=({"type": "text", "text": "x"},))
    )
    assert finding == "the model answered without thinking (text)"
    assert len(asked) == 1


UNCOUNTED = replace(BENCH, known=replace(FACTS, counters=False))


def test_marks_that_are_not_counted_are_believed_where_a_fifth_is_refused() -> None:
    """An engine that ignores them takes any number; whoever reads them takes four (vLLM and the API, 2026)."""
    ignored, asked = drive(NAMED["markers"], always(plain=700), UNCOUNTED)
    assert isinstance(ignored, Finding)
    assert ignored.changes == {"markers": False, "parks": False}
    assert str(asked[-1].body).count("cache_control") == 5
    read, _ = drive(NAMED["markers"], in_turn({"plain": 700}, None), UNCOUNTED)
    assert read == "markers are read; what they do is not counted"

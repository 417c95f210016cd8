"""Whatever the conversation: the marks are legal, where they belong, and nothing stored is touched."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions.core.cache import THINKING, Where, marked
from sessions.core.plan import plan_request, render
from sessions.core.profiles import Profile
from sessions.core.ttl import ExpectedCost, Fixed
from sessions.core.warmth import Warmth
from tests.core.strategies import UNKNOWN, Api, profiles, requests, with_blanks
from tests.core.world import bare, planned

quick = settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
policies = st.sampled_from([Fixed("5m"), Fixed("1h"), ExpectedCost()])
gaps = st.sampled_from([None, 10.0, 1000.0, 7200.0, float("inf")])


def may_carry_a_mark(block: dict[str, Any], tier: str) -> bool:
    """The rule of the API (docs/provider.md, 1), said again without the code under test."""
    if tier == "tools":
        return not block.get("defer_loading")
    if block["type"] in (*THINKING, *UNKNOWN):
        return False
    return block["type"] != "text" or bool(block["text"].strip())


def expected_place(body: dict[str, Any]) -> Where | None:
    """The last markable block of the latest assistant message that has one."""
    for number in range(len(body["messages"]) - 1, -1, -1):
        message = body["messages"][number]
        if message["role"] == "assistant":
            for index in range(len(message["content"]) - 1, -1, -1):
                if may_carry_a_mark(message["content"][index], "messages"):
                    return Where("messages", number, index)
    return None


def check(body: dict[str, Any], profile: Profile, warmth: Warmth, now: float, **options: Any) -> dict[str, Any]:
    before = deepcopy(body)
    prompt, plan = planned(body, profile, warmth, now, **options)
    stored = deepcopy((prompt.messages, prompt.request, prompt.settings))
    sent = render(prompt, plan.marks)
    assert (prompt.messages, prompt.request, prompt.settings) == stored
    assert body == before
    assert bare(sent) == bare(body)
    found = marked(sent)
    assert [(mark.where, mark.ttl) for mark in plan.marks] == found
    assert len(found) <= 4
    assert [ttl for _, ttl in found] == sorted((ttl for _, ttl in found), key=("1h", "5m").index)
    for (tier, number, index), _ in found:
        holder = sent[tier][number]["content"] if tier == "messages" else sent[tier]
        assert may_carry_a_mark(holder[index], tier)
    place = expected_place(body)
    assert place is None or place in [where for where, _ in found]
    assert plan.expected.total_input == prompt.total
    warmth.learn(plan.marks, plan.hit, plan.expected, now)
    return sent


@quick
@given(requests(), profiles, policies, gaps)
def test_a_request_is_marked_as_the_api_allows(body: dict[str, Any], profile: Profile, policy: Any, gap: Any) -> None:
    api = Api.of(profile)
    sent = check(api.signed(body), profile, Warmth(), 0.0, policy=policy, expected_gap=gap)
    exchange = api.receive(sent)
    assert exchange.ok, exchange.error


@quick
@given(with_blanks(), profiles, policies)
def test_blank_texts_never_carry_a_mark(body: dict[str, Any], profile: Profile, policy: Any) -> None:
    api = Api.of(profile)
    sent = check(api.signed(body), profile, Warmth(), 0.0, policy=policy)
    exchange = api.receive(sent)
    assert exchange.ok or "cache_control" not in str(exchange.error)


@settings(quick, max_examples=40)
@given(
    requests(), profiles, st.lists(st.tuples(policies, st.sampled_from([10.0, 310.0, 4000.0])), min_size=8, max_size=8)
)
def test_a_growing_conversation_stays_legal_however_long_the_pauses(
    body: dict[str, Any], profile: Profile, steps: list[tuple[Any, float]]
) -> None:
    """Each user message is a request; anchors, lapsed and mixed lifetimes come up here."""
    api, warmth, now = Api.of(profile), Warmth(), 0.0
    body = api.signed(body)
    ends = [n for n, message in enumerate(body["messages"], 1) if message["role"] == "user"]
    for end, (policy, pause) in zip(ends, steps, strict=False):
        sent = check({**body, "messages": body["messages"][:end]}, profile, warmth, now, policy=policy)
        assert api.receive(sent, now).ok
        now += pause


@quick
@given(requests(turns=3))
def test_the_planner_alone_keeps_every_field(body: dict[str, Any]) -> None:
    body = {**body, "stream": True, "metadata": {"user_id": "u"}, "stop_sequences": ["END"]}
    before = deepcopy(body)
    sent, plan = plan_request(body, now=0.0)
    assert body == before
    assert bare(sent) == bare(body)
    assert marked(sent) == [(mark.where, mark.ttl) for mark in plan.marks]

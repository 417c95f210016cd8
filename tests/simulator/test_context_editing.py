"""Context editing at the simulator: worked out from the whole history each time, and billed on what is left of it."""

from __future__ import annotations

from typing import Any

import pytest

from sessions.simulator import Engine, Exchange, filler
from sessions.simulator.checks.editing import CLEARED, TYPE, edited
from tests.core.strategies import assistant, call, result, user
from tests.sessions.world import MODEL

HEADERS = {
    "x-api-key": "k", "anthropic-version": "2023-06-01", "anthropic-beta": "context-management-2025-06-27",
}  # fmt: skip
TOOLS = [
    {"name": name, "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}
    for name in ("look", "find")
]


def looks(count: int) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = [user("look around")]
    for number in range(count):
        said += [assistant(call(f"c{number}")), user(result(f"c{number}", filler(1000)))]
    return said


def body(messages: list[dict[str, Any]], *edits: dict[str, Any], **fields: Any) -> dict[str, Any]:
    asked = {"context_management": {"edits": list(edits)}} if edits else {}
    return {"model": MODEL, "max_tokens": 9, "tools": TOOLS, "messages": messages, **asked, **fields}


def edit(keep: int = 3, uses: int = 1, **more: Any) -> dict[str, Any]:
    trigger, kept = ({"type": "tool_uses", "value": value} for value in (uses, keep))
    return {"type": TYPE, "trigger": trigger, "keep": kept, **more}


def told(given: dict[str, Any]) -> list[dict[str, Any]]:
    found = edited(given)[1]
    assert found is not None
    return [dict(one) for one in found]


def sent(engine: Engine, given: dict[str, Any], now: float = 0.0) -> Exchange:
    exchange = engine.receive(given, HEADERS, now)
    assert exchange.ok, exchange.error
    assert engine.answer(exchange, engine.ask(exchange))  # type: ignore[arg-type]
    engine.begin(exchange, now)
    engine.end(exchange, now)
    return exchange


def test_the_oldest_results_go_and_the_history_stays() -> None:
    given = body(looks(6), edit(keep=4))
    before = str(given)
    seen, done = edited(given)
    assert str(given) == before
    held = [message["content"][0]["content"] for message in seen["messages"][2::2]]
    assert held[:2] == [CLEARED] * 2
    assert CLEARED not in held[2:]
    assert "context_management" not in seen
    assert done is not None
    assert [one["cleared_tool_uses"] for one in done] == [2]
    assert 1900 < done[0]["cleared_input_tokens"] < 2100


def test_with_a_keep_that_stays_the_same_more_goes_each_time() -> None:
    assert [told(body(looks(count), edit()))[0]["cleared_tool_uses"] for count in (4, 5, 9)] == [1, 2, 6]


@pytest.mark.parametrize(
    ("one", "count"),
    [
        (edit(uses=6), 0),
        (edit(uses=5), 3),
        (edit(keep=6), 0),
        (edit(keep=0), 6),
        ({"type": TYPE}, 0),
        ({"type": TYPE, "trigger": {"type": "input_tokens", "value": 5000}}, 3),
        (edit(clear_at_least={"type": "input_tokens", "value": 2000}), 3),
        (edit(clear_at_least={"type": "input_tokens", "value": 4000}), 0),
        (edit(exclude_tools=["look"]), 0),
        (edit(exclude_tools=["find"]), 3),
    ],
)
def test_when_and_what(one: dict[str, Any], count: int) -> None:
    found = told(body(looks(6), one))
    assert [each["cleared_tool_uses"] for each in found] == ([count] if count else [])


def test_inputs_go_where_that_is_asked_for() -> None:
    messages = looks(5)
    for message in messages[1::2]:
        message["content"][0]["input"] = {"where": "there"}
    for asked, left in ((True, {}), (["look"], {}), (["find"], {"where": "there"}), (False, {"where": "there"})):
        seen = edited(body(messages, edit(clear_tool_inputs=asked)))[0]
        assert seen["messages"][1]["content"][0]["input"] == left
        assert seen["messages"][-2]["content"][0]["input"] == {"where": "there"}


def test_other_edits_are_left_as_they_are() -> None:
    other = {"type": "clear_thinking_20251015", "keep": "all"}
    seen, done = edited(body(looks(2), other))
    assert seen["context_management"] == {"edits": [other]}
    assert done == []
    plain = body(looks(2))
    assert edited(plain) == (plain, None)


def test_it_is_billed_and_cached_by_what_is_left() -> None:
    engine = Engine(lambda _: "Fine.")
    marked = looks(8)
    marked[-1]["content"][0]["cache_control"] = {"type": "ephemeral"}
    whole = sent(Engine(lambda _: "Fine."), body(marked))
    first = sent(engine, body(marked, edit(keep=3)))
    assert first.usage is not None
    assert whole.usage is not None
    assert whole.usage.total_input - first.usage.total_input == told(body(marked, edit()))[0]["cleared_input_tokens"]
    assert first.events is None or first.result is not None
    assert first.result is not None
    assert first.result["context_management"] == {"applied_edits": told(body(marked, edit()))}
    more = [*looks(8), assistant(call("c8")), user(result("c8", "seen"))]
    more[-1]["content"][0]["cache_control"] = {"type": "ephemeral"}
    same, other = sent(engine, body(more, edit(keep=4)), 9.0), sent(engine, body(more, edit(keep=3)), 9.0)
    assert same.usage is not None
    assert other.usage is not None
    assert same.usage.cache_read == first.usage.cache_read + first.usage.cache_write
    assert other.usage.cache_read == 0


def test_a_mark_on_what_is_cleared_does_nothing() -> None:
    messages = looks(8)
    messages[2]["content"][0]["cache_control"] = {"type": "ephemeral"}
    assert sent(Engine(lambda _: "Fine."), body(messages)).usage.cache_write > 1000  # type: ignore[union-attr]
    assert sent(Engine(lambda _: "Fine."), body(messages, edit())).usage.cache_write == 0  # type: ignore[union-attr]


def test_a_stream_tells_it_at_its_end() -> None:
    engine = Engine(lambda _: "Fine.")
    exchange = sent(engine, body(looks(8), edit(), stream=True))
    assert exchange.events is not None
    start, *_, delta, _ = [event.data for event in exchange.events]
    assert start["message"]["context_management"] is None
    assert delta["context_management"]["applied_edits"][0]["cleared_tool_uses"] == 5


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ({"edits": 5}, "context_management.edits"),
        ({"edits": [5]}, "context_management.edits.0"),
        ({"edits": [edit(keep=-1)]}, "keep.value"),
        ({"edits": [edit(odd=1)]}, "odd"),
        ({"edits": [{"type": TYPE, "keep": 3}]}, "keep"),
        ({"edits": [{"type": TYPE, "trigger": {"type": "messages", "value": 3}}]}, "trigger.type"),
    ],
)
def test_what_is_not_in_order_is_refused(asked: Any, path: str) -> None:
    exchange = Engine(lambda _: "Fine.").receive(body(looks(2), context_management=asked), HEADERS, 0.0)
    assert exchange.status == 400
    assert path in str(exchange.error)


def test_without_its_beta_it_is_refused() -> None:
    headers = {name: value for name, value in HEADERS.items() if name != "anthropic-beta"}
    exchange = Engine(lambda _: "Fine.").receive(body(looks(2), edit()), headers, 0.0)
    assert exchange.status == 400
    assert "context_management: Extra inputs are not permitted" in str(exchange.error)

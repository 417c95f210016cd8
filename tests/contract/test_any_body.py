"""Whatever is sent, the engine answers or refuses: it never raises, and what it accepts adds up."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions.simulator import Engine

HEADERS = {
    "x-api-key": "k",
    "anthropic-version": "2026-10-21",
    "anthropic-beta": "compact-2026-09-04,context-management-2025-06-27,thinking-binding-controls-2026-08-01,"
    "mid-conversation-output-config-2026-07-01",
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def body() -> dict[str, Any]:
    """A request with something of everything."""
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    document = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "words"},
        "title": "t",
    }
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    use = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"a": [1]}, "caller": {"type": "direct"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "text", "text": "r", **mark}, image],
    }
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 2000,
        "stream": True,
        "system": [{"type": "text", "text": "Be brief.", **mark}],
        "tools": [
            {
                "name": "look",
                "description": "d",
                "input_schema": {"type": "object", "properties": {"a": {"type": "array"}}},
            },
            {"type": "web_search_20260318", "name": "web_search", "max_uses": 3},
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
        "thinking": {
            "type": "adaptive",
            "display": "summarized",
            "block_binding": {"prefix_mismatch_behavior": "error"},
        },
        "output_config": {"effort": "high"},
        "metadata": {"user_id": "u"},
        "stop_sequences": ["stop"],
        "diagnostics": {"previous_message_id": None},
        "messages": [
            {"role": "user", "content": [image, document, {"type": "text", "text": "look"}]},
            {"role": "assistant", "content": [search, found, {"type": "text", "text": "t", "citations": None}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "go on"}]},
            {"role": "system", "content": "now"},
            {"role": "assistant", "content": "Fine."},
            {"role": "user", "content": [{"type": "text", "text": "bye", "cache_control": {"type": "ephemeral"}}]},
        ],
    }


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(
        [
            [],
            {},
            [{}],
            [[]],
            "\ud800",
            {"type": "text"},
            {"type": []},
            [{"type": "tool_result"}],
            {"type": "compaction", "content": None, "signature": "x"},
            {"type": "thinking", "thinking": "", "signature": "x"},
            {"role": "assistant", "content": []},
            {"role": "system", "output_config": {"effort": "low"}},
        ]
    ),
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value inside `value`."""
    found = [at] if at else []
    if isinstance(value, dict):
        return found + [path for key, inner in value.items() for path in paths(inner, (*at, key))]
    if isinstance(value, list):
        return found + [path for i, inner in enumerate(value) for path in paths(inner, (*at, i))]
    return found


PATHS = paths(body())


def holder(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        value = value[step]
    return value


def test_the_request_as_it_stands_is_accepted() -> None:
    exchange = Engine().receive(body(), HEADERS, 0.0)
    assert exchange.ok, exchange.error


@pytest.mark.parametrize("path", PATHS, ids=str)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=ODD)
def test_any_value_anywhere(path: tuple[Any, ...], odd: Any) -> None:
    request = body()
    holder(request, path)[path[-1]] = copy.deepcopy(odd)
    check(Engine(lambda request: "Fine."), request)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_anything_may_be_missing_or_unknown(path: tuple[Any, ...]) -> None:
    request = body()
    inside = holder(request, path)
    del inside[path[-1]]
    check(Engine(lambda request: "Fine."), request)
    request = body()
    inside = holder(request, path)
    if isinstance(inside, dict):
        inside["unknown"] = {"x": [1]}
        check(Engine(lambda request: "Fine."), request)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    )
)
def test_any_json_at_all(value: Any) -> None:
    check(Engine(), value)


def check(engine: Engine, request: Any) -> None:
    """Answered or refused, and if answered, every token is in exactly one bucket."""
    exchange = engine.receive(request, HEADERS, 0.0)
    if exchange.error is not None:
        assert 400 <= exchange.status < 500
        assert exchange.error["error"]["message"]
        return
    assert engine.answer(exchange, engine.ask(exchange))  # type: ignore[arg-type]
    engine.begin(exchange, 0.0)
    engine.end(exchange, 0.0)
    assert exchange.usage.total_input == exchange.prompt.total
    again = engine.receive(request, HEADERS, 1.0)
    assert again.ok
    if exchange.usage.cache_write:
        assert again.prompt.usage.cache_read == exchange.usage.cache_read + exchange.usage.cache_write

"""Replies as servers really send them: interleaved, repeated, cut, garbled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions.core.incoming import Incoming
from sessions.core.usage import Usage


def start(**usage: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "content": [], "usage": usage}}


def begin(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def say(index: int, text: str) -> dict[str, Any]:
    return delta(index, "text_delta", text=text)


def put(index: int, text: str) -> dict[str, Any]:
    return delta(index, "input_json_delta", partial_json=text)


def close(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def finish(reason: str | None = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    return [{"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}, {"type": "message_stop"}]


def tool(index: int, name: str = "look", **fields: Any) -> dict[str, Any]:
    return begin(index, type="tool_use", id=f"t{index}", name=name, input={}, **fields)


def fed(*events: dict[str, Any]) -> Incoming:
    incoming = Incoming()
    for event in events:
        incoming.feed(event)
    return incoming


def test_a_whole_reply() -> None:
    incoming = fed(
        start(input_tokens=3, cache_read_input_tokens=10, output_tokens=1),
        {"type": "ping"},
        begin(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="so "),
        delta(0, "thinking_delta", thinking="what"),
        delta(0, "signature_delta", signature="sig"),
        close(0),
        begin(1, type="text", text=""),
        say(1, "Hello"),
        delta(1, "citations_delta", citation={"n": 1}),
        delta(1, "citations_delta", citation={"n": 2}),
        delta(1, "future_delta", x=1),
        close(1),
        tool(2, caller={"type": "direct"}),
        put(2, ""),
        put(2, '{"b": 1,'),
        put(2, ' "a": 2}'),
        close(2),
        {"type": "future_event"},
        *finish("tool_use", output_tokens=9),
    )
    assert incoming.started
    assert incoming.ended
    assert incoming.message_id == "msg_1"
    assert incoming.stop_reason == "tool_use"
    assert incoming.unfinished_call is None
    assert incoming.usage == Usage(3, 10, output=9)
    assert incoming.reply == [
        {"type": "thinking", "thinking": "so what", "signature": "sig"},
        {"type": "text", "text": "Hello", "citations": [{"n": 1}, {"n": 2}]},
        {"type": "tool_use", "id": "t2", "name": "look", "input": {"b": 1, "a": 2}, "caller": {"type": "direct"}},
    ]
    assert list(incoming.reply[2]["input"]) == ["b", "a"]


def test_interleaved_blocks_are_put_together_by_index() -> None:
    """llama.cpp: start 0, deltas 0, start 1, deltas 1, stop 0, stop 1."""
    incoming = fed(
        start(), tool(1), begin(0, type="text", text=""), put(1, '{"x"'), say(0, "Hel"), put(1, ": 1}"), say(0, "lo"),
        close(0), close(1), *finish("tool_use"),
    )  # fmt: skip
    assert [block["type"] for block in incoming.reply] == ["text", "tool_use"]
    assert incoming.reply[0]["text"] == "Hello"
    assert incoming.reply[1]["input"] == {"x": 1}


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.data())
def test_any_interleaving_gives_the_same_reply(data: st.DataObject) -> None:
    lanes = [
        [begin(0, type="text", text=""), say(0, "a"), say(0, "b"), close(0)],
        [tool(1), put(1, '{"k": '), put(1, '"v"}'), close(1)],
        [tool(2), put(2, "[1"), put(2, "]"), close(2)],
    ]
    expected = fed(start(), *[event for lane in lanes for event in lane])
    mixed = Incoming()
    waiting = [list(lane) for lane in lanes]
    while any(waiting):
        mixed.feed(data.draw(st.sampled_from([lane for lane in waiting if lane])).pop(0))
    assert mixed.reply == expected.reply
    assert mixed.unfinished_call == expected.unfinished_call == "look"


def test_a_message_that_came_whole_is_the_one_that_came_in_pieces() -> None:
    """Its blocks are finished and its calls whole: nothing of it is taken for cut."""
    usage = {"input_tokens": 3, "cache_read_input_tokens": 10, "output_tokens": 9}
    pieces = fed(
        start(**usage), begin(0, type="text", text=""), say(0, "Hello"), close(0),
        tool(1), put(1, '{"a": 1}'), close(1), *finish("tool_use"),
    )  # fmt: skip
    whole = Incoming()
    whole.take({**start(**usage)["message"], "content": pieces.content, "stop_reason": "tool_use"})
    assert (whole.started, whole.ended, whole.closed) == (True, True, {0, 1})
    for name in ("reply", "stop_reason", "usage", "prompt_tokens", "message_id", "unfinished_call"):
        assert getattr(whole, name) == getattr(pieces, name), name
    assert whole.unfinished_call is None
    assert whole.partial() == pieces.partial() == [{"type": "text", "text": "Hello"}]


def test_a_message_without_content_that_came_whole_has_nothing_to_send_back() -> None:
    whole = Incoming()
    whole.take({"id": "msg_1", "role": "assistant", "content": [], "usage": {"input_tokens": 3, "output_tokens": 0}})
    assert (whole.ended, whole.reply, whole.stop_reason) == (True, [], None)
    assert whole.usage == Usage(3, counters=False)


USAGES = [
    pytest.param(
        {"input_tokens": 5, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 100, "output_tokens": 1,
         "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}},
        {"input_tokens": 5, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 100, "output_tokens": 7},
        Usage(5, 100, 10, 20, 7),
        id="the API repeats the counters",
    ),
    pytest.param(
        {"input_tokens": 5, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100,
         "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 20}},
        {"input_tokens": 9, "cache_creation_input_tokens": 50, "cache_read_input_tokens": 120, "output_tokens": 7},
        Usage(9, 120, 30, 20, 7),
        id="server tools write 5m entries later",
    ),
    pytest.param(
        {"input_tokens": 105, "output_tokens": 0},
        {"input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 7},
        Usage(5, 100, output=7),
        id="vLLM: the split comes last",
    ),
    pytest.param(
        {"input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 0},
        {"output_tokens": 7},
        Usage(5, 100, output=7),
        id="llama.cpp: reads only, at the start",
    ),
    pytest.param(
        {"input_tokens": 5},
        {"input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 7},
        Usage(5, output=7, counters=False),
        id="null says nothing",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("first", "last", "usage"), USAGES)
def test_the_last_value_of_each_usage_field_wins(first: Any, last: Any, usage: Usage) -> None:
    assert fed(start(**first), *finish(**last)).usage == usage


def test_context_management_and_other_fields_of_the_delta_are_kept() -> None:
    event = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "container": None},
        "context_management": {"a": 1},
    }
    incoming = fed(start(), event)
    assert incoming.message["context_management"] == {"a": 1}
    assert "container" not in incoming.message


def test_a_reply_that_was_cut_has_no_stop_reason() -> None:
    incoming = fed(start(), begin(0, type="text", text="Hel"))
    assert incoming.stop_reason is None
    assert not incoming.ended
    assert Incoming().message_id is None


UNFINISHED = [
    ([tool(0), close(0)], "tool_use", None),  # a tool without arguments
    ([tool(0), put(0, "{}"), close(0)], "tool_use", None),
    ([tool(0), put(0, '{"a": 1}'), close(0)], "max_tokens", None),  # whole all the same
    ([tool(0), put(0, ""), close(0)], "max_tokens", "look"),  # cut before its input came
    ([tool(0), close(0)], "model_context_window_exceeded", "look"),
    ([tool(0), put(0, '{"a": '), close(0)], "max_tokens", "look"),
    ([tool(0), put(0, '{"a": 1}')], "tool_use", "look"),  # never closed
    ([tool(0), put(0, "[]"), close(0)], "tool_use", "look"),
    ([tool(0), put(0, "null"), close(0)], "tool_use", "look"),
    ([tool(0), put(0, '{"a": NaN}'), close(0)], "tool_use", "look"),
    ([tool(0), put(0, "[" * 200_000), close(0)], "tool_use", "look"),
    ([tool(0), close(0), begin(1, type="text", text="a"), close(1)], "max_tokens", None),
    ([begin(0, type="text", text="a"), close(0)], "max_tokens", None),
    ([begin(0, type="server_tool_use", id="s", name="web", input={})], "end_turn", None),
]


@pytest.mark.parametrize(("events", "reason", "name"), UNFINISHED)
def test_a_call_whose_input_did_not_arrive_is_named(events: Any, reason: str, name: str | None) -> None:
    assert fed(start(), *events, *finish(reason)).unfinished_call == name


def test_stray_deltas_and_stops_make_nothing_that_could_be_sent() -> None:
    incoming = fed(put(3, "{}"), close(3), close(4), delta(5, "signature_delta", signature="s"))
    assert incoming.reply == []
    assert say(6, "late")["index"] == 6
    assert fed(say(6, "late")).reply == [{"type": "text", "text": "late"}]


def test_a_compaction_block_comes_in_one_piece() -> None:
    incoming = fed(begin(0, type="compaction", content=None), delta(0, "compaction_delta", content="sum"), close(0))
    assert incoming.reply == [{"type": "compaction", "content": "sum"}]


def test_blank_text_is_not_kept() -> None:
    incoming = fed(begin(0, type="text", text="\n\n"), close(0), tool(1), close(1))
    assert [block["type"] for block in incoming.reply] == ["tool_use"]


SERVER = begin(1, type="server_tool_use", id="s", name="web_search", input={})
FOUND = begin(2, type="web_search_tool_result", tool_use_id="s", content=[])
THOUGHT = [begin(0, type="thinking", thinking="hm", signature="")]
PARTIAL = [
    ([begin(1, type="text", text="so far")], ["text"]),
    ([begin(1, type="text", text=" ")], []),
    (THOUGHT, []),
    ([*THOUGHT, close(0)], []),
    ([*THOUGHT, delta(0, "signature_delta", signature="s")], []),
    ([*THOUGHT, delta(0, "signature_delta", signature="s"), close(0)], ["thinking"]),
    ([begin(0, type="redacted_thinking", data="x")], []),
    ([begin(0, type="redacted_thinking", data="x"), close(0)], ["redacted_thinking"]),
    ([tool(1), put(1, "{}"), close(1)], []),
    ([SERVER, close(1)], []),
    ([SERVER, close(1), FOUND], []),  # the result was not whole: neither is kept
    ([SERVER, close(1), FOUND, close(2)], ["server_tool_use", "web_search_tool_result"]),
    ([begin(1, type="mcp_tool_use", id="m", name="x", input={}), close(1)], []),
]


@pytest.mark.parametrize(("events", "kinds"), PARTIAL)
def test_what_may_be_kept_of_a_stopped_reply(events: Any, kinds: list[str]) -> None:
    assert [block["type"] for block in fed(start(), *events).partial()] == kinds


def test_input_deltas_need_not_be_utf8_friendly() -> None:
    text = json.dumps({"a": '🎉 \\ "'})
    incoming = fed(tool(0), *[put(0, letter) for letter in text], close(0))
    assert incoming.reply[0]["input"] == {"a": '🎉 \\ "'}

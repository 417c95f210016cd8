"""Thinking blocks that come back: what may be edited, what may not, who can read them (page of 2026)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from sessions.simulator import Scripted
from sessions.simulator.signing import readable

TOOL = {"name": "look", "description": "looks", "input_schema": {"type": "object"}}
OTHER = {"name": "other", "input_schema": {"type": "object"}}
BOUND = (
    "messages.{i}.content.0: Invalid `signature` in `thinking` block. The block is bound to a different conversation. "
    'Remove the block, or set `thinking.block_binding.prefix_mismatch_behavior` to "drop_block".'
)
CONTROL = {
    "thinking": {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}},
    "headers": {"anthropic-beta": "thinking-binding-controls-2026-08-01"},
}


def words(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


class Talk:
    """A conversation that goes on as a client would: replies are sent back as they came."""

    def __init__(self, api: Any, **fields: Any) -> None:
        self.api, self.messages = api, []
        self.fields = {"system": "Be brief.", "tools": [TOOL, OTHER], "max_tokens": 5000, **fields}

    def say(self, message: dict[str, Any] | None, **fields: Any) -> Any:
        if message is not None:
            self.messages.append(message)
        exchange = self.api.post(copy.deepcopy(self.messages), **{**self.fields, **fields})
        assert exchange.ok, exchange.error
        self.messages.append({"role": "assistant", "content": exchange.result["content"]})
        return exchange

    def error(self, **fields: Any) -> str:
        return str(self.api.error([*self.messages, words("Next")], **{**self.fields, **fields}))

    def accepted(self, **fields: Any) -> Any:
        exchange = self.api.post([*self.messages, words("Next")], **{**self.fields, **fields})
        assert exchange.ok, exchange.error
        return exchange


@pytest.fixture
def talk(make_api: Callable[..., Any]) -> Talk:
    """Three turns with thinking."""
    talk = Talk(
        make_api(script=lambda request: Scripted(f"Answer {request.index}", thinking=f"Thought {request.index}"))
    )
    for text in ("One", "Two", "Three"):
        talk.say(words(text))
    return talk


def test_a_reply_starts_with_an_empty_signed_block(talk: Talk) -> None:
    block = talk.messages[1]["content"][0]
    assert (block["type"], block["thinking"]) == ("thinking", "")
    assert block["signature"]


def test_display_decides_whether_the_text_is_shown(make_api) -> None:
    api = make_api(script=lambda request: Scripted("a", thinking="b" * 400))
    shown = Talk(api, thinking={"type": "adaptive", "display": "summarized"})
    exchange = shown.say(words("x"))
    assert shown.messages[1]["content"][0]["thinking"] == "b" * 400
    hidden = Talk(api)
    assert hidden.say(words("x")).usage.output == exchange.usage.output  # the full tokens are billed either way
    old = Talk(api, model="claude-sonnet-4-6", thinking={"type": "adaptive"})
    old.say(words("x"))
    assert old.messages[1]["content"][0]["thinking"] == "b" * 400


def test_hidden_thinking_is_billed_as_input_again(make_api) -> None:
    api = make_api(script=lambda request: Scripted("a", thinking="b" * 4000))
    talk = Talk(api)
    before = talk.say(words("x")).usage.total_input
    assert talk.say(words("y")).usage.total_input > before + 1000


KEEPS_BINDING: list[tuple[str, Callable[[Talk], dict[str, Any]]]] = [
    ("as it was", lambda talk: {}),
    ("tools in another order", lambda talk: {"tools": [OTHER, TOOL]}),
    ("keys in another order", lambda talk: {"tools": [dict(reversed(TOOL.items())), OTHER]}),
    ("effort", lambda talk: {"output_config": {"effort": "low"}}),
    ("max_tokens", lambda talk: {"max_tokens": 10}),
    ("tool_choice", lambda talk: {"tool_choice": {"type": "none"}}),
    ("thinking settings", lambda talk: {"thinking": {"type": "between_tools"}}),
    ("system as blocks", lambda talk: {"system": [{"type": "text", "text": "Be brief."}]}),
]


@pytest.mark.parametrize(("name", "change"), KEEPS_BINDING)
def test_what_is_no_edit(talk: Talk, name: str, change: Callable[[Talk], dict[str, Any]]) -> None:
    talk.accepted(**change(talk))


BREAKS_BINDING: list[tuple[str, dict[str, Any], int]] = [
    ("system", {"system": "Be long."}, 1),
    ("a tool less", {"tools": [TOOL]}, 1),
    ("a tool more", {"tools": [TOOL, OTHER, {"name": "x", "input_schema": {"type": "object"}}]}, 1),
    ("a description", {"tools": [{**TOOL, "description": "stares"}, OTHER]}, 1),
]


@pytest.mark.parametrize(("name", "change", "at"), BREAKS_BINDING)
def test_an_edit_is_refused_where_it_first_matters(talk: Talk, name: str, change: dict[str, Any], at: int) -> None:
    assert talk.error(**change) == BOUND.format(i=at)


def test_markers_and_shapes_are_no_edit(talk: Talk) -> None:
    talk.messages[0] = {"role": "user", "content": "One"}
    talk.messages[2]["content"][0]["cache_control"] = {"type": "ephemeral"}
    talk.messages[3]["content"][1]["cache_control"] = {"type": "ephemeral", "ttl": "5m"}
    talk.accepted()


def test_editing_an_earlier_message_is_refused(talk: Talk) -> None:
    talk.messages[2] = words("Two, really")
    assert talk.error() == BOUND.format(i=3)


def test_editing_the_latest_turn_is_allowed(talk: Talk) -> None:
    talk.messages[-1]["content"][1]["text"] = "Another answer"
    talk.accepted()


def test_a_branch_from_an_unchanged_prefix_is_allowed(talk: Talk) -> None:
    del talk.messages[2:]
    talk.accepted()


def strip(messages: list[dict[str, Any]], *indexes: int) -> None:
    for i in indexes:
        messages[i]["content"] = [block for block in messages[i]["content"] if block["type"] != "thinking"]


@pytest.mark.parametrize(
    ("stripped", "ok"), [((1,), True), ((5,), True), ((1, 3, 5), True), ((1, 3), True), ((3,), False)]
)
def test_thinking_goes_from_the_ends_never_from_the_middle(talk: Talk, stripped: tuple[int, ...], ok: bool) -> None:
    strip(talk.messages, *stripped)
    if ok:
        talk.accepted()
    else:
        assert talk.error() == BOUND.format(i=5)


def test_once_removed_never_put_back(talk: Talk) -> None:
    kept = copy.deepcopy(talk.messages)
    strip(talk.messages, 1, 3, 5)
    talk.say(words("Four"))
    talk.accepted()
    talk.messages[:6] = kept
    assert talk.error() == BOUND.format(i=7)


def test_the_remedies_are_to_strip_all_or_to_drop(talk: Talk) -> None:
    full = talk.accepted().usage.total_input
    exchange = talk.accepted(system="Be long.", **CONTROL)
    assert exchange.result["input_transformations"] == [
        {"type": "thinking_dropped", "path": f"messages.{i}.content.0", "reason": "prefix_binding_mismatch"}
        for i in (1, 3, 5)
    ]
    assert exchange.usage.total_input < full
    assert talk.accepted(**CONTROL).result["input_transformations"] == []
    strip(talk.messages, 1, 3, 5)
    talk.accepted(system="Be long.")


def test_marks_move_with_dropped_blocks(talk: Talk) -> None:
    talk.messages[0]["content"][0]["text"] = "x" * 4000
    talk.messages[5]["content"][1]["cache_control"] = {"type": "ephemeral"}
    exchange = talk.accepted(**CONTROL)
    assert exchange.usage.cache_write_5m > 1000
    assert exchange.usage.input < 10


@pytest.mark.parametrize("model", ["claude-sonnet-4-6", "claude-opus-4-8", "claude-mythos-5-1", "claude-sonnet-5"])
def test_older_models_do_not_check_the_prefix(make_api, model: str) -> None:
    talk = Talk(
        make_api(script=lambda request: Scripted("a", thinking="b")), model=model, thinking={"type": "adaptive"}
    )
    talk.say(words("One"))
    talk.accepted(system="Be long.")


TAMPERED = [("AAAA", "not ours"), ("%%%", "not base64"), ("", "nothing")]


@pytest.mark.parametrize(("signature", "why"), TAMPERED)
def test_a_tampered_signature_is_always_refused(talk: Talk, signature: str, why: str) -> None:
    talk.messages[1]["content"][0]["signature"] = signature
    assert talk.error() == "messages.1.content.0: Invalid `signature` in `thinking` block"
    assert talk.error(**CONTROL) == "messages.1.content.0: Invalid `signature` in `thinking` block"


def test_text_in_an_omitted_block_is_ignored_and_in_a_shown_one_refused(make_api, talk: Talk) -> None:
    talk.messages[1]["content"][0]["thinking"] = "something else"
    talk.accepted()
    shown = Talk(
        make_api(script=lambda request: Scripted("a", thinking="b")),
        thinking={"type": "adaptive", "display": "summarized"},
    )
    shown.say(words("One"))
    shown.messages[1]["content"][0]["thinking"] = "something else"
    assert "blocks in the latest assistant message cannot be modified" in shown.error()
    shown.messages += [words("Two"), {"role": "assistant", "content": "Fine."}]
    assert shown.error() == "messages.1.content.0: Invalid `signature` in `thinking` block"


def test_redacted_thinking_comes_back_unchanged(make_api) -> None:
    content = [{"type": "redacted_thinking", "data": "secret"}, {"type": "text", "text": "a"}]
    talk = Talk(make_api(script=lambda request: Scripted(content)))
    talk.say(words("One"))
    talk.accepted()
    assert talk.error(system="Be long.") == BOUND.format(i=1)
    talk.messages[1]["content"][0]["data"] = "AAAA"
    assert talk.error() == "messages.1.content.0: Invalid `data` in `redacted_thinking` block"


# -- inside a tool round ---------------------------------------------------------------------------


def round_(make_api: Callable[..., Any], **fields: Any) -> Talk:
    """A tool round with two thinking blocks, one of them redacted; the result is in place."""
    content = [
        {"type": "thinking", "thinking": "first"},
        {"type": "redacted_thinking", "data": "second"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
    ]
    talk = Talk(make_api(script=lambda request: Scripted(content)), **fields)
    talk.say(words("Look"))
    talk.messages.append(
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}]}
    )
    return talk


def test_a_filter_that_drops_redacted_thinking_is_refused(make_api) -> None:
    talk = round_(make_api)
    talk.messages[1]["content"].pop(1)
    expected = (
        "messages.1.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be "
        "modified. These blocks must remain as they were in the original response."
    )
    assert talk.api.error(talk.messages, **talk.fields) == expected


def test_thinking_in_another_order_is_refused(make_api) -> None:
    talk = round_(make_api)
    content = talk.messages[1]["content"]
    content[0], content[1] = content[1], content[0]
    assert "cannot be modified" in talk.api.error(talk.messages, **talk.fields)


def test_all_of_it_may_go_where_thinking_adapts(make_api) -> None:
    talk = round_(make_api)
    del talk.messages[1]["content"][:2]
    assert talk.api.post(talk.messages, **talk.fields).ok


def test_manual_thinking_needs_it_first(make_api) -> None:
    manual = {"model": "claude-sonnet-4-5", "thinking": {"type": "enabled", "budget_tokens": 1024}}
    talk = round_(make_api, **manual)
    assert talk.api.post(talk.messages, **talk.fields).ok
    del talk.messages[1]["content"][:2]
    expected = "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`."
    assert talk.api.error(talk.messages, **talk.fields).startswith(expected)


def test_switching_thinking_on_inside_a_round_is_silently_off(make_api) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    replies = iter([Scripted([call]), Scripted("Done.", thinking="now")])
    talk = Talk(make_api(script=lambda request: next(replies)), model="claude-sonnet-4-5")
    talk.say(words("Look"))
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]}
    exchange = talk.say(result, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [block["type"] for block in exchange.result["content"]] == ["text"]


# -- another model ---------------------------------------------------------------------------------

READS = [
    ("claude-fable-5-1", "claude-mythos-5-1", True),
    ("claude-mythos-5-1", "claude-fable-5-1", True),
    ("claude-fable-5-1", "claude-opus-4-8", True),
    ("claude-fable-5-1", "claude-opus-5-5", True),
    ("claude-opus-5-5", "claude-opus-5", True),
    ("claude-opus-5-5", "claude-sonnet-4-6", True),
    ("claude-opus-5-5", "claude-fable-5", False),
    ("claude-mythos-5-2", "claude-fable-5-2", True),
    ("claude-opus-5-5", "claude-fable-5-2", False),
    ("claude-fable-5-1", "claude-fable-5-2", False),
    ("claude-opus-5-5", "claude-sonnet-5-5", False),
    ("claude-sonnet-5-5", "claude-sonnet-5-5", True),
    ("claude-sonnet-4-5", "claude-opus-5", False),
]


@pytest.mark.parametrize(("reader", "writer", "can"), READS)
def test_who_reads_whose_thinking(reader: str, writer: str, can: bool) -> None:
    assert readable(reader, writer) is can


def test_unreadable_thinking_is_dropped_in_silence_and_not_billed(talk: Talk) -> None:
    own = talk.accepted().usage.total_input
    other = talk.accepted(model="claude-opus-5-5")
    assert other.usage.total_input < own
    assert "input_transformations" not in other.result
    talk.accepted()


def test_imported_history_can_be_signed(api) -> None:
    history = [
        words("One"),
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "hm", "signature": "foreign"}, {"type": "text", "text": "a"}],
        },
        words("Two"),
    ]
    assert "Invalid `signature`" in api.error(history, system="s")
    signed = api.engine.sign({"model": "claude-sonnet-5-5", "system": "s", "messages": history})
    assert api.post(signed, system="s").ok
    assert api.error(signed, system="t") == BOUND.format(i=1)

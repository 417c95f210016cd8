"""On-demand compaction (compaction page, September 2026; error codes of the SDK's own types)."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anthropic.types.compaction_content_mismatch_error import CompactionContentMismatchError

from sessions.core.usage import Usage
from sessions.simulator import Scripted, client, engine_of

BETA = {"headers": {"anthropic-beta": "compact-2026-09-04"}}
ASK: dict[str, Any] = {"compaction": {"type": "summarize"}, "max_tokens": 5000, **BETA}


def words(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def talk(api: Any, *lines: str, **fields: Any) -> list[dict[str, Any]]:
    """A conversation of these user messages and their replies."""
    messages: list[dict[str, Any]] = []
    for line in lines:
        messages.append(words(line))
        reply = api.post(messages, max_tokens=5000, **fields)
        assert reply.ok, reply.error
        messages.append({"role": "assistant", "content": reply.result["content"]})
    return messages


@pytest.fixture
def thinking(make_api) -> Any:
    return make_api(script=lambda request: Scripted("Fine.", thinking="hm"))


def test_one_block_stands_for_the_conversation(thinking) -> None:
    messages = talk(thinking, "My dog is Rex.", "And more")
    exchange = thinking.post(messages, **ASK)
    assert exchange.stop_reason == "compaction"
    (block,) = exchange.result["content"]
    assert "User: My dog is Rex." in block["content"]
    later = [{"role": "assistant", "content": [block]}, words("Next")]
    assert thinking.post(later, **BETA).ok
    assert "requires the beta header" in thinking.error(later)


def test_usage_is_in_the_iterations_only(thinking) -> None:
    exchange = thinking.post(talk(thinking, "One"), **ASK)
    usage = exchange.result["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (0, 0)
    assert Usage.from_api(usage) == exchange.usage
    assert exchange.usage.output > 0


def test_thinking_behind_it_stays_valid_while_system_and_tools_do(thinking) -> None:
    messages = talk(thinking, "One", "Two", system="s")
    block = thinking.post(messages, system="s", **ASK).result["content"][0]
    first = {"role": "assistant", "content": [block]}
    reply = thinking.post([first, words("Three")], system="s", **BETA)
    later = [first, words("Three"), {"role": "assistant", "content": reply.result["content"]}, words("Four")]
    assert thinking.post(later, system="s", **BETA).ok
    assert "bound to a different conversation" in thinking.error(later, system="t", **BETA)


def test_what_does_not_go_together(thinking) -> None:
    messages = talk(thinking, "One")
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    for fields in (
        {"stop_sequences": ["x"]},
        {"output_config": {"format": {"type": "json_schema"}}},
        {"tools": tools, "tool_choice": {"type": "any"}, "model": "claude-haiku-5-5"},
    ):
        assert "compaction: cannot be combined with" in thinking.error(messages, **{**ASK, **fields})
    assert "compaction: Extra inputs" in thinking.error(messages, compaction={"type": "summarize"})


def code(exchange: Any) -> Any:
    return exchange.error["error"]["details"]["error_code"]


def test_each_refusal_has_its_code(thinking) -> None:
    messages = talk(thinking, "One")
    block = thinking.post(messages, **ASK).result["content"][0]
    first, later = {"role": "assistant", "content": [block]}, words("Two")
    use = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]}
    assert code(thinking.post([words("x"), use], **ASK)) == "compaction_incomplete_turn"
    assert code(thinking.post([first], **ASK)) == "compaction_nothing_to_summarize"
    assert code(thinking.post([later, first, later], **BETA)) == "compaction_block_misplaced"
    assert code(thinking.post([first, later, first, later], **BETA)) == "compaction_block_ambiguous"
    for change, expected in (
        ({"signature": "AAAA"}, "compaction_signature_invalid"),
        ({"content": "Nothing happened."}, "compaction_content_mismatch"),
        ({"tool_changes": None}, "compaction_tool_changes_mismatch"),
    ):
        changed = {"role": "assistant", "content": [{**block, **change}]}
        assert code(thinking.post([changed, later], **BETA)) == expected


def test_the_sdk_streams_it_in_one_piece() -> None:
    async def main() -> None:
        simulated = client()
        fields: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 5000, "betas": ["compact-2026-09-04"]}
        ask = [words("My name is Ada.")]
        async with simulated.beta.messages.stream(messages=ask, compaction={"type": "summarize"}, **fields) as stream:
            message = await stream.get_final_message()
        block = message.content[0].model_dump(exclude_none=True)
        assert message.stop_reason == "compaction"
        messages: Any = [{"role": "assistant", "content": [block]}, words("What is my name?")]
        reply = await simulated.beta.messages.create(messages=messages, **fields)
        assert reply.content[-1].text == "Your name is Ada."
        broken: Any = [{"role": "assistant", "content": [{**block, "content": "x"}]}, words("What is my name?")]
        with pytest.raises(CompactionContentMismatchError):
            await simulated.beta.messages.create(messages=broken, **fields)
        assert engine_of(simulated).bill().charged == 2

    anyio.run(main)

"""What we send, in sessions of many kinds, is what the SDK's own parameter types describe."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.contract.kinds import HOUR, IMAGE, LIVES, MODEL, SCHEMA, SEARCH, SETTINGS, bodies, shape
from tests.contract.referee import TYPES, Sent, faults, judged


async def test_every_kind_of_body_is_what_the_types_say() -> None:
    kinds: dict[Any, Sent] = {}
    found: dict[str, list[str]] = {}
    for name in [*SETTINGS, *LIVES]:
        for one in await bodies(name):
            kinds[shape(list(one))] = one
            if wrong := judged(one):
                found.setdefault(name, []).extend(wrong)
    assert not found
    assert len(kinds) >= 165, len(kinds)
    sent = [one for _, _, body in kinds.values() for one in _objects(body)]
    types = {one.get("type") for one in sent}
    assert types >= {"text", "image", "document", "search_result", "tool_use", "tool_result", "thinking", "compaction"}
    assert types >= {"server_tool_use", "web_search_tool_result", "summarize", "clear_tool_uses_20250919"}
    assert {one.get("role") for one in sent} >= {"user", "assistant", "system"}
    assert {0, 1, 4000} >= {one["max_tokens"] for one in sent if "max_tokens" in one} >= {0, 4000}
    assert {(one.get("block_binding") or {}).get("prefix_mismatch_behavior") for one in sent} >= {"drop_block"}
    assert {path for path, _, _ in kinds.values()} == {"/v1/messages", "/v1/messages/batches"}
    for place in ("system", "tools", "messages"):
        marked = [one for _, _, body in kinds.values() for one in _objects(body.get(place)) if "cache_control" in one]
        assert {str(one["cache_control"].get("ttl", "5m")) for one in marked} == {"5m", "1h"}, place


def _objects(value: Any) -> list[dict[str, Any]]:
    """Every object inside, itself included."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(found for one in inside for found in _objects(one))]


# -- the referee sees what is wrong --

GOOD: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 10,
    "stream": True,
    "system": [{"type": "text", "text": "s", "cache_control": HOUR}],
    "tools": [{"name": "look", "input_schema": SCHEMA}, SEARCH],
    "thinking": {"type": "adaptive"},
    "messages": [
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "t"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}]},
    ],
}
GONE = object()
WRONG: list[tuple[tuple[Any, ...], Any, str]] = [
    (("max_tokens",), GONE, ".max_tokens is missing"),
    (("max_tokens",), "10", ".max_tokens: '10' is no int"),
    (("max_tokens",), True, ".max_tokens: True is no int"),
    (("stream",), 1, ".stream: 1 is none of"),
    (("temperature",), 0.5, ".temperature is unknown"),
    (("betas",), ["x"], ".betas is unknown"),
    (("context_management",), {"edits": []}, ".context_management is unknown"),
    (("messages",), {}, ".messages: {} is no list"),
    (("messages", 0, "role"), "tool", ".messages[0].role: 'tool' is none of"),
    (("messages", 0, "content", 1, "type"), "txt", ".messages[0].content[1].type: 'txt' is none of"),
    (("messages", 0, "content", 1, "text"), None, ".messages[0].content[1].text: None is no str"),
    (("messages", 0, "content", 1, "parsed"), 1, ".messages[0].content[1].parsed is unknown"),
    (("messages", 0, "content", 0, "source", "media_type"), "image/svg+xml", ".media_type: 'image/svg+xml' is none of"),
    (("messages", 1, "content", 0, "input"), "{}", ".messages[1].content[0].input: '{}' is no object"),
    (("messages", 2, "content", 0, "tool_use_id"), GONE, ".messages[2].content[0].tool_use_id is missing"),
    (("messages", 2, "content", 0, "content", 0, "type"), "audio", ".content[0].content[0].type: 'audio' is none of"),
    (("system", 0, "cache_control", "ttl"), "2h", ".system[0].cache_control.ttl: '2h' is none of"),
    (("system", 0), IMAGE, ".system[0].type: 'image' is none of"),
    (("tools", 0, "input_schema"), GONE, ".tools[0].input_schema is missing"),
    (("tools", 1, "max_uses"), 1.5, ".tools[1].max_uses: 1.5 is no int"),
    (("thinking",), {"type": "enabled"}, ".thinking.budget_tokens is missing"),
    (("tool_choice",), {"type": "tool"}, ".tool_choice.name is missing"),
    (("output_config",), {"effort": "some"}, ".output_config.effort: 'some' is none of"),
]


def test_a_good_body_is_good() -> None:
    assert faults(GOOD, TYPES["/v1/messages", False]) == []
    assert faults({**GOOD, "context_management": {"edits": []}}, TYPES["/v1/messages", True]) == []


@pytest.mark.parametrize(("path", "value", "words"), WRONG, ids=[words for _, _, words in WRONG])
def test_one_wrong_thing_is_seen(path: tuple[Any, ...], value: Any, words: str) -> None:
    body = copy.deepcopy(GOOD)
    inside: Any = body
    for step in path[:-1]:
        inside = inside[step]
    if value is GONE:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    wrong = judged(("/v1/messages", False, body))
    assert any(words in one for one in wrong), wrong
    batch = {"requests": [{"custom_id": "a", "params": {**body, "stream": False}}]}
    assert path == ("stream",) or judged(("/v1/messages/batches", False, batch))


@pytest.mark.parametrize("broken", [{"custom_id": 1}, {"params": GOOD}, {"more": 1}])
def test_one_wrong_thing_in_a_batch_is_seen(broken: dict[str, Any]) -> None:
    good = {"custom_id": "a", "params": {name: one for name, one in GOOD.items() if name != "stream"}}
    assert not judged(("/v1/messages/batches", False, {"requests": [good]}))
    assert judged(("/v1/messages/batches", False, {"requests": [{**good, **broken}]}))

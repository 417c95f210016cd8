"""What the API refuses, with its own words. Texts are from public logs and the SDK; each table names its page."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from typing import Any

import pytest

from sessions.core.profiles import profile_for

EPHEMERAL = {"type": "ephemeral"}


def said(text: str, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text, **more}]}


def one(block: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [block]}]


HI = [said("Hi")]
USE = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}
TOOL = {"name": "look", "input_schema": {"type": "object"}}

# -- shape (the types of the SDK; pydantic's words) ------------------------------------------------

SHAPES: list[tuple[Any, dict[str, Any], str]] = [
    (HI, {"max_tokens": ...}, "max_tokens: Field required"),
    (HI, {"model": ...}, "model: Field required"),
    (..., {}, "messages: Field required"),
    (HI, {"temprature": 1}, "temprature: Extra inputs are not permitted"),
    (HI, {"max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
    (HI, {"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
    (
        HI,
        {"max_tokens": 128001},
        "max_tokens: 128001 > 128000, which is the maximum allowed number of output tokens for",
    ),
    (HI, {"metadata": {"user": "u"}}, "metadata.user: Extra inputs are not permitted"),
    (HI, {"context_management": {"edits": []}}, "context_management: Extra inputs are not permitted"),
    (HI, {"thread": {"type": "create"}}, "thread: Extra inputs are not permitted"),
    ([], {}, "messages: at least one message is required"),
    ([{"content": "x"}], {}, "messages.0.role: Field required"),
    ([{"role": "user"}], {}, "messages.0.content: Field required"),
    ([{"role": "tool", "content": "x"}], {}, 'messages: Unexpected role "tool"'),
    ([{"role": "user", "content": "x", "name": "n"}], {}, "messages.0.name: Extra inputs are not permitted"),
    (one({"text": "x"}), {}, "messages.0.content.0.type: Field required"),
    (one({"type": "video"}), {}, "messages.0.content.0: Input tag 'video' found using 'type' does not match any of"),
    (one({"type": "text"}), {}, "messages.0.content.0.text.text: Field required"),
    (one({"type": "text", "text": "x", "x": 1}), {}, "messages.0.content.0.text.x: Extra inputs are not permitted"),
    (
        [*HI, *one({**USE, "input": [1]}, "assistant")],
        {},
        "messages.1.content.0.tool_use.input: Input should be a valid dict",
    ),
    ([*HI, *one({**USE, "id": "a b"}, "assistant")], {}, "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"),
    (one(USE), {}, "messages.0.content.0: `tool_use` blocks can only be in `assistant` messages"),
    ([*HI, *one(RESULT, "assistant")], {}, "`tool_result` blocks can only be in `user` messages"),
    (HI, {"tools": [{"name": "look"}]}, "tools.0.custom.input_schema: Field required"),
    (HI, {"tools": [{**TOOL, "input_schema": {}}]}, "tools.0.custom.input_schema.type: Field required"),
    (HI, {"tools": [{**TOOL, "name": "a b"}]}, "tools.0.custom.name: String should match pattern"),
    (HI, {"tools": [{**TOOL, "function": {}}]}, "tools.0.custom.function: Extra inputs are not permitted"),
    (HI, {"tools": [{"type": "web_search", "name": "w"}]}, "tools.0: Input tag 'web_search' found using 'type'"),
    (HI, {"tools": [TOOL, TOOL]}, "tools: Tool names must be unique."),
    (HI, {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "Tool 'x' not found in provided tools"),
    (HI, {"tool_choice": {"type": "auto"}}, "tool_choice: tool_choice may only be specified while providing tools"),
    (HI, {"stop_sequences": [" "]}, "stop_sequences: each stop sequence must contain non-whitespace"),
]


@pytest.mark.parametrize(("messages", "fields", "text"), SHAPES)
def test_the_shape_of_a_request(api, messages: Any, fields: dict[str, Any], text: str) -> None:
    assert text in api.error(messages, **fields)


def test_an_unknown_model_is_not_found(api) -> None:
    exchange = api.post(HI, model="claude-9")
    assert exchange.status == 404
    assert exchange.error["error"] == {"type": "not_found_error", "message": "model: claude-9"}
    assert exchange.error["request_id"] == exchange.headers["request-id"]


def test_without_a_key_or_a_version(api) -> None:
    assert api.post(HI, headers={"x-api-key": ""}).status == 401
    assert (
        api.engine.receive({}, {"x-api-key": "k"}, 0.0).error["error"]["message"]
        == "anthropic-version: header is required"
    )


# -- markers (prompt-caching page, 2026; texts from public logs) -----------------------------------


def markers(*ttls: str) -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": f"{at}", "cache_control": {"type": "ephemeral", "ttl": ttl}}
                for at, ttl in enumerate(ttls)
            ],
        }
    ]


ORDER = (
    "messages.0.content.1.cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' "
    "cache_control block. Note that blocks are processed in the following order: `tools`, `system`, `messages`."
)
MARKERS: list[tuple[Any, dict[str, Any], str]] = [
    (markers("5m", "5m", "5m", "5m", "5m"), {}, "A maximum of 4 blocks with cache_control may be provided. Found 5."),
    (markers("5m", "5m", "5m", "5m"), {"system": [said("s", cache_control=EPHEMERAL)["content"][0]]}, "Found 5."),
    (
        [*markers("5m", "5m", "5m", "5m"), said("x", "assistant"), said("y")],
        {"cache_control": EPHEMERAL},
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ),
    (markers("5m", "1h"), {}, ORDER),
    (
        [said("x")],
        {"system": [said("s", cache_control=EPHEMERAL)["content"][0]], "cache_control": {**EPHEMERAL, "ttl": "1h"}},
        "a ttl='1h' cache_control block must not come after",
    ),
    (
        [said("x", cache_control=EPHEMERAL)],
        {"cache_control": {**EPHEMERAL, "ttl": "1h"}},
        "conflicts with the top-level",
    ),
    ([said("x", cache_control={"type": "forever"})], {}, "cache_control.type: Input should be 'ephemeral'"),
    ([said("x", cache_control={**EPHEMERAL, "ttl": "2h"})], {}, "ttl: Input should be '5m' or '1h'"),
    ([said("x", cache_control={**EPHEMERAL, "scope": "g"})], {}, "cache_control.ephemeral.scope: Extra inputs are not"),
    (
        [said("x"), said("", "assistant", cache_control=EPHEMERAL), said("y")],
        {},
        "messages.1.content.0.text: cache_control cannot be set for empty text blocks",
    ),
    (
        [
            *HI,
            *one({"type": "thinking", "thinking": "", "signature": "x", "cache_control": EPHEMERAL}, "assistant"),
            *HI,
        ],
        {},
        "messages.1.content.0.thinking.cache_control: Extra inputs are not permitted",
    ),
    (
        [*HI, *one({"type": "redacted_thinking", "data": "x", "cache_control": EPHEMERAL}, "assistant"), *HI],
        {},
        "messages.1.content.0.redacted_thinking.cache_control: Extra inputs are not permitted",
    ),
    (
        HI,
        {"tools": [{**TOOL, "defer_loading": True, "cache_control": EPHEMERAL}]},
        "Tool 'look' cannot have both defer_loading=true and cache_control set.",
    ),
]


@pytest.mark.parametrize(("messages", "fields", "text"), MARKERS)
def test_markers(api, messages: Any, fields: dict[str, Any], text: str) -> None:
    assert text in api.error(messages, **fields)


def test_inner_markers_of_a_tool_result_count_and_stand_before_their_own(api) -> None:
    inner = [{"type": "text", "text": str(n), "cache_control": {**EPHEMERAL, "ttl": "1h"}} for n in range(4)]
    result = {**RESULT, "content": inner}
    turns = [*HI, *one(USE, "assistant")]
    assert api.post([*turns, *one(result)], tools=[TOOL]).ok
    assert "Found 5." in api.error([*turns, *one({**result, "cache_control": EPHEMERAL})], tools=[TOOL])
    mixed = {
        **RESULT,
        "content": [{**inner[0], "cache_control": EPHEMERAL}],
        "cache_control": {**EPHEMERAL, "ttl": "1h"},
    }
    assert "must not come after" in api.error([*turns, *one(mixed)], tools=[TOOL])


def test_an_endpoint_without_long_entries_knows_no_ttl(make_api) -> None:
    api = make_api(profile=replace(profile_for("claude-sonnet-5-5"), ttls=("5m",)))
    assert "ttl: Extra inputs are not permitted" in api.error([said("x", cache_control={**EPHEMERAL, "ttl": "5m"})])
    assert api.post([said("x", cache_control=EPHEMERAL)]).ok


# -- max_tokens: 0 (pre-warming page, August 2026) -------------------------------------------------

PREWARM: list[dict[str, Any]] = [
    {"stream": True},
    {"model": "claude-sonnet-4-5", "thinking": {"type": "enabled", "budget_tokens": 1024}},
    {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
    {"model": "claude-haiku-5-5", "tools": [TOOL], "tool_choice": {"type": "any"}},
    {"model": "claude-haiku-5-5", "tools": [TOOL], "tool_choice": {"type": "tool", "name": "look"}},
]


@pytest.mark.parametrize("fields", PREWARM, ids=str)
def test_a_zero_token_request_refuses(api, fields: dict[str, Any]) -> None:
    assert "max_tokens: must be at least 1 when" in api.error(HI, max_tokens=0, **fields)


def test_an_endpoint_that_needs_one_token(make_api) -> None:
    api = make_api(profile=replace(profile_for("m", "vllm"), prewarm_max_tokens=1))
    assert "greater than or equal to 1" in api.error(HI, max_tokens=0)


# -- the sequence of messages (Messages reference and tool-use pages, 2026) ------------------------

MISSING = (
    "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1. "
    "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
)
ORPHAN = (
    "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1. "
    "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
)
PREFILL = "This model does not support assistant message prefill. The conversation must end with a user message."
SEQUENCE: list[tuple[Any, str]] = [
    ([said("x", "assistant")], 'messages: first message must use the "user" role'),
    ([said("")], "messages: text content blocks must be non-empty"),
    ([said(" \n")], "messages: text content blocks must contain non-whitespace text"),
    ([{"role": "user", "content": " "}], "messages: text content blocks must contain non-whitespace text"),
    ([{"role": "user", "content": ""}], "messages.0: all messages must have non-empty content except for the optional"),
    ([*HI, {"role": "assistant", "content": []}, *HI], "messages.1: all messages must have non-empty content"),
    ([*HI, *one(USE, "assistant")], MISSING),
    ([*HI, *one(USE, "assistant"), *HI], MISSING),
    ([*HI, *one(USE, "assistant"), {"role": "user", "content": [said("x")["content"][0], RESULT]}], MISSING),
    ([*HI, *one(USE, "assistant"), *HI, *one(RESULT)], MISSING),
    (one(RESULT), ORPHAN),
    (
        [*HI, *one(USE, "assistant"), {"role": "user", "content": [RESULT, RESULT]}],
        "each tool_use must have a single result",
    ),
    (
        [*HI, *one(USE, "assistant"), *one(RESULT), *one(USE, "assistant"), *one(RESULT)],
        "messages.3.content.0: `tool_use` ids must be unique",
    ),
    ([*HI, said("x", "assistant")], PREFILL),
    (
        [*HI, said("x", "assistant"), {"role": "system", "content": "s"}],
        "`system` messages must follow a `user` message",
    ),
    ([{"role": "system", "content": "s"}, *HI], 'messages: first message must use the "user" role'),
    ([*HI, {"role": "system", "content": "s"}, *HI], "must be last or be followed by an `assistant` message"),
    (
        [*HI, *one(USE, "assistant"), {"role": "system", "content": "s"}, *one(RESULT)],
        "`system` messages must follow a `user` message",
    ),
    (
        [
            *HI,
            *one(
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}}, "assistant"
            ),
        ],
        "`document` blocks are not allowed in `assistant` messages",
    ),
]


@pytest.mark.parametrize(("messages", "text"), SEQUENCE)
def test_the_sequence_of_messages(api, messages: Any, text: str) -> None:
    assert text in api.error(messages, tools=[TOOL])


def test_effort_alone_may_stand_anywhere_with_its_beta(api) -> None:
    turns = [*HI, {"role": "system", "output_config": {"effort": "low"}}, *HI]
    assert "messages.1.output_config: Extra inputs are not permitted" in api.error(turns)
    assert api.post(turns, headers={"anthropic-beta": "mid-conversation-output-config-2026-07-01"}).ok


ACCEPTED: list[Any] = [
    [*HI, *HI],  # consecutive messages of one role are merged
    [*HI, said("a", "assistant"), said("b", "assistant"), *HI],
    [*HI, *one(USE, "assistant"), *one(RESULT), *HI],
    [*HI, *one(USE, "assistant"), {"role": "user", "content": [RESULT, said("x")["content"][0]]}],
    [*HI, {"role": "system", "content": "s"}],
    [*HI, {"role": "system", "content": "s"}, {"role": "system", "content": "t"}, said("x", "assistant"), *HI],
    [*HI, *one(USE, "assistant"), *one(RESULT), {"role": "system", "content": "s"}],
]


@pytest.mark.parametrize("messages", ACCEPTED)
def test_what_is_accepted(api, messages: Any) -> None:
    exchange = api.post(messages, tools=[TOOL])
    assert exchange.ok, exchange.error


def test_prefill_is_for_old_models(api) -> None:
    turns = [*HI, said("The answer is", "assistant")]
    assert api.post(turns, model="claude-sonnet-4-5").ok
    trailing = [*HI, said("The answer is ", "assistant")]
    assert "cannot end with trailing whitespace" in api.error(trailing, model="claude-sonnet-4-5")
    on = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 5000}
    assert "Expected `thinking`" in api.error(turns, model="claude-sonnet-4-5", **on)


def test_system_messages_are_for_some_models(api) -> None:
    turns = [*HI, {"role": "system", "content": "s"}]
    assert "role 'system' is not supported on this model" in api.error(turns, model="claude-sonnet-5")


def test_an_unanswered_server_call_goes_back_alone(api) -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    tools = [{"type": "web_search_20260318", "name": "web_search"}, TOOL]
    assert api.post([*HI, *one(search, "assistant")], tools=tools).ok  # a paused turn
    both = {"role": "assistant", "content": [search, USE]}
    assert api.post([*HI, both, *one(RESULT)], tools=tools).ok
    more = {"role": "user", "content": [RESULT, said("x")["content"][0]]}
    expected = (
        "`web_search` tool use with id `srvtoolu_1` was found without a corresponding `web_search_tool_result` block"
    )
    assert expected in api.error([*HI, both, more], tools=tools)
    assert "no `web_search` tool was provided" in api.error([*HI, both, *one(RESULT)], tools=[TOOL])


# -- settings by model and version (model pages, October; release notes, November 2026) ------------

ENABLED = {"type": "enabled", "budget_tokens": 1024}
SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("claude-sonnet-5-5", {"thinking": ENABLED}, '"thinking.type.enabled" is not supported for this model.'),
    ("claude-sonnet-5-5", {"thinking": {"type": "disabled"}}, '"thinking.type.disabled" is not supported'),
    ("claude-fable-5-2", {"thinking": {"type": "disabled"}}, '"thinking.type.disabled" is not supported'),
    ("claude-sonnet-4-5", {"thinking": {"type": "adaptive"}}, "adaptive thinking is not supported on this model"),
    ("claude-sonnet-4-5", {"thinking": {**ENABLED, "budget_tokens": 10}}, "greater than or equal to 1024"),
    (
        "claude-sonnet-4-5",
        {"thinking": ENABLED, "max_tokens": 1024},
        "`max_tokens` must be greater than `thinking.budget",
    ),
    ("claude-opus-5", {"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, "effort 'high' or below"),
    ("claude-sonnet-5-5", {"thinking": {"type": "between_tools"}, "output_config": {"effort": "max"}}, "or below"),
    ("claude-sonnet-5-5", {"tools": [TOOL], "tool_choice": {"type": "any"}}, "forced tool use is not supported"),
    (
        "claude-sonnet-4-5",
        {"tools": [TOOL], "tool_choice": {"type": "any"}, "thinking": ENABLED, "max_tokens": 5000},
        "Thinking may not be enabled when tool_choice forces tool use.",
    ),
    ("claude-sonnet-4-5", {"temperature": 1}, "temperature: not supported with anthropic-version 2026-10-21"),
    ("claude-sonnet-5-5", {"thinking": {"type": "adaptive", "display": "updates"}}, "Input should be 'summarized' or"),
    (
        "claude-sonnet-5-5",
        {"thinking": {"type": "adaptive", "block_binding": {}}},
        "block_binding: Extra inputs are not",
    ),
]


@pytest.mark.parametrize(("model", "fields", "text"), SETTINGS)
def test_settings(api, model: str, fields: dict[str, Any], text: str) -> None:
    assert text in api.error(HI, model=model, **fields)


def test_sampling_on_the_old_version(api) -> None:
    old = {"headers": {"anthropic-version": "2023-06-01"}}
    assert api.post(HI, model="claude-sonnet-4-5", temperature=0.5, **old).ok
    assert api.post(HI, model="claude-opus-5", temperature=1, **old).ok
    assert "deprecated for this model" in api.error(HI, model="claude-opus-5", temperature=0.5, **old)
    assert "cannot both be specified" in api.error(HI, model="claude-sonnet-4-5", temperature=1, top_p=0.9, **old)


def test_a_prompt_that_does_not_fit(api, block) -> None:
    long = [{"role": "user", "content": [block(200_001)]}]
    assert api.error(long, model="claude-haiku-4-5") == "prompt is too long: 200001 tokens > 200000 maximum"


def test_a_reply_that_does_not_fit_stops_at_the_window(make_api, block) -> None:
    api = make_api(script=lambda request: "word " * 1000)
    exchange = api.post([{"role": "user", "content": [block(199_950)]}], model="claude-haiku-4-5", max_tokens=60_000)
    assert exchange.stop_reason == "model_context_window_exceeded"
    assert exchange.usage.output == 50


# -- images (vision page, August 2026) -------------------------------------------------------------


def image(width: int, height: int) -> dict[str, Any]:
    raw = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\0" * 9
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(raw).decode()}
    return {"type": "image", "source": source}


def test_images_have_limits(api) -> None:
    assert api.post(one(image(8000, 100))).ok
    assert "exceed max allowed size: 8000 pixels" in api.error(one(image(8001, 100)))
    many = [image(2001, 10)] * 21
    assert "many-image requests: 2000 pixels" in api.error([{"role": "user", "content": many}])
    assert api.post([{"role": "user", "content": many[:20]}]).ok
    hundred = [{"role": "user", "content": [image(10, 10)] * 101}]
    assert "Too much media" in api.error(hundred, model="claude-haiku-4-5")
    assert api.post(hundred).ok


def test_counting_tokens_needs_no_limit_and_charges_nothing(api, block) -> None:
    body = {"model": "claude-sonnet-5-5", "messages": [{"role": "user", "content": [block(123)]}]}
    headers = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
    exchange = api.engine.count_tokens(body, headers, 0.0)
    assert exchange.result == {"input_tokens": 123}
    assert api.engine.bill().charged == 0

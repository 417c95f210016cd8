"""The shape of a request body, refused as the API's own parser refuses it: path, then what is wrong.

Fields are those of the `anthropic` package 2.11; texts are from public logs (their form is pydantic's).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sessions.simulator.checks.refusal import Refusal

EXTRA = "Extra inputs are not permitted"
Check = Callable[[str, Any], None]


def refuse(path: str, message: str) -> None:
    """Refuses with the parser's form: `messages.0.content: Field required`."""
    raise Refusal(f"{path}: {message}")


def string(path: str, value: Any) -> None:
    if not isinstance(value, str):
        refuse(path, "Input should be a valid string")


def boolean(path: str, value: Any) -> None:
    if not isinstance(value, bool):
        refuse(path, "Input should be a valid boolean")


def obj(path: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        refuse(path, "Input should be a valid dictionary")


def array(path: str, value: Any) -> None:
    if not isinstance(value, list):
        refuse(path, "Input should be a valid list")


def anything(path: str, value: Any) -> None:
    """No check: the field's inside is not modelled."""


def one_of(*values: str) -> Check:
    """The value is one of these."""
    listed = ", ".join(f"'{value}'" for value in values[:-1])
    text = f"Input should be {listed} or '{values[-1]}'" if listed else f"Input should be '{values[0]}'"

    def check(path: str, value: Any) -> None:
        if value not in values:
            refuse(path, text)

    return check


def pattern(expression: str) -> Check:
    """A string that matches."""
    compiled = re.compile(expression)

    def check(path: str, value: Any) -> None:
        string(path, value)
        if not compiled.fullmatch(value):
            refuse(path, f"String should match pattern '{expression}'")

    return check


def integer(least: int) -> Check:
    """An integer of at least `least`."""

    def check(path: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            refuse(path, "Input should be a valid integer")
        elif value < least:
            refuse(path, f"Input should be greater than or equal to {least}")

    return check


def number(path: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(path, "Input should be a valid number")


def cache_control(path: str, value: Any) -> None:
    """A marker: `{"type": "ephemeral", "ttl": "5m" | "1h"}` (SDK `CacheControlEphemeralParam`)."""
    obj(path, value)
    if "type" not in value:
        refuse(f"{path}.type", "Field required")
    one_of("ephemeral")(f"{path}.type", value["type"])
    if value.get("ttl") is not None:
        one_of("5m", "1h")(f"{path}.ephemeral.ttl", value["ttl"])
    for key in value:
        if key not in ("type", "ttl"):
            refuse(f"{path}.ephemeral.{key}", EXTRA)


@dataclass(frozen=True, slots=True)
class Shape:
    """Fields of one object: those that must be there and those that may; null counts as absent."""

    required: Mapping[str, Check]
    optional: Mapping[str, Check]
    open: bool = False

    def check(self, path: str, value: Mapping[str, Any], *, skip: str = "type") -> None:
        """Refuses a missing, a malformed, then an unknown field."""
        for name, check in self.required.items():
            if name not in value:
                refuse(f"{path}.{name}", "Field required")
            check(f"{path}.{name}", value[name])
        for name, item in value.items():
            if name == skip or name in self.required:
                continue
            optional = self.optional.get(name)
            if optional is not None:
                if item is not None:
                    optional(f"{path}.{name}", item)
            elif not self.open:
                refuse(f"{path}.{name}", EXTRA)


def tagged(path: str, value: Any, tags: Collection[str]) -> str:
    """The `type` of a block, one of `tags`."""
    if not isinstance(value, Mapping):
        refuse(path, "Input should be a valid dictionary")
    if "type" not in value:
        refuse(f"{path}.type", "Field required")
    kind = value["type"]
    if not isinstance(kind, str) or kind not in tags:
        expected = ", ".join(f"'{tag}'" for tag in sorted(tags))
        refuse(path, f"Input tag '{kind}' found using 'type' does not match any of the expected tags: {expected}")
    return str(kind)


_MARK: dict[str, Check] = {"cache_control": cache_control}
_ID = pattern("^[a-zA-Z0-9_-]+$")
_SOURCES = {
    "base64": Shape({"media_type": string, "data": string}, {}),
    "url": Shape({"url": string}, {}),
    "file": Shape({"file_id": string}, {}),
    "text": Shape({"media_type": one_of("text/plain"), "data": string}, {}),
    "content": Shape({"content": anything}, {}),
}
_IMAGE_TYPES = one_of("image/jpeg", "image/png", "image/gif", "image/webp")


def _source(kinds: Collection[str], media: Check) -> Check:
    def check(path: str, value: Any) -> None:
        kind = tagged(path, value, kinds)
        _SOURCES[kind].check(f"{path}.{kind}", value)
        if kind == "base64":
            media(f"{path}.base64.media_type", value["media_type"])

    return check


def _result_content(path: str, value: Any) -> None:
    if isinstance(value, str):
        return
    array(path, value)
    for at, inner in enumerate(value):
        kind = tagged(f"{path}.{at}", inner, INNER)
        BLOCKS[kind].check(f"{path}.{at}.{kind}", inner)


BLOCKS: dict[str, Shape] = {
    "text": Shape({"text": string}, {**_MARK, "citations": array}),
    "image": Shape({"source": _source(("base64", "url", "file"), _IMAGE_TYPES)}, {**_MARK, "transformations": obj}),
    "document": Shape(
        {"source": _source(("base64", "url", "file", "text", "content"), one_of("application/pdf"))},
        {**_MARK, "citations": obj, "context": string, "title": string},
    ),
    "search_result": Shape({"content": array, "source": string, "title": string}, {**_MARK, "citations": obj}),
    "thinking": Shape({"thinking": string, "signature": string}, {}),
    "redacted_thinking": Shape({"data": string}, {}),
    "tool_use": Shape(
        {"id": _ID, "name": pattern("^[a-zA-Z0-9_-]{1,200}$"), "input": obj},
        {**_MARK, "caller": obj, "toolset_name": string},
    ),
    "tool_result": Shape(
        {"tool_use_id": _ID},
        {**_MARK, "content": _result_content, "is_error": boolean, "toolset_name": string},
    ),
    "server_tool_use": Shape(
        {"id": pattern("^srvtoolu_[a-zA-Z0-9_]+$"), "name": string, "input": obj}, {**_MARK, "caller": obj}
    ),
    "container_upload": Shape({"file_id": string}, _MARK),
    "tool_reference": Shape({"tool_name": string}, _MARK),
    "browser_state": Shape({}, _MARK, open=True),
    "compaction": Shape(
        {"content": anything}, {**_MARK, "signature": string, "tool_changes": array, "encrypted_content": string}
    ),
    "fallback": Shape({}, {}, open=True),
    "tool_addition": Shape({}, _MARK, open=True),
    "tool_removal": Shape({}, _MARK, open=True),
    "mcp_tool_use": Shape({"id": string, "name": string, "input": obj}, {**_MARK, "server_name": string}),
}
_SERVER_RESULTS = (
    "web_search",
    "web_fetch",
    "code_execution",
    "bash_code_execution",
    "text_editor_code_execution",
    "tool_search",
    "mcp",
)
_SERVER_RESULT = Shape({"tool_use_id": string, "content": anything}, {**_MARK, "caller": obj, "is_error": boolean})
BLOCKS.update({f"{name}_tool_result": _SERVER_RESULT for name in _SERVER_RESULTS})
INNER = ("text", "image", "document", "search_result", "tool_reference", "browser_state")
_ASSISTANT_ONLY = {
    "thinking",
    "redacted_thinking",
    "tool_use",
    "server_tool_use",
    "mcp_tool_use",
    "fallback",
    "compaction",
}
_USER_ONLY = {"tool_result"}


def message(path: str, value: Any, blocks: Collection[str]) -> None:
    """One entry of `messages`. `blocks`: further block types to let through."""
    if not isinstance(value, dict):
        refuse(path, "Input should be a valid dictionary or object to extract fields from")
    role = value.get("role")
    if role is None:
        refuse(f"{path}.role", "Field required")
    if role not in ("user", "assistant", "system"):
        raise Refusal(f'messages: Unexpected role "{role}". Allowed roles are "user", "assistant" or "system".')
    content = value.get("content")
    if content is None and not (role == "system" and "output_config" in value):
        refuse(f"{path}.content", "Field required")
    if len(value) > 2:
        _extra_keys(path, value)
    if isinstance(content, list):
        for at, block in enumerate(content):
            if (
                type(block) is dict
                and len(block) == 2
                and block.get("type") == "text"
                and type(block.get("text")) is str
            ):
                continue
            content_block(f"{path}.content.{at}", block, role, blocks)
    elif content is not None and not isinstance(content, str):
        refuse(f"{path}.content", "Input should be a valid list")


def _extra_keys(path: str, value: Mapping[str, Any]) -> None:
    allowed = ("role", "content", "clear_at", "output_config") if value["role"] == "system" else ("role", "content")
    for key in value:
        if key not in allowed:
            refuse(f"{path}.{key}", EXTRA)


def content_block(path: str, block: Any, role: str, blocks: Collection[str]) -> None:
    """One content block of a message of `role`."""
    if type(block) is dict and str(block.get("type")) in blocks and block["type"] not in BLOCKS:
        return
    kind = tagged(path, block, BLOCKS)
    BLOCKS[kind].check(f"{path}.{kind}", block)
    if kind in _ASSISTANT_ONLY and role != "assistant":
        refuse(path, f"`{kind}` blocks can only be in `assistant` messages")
    if kind in _USER_ONLY and role != "user":
        refuse(path, f"`{kind}` blocks can only be in `user` messages")
    if role == "system" and kind not in ("text", "tool_addition", "tool_removal"):
        refuse(path, "`system` messages can only contain `text` blocks")


_CUSTOM = Shape(
    {"name": pattern("^[a-zA-Z0-9_-]{1,128}$"), "input_schema": obj},
    {
        **_MARK,
        "description": string,
        "type": one_of("custom"),
        "allowed_callers": array,
        "defer_loading": boolean,
        "eager_input_streaming": boolean,
        "input_examples": array,
        "strict": boolean,
    },
)
_SERVER_TOOL = Shape({}, {**_MARK, "name": string, "defer_loading": boolean}, open=True)
_SERVER = re.compile(
    r"(bash|text_editor|code_execution|web_search|web_fetch|memory|computer|computer_toolset|browser_toolset"
    r"|tool_search_tool_bm25|tool_search_tool_regex|advisor)_\d{8}|mcp_toolset"
)


def tool(path: str, value: Any) -> None:
    """One entry of `tools`: a custom tool in full, a server tool by its type and marker."""
    obj(path, value)
    kind = value.get("type")
    if kind in (None, "custom"):
        _CUSTOM.check(f"{path}.custom", value)
        schema = value["input_schema"]
        if "type" not in schema:
            refuse(f"{path}.custom.input_schema.type", "Field required")
        one_of("object")(f"{path}.custom.input_schema.type", schema["type"])
    elif not isinstance(kind, str) or not _SERVER.fullmatch(kind):
        refuse(path, f"Input tag '{kind}' found using 'type' does not match any of the expected tags")
    else:
        _SERVER_TOOL.check(f"{path}.{kind}", value)
    if value.get("defer_loading") and value.get("cache_control"):
        raise Refusal(
            f"Tool '{value.get('name')}' cannot have both defer_loading=true and cache_control set. "
            "Tools with defer_loading cannot use prompt caching."
        )


def system(path: str, value: Any) -> None:
    """The top-level system prompt: a string or text blocks."""
    if isinstance(value, str):
        return
    array(path, value)
    for at, block in enumerate(value):
        tagged(f"{path}.{at}", block, ("text",))
        BLOCKS["text"].check(f"{path}.{at}", block)

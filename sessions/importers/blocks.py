"""Which recorded content blocks the API takes back, by role, and in what shape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sessions.importers.lines import Unreadable
from sessions.importers.records import Block

_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_THINKING = frozenset({"thinking", "redacted_thinking"})
_SERVER_CALLS = frozenset({"server_tool_use", "mcp_tool_use"})
_NOT_FROM_USERS = _THINKING | _SERVER_CALLS | {"tool_use", "compaction"}
_NOT_FROM_CLAUDE = frozenset({"tool_result", "image", "document", "search_result"})
_STRINGS = {
    "text": ("text",),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
    "tool_use": ("id", "name"),
    "tool_result": ("tool_use_id",),
}
"""The string fields without which a block of that type is refused."""
_RESULT = ("type", "tool_use_id", "toolset_name", "content", "is_error")
_SOURCES = {"base64": ("data", "media_type"), "text": ("data", "media_type"), "url": ("url",), "file": ("file_id",)}
"""The same for the source of an image or a document, by the source's type (`content` has blocks of its own)."""


def as_blocks(content: Any) -> list[Block]:
    """Content in its one list form: a string is one text block. Markers (`cache_control`) are taken off.

    Raises:
        Unreadable: content that is neither text nor a list of well-formed blocks.
    """
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None:
        return []
    if not isinstance(content, list):
        raise Unreadable("has content that is neither text nor a list of blocks")
    return [_checked(block) for block in content]


def from_user(blocks: Iterable[Block]) -> list[Block]:
    """What may stand in a user message: no blank text, nothing that only Claude writes, no citations on text."""
    kept = [block for block in blocks if block["type"] not in _NOT_FROM_USERS and not is_blank(block)]
    return [{"type": "text", "text": block["text"]} if block["type"] == "text" else block for block in kept]


def from_claude(blocks: Iterable[Block]) -> list[Block]:
    """What may stand in an assistant message: no blank text, no unsigned thinking, every server call with its result.

    Thinking at the very end goes too. Nothing is left (an empty list) of a reply that had neither words nor calls.
    """
    kept = [block for block in blocks if block["type"] not in _NOT_FROM_CLAUDE and not is_blank(block)]
    kept = [block for block in kept if block["type"] != "thinking" or block["signature"]]
    answered = {block.get("tool_use_id") for block in kept}
    kept = [block for block in kept if block["type"] not in _SERVER_CALLS or block.get("id") in answered]
    while kept and kept[-1]["type"] in _THINKING:
        kept.pop()
    return kept


def distinct(blocks: Sequence[Block]) -> tuple[list[Block], dict[str, str]]:
    """The blocks with every tool id usable and used once, and for each id now in use the one that was recorded.

    The same call twice (a doubled line) is one call; another call under a used id gets an id of its own.
    """
    kept: list[Block] = []
    seen: list[Block] = []
    recorded: dict[str, str] = {}
    for block in blocks:
        if block["type"] == "tool_use":
            if block in seen:
                continue
            seen.append(block)
            name = free = _NAME.sub("_", block["id"]) or "_"
            while free in recorded:
                free = f"{name}_{len(recorded)}"
            recorded[free] = block["id"]
            block = {**block, "id": free, "name": _NAME.sub("_", block["name"])[:128] or "_"}
        kept.append(block)
    return kept, recorded


def is_blank(block: Block) -> bool:
    """A text block without a character that can be seen."""
    return block["type"] == "text" and not block["text"].strip()


def _checked(value: Any) -> Block:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise Unreadable("has a content block that is not an object with a type")
    block: Block = _without(value, "cache_control")
    kind = block["type"]
    if missing := next((name for name in _STRINGS.get(kind, ()) if not isinstance(block.get(name), str)), None):
        raise Unreadable(f"has a {kind} block whose {missing} is no text")
    if kind == "tool_use" and not isinstance(block.get("input"), dict):
        raise Unreadable("has a tool_use block whose input is no object")
    if kind in ("image", "document"):
        _check_source(kind, block.get("source"))
    return _result(block) if kind == "tool_result" else block


def _result(block: Block) -> Block:
    """A tool result with the fields and the inner blocks that the API takes."""
    kept = {name: block[name] for name in _RESULT if block.get(name) is not None}
    if isinstance(kept.get("content"), list):
        kept["content"] = [inner for inner in as_blocks(kept["content"]) if not is_blank(inner)]
    elif not isinstance(kept.get("content", ""), str):
        raise Unreadable("has a tool_result block whose content is neither text nor a list")
    if not isinstance(kept.get("is_error", False), bool):
        del kept["is_error"]
    return kept


def _check_source(kind: str, source: Any) -> None:
    if not isinstance(source, dict):
        raise Unreadable(f"has a block of type {kind} without a source")
    fields = _SOURCES.get(str(source.get("type")), ())
    if any(not isinstance(source.get(name), str) for name in fields):
        raise Unreadable(f"has a block of type {kind} with a broken source")
    if source.get("type") == "base64" and not _BASE64.fullmatch(source["data"]):
        raise Unreadable(f"has a block of type {kind} whose data is not base64")


def _without(block: Block, name: str) -> Block:
    return {key: value for key, value in block.items() if key != name}

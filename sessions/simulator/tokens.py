"""Token counts without a tokenizer: four UTF-8 bytes are one token, and each block has a fixed overhead.

The counts are not Claude's. They are exact, cheap and the same on every machine, so that a bill can be predicted to the
token: a prompt's size is the sum of its blocks' sizes, and nothing else is charged.
"""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sessions.simulator.signing import sealed_tokens

BYTES_PER_TOKEN = 4
OVERHEAD = {"text": 3, "tool_use": 12, "tool_result": 12, "thinking": 3, "redacted_thinking": 3, "tool": 16}
TOOLS_PROMPT = 286
"""Tokens of the hidden system prompt that comes with the first tool (pricing page, August 2026: Opus 5)."""
IMAGE = 1568
"""Tokens of an image whose size cannot be read, and the most that one costs (documentation: width x height / 750)."""
PAGE = 2000
"""Tokens of one PDF page."""

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def filler(tokens: int, word: str = "lorem") -> str:
    """Text whose block counts as `tokens` tokens (3 or more; the overhead of a text block is included)."""
    size = max(1, (tokens - OVERHEAD["text"]) * BYTES_PER_TOKEN)
    pattern = f"{word} "
    return (pattern * (size // len(pattern) + 1))[: size - 1] + "."


def text_tokens(text: str) -> int:
    """Tokens of bare text, no overhead."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)


def count(block: Mapping[str, Any] | str) -> int:
    """Tokens of one block: of a message, of the system prompt, or a tool definition."""
    if isinstance(block, str):
        return text_tokens(block) + OVERHEAD["text"]
    kind = block.get("type")
    if kind == "text":
        return text_tokens(block["text"]) + OVERHEAD["text"]
    if kind == "tool_result":
        content = block.get("content") or ()
        return OVERHEAD["tool_result"] + (
            text_tokens(content) if isinstance(content, str) else sum(count(inner) for inner in content)
        )
    if kind == "tool_use":
        return OVERHEAD["tool_use"] + text_tokens(block["name"] + _json(block["input"]))
    if kind == "thinking":
        return max(text_tokens(block["thinking"]), sealed_tokens(block["signature"])) + OVERHEAD["thinking"]
    if kind == "redacted_thinking":
        return sealed_tokens(block["data"]) + OVERHEAD["redacted_thinking"]
    if kind == "compaction":
        return text_tokens(block.get("content") or "") + OVERHEAD["text"]
    if kind in ("image", "document"):
        return _media(block)
    return OVERHEAD["tool"] + text_tokens(_json({k: v for k, v in block.items() if k != "cache_control"}))


def _json(value: object) -> str:
    return _ENCODE(value)


def _media(block: Mapping[str, Any]) -> int:
    source = block.get("source") or {}
    kind = source.get("type")
    if block["type"] == "image":
        size = image_size(source.get("data", "")) if kind == "base64" else None
        return min(IMAGE, -(-size[0] * size[1] // 750)) if size else IMAGE
    if kind == "text":
        return text_tokens(source.get("data", "")) + OVERHEAD["text"]
    if kind == "content":
        content = source.get("content") or ()
        return count(content) if isinstance(content, str) else sum(count(inner) for inner in content)
    return PAGE * (pdf_pages(source.get("data", "")) if kind == "base64" else 1)


@lru_cache(maxsize=256)
def pdf_pages(data: str) -> int:
    """Pages of a base64 PDF, at least 1: what its `/Type /Page` objects say."""
    try:
        raw = b64decode(data)
    except ValueError:
        return 1
    return max(1, sum(raw.count(mark) for mark in (b"/Type /Page\n", b"/Type /Page ", b"/Type /Page/", b"/Type/Page/")))


@lru_cache(maxsize=256)
def image_size(data: str) -> tuple[int, int] | None:
    """Width and height in pixels of a base64 PNG, GIF or JPEG, None where its header does not tell."""
    try:
        raw = b64decode(data[:200_000] if len(data) > 200_000 else data)
    except ValueError:
        return None
    if raw[:8] == b"\x89PNG\r\n\x1a\n" and len(raw) >= 24:
        return struct.unpack(">II", raw[16:24])
    if raw[:4] == b"GIF8" and len(raw) >= 10:
        return struct.unpack("<HH", raw[6:10])
    return _jpeg_size(raw) if raw[:2] == b"\xff\xd8" else None


def _jpeg_size(raw: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", raw[at + 5 : at + 9])
            return width, height
        at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    return None
